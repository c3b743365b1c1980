"""Evaluate one checkpoint on test: every language, by tier, beside chance and unigram models; writes `scores.json`."""

from __future__ import annotations

import torch

from mmenc.artifact import Json, write_json
from mmenc.data.mixture import resolve_waves, tier_of
from mmenc.data.tokenizer import load, token_bytes
from mmenc.data.tokens import is_language, open_split
from mmenc.evaluate.intrinsic import language_rows, unigram_scores
from mmenc.evaluate.retrieval import retrieval_rows
from mmenc.evaluate.rows import aggregate, skipped
from mmenc.evaluate.score import choose, score
from mmenc.evaluate.scripts import script_confusion
from mmenc.job import Job
from mmenc.progress import bar
from mmenc.train.state import load_model

SCHEMA = 1


def run(job: Job) -> Json:
    """Write scores.json; facts hold the means by tier."""
    settings, recipe = job.recipe.evaluate, job.recipe
    torch.set_num_threads(recipe.compute.threads)
    tokens = job.inputs["tokens"]
    train, test = (open_split(tokens.local(f"{part}/*"), part) for part in ("train", "test"))
    counts = {f: row["train"]["tokens"] for f, row in tokens.facts["folders"].items()}
    waves = resolve_waves(recipe.languages, counts)
    tiers = {t: tier_of(waves, t) for t in test.ranges if is_language(t)}
    model = load_model(job.inputs["model"].local("model.safetensors"), recipe.model)
    digest, name = job.inputs["model"].manifest.digest, job.name
    tokenizer = load(job.inputs["tokenizer"].path)
    bytes_V = token_bytes(tokenizer)
    with bar(f"evaluate {name}", 3, "parts") as shown:
        documents = [d for t in sorted(tiers) for d in choose(test, t, settings.tokens_per_language, settings.seed)]
        bf16 = recipe.model.dtype == "bfloat16"
        found = score(model, test, documents, model.cfg.max_position, settings.mask, settings.seed, bf16)
        shown.advance(1, "masked tokens")
        names = {t: test.ranges[t] for t in sorted(tiers)}
        rows = language_rows(name, digest, found, bytes_V, names, tiers, settings)
        for baseline, scores in unigram_scores(found, train, test, model.cfg.vocab_size).items():
            rows += language_rows(baseline, "", scores, bytes_V, names, tiers, settings)
        shown.advance(1, "baselines")
        retrieval, retrieval_facts = retrieval_rows(model, name, digest, test, tiers, settings, model.cfg.max_position)
        rows += retrieval
        shown.advance(1, "retrieval")
    measured = {r["language"] for r in rows}
    for tag, tier in sorted(tiers.items()):
        if tag not in measured:
            rows.append(skipped(name, digest, "mlm", tag, tier, "no test document"))
    order = [*recipe.languages, "unseen"]
    totals = aggregate(rows, order, settings.bootstrap)
    write_json(job.out / "scores.json", {"schema": SCHEMA, "rows": totals + rows})
    facts: Json = {
        "tiers": {},
        "retrieval": retrieval_facts,
        "scripts": script_confusion(tokenizer, found, tiers),
        "languages": len({r["language"] for r in rows if r["status"] == "ok"}),
    }
    for r in totals:
        facts["tiers"].setdefault(r["tier"], {}).setdefault(r["model"], {})[f"{r['task']}.{r['metric']}"] = r["mean"]
    mine, base = facts["tiers"]["all"][name], facts["tiers"]["all"]["unigram"]
    found_share, chance = mine.get("retrieval.accuracy"), retrieval_facts["chance"]
    words = (
        f"retrieval {100 * found_share:.1f} % (chance {100 * chance:.0f} %)" if found_share is not None else "no parallel text"
    )
    job.say(
        f"bits per byte {mine['mlm.bits_per_byte']:.3f} (unigram {base['mlm.bits_per_byte']:.3f}), "
        f"accuracy {100 * mine['mlm.accuracy']:.1f} %, {words}"
    )
    return facts
