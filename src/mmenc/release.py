"""Release: one Hugging Face directory, proven before it is written.

The proof: transformers' own ModernBertForMaskedLM, loaded from the very directory, gives the same logits as our model on
real held-out text in several scripts and lengths (fp32, `release.max_logit_difference`), and the model beats a unigram
model of the training text on test. Otherwise there is no release.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mmenc import rng
from mmenc.artifact import Json, read_json, write_json
from mmenc.card import model_card
from mmenc.data.scripts import LETTER
from mmenc.data.tokenizer import load
from mmenc.data.tokens import BOS, EOS, MASK, Split, is_language, open_split
from mmenc.errors import Refused
from mmenc.job import Job
from mmenc.model.attention import Packing
from mmenc.train.state import load_model

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
EXAMPLE_TOKENS = 24
"""Tokens of held-out text shown with one masked."""
EXAMPLE_CANDIDATES = 50
"""Documents looked at per script for an example."""


def _sentence_transformers(out: Path, context: int, hidden: int) -> None:
    """The three small files with which sentence-transformers loads the directory with mean pooling."""
    types = ("sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling")
    modules = [{"idx": i, "name": str(i), "path": "1_Pooling" if i else "", "type": kind} for i, kind in enumerate(types)]
    write_json(out / "modules.json", modules)
    write_json(out / "sentence_bert_config.json", {"max_seq_length": context, "do_lower_case": False})
    write_json(out / "1_Pooling" / "config.json", {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True})


def _by_script(split: Split) -> dict[str, list[int]]:
    """Test documents per script, the language with the most text first."""
    size = {t: int(split.offsets[b] - split.offsets[a]) for t, (a, b) in split.ranges.items() if is_language(t)}
    found: dict[str, list[int]] = {}
    for tag in sorted(size, key=lambda t: (-size[t], t)):
        found.setdefault(tag.split("_")[1], []).extend(range(*split.ranges[tag]))
    return {script: documents for script, documents in found.items() if documents}


def logit_difference(folder: Path, job: Job, split: Split) -> float:
    """Largest absolute difference of logits between our packed model and transformers' on masked held-out documents."""
    from transformers import AutoModelForMaskedLM

    ours = load_model(folder, job.recipe.model).eval()
    theirs = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    scripts = _by_script(split)
    texts = [split.document(d[0])[: ours.cfg.max_position].astype(np.int64) for d in scripts.values()]
    longest = max((d for ds in scripts.values() for d in ds), key=lambda d: len(split.document(d)))
    texts.append(split.document(longest)[: ours.cfg.max_position].astype(np.int64))
    for text in texts:
        text[1:-1][rng.uniform(len(text) - 2, job.recipe.seed, "release", len(text)) < job.recipe.evaluate.mask] = MASK
    with torch.inference_mode():
        z_TV = ours.logits(torch.from_numpy(np.concatenate(texts)), Packing.of([len(t) for t in texts]))
        worst, at = 0.0, 0
        for text in texts:
            z = theirs(input_ids=torch.from_numpy(text)[None]).logits[0]
            worst = max(worst, float((z - z_TV[at : at + len(text)]).abs().max()))
            at += len(text)
    if not np.isfinite(worst) or worst > job.recipe.release.max_logit_difference:
        raise Refused(
            f"release: logits differ from transformers' ModernBert by {worst:.2e}, above release.max_logit_difference "
            f"{job.recipe.release.max_logit_difference:g}; the export or the installed transformers is wrong"
        )
    return worst


def _prose(tokenizer: Tokenizer, split: Split, documents: list[int]) -> int:
    """The document whose start has the largest share of letters: running text rather than lists and placeholders."""

    def letters(document: int) -> float:
        text = tokenizer.decode(split.document(document)[1 : EXAMPLE_TOKENS + 1].tolist())
        return len(LETTER.findall(text)) / max(1, len(text))

    long = [d for d in documents if len(split.document(d)) > EXAMPLE_TOKENS] or documents
    return max(long[:EXAMPLE_CANDIDATES], key=lambda d: (letters(d), -d))


def _gap(tokenizer: Tokenizer, content: NDArray[np.int64]) -> int:
    """Position to hide: the piece of at least two letters that is nearest to the middle."""
    middle = len(content) // 2
    whole = [i for i, t in enumerate(content) if len(LETTER.findall(tokenizer.decode([int(t)]))) >= 2]
    return min(whole or range(len(content)), key=lambda i: (abs(i - middle), i))


def fill_mask_examples(folder: Path, job: Job, split: Split) -> list[Json]:
    """Held-out text in several scripts with one word piece masked, and what the released model puts there."""
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = load(folder)
    tag_of = {d: t for t, (a, b) in split.ranges.items() for d in range(a, b)}
    examples: list[Json] = []
    for documents in list(_by_script(split).values())[: job.recipe.release.examples]:
        document = _prose(tokenizer, split, documents)
        content = split.document(document).astype(np.int64)[1:-1][:EXAMPLE_TOKENS]
        at = _gap(tokenizer, content)
        ids = torch.from_numpy(np.concatenate([[BOS], content[:at], [MASK], content[at + 1 :], [EOS]]))
        with torch.inference_mode():
            top = model(input_ids=ids[None]).logits[0, at + 1].softmax(-1).topk(3)
        examples.append(
            {
                "language": tag_of[document],
                "before": tokenizer.decode(content[:at].tolist()),
                "answer": tokenizer.decode([int(content[at])]),
                "after": tokenizer.decode(content[at + 1 :].tolist()),
                "guesses": [tokenizer.decode([int(i)]) for i in top.indices],
            }
        )
    return examples


def _beats_unigram(evaluation: Json) -> None:
    tiers = evaluation["tiers"]["all"]
    mine, base = tiers["merge"]["mlm.bits_per_byte"], tiers["unigram"]["mlm.bits_per_byte"]
    if mine >= base:
        raise Refused(f"release: {mine:.3f} bits per byte on test is no better than a unigram model's {base:.3f}; train longer")


def run(job: Job) -> Json:
    """Write the release."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(job.recipe.compute.threads)
    evaluation = job.inputs["evaluate"]
    _beats_unigram(evaluation.facts)
    model, tokenizer = job.inputs["model"], job.inputs["tokenizer"]
    for name in ("model.safetensors", "config.json"):
        shutil.copyfile(model.local("model.safetensors") / name, job.out / name)
    for name in TOKENIZER_FILES:
        if (tokenizer.path / name).exists():
            shutil.copyfile(tokenizer.path / name, job.out / name)
    config = read_json(job.out / "config.json")
    settings = read_json(job.out / "tokenizer_config.json")
    write_json(job.out / "tokenizer_config.json", {**settings, "model_max_length": config["max_position_embeddings"]})
    _sentence_transformers(job.out, config["max_position_embeddings"], config["hidden_size"])
    split = open_split(job.inputs["tokens"].local("test/*"), "test")
    worst = logit_difference(job.out, job, split)
    examples = fill_mask_examples(job.out, job, split)
    lineage = {**evaluation.lineage, **job.inputs["validate"].lineage}
    lineage |= {a.manifest.digest: a.manifest.json() for a in job.inputs.values()}
    card = model_card(job.recipe, lineage, evaluation.manifest.json(), worst)
    (job.out / "README.md").write_text(card, encoding="utf-8")
    job.say(f"logits equal transformers' within {worst:.1e}")
    return {"max_logit_difference": worst, "examples": examples, "name": job.recipe.release.name}
