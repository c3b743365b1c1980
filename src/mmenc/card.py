"""The model card in the Hugging Face format, from manifests alone, so that it says nothing that was not measured or declared.

Decisions: what a reader decides by comes first (how to use it, how good it is and where not), then how it was made, then
the proof. Figures have their intervals; long lists are folded. Front matter is in metadata.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from mmenc.artifact import Json
from mmenc.card_text import limits, usage
from mmenc.markdown import fold, plain, table
from mmenc.metadata import card_data
from mmenc.recipe import Recipe
from mmenc.sections import Phase
from mmenc.train.schedule import mask_words


@dataclass(frozen=True)
class Card:
    """What the card is made of."""

    recipe: Recipe
    lineage: Mapping[str, Json]
    """Manifests of all ancestors, by digest."""
    evaluation: Json
    """Manifest of the released model's evaluation."""
    rows: Sequence[Json]
    """Rows of its scores.json."""
    tiers: Mapping[str, Sequence[str]]
    facts: Json
    """Of the release: name, gates, what was not checked, examples."""

    @property
    def steps(self) -> dict[str, Json]:
        """Ancestors under `step` or `step:name`."""
        return by_step(self.lineage)


def by_step(lineage: Mapping[str, Json]) -> dict[str, Json]:
    """Ancestors' manifests under `step` or `step:name`."""
    return {f"{m['step']}:{m['name']}" if m["name"] else m["step"]: m for m in lineage.values()}


def _sources(ingest: Json) -> str:
    found: dict[tuple[str, str], list[int]] = {}
    for s in ingest["facts"]["sources"]:
        entry = found.setdefault((s["source"], s["license"]), [0, 0, 0])
        for i, n in enumerate((1, s["documents"], s["bytes"])):
            entry[i] += n
    rows = [[k[0], k[1], f"{v[0]:,}", f"{v[1]:,}", f"{v[2] / 1e6:.1f} MB"] for k, v in sorted(found.items())]
    return table(["source", "licence", "files", "documents", "text"], rows)


def _schedule(steps: Mapping[str, Json]) -> str:
    rows = []
    for m in steps.values():
        if m["step"] != "train":
            continue
        phase = m["config"][f"phases.{m['name']}"]
        planned, curve = Phase.model_validate(phase), m["facts"]["heldout"]
        rows.append(
            [
                str(m["facts"]["total_tokens"]),
                m["name"],
                phase["init"],
                f"{m['facts']['tokens']:,}",
                str(m["facts"]["languages"]),
                f"{phase['temperature']:g}",
                mask_words(planned),
                str(phase["context"]),
                f"{phase['rope_theta']:g}",
                f"{phase['lr']['peak']:g} {phase['lr']['shape']}"
                + "".join(f", changed after {c.after:,} tokens" for c in planned.changes),
                f"{curve[0][1]:.3f}\u00a0→\u00a0{curve[-1][1]:.3f}",
            ]
        )
    rows.sort(key=lambda r: (int(r[0]), r[1]))
    header = ["phase", "from", "tokens", "languages", "τ", "mask", "context", "RoPE base", "learning rate", "held-out loss"]
    return table(header, [r[1:] for r in rows])


def settings_of_merge(method: str, row: Json) -> str:
    """Settings of one merge in words; `row` is one of the sweep."""
    if "branch" in row:
        return f"branch {row['branch']} alone"
    told = [f"{k} {v:g}" for k, v in row.items() if k in ("density", "scale", "decay", "checkpoints")]
    weights = row.get("weights", {})
    told += [f"weights {', '.join(f'{b} {w:g}' for b, w in weights.items())}"] if len(set(weights.values())) > 1 else []
    return f"{method} ({', '.join(told) or 'equal weights'})"


def describe_merge(facts: Json) -> str:
    """One line for people: method, what was chosen, and its dev loss."""
    return f"{settings_of_merge(facts['method'], facts['chosen'])}, dev loss {facts['chosen']['dev_loss']:.3f}"


def _figure(row: Json | None, scale: float, digits: int) -> str:
    """Mean and interval of a row."""
    if row is None or row["status"] != "ok":
        return "–"
    mean, low, high = (f"{scale * row[k]:.{digits}f}" for k in ("mean", "low", "high"))
    return f"{mean}\u00a0[{low},\u00a0{high}]" if row["high"] > row["low"] else mean


def _evaluation(card: Card) -> str:
    """Means by tier with intervals, beside the unigram models of the same masked tokens."""
    found = {
        (r["model"] if not r["digest"] else "", f"{r['task']}.{r['metric']}", r["tier"]): r
        for r in card.rows
        if not r["language"]
    }
    shown = {"mlm.bits_per_byte": (1.0, 3), "mlm.accuracy": (100.0, 1), "retrieval.accuracy": (100.0, 1)}
    rows = []
    for tier in [*card.tiers, "all"]:
        if ("", "mlm.bits_per_byte", tier) not in found:
            continue
        row = [tier, str(found["", "mlm.bits_per_byte", tier]["n"])]
        row += [_figure(found.get(("", metric, tier)), *how) for metric, how in shown.items()]
        for base in ("unigram", "unigram-language"):
            one = found.get((base, "mlm.bits_per_byte", tier))
            row.append(f"{one['mean']:.3f}" if one else "–")
        rows.append(row)
    header = ["tier", "languages", "bits per byte", "accuracy, %", "retrieval, %"]
    return table([*header, "unigram model, bits per byte", "unigram model of the language"], rows)


def _worst(card: Card, most: int = 10) -> str:
    """Languages with the most bits per byte: where not to use it."""
    rows = [
        r
        for r in card.rows
        if r["language"] and r["digest"] and (r["task"], r["metric"], r["status"]) == ("mlm", "bits_per_byte", "ok")
    ]
    rows.sort(key=lambda r: (-r["mean"], r["language"]))
    return ", ".join(f"{r['language']} ({r['mean']:.2f})" for r in rows[:most])


def _languages(card: Card) -> str:
    parts = [
        fold(f"{tier}: {len(tags)} languages", ", ".join(f"`{t}`" for t in tags)) for tier, tags in card.tiers.items() if tags
    ]
    return "\n\n".join(parts)


def _merge(card: Card) -> str:
    """What each branch brings and what came out, per tier, on dev."""
    facts = card.steps["merge"]["facts"]
    told = describe_merge(facts)
    text = f"{told[0].upper()}{told[1:]}; {len(facts['sweep'])} possibilities were compared on dev text by the criterion "
    text += f"`{facts['criterion']}`. Loss on dev (nats per masked token, mean over languages):"
    rows = []
    for tier, tags in [*card.tiers.items(), ("all", list(facts["languages"]))]:
        known = [facts["languages"][t] for t in tags if t in facts["languages"]]
        if known:
            means = [sum(column) / len(known) for column in zip(*known, strict=True)]
            rows.append([tier, str(len(known)), *(f"{m:.3f}" for m in means)])
    names = [f"{facts['columns'][0]} (base)", *facts["columns"][1:-1], "released"]
    return f"{text}\n\n{table(['tier', 'languages', *names], rows)}"


def _gates(facts: Json) -> str:
    rows = [
        [g["name"], "passed" + (", waived" if g["waived"] else ""), f"{g['found']:.3g}", f"{g['limit']:.3g}"]
        for g in facts["gates"]
    ]
    left = ", ".join(facts["not_checked"])
    more = (
        f"\n\nNot checked before this card was written: {left}. `mmenc push` tries to load it in sentence-transformers."
        if left
        else ""
    )
    return table(["gate", "result", "found", "limit"], rows) + more


def _examples(facts: Json) -> str:
    rows = []
    for e in facts["examples"]:
        before, after = plain(e["before"]), plain(e["after"])
        text = f"<bdi>{before} <b>[&nbsp;?&nbsp;]</b> {after}</bdi>"
        told = " · ".join(f"<bdi>{plain(g) or '␣'}</bdi>" for g in e["guesses"])
        rows.append([e["language"], e["tier"], text, f"<bdi>{plain(e['answer']) or '␣'}</bdi>", told])
    return table(["language", "tier", "text", "hidden", "guesses, likeliest first"], rows) if rows else "None were asked for."


def _waivers(card: Card) -> str:
    """Of the data and of the release."""
    data = [
        f"- {w['language']}: {w['expectation']} is {w['found']}, expected {w['threshold']}. {w['reason']}"
        for w in card.steps["validate"]["facts"]["waivers"]
    ]
    return "\n".join([*data, *(f"- {text}" for g in card.facts["gates"] for text in g["waived"])]) or "None."


def model_card(card: Card) -> str:
    """README.md of the release."""
    steps, recipe = card.steps, card.recipe
    counts, retrieval = steps["init"]["facts"], card.evaluation["facts"]["retrieval"]
    kept, tokens = steps["clean"]["facts"]["total"], steps["tokenize"]["facts"]["total"]
    tags = [t for tags in card.tiers.values() for t in tags]
    scripts = len({t.split("_")[1] for t in tags})
    data = card_data(recipe.release.model_dump(), tags, card.rows)
    chance = f"Retrieval finds the translation of a held-out article among {retrieval['documents']} "
    chance += f"(chance {100 * retrieval['chance']:.0f} %). " if retrieval["chance"] else "(not measured: too few). "
    begun = "random weights" if counts["source"] == "random" else f"`{PurePosixPath(counts['source']).name}`"
    waves = [t for t in card.tiers if t != "unseen"]
    annealed = len(waves) > 1 and len([m for m in steps.values() if m["step"] == "train"]) > 1
    how = " with\nmmBERT's annealed language learning" if annealed else ""
    return f"""---
{data.to_yaml().rstrip()}
---

# {card.facts["name"]}

A ModernBERT-style masked language model with {counts["parameters"]:,} parameters ({counts["non_embedding"]:,} of them not
embeddings) for {len(tags)} language-script pairs in {scripts} scripts, trained from {begun} by the mmenc pipeline{how}.

## How to use

{usage(card.facts["name"], recipe.release.onnx)}

## Evaluation

On held-out text, every language of a tier counting the same, with 95 % intervals over languages;
{100 * recipe.evaluate.mask:g} % of the tokens are masked with a fixed seed. Bits per byte compare models with different
tokenizers; less is better. {chance}Figures of every language are in `scores.json`.

{_evaluation(card)}

## Limits and biases

{limits(waves, _worst(card), list(steps["clean"]["facts"]["total"]["rejected"]))}

## Examples

Test text with one token hidden; scripts are taken from the tiers in turn, nothing is chosen by its answer.

{_examples(card.facts)}

## Languages

{_languages(card)}

## Training data

{_sources(steps["ingest"])}

After cleaning {kept["kept"]:,} of {kept["documents"]:,} documents were kept: {tokens["train"]:,} tokens to train on,
{tokens["dev"]:,} for choices and {tokens["test"]:,} for the figures above.

## Schedule

{_schedule(steps)}

## Merge

{_merge(card)}

## Gates

{_gates(card.facts)}

## Waivers

{_waivers(card)}

## Lineage

The evaluated model is `{card.evaluation["parents"][0]["digest"]}`, its evaluation `{card.evaluation["digest"]}`.
`manifest.json` and `lineage.json` beside this file name every step and every raw file by hash.

To reproduce: the recipe is the `config` of the manifests in `lineage.json`; the same recipe over the same raw files gives the
same digests, and on the same machine the same bytes.

```
mmenc lineage {card.facts["name"]} --verify
```
"""
