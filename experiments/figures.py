"""The result of `experiments.annealing`: paired differences to the annealed arm, as a table and one figure.

Decision: the unit is the seed. For each seed the differences of all languages are averaged; the interval is Student's over the
seeds, so it says what another seed would give, and it is wide at three. Languages only say how many are better.

A tier is also a phase of introduction: `high` enters with pretrain, `middle` with extend, `tail` with the decay.

    python -m experiments.figures OUT [--folder probe --metric sib200.accuracy] [--json FILE] [--svg FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.annealing import arms
from mmenc.artifact import replace_json
from mmenc.evaluate.rows import STUDENT

Json = dict[str, Any]
Scores = Mapping[str, Mapping[str, float]]
"""Bits per byte by `tier` and language."""
BITS = "bits_per_byte"
SMALLEST = {BITS: 0.01}
"""Smaller differences do not count (docs/log.md): in bits per byte; one point in figures in per cent."""
POINTS = 1.0
TIERS = ("all", "high", "middle", "tail")
SCRIPTS = ("Latn", "Cyrl", "Arab", "Deva", "other scripts")
TITLES = {
    "annealed/decay-long": "one long decay (3.8 M tokens)",
    "annealed/merge": "three decays merged (3.8 M tokens)",
    "all-at-once/decay-all": "all languages from the start",
    "temperature-0.3/decay-all": "… at temperature 0.3 throughout",
    "temperature-0.5/decay-all": "… at temperature 0.5 throughout",
    "temperature-0.7/decay-all": "… at temperature 0.7 throughout",
    "mask-0.3/decay-all": "mask 30 % throughout",
    "mask-0.15/decay-all": "mask 15 % throughout",
    "mask-0.05/decay-all": "mask 5 % throughout",
    "linear/decay-all": "mask and temperature fall in a line",
}
BASE = "annealed/decay-all"


def scores(path: Path, metric: str) -> tuple[dict[str, float], dict[str, str]]:
    """The figure and the tier by language."""
    name = path.parent.name
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    wanted = [r for r in rows if (r["model"], r["metric"], r["status"]) == (name, metric, "ok") and r["language"]]
    return {r["language"]: r["mean"] for r in wanted}, {r["language"]: r["tier"] for r in wanted}


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and Student's 95 % interval; one value has none."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, -math.inf, math.inf
    half = STUDENT[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def groups(tags: Mapping[str, str]) -> dict[str, list[str]]:
    """Languages by tier and by script; a group without any is left out."""
    by_tier = {g: [t for t, at in tags.items() if g in ("all", at)] for g in TIERS}
    script = {t: s if (s := t.split("_")[1]) in SCRIPTS else SCRIPTS[-1] for t in tags}
    return {g: own for g, own in (by_tier | {s: [t for t in tags if script[t] == s] for s in SCRIPTS}).items() if own}


def compare(out: Path, folder: str = "evaluate", metric: str = BITS) -> Json:
    """Every arm against the annealed one, over the seeds that have both."""
    found: Json = {}
    seeds = sorted(out.glob("seed-*"))
    for arm, (_, ends) in arms().items():
        for end in ends:
            name = f"{arm}/{end}"
            paths = {s.name: s / arm / "artifacts" / folder / end / "scores.json" for s in seeds}
            base = {s.name: s / "annealed/artifacts" / folder / "decay-all/scores.json" for s in seeds}
            both = [s for s in paths if paths[s].exists() and base[s].exists()]
            if not both:
                continue
            pairs = [(scores(paths[s], metric)[0], *scores(base[s], metric)) for s in both]
            row: Json = {"seeds": len(both)}
            for tier, tags in groups(pairs[0][2]).items():
                own = [statistics.fmean(mine[t] for t in tags) for mine, _, _ in pairs]
                apart = [statistics.fmean(mine[t] - theirs[t] for t in tags) for mine, theirs, _ in pairs]
                each = {t: statistics.fmean(mine[t] - theirs[t] for mine, theirs, _ in pairs) for t in tags}
                better = sum(d < 0 if metric == BITS else d > 0 for d in each.values()) / len(each)
                row[tier] = {metric: statistics.fmean(own), "difference": interval(apart), "by_seed": apart}
                row[tier] |= {"languages": len(tags), "better": better}
            found[name] = row
    return found


def verdict(difference: tuple[float, float, float], metric: str = BITS) -> str:
    """What the rule of docs/log.md says of a difference (fewer bits are better, more of anything else)."""
    mean, low, high = difference
    if low <= 0 <= high or abs(mean) < SMALLEST.get(metric, POINTS):
        return "no difference seen"
    return "better" if (mean < 0) == (metric == BITS) else "worse"


def table(found: Json, metric: str = BITS, columns: tuple[str, ...] = TIERS) -> str:
    """Markdown: the figures of the annealed arm, then the differences to it."""
    base, digits = found[BASE], 3 if metric == BITS else 1
    columns = tuple(c for c in columns if c in base)
    lines = ["| arm | " + " | ".join(columns) + " | languages better | against annealed |", "|---" * (len(columns) + 3) + "|"]
    figures = " | ".join(f"{base[t][metric]:.{digits}f}" for t in columns)
    lines.append(f"| annealed, last decay over all languages | {figures} | | |")
    for name, title in TITLES.items():
        if name in found:
            row = found[name]
            cells = []
            for tier in columns:
                mean, low, high = row[tier]["difference"]
                around = f" [{low:+.{digits}f}, {high:+.{digits}f}]" if math.isfinite(low) else ""
                cells.append(f"{mean:+.{digits}f}{around}")
            words = verdict(tuple(row["all"]["difference"]), metric) if row["seeds"] > 1 else "one seed"
            lines.append(f"| {title} | {' | '.join(cells)} | {100 * row['all']['better']:.0f} % | {words} |")
    return "\n".join(lines)


def figure(found: Json) -> str:
    """A dot and its interval for each arm, all languages and the tail; text in plain SVG, so that any page shows it."""
    rows = [(TITLES[n], found[n]) for n in TITLES if n in found]
    left, width, step = 300, 860, 34
    ends = [v for _, r in rows for t in ("all", "tail") for v in r[t]["difference"] if math.isfinite(v)]
    low, high = min(0.0, *ends), max(0.0, *ends)
    pad = 0.05 * (high - low)
    low, high = low - pad, high + pad

    def at(v: float) -> float:
        return left + (min(max(v, low), high) - low) / (high - low) * (width - left - 20)

    height = step * len(rows) + 70
    parts = [f'<rect width="{width}" height="{height}" fill="#fff"/>']
    parts.append(f'<line x1="{at(0):.1f}" x2="{at(0):.1f}" y1="10" y2="{height - 50}" stroke="#888"/>')
    for i, (title, row) in enumerate(rows):
        y = 26 + i * step
        parts.append(f'<text x="{left - 12}" y="{y + 4}" text-anchor="end">{title}</text>')
        for tier, color, dy in (("all", "#1f5fa8", -5), ("tail", "#b5530b", 6)):
            mean, a, b = row[tier]["difference"]
            line = f'x1="{at(a):.1f}" x2="{at(b):.1f}" y1="{y + dy}" y2="{y + dy}"'
            parts += [f'<line {line} stroke="{color}" stroke-width="2"/>'] if math.isfinite(a) else []
            parts.append(f'<circle cx="{at(mean):.1f}" cy="{y + dy}" r="4" fill="{color}"/>')
    unit = 10 ** math.floor(math.log10((high - low) / 4))
    for k in range(math.ceil(low / unit), math.floor(high / unit) + 1):
        if k % max(1, round((high - low) / unit / 8)) == 0:
            y = height - 34
            parts.append(f'<text x="{at(k * unit):.1f}" y="{y}" text-anchor="middle" fill="#555">{k * unit:+.2g}</text>')
    words = "bits per byte more than the annealed arm (left is better); blue: all languages, orange: the tail"
    parts.append(f'<text x="{width - 20}" y="{height - 10}" text-anchor="end">{words}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="14">'
    return head + "".join(parts) + "</svg>\n"


def main() -> None:
    """Print the table; write figures and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--folder", default="evaluate", help="which evaluation of each arm")
    parser.add_argument(
        "--metric", default=BITS, help="bits_per_byte, or of the probe: sib200.accuracy, tatoeba.plain, tatoeba.centred"
    )
    parser.add_argument("--scripts", action="store_true", help="columns by script in place of tiers")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    given = parser.parse_args()
    found = compare(given.out, given.folder, given.metric)
    if given.json:
        replace_json(given.json, {"what": "experiments.annealing", "metric": given.metric, "arms": found})
    if given.svg:
        given.svg.write_text(figure(found), encoding="utf-8")
    print(table(found, given.metric, ("all", *SCRIPTS) if given.scripts else TIERS))


if __name__ == "__main__":
    main()
