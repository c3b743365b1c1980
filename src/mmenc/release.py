"""Release: one Hugging Face directory, proven before it is written.

The gates (docs/release.md): the model beats a unigram model of the training text on test; transformers' own tokenizer and
ModernBertForMaskedLM, loaded from the very directory, give the same ids and the same logits as ours on real held-out text
in several scripts and lengths (fp32, `release.max_logit_difference`); no language is worse than in the last release
(`release.previous`); where the recipe asks for it, sentence-transformers and ONNX Runtime agree too. Otherwise there is
no release. Every gate stands in the facts and in the card, with what was found and its limit. `scores.json` of the
evaluation is part of the release: it is what the next one is compared with.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mmenc import gates, rng
from mmenc.artifact import Json, read_json, write_json
from mmenc.card import Card, model_card
from mmenc.data.tokenizer import load
from mmenc.data.tokens import MASK, Split, is_language, open_split
from mmenc.examples import by_script, fill_mask_examples
from mmenc.gates import Gate
from mmenc.job import Job
from mmenc.model.attention import Packing
from mmenc.model.hf import write_sentence_files
from mmenc.train.state import load_model

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def logit_difference(folder: Path, job: Job, split: Split) -> float:
    """Largest absolute difference of logits between our packed model and transformers' on masked held-out documents."""
    from transformers import AutoModelForMaskedLM

    ours = load_model(folder, job.recipe.model).eval()
    theirs = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    scripts = by_script(split)
    texts = [split.document(d[0])[: ours.cfg.max_position].astype(np.int64) for d in scripts.values()]
    longest = max((d for ds in scripts.values() for d in ds), key=lambda d: len(split.document(d)))
    texts.append(split.document(longest)[: ours.cfg.max_position].astype(np.int64))
    for text in texts:
        text[1:-1][rng.uniform(len(text) - 2, job.recipe.seed, "release", len(text)) < job.recipe.evaluate.mask] = MASK
    with torch.inference_mode():
        z_TV = ours.logits(torch.from_numpy(np.concatenate(texts)), Packing.of([len(t) for t in texts]))
        found, at = list[float](), 0
        for text in texts:
            z = theirs(input_ids=torch.from_numpy(text)[None]).logits[0]
            found.append(float((z - z_TV[at : at + len(text)]).abs().max()))
            at += len(text)
    return gates.largest(found)


def tiers_of(rows: Sequence[Json]) -> dict[str, list[str]]:
    """Languages of each tier, tiers in the recipe's order: that of the means at the head of the rows."""
    found: dict[str, set[str]] = {r["tier"]: set() for r in rows if r["tier"] != "all"}
    for r in rows:
        if is_language(r["language"]):
            found[r["tier"]].add(r["language"])
    return {tier: sorted(tags) for tier, tags in found.items()}


def write_files(job: Job) -> None:
    """Weights, configuration, tokenizer, what sentence-transformers reads, and the scores."""
    model, tokenizer = job.inputs["model"], job.inputs["tokenizer"]
    weights = model.local("model.safetensors")
    for name in ("model.safetensors", "config.json"):
        shutil.copyfile(weights / name, job.out / name)
    for name in TOKENIZER_FILES:
        if (tokenizer.path / name).exists():
            shutil.copyfile(tokenizer.path / name, job.out / name)
    shutil.copyfile(job.inputs["evaluate"].path / "scores.json", job.out / "scores.json")
    config = read_json(job.out / "config.json")
    settings = read_json(job.out / "tokenizer_config.json")
    write_json(job.out / "tokenizer_config.json", {**settings, "model_max_length": config["max_position_embeddings"]})
    write_sentence_files(job.out, config["max_position_embeddings"], config["hidden_size"])


def logit_gate(difference: float, limit: float) -> Gate:
    """The export is right."""
    text = f"logits differ from transformers' ModernBert by {difference:.2e}, above release.max_logit_difference {limit:g}; the "
    text += "export or the installed transformers is wrong"
    return gates.at_most("logits equal transformers'", difference, limit, text)


def loader_gates(job: Job, texts: Mapping[str, NDArray[np.int64]]) -> list[Gate]:
    """What the recipe asks for beyond transformers."""
    settings, found = job.recipe.release, list[Gate]()
    limit = settings.max_logit_difference
    if settings.sentence_transformers:
        apart = gates.sentence_transformers_difference(job.out, load_model(job.out, job.recipe.model), texts)
        text = f"embeddings of sentence-transformers differ from ours by {apart:.2e}, above {limit:g}; the export is wrong"
        found.append(gates.at_most("embeddings equal sentence-transformers'", apart, limit, text))
    if settings.onnx:
        from mmenc.export import export_onnx, onnx_difference

        started = time.time()
        export_onnx(job.out)
        apart = onnx_difference(job.out, list(texts.values()))
        job.measured["onnx_seconds"] = time.time() - started
        text = f"logits of ONNX Runtime differ from torch's by {apart:.2e}, above release.max_logit_difference {limit:g}"
        found.append(gates.at_most("logits equal ONNX Runtime's", apart, limit, text))
    return found


def unchecked(settings: Json) -> list[str]:
    """What the recipe does not ask for: not checked is not passed."""
    asked = {
        "sentence-transformers": settings["sentence_transformers"],
        "ONNX Runtime": settings["onnx"],
        "no language worse than the last release (none was named)": bool(settings["previous"]),
    }
    return [name for name, yes in asked.items() if not yes]


def run(job: Job) -> Json:
    """Write the release."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(job.recipe.compute.threads)
    evaluation, settings = job.inputs["evaluate"], job.recipe.release
    passed = [gates.unigram_gate(evaluation.facts)]
    gates.refuse_shut(passed)
    write_files(job)
    rows = read_json(job.out / "scores.json")["rows"]
    tiers = tiers_of(rows)
    if settings.previous:
        declared = job.request.config["evaluate"]
        tokens = job.inputs["tokenizer"].manifest.content
        passed.append(gates.previous_gate(job.raw["release.previous"], rows, declared, settings.waivers, tokens))
        gates.refuse_shut(passed)
    split = open_split(job.inputs["tokens"].local("test/*"), "test")
    context = read_json(job.out / "config.json")["max_position_embeddings"]
    tokenizer = load(job.out)
    scripts = by_script(split)
    documents = gates.whole_documents(split, scripts, context) or gates.beginnings(split, scripts, context, tokenizer)
    texts = {tokenizer.decode(ids[1:-1].tolist(), skip_special_tokens=False): ids for ids in documents}
    passed.append(gates.tokenizer_gate(job.out, texts))
    worst = logit_difference(job.out, job, split)
    passed.append(logit_gate(worst, settings.max_logit_difference))
    passed += loader_gates(job, texts)
    examples = fill_mask_examples(job.out, split, tiers, settings.examples)
    gates.refuse_shut(passed)
    lineage = {**evaluation.lineage, **job.inputs["validate"].lineage}
    lineage |= {a.manifest.digest: a.manifest.json() for a in job.inputs.values()}
    facts: Json = {
        "name": settings.name,
        "max_logit_difference": worst,
        "gates": [g.json() for g in passed],
        "not_checked": unchecked(settings.model_dump()),
        "examples": examples,
    }
    card = model_card(Card(job.recipe, lineage, evaluation.manifest.json(), rows, tiers, facts))
    (job.out / "README.md").write_text(card, encoding="utf-8")
    job.say(f"{len(passed)} gates passed, examples in {len(examples)} scripts; logits equal transformers' within {worst:.1e}")
    return facts
