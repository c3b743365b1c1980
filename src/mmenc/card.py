"""The model card: front matter and text, from manifests alone, so that it says nothing that was not measured or declared."""

from __future__ import annotations

from collections.abc import Mapping

from mmenc.artifact import Json
from mmenc.data.tokens import is_language
from mmenc.recipe import Recipe


def by_step(lineage: Mapping[str, Json]) -> dict[str, Json]:
    """Ancestors' manifests under `step` or `step:name`."""
    return {f"{m['step']}:{m['name']}" if m["name"] else m["step"]: m for m in lineage.values()}


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _sources(ingest: Json) -> str:
    found: dict[tuple[str, str], list[int]] = {}
    for s in ingest["facts"]["sources"]:
        entry = found.setdefault((s["source"], s["license"]), [0, 0, 0])
        for i, n in enumerate((1, s["documents"], s["bytes"])):
            entry[i] += n
    rows = [[k[0], k[1], f"{v[0]:,}", f"{v[1]:,}", f"{v[2] / 1e6:.1f} MB"] for k, v in sorted(found.items())]
    return _table(["source", "licence", "files", "documents", "text"], rows)


def _schedule(steps: Mapping[str, Json]) -> str:
    rows = []
    for m in steps.values():
        if m["step"] != "train":
            continue
        phase = m["config"][f"phases.{m['name']}"]
        curve = m["facts"]["heldout"]
        rows.append(
            [
                str(m["facts"]["total_tokens"]),
                m["name"],
                phase["init"],
                f"{m['facts']['tokens']:,}",
                str(m["facts"]["languages"]),
                f"{phase['temperature']:g}",
                f"{100 * phase['mask']:g} %",
                str(phase["context"]),
                f"{phase['rope_theta']:g}",
                f"{phase['lr']['peak']:g} {phase['lr']['shape']}",
                f"{curve[0][1]:.3f} → {curve[-1][1]:.3f}",
            ]
        )
    rows.sort(key=lambda r: (int(r[0]), r[1]))
    header = ["phase", "from", "tokens", "languages", "τ", "mask", "context", "RoPE base", "learning rate", "held-out loss"]
    return _table(header, [r[1:] for r in rows])


def _evaluation(tiers: Json, model: str) -> str:
    rows = []
    for tier, models in tiers.items():
        mine, base = models.get(model, {}), models.get("unigram", {})
        rows.append(
            [
                tier,
                f"{mine.get('mlm.bits_per_byte', float('nan')):.3f}",
                f"{base.get('mlm.bits_per_byte', float('nan')):.3f}",
                f"{mine.get('mlm.loss', float('nan')):.3f}",
                f"{100 * mine.get('mlm.accuracy', float('nan')):.1f} %",
                f"{100 * mine['retrieval.accuracy']:.1f} %" if "retrieval.accuracy" in mine else "–",
            ]
        )
    return _table(["tier", "bits per byte", "unigram model", "loss (nats)", "accuracy", "retrieval"], rows)


def describe_merge(facts: Json) -> str:
    """One line for people: method, what was chosen, and its dev loss."""
    chosen = {k: v for k, v in facts["chosen"].items() if k not in ("dev_loss", "sign_agreement")}
    return f"{facts['method']} ({', '.join(f'{k} {v:g}' for k, v in chosen.items())}), dev loss {facts['chosen']['dev_loss']:.3f}"


def model_card(recipe: Recipe, lineage: Mapping[str, Json], evaluation: Json, logit_difference: float) -> str:
    """README.md of the release, in the Hugging Face format."""
    steps = by_step(lineage)
    name = recipe.release.name
    tags = sorted(t for t, row in steps["tokenize"]["facts"]["folders"].items() if is_language(t) and row["train"]["tokens"])
    codes = sorted({t.split("_")[0] for t in tags})
    waivers = steps["validate"]["facts"]["waivers"]
    counts = steps["init"]["facts"]
    facts = evaluation["facts"]
    kept, retrieval, tokens = steps["clean"]["facts"]["total"], facts["retrieval"], steps["tokenize"]["facts"]["total"]
    front = "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: fill-mask",
            f"license: {recipe.release.license}",
            "mask_token: <mask>",
            "tags: [mmenc, modernbert, masked-lm, multilingual]",
            "language:",
            *(f"- {c if c not in ('nor', 'yes') else repr(c)}" for c in codes),
            "---",
        ]
    )
    waived = "\n".join(
        f"- {w['language']}: {w['expectation']} is {w['found']}, expected {w['threshold']}. {w['reason']}" for w in waivers
    )
    return f"""{front}

# {name}

A ModernBERT-style masked language model with {counts["parameters"]:,} parameters ({counts["non_embedding"]:,} of them not
embeddings), trained on {len(tags)} language-script pairs by the mmenc pipeline with mmBERT's annealed language learning.

```python
from transformers import pipeline
pipeline("fill-mask", model="{name}")("…<mask>…")
```

## Training data

{_sources(steps["ingest"])}

After cleaning {kept["kept"]:,} of {kept["documents"]:,} documents were kept: {tokens["train"]:,} tokens to train on,
{tokens["dev"]:,} for choices and {tokens["test"]:,} for the figures below.

## Schedule

{_schedule(steps)}

Merge: {describe_merge(steps["merge"]["facts"])}, chosen on dev.

## Evaluation

On held-out text, every language of a tier counting the same; masked tokens at {100 * recipe.evaluate.mask:g} % with a fixed seed.
Retrieval finds the translation of a held-out article among {retrieval["documents"]} (chance {100 * retrieval["chance"]:.0f} %).

{_evaluation(facts["tiers"], "merge")}

## Limits

Figures are of text like the training data; a language of the tail was seen for a few thousand tokens. The model was not
evaluated for social bias. Its logits equal those of transformers' own ModernBERT within {logit_difference:.1e}.

## Waivers

{waived or "None."}

## Lineage

Digest of the evaluated model: `{evaluation["parents"][0]["digest"]}`; `manifest.json` and `lineage.json` beside this file name
every step and every raw file by hash (`mmenc lineage .`).
"""
