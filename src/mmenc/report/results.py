"""The report's upper half: headline, results by tier, what the merge kept, all languages.

Decisions: the best figure of a row has a star and weight, not a colour. Differences to the base are paired by language
(the same masked tokens), which is far tighter than the distance of two means; ± is 1.96 standard errors over languages.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from pathlib import PurePosixPath

from mmenc.card import describe_merge
from mmenc.charts import bar_chart, short
from mmenc.data.tokens import is_language
from mmenc.page import Cell, Html, Marked, figures, number, table, tag
from mmenc.report.story import BASELINES, Story, fixed, interval
from mmenc.train.schedule import mask_words

METRICS: dict[str, tuple[str, float, bool]] = {
    "mlm.bits_per_byte": ("Bits per byte", 1.0, False),
    "mlm.loss": ("Loss, nats per masked token", 1.0, False),
    "mlm.accuracy": ("Masked tokens guessed right, %", 100.0, True),
    "mlm.calibration_error": ("Expected calibration error, 15 bins of the top probability, %", 100.0, False),
    "pseudo.perplexity": ("Pseudo-perplexity, geometric mean", 1.0, False),
    "pseudo.bits_per_byte": ("Pseudo-perplexity, bits per byte", 1.0, False),
    "retrieval.accuracy": ("Retrieval of the translation, %", 100.0, True),
    "retrieval.accuracy_centred": ("Retrieval, each language's mean embedding subtracted, %", 100.0, True),
}
"""Metric: its title, the factor it is shown with, and whether more is better."""
SHOWN = {"merge": "merged (released)", "unigram": "unigram of all text", "unigram-language": "unigram of the language"}
NO_RETRIEVAL = "Retrieval was not measured: there are fewer than two parallel test documents or languages."


def alone(story: Story) -> str:
    """The branch that is released by itself because no merge was better on dev; empty where a merge is."""
    return str(story.facts("merge")["chosen"].get("branch", ""))


def shown(story: Story, model: str) -> str:
    """Name a model for the reader: what part it plays beside its name."""
    if model == "merge" and (branch := alone(story)):
        return f"released (= {branch})"
    if model in SHOWN:
        return SHOWN[model]
    part = "branch" if model in story.branches else "base" if model == story.recipe.merge.base else "phase"
    return f"{model} ({part})"


def duration(seconds: float) -> str:
    """Write a time for people: 4.12 s, 41 s, 7 min 5 s, 3 h 20 min."""
    if seconds < 59.5:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def headline(story: Story) -> list[str]:
    """Figures in large type and a paragraph in plain words."""
    read = {t for t, n in story.read_by_language().items() if n and is_language(t)}
    tokens = sum(story.facts(f"train:{p}")["tokens"] for p in story.phases)
    seconds = sum(r["seconds"] for r in story.runs.values())
    tiles: dict[str, Cell] = {
        "languages trained on": len(read),
        "scripts": len({t.split("_")[1] for t in read}),
        "parameters": short(story.facts("init")["parameters"]),
        "tokens of training, all branches": short(tokens),
    }
    bits, base = (story.figure(m, "mlm.bits_per_byte", "all") for m in ("merge", "unigram"))
    if bits and base:
        own = story.figure("unigram-language", "mlm.bits_per_byte", "all")
        beside = f", of each language {own[0]:.3f}" if own else ""
        tiles[f"bits per byte; unigram model of all text {base[0]:.3f}{beside}"] = f"{bits[0]:.3f}"
    if found := story.figure("merge", "retrieval.accuracy", "all"):
        tiles[f"retrieval; chance is {100 * story.chance:.1f} %"] = f"{100 * found[0]:.1f} %"
    missing = len(story.steps) - len(story.runs)
    tiles["time, sum over steps" + (f", {missing} not recorded" if missing else "")] = (
        duration(seconds) if story.runs else "not recorded"
    )
    return [figures(tiles), _plain_words(story, len(read))]


def _plain_words(story: Story, languages: int) -> str:
    recipe, merge = story.recipe, story.recipe.merge
    trunk = [*(recipe.ancestors(merge.base) if merge.base in recipe.phases else []), merge.base]

    def told(phase: str) -> str:
        p, facts = recipe.phases[phase], story.facts(f"train:{phase}")
        many = f"{facts['languages']} language{'s' if facts['languages'] != 1 else ''}"
        many += "".join(f" and {100 * b.share:g} % {name}" for name, b in p.buckets.items())
        how = f"{mask_words(p)} masked, context {p.context}, τ {p.temperature:g}"
        return f"{phase} ({short(facts['tokens'])} tokens of {many}, {how})"

    begun = "random weights" if recipe.model.source == "random" else PurePosixPath(recipe.model.source).name
    name = story.facts("release")["name"]
    text = f"{name} is a masked language model of {recipe.model.layers} layers, trained from {begun} on {languages} "
    text += f"language{'s' if languages != 1 else ''}: " + ", then ".join(told(p) for p in trunk if p in story.phases) + ". "
    if story.branches:
        text += f"From there {len(story.branches)} branch{'es' if len(story.branches) > 1 else ''} went on with a falling "
        text += f"learning rate: {', '.join(told(b) for b in story.branches)}. "
        if branch := alone(story):
            text += f"No merge was better on dev; what is released is the branch {branch}. "
        elif len(story.branches) > 1 or merge.method in ("linear", "exponential"):
            text += f"What is released is a merge: {describe_merge(story.facts('merge'))}, chosen on dev text. "
        else:
            text += "It is released as it is. "
    if others := [p for p in story.phases if p not in trunk and p not in story.branches]:
        text += f"Not part of the release: {', '.join(others)}. "
    return text + "Results are of test text that neither training nor any choice saw."


def _best(values: Iterable[tuple[float, float, float] | None], more: bool) -> float | None:
    means = [v[0] for v in values if v is not None]
    return (max(means) if more else min(means)) if len(means) > 1 else None


def _metric_table(story: Story, metric: str) -> Html:
    title, scale, more = METRICS[metric]
    models = [m for m in story.models if any(story.figure(m, metric, t) for t in story.tiers)]
    digits = 1 if scale > 1 else 3
    rows: list[list[Cell]] = []
    for tier in story.tiers:
        found = [story.figure(m, metric, tier) for m in models]
        if not any(found):
            continue
        best = _best((f for m, f in zip(models, found, strict=True) if m not in BASELINES), more)
        count = sum(1 for t, own in story.languages.items() if tier in (own, "all") and story.figure(models[0], metric, own, t))
        stars = [f is not None and f[0] == best and m not in BASELINES for m, f in zip(models, found, strict=True)]
        cells = [interval(f, "best" if star else "", scale, digits) for f, star in zip(found, stars, strict=True)]
        rows.append([tier, count, *([fixed(100 * story.chance, 1)] if metric.startswith("retrieval") else []), *cells])
    head = ["tier", "languages", *(["chance"] if metric.startswith("retrieval") else []), *(shown(story, m) for m in models)]
    note = f"{title} ({'more' if more else 'less'} is better)"
    return Html(tag("h3", note) + table(head, rows, sortable=False))


def _against_baselines(story: Story) -> str:
    """Say in how many languages the release beats each baseline, whether that flatters it or not."""
    told: list[str] = []
    for baseline in BASELINES:
        pairs = [
            (story.figure("merge", "mlm.bits_per_byte", own, t), story.figure(baseline, "mlm.bits_per_byte", own, t))
            for t, own in story.languages.items()
        ]
        both = [(a, b) for a, b in pairs if a and b]
        if both:
            told.append(f"the {shown(story, baseline)} in {sum(a[0] < b[0] for a, b in both)} of {len(both)} languages")
    return f"The released model needs fewer bits per byte than {', and than '.join(told)}." if told else ""


def results(story: Story) -> list[str]:
    """One table per metric, tiers down, models across."""
    text = f"On held-out test text, {100 * story.recipe.evaluate.mask:g} % of tokens masked with a fixed seed; every language of "
    text += "a tier counts the same. ★ is the best trained model of a row; [low, high] is the 95 % interval over languages. The "
    text += "unigram models know only how frequent each token is, in all training text or in the language's own. "
    text += _against_baselines(story)
    measured = {f"{key[1]}.{key[2]}" for key in story.rows}
    parts: list[str] = [text, *(_metric_table(story, m) for m in METRICS if m in measured)]
    if story.chance:
        facts = story.facts("evaluate:merge")["retrieval"]
        parts.append(
            f"Retrieval: each of {facts['documents']} held-out documents looks for its own translation in {facts['pivot']} and "
            f"back, by cosine of mean-pooled embeddings; {facts['languages']} languages have all of them."
        )
    else:
        parts.append(NO_RETRIEVAL)
    return parts


def _differences(story: Story, model: str, metric: str, tier: str) -> list[float]:
    """Difference of a model to the base, language by language."""
    pairs = (
        (story.figure(model, metric, own, t), story.figure(story.recipe.merge.base, metric, own, t))
        for t, own in story.languages.items()
        if tier in (own, "all")
    )
    return [a[0] - b[0] for a, b in pairs if a and b]


def _gain(values: list[float], scale: float, more: bool) -> Cell:
    if not values:
        return None
    mean, digits = statistics.fmean(values), 1 if scale > 1 else 3
    error = 1.96 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    better = sum((v > 0) == more and v != 0 for v in values)
    spread = f"± {scale * error:.{digits}f}, " if error else ""
    certain = abs(mean) > error > 0
    kind = ("ok" if (mean > 0) == more else "bad") if certain else ""
    return Marked(scale * mean, kind, f"{spread}{better} of {len(values)} better", digits)


def kept_by_merge(story: Story) -> list[str]:
    """Each branch and the merge as difference to the base, per tier."""
    base = story.recipe.merge.base
    if not story.branches or not any(key[0] == base for key in story.rows):
        return ["Nothing was merged: the recipe has one line of phases, and its last checkpoint is the release."]
    models = ["merge", *story.branches]
    text = f"Difference to {base}, the checkpoint that all branches started from, paired by language on the same masked tokens; "
    text += "± is 1.96 standard errors over languages. ✓ better and ✕ worse where the difference exceeds that."
    parts: list[str] = [text]
    for metric in ("mlm.bits_per_byte", "mlm.accuracy", "retrieval.accuracy"):
        title, scale, more = METRICS[metric]
        rows: list[list[Cell]] = []
        for tier in story.tiers:
            found = [_differences(story, m, metric, tier) for m in models]
            if any(found):
                rows.append([tier, *(_gain(f, scale, more) for f in found)])
        if rows:
            head = ["tier", *(shown(story, m) for m in models)]
            parts += [tag("h3", f"{title} ({'more' if more else 'less'} is better)"), table(head, rows, sortable=False)]
    bars = {
        shown(story, m): {t: -statistics.fmean(d) for t in story.tiers if (d := _differences(story, m, "mlm.bits_per_byte", t))}
        for m in models
    }
    return [
        *parts,
        tag("h3", "Bits per byte saved, by tier"),
        bar_chart(bars, f"bits per byte saved over {base}; to the right is better"),
    ]


def _language_row(story: Story, tag_: str, tier: str, read: int) -> list[Cell]:
    available = story.facts("tokenize")["folders"].get(tag_, {}).get("train", {}).get("tokens", 0)
    fertility = story.facts("tokenizer")["languages"].get(tag_, {})
    bits, own = (story.figure(m, "mlm.bits_per_byte", tier, tag_) for m in ("merge", "unigram-language"))
    accuracy, found = (story.figure("merge", m, tier, tag_) for m in ("mlm.accuracy", "retrieval.accuracy"))
    row: list[Cell] = [tag_, tag_.split("_")[1], tier, available, read, fixed(read / available, 2) if available else None]
    row += [fixed(fertility.get("bytes_per_token"), 2), fixed(bits[0], 3) if bits else None]
    row += [f"[{bits[1]:.2f},\u00a0{bits[2]:.2f}]" if bits else "", fixed(own[0], 3) if own else None]
    row += [fixed(own[0] - bits[0], 3) if own and bits else None]
    row += [fixed(100 * accuracy[0], 1) if accuracy else None, fixed(100 * found[0], 0) if found else None]
    return row


def all_languages(story: Story) -> list[str]:
    """One row per language."""
    read = story.read_by_language()
    head = ["language", "script", "tier", "train tokens", "tokens read", "epochs", "bytes per token", "bits per byte", "interval"]
    head += ["unigram of the language", "saved", "accuracy %", "retrieval %"]
    rows = [_language_row(story, t, tier, read.get(t, 0)) for t, tier in story.languages.items()]
    untested = [t for t, tier in story.languages.items() if not story.figure("merge", "mlm.bits_per_byte", tier, t)]
    text = f"{number(len(rows))} language{'s' if len(rows) != 1 else ''}; figures of the released model on test, with the 95 % "
    text += "interval over documents. Tokens read and epochs are sums over all phases, every branch included. Saved: bits per "
    text += "byte fewer than the unigram model of the language itself needs; below zero the released model needs more. "
    if story.chance:
        text += f"Chance of retrieval is {100 * story.chance:.1f} %. "
    if untested:
        text += f"Without test text: {', '.join(untested)}."
    return [text, table(head, rows, heat=["bits per byte", "epochs"], find="filter: a tag, a script, a tier …")]
