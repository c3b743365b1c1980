"""Evaluate one checkpoint on test: every language, by tier and script, beside chance and unigram models; writes `scores.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from tokenizers import Tokenizer

from mmenc.artifact import Json, write_json
from mmenc.data.mixture import resolve_waves, tier_of
from mmenc.data.tokenizer import load, token_bytes
from mmenc.data.tokens import BOS, EOS, MASK, Split, is_language, open_split
from mmenc.evaluate import calibration
from mmenc.evaluate.intrinsic import language_rows, unigram_scores
from mmenc.evaluate.pseudo import draw, pseudo_rows, rows_of
from mmenc.evaluate.retrieval import embed, groups_of, parallel, retrieval_rows
from mmenc.evaluate.rows import Pooled, aggregate, by_script, skipped
from mmenc.evaluate.score import Piece, choose, packed_logits, score, score_pieces
from mmenc.evaluate.scripts import script_confusion
from mmenc.job import Job
from mmenc.model.head import MaskedLM
from mmenc.progress import bar
from mmenc.train.state import load_model

SCHEMA = 1
RETRIEVAL_FILE = "retrieval.npz"


def _pseudo(
    job: Job, model: MaskedLM, tokenizer: Tokenizer, test: Split, documents: Mapping[str, list[int]], tiers: Mapping[str, str]
) -> list[Json]:
    """Pseudo-perplexity of the documents' sentences; they come back from their ids byte for byte."""
    settings, sizes_V = job.recipe.evaluate, token_bytes(tokenizer).astype(np.float64)
    room = model.cfg.max_position - 2

    def encode(text: str, number: int) -> list[Piece]:
        ids_N = np.array(tokenizer.encode(text, add_special_tokens=False).ids[:room], dtype=np.int64)
        return rows_of(ids_N, sizes_V[ids_N], number, ((BOS,), (EOS,)), MASK)

    texts = {t: (tokenizer.decode(test.document(d)[1:-1].tolist()) for d in chosen) for t, chosen in documents.items()}
    scored = partial(score_pieces, logits=packed_logits(model, job.recipe.model.dtype == "bfloat16"))
    sentences = draw(texts, settings.pseudo_perplexity, settings.seed)
    return pseudo_rows(job.name, job.inputs["model"].manifest.digest, sentences, tiers, settings, encode, scored)


def tuned_rows(job: Job) -> list[Json]:
    """Rows of the suites of labelled data that the recipe names (none by default); finished runs survive a lost pod."""
    from mmenc.downstream.options import Options
    from mmenc.downstream.suite import make_plan, score, tuned_suites
    from mmenc.downstream.units import Units
    from mmenc.evaluate.models import Packed
    from mmenc.train.group import device_of

    settings = job.recipe.evaluate
    names = tuned_suites(settings.suites, "evaluate.suites")
    if not names:
        return []
    folder, device = job.inputs["model"].local("model.safetensors"), device_of(job.recipe.compute)
    bf16 = job.recipe.model.dtype == "bfloat16"
    words = job.inputs["tokenizer"].path
    subject = Packed(job.name, job.inputs["model"].manifest.digest, folder, words, device, bf16)
    plan = make_plan(names, job.raw.get("evaluate.task_data"), job.recipe, Options.of_recipe(settings.tuning), job.cache)
    found = score(subject, bf16, plan, Units(job.resume / "units", saved=job.saved))
    job.measured |= {"downstream": {"device": device.type, "seconds": found.seconds, "runs": found.runs}}
    return found.rows


def _words(mine: Json, base: Json, chance: float) -> str:
    """One line for the person who waits."""
    found = mine.get("retrieval.accuracy")
    words = f"retrieval {100 * found:.1f} % (chance {100 * chance:.0f} %)" if found is not None else "no parallel text"
    return (
        f"bits per byte {mine['mlm.bits_per_byte']:.3f} (unigram {base['mlm.bits_per_byte']:.3f}), "
        f"accuracy {100 * mine['mlm.accuracy']:.1f} %, calibration error {100 * mine['mlm.calibration_error']:.1f} %, {words}"
    )


def run(job: Job) -> Json:
    """Write scores.json and retrieval.npz; facts hold the means by tier and script."""
    settings, recipe = job.recipe.evaluate, job.recipe
    torch.set_num_threads(recipe.compute.threads)
    tokens = job.inputs["tokens"]
    train, test = (open_split(tokens.local(f"{part}/*"), part) for part in ("train", "test"))
    counts = {f: row["train"]["tokens"] for f, row in tokens.facts["folders"].items()}
    waves = resolve_waves(recipe.languages, counts)
    tiers = {t: tier_of(waves, t) for t in sorted(test.ranges) if is_language(t)}
    model = load_model(job.inputs["model"].local("model.safetensors"), recipe.model)
    digest, name = job.inputs["model"].manifest.digest, job.name
    tokenizer = load(job.inputs["tokenizer"].path)
    ranges = {t: test.ranges[t] for t in tiers}
    documents = {t: choose(test, t, settings.tokens_per_language, settings.seed) for t in tiers}
    with bar(f"evaluate {name}", 4, "parts") as shown:
        flat = [d for chosen in documents.values() for d in chosen]
        bf16 = recipe.model.dtype == "bfloat16"
        found = score(model, test, flat, model.cfg.max_position, settings.mask, settings.seed, bf16)
        found = dataclasses.replace(found, size_M=token_bytes(tokenizer)[found.target_M].astype(np.float64))
        shown.advance(1, "masked tokens")
        rows, gaps = language_rows(name, digest, found, ranges, tiers, settings)
        for baseline, scores in unigram_scores(found, train, test, model.cfg.vocab_size).items():
            rows += language_rows(baseline, "", scores, ranges, tiers, settings)[0]
        shown.advance(1, "baselines")
        text = parallel(groups_of(test), settings.retrieval_group)
        held = [test.document(d)[: model.cfg.max_position].astype(np.int64) for d in text.flat]
        x_SD = embed(model, held) if text.possible else np.empty((0, 0), dtype=np.float32)
        retrieval, retrieval_facts = retrieval_rows(x_SD, name, digest, text, tiers, settings, job.out / RETRIEVAL_FILE)
        rows += retrieval
        shown.advance(1, "retrieval")
        if settings.pseudo_perplexity:
            rows += _pseudo(job, model, tokenizer, test, documents, tiers)
        shown.advance(1, "pseudo-perplexity")
    measured = {r["language"] for r in rows}
    rows += [skipped(name, digest, "mlm", t, tier, "no test document") for t, tier in tiers.items() if t not in measured]
    tuned = tuned_rows(job)
    pooled = calibration.pooled(name, gaps, settings.bootstrap)
    extra = {"downstream": {f"{r['task']}.{r['metric']}": r["mean"] for r in tuned if r["tier"] == "all" and r["status"] == "ok"}}
    return (
        _facts(job, rows, tuned, pooled, retrieval_facts["chance"])
        | (extra if tuned else {})
        | {
            "retrieval": retrieval_facts,
            "scripts": script_confusion(tokenizer, found, tiers),
            "calibration": calibration.diagram(gaps),
        }
    )


def _facts(job: Job, rows: list[Json], tuned: list[Json], pooled: Pooled, chance: float) -> Json:
    """Write scores.json, say the headline, return means by tier and script."""
    times, name = job.recipe.evaluate.bootstrap, job.name
    totals = aggregate(rows, [*job.recipe.languages, "unseen"], times, pooled)
    write_json(job.out / "scores.json", {"schema": SCHEMA, "rows": totals + rows + tuned})
    tiers: Json = {}
    for r in totals:
        tiers.setdefault(r["tier"], {}).setdefault(r["model"], {})[f"{r['task']}.{r['metric']}"] = r["mean"]
    job.say(_words(tiers["all"][name], tiers["all"]["unigram"], chance))
    return {
        "tiers": tiers,
        "by_script": by_script(rows, name, times, pooled),
        "languages": len({r["language"] for r in rows if r["status"] == "ok"}),
    }
