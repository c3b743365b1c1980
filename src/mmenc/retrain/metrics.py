"""A release against the last one: figures per tier with intervals, the languages that lost and gained most, and the lineage.

Decisions: differences are paired by language (the same masked tokens where the tokenizer is the same), so their 95 % interval
is far tighter than the distance of two means; a tier has become better or worse where that interval leaves out zero. A single
language has become worse where its own interval lies wholly above the last one's, the release gate's rule. Two evaluations
with other masks, seeds or lengths do not compare, and then nothing is compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmenc.artifact import Json, write_json
from mmenc.errors import Refused
from mmenc.evaluate.rows import mean_interval
from mmenc.lineage import tree_lines
from mmenc.markdown import fold, plain, table
from mmenc.retrain.released import Missing, Released, read

SETTINGS = ("mask", "seed", "tokens_per_language")
"""Of `evaluate`: what both must share (mmenc.gates.SAME)."""
METRICS: dict[str, tuple[str, float, int, bool]] = {
    "mlm.bits_per_byte": ("bits per byte", 1.0, 3, False),
    "mlm.accuracy": ("masked tokens guessed right, %", 100.0, 1, True),
    "mlm.calibration_error": ("calibration error, %", 100.0, 1, False),
    "pseudo.bits_per_byte": ("pseudo-perplexity, bits per byte", 1.0, 3, False),
    "retrieval.accuracy": ("retrieval, %", 100.0, 1, True),
    "retrieval.accuracy_centred": ("retrieval, centred, %", 100.0, 1, True),
    "retrieval.accuracy_all_pairs": ("retrieval, all pairs, %", 100.0, 1, True),
    "retrieval.accuracy_centred_all_pairs": ("retrieval, all pairs, centred, %", 100.0, 1, True),
}
"""Title, factor, digits, whether more is better; other metrics of scores.json follow by their own names."""
FIRST, TIMES, MOST = "mlm.bits_per_byte", 1000, 10
"""What the languages are ranked by; resamples of an interval; languages shown."""
Figures = dict[str, tuple[float, float, float]]


def _figures(rows: Sequence[Json], metric: str) -> Figures:
    """(mean, low, high) of each language of the released model; baselines have no digest."""
    task, _, name = metric.partition(".")
    return {
        r["language"]: (r["mean"], r["low"], r["high"])
        for r in rows
        if r["digest"] and r["language"] and (r["task"], r["metric"], r["status"]) == (task, name, "ok")
    }


def _metrics(rows: Sequence[Json]) -> list[str]:
    """Metrics of a release, those with a title first."""
    found = dict.fromkeys(f"{r['task']}.{r['metric']}" for r in rows if r["digest"] and r["language"] and r["status"] == "ok")
    return [m for m in METRICS if m in found] + [m for m in found if m not in METRICS and not m.endswith(("loss", "perplexity"))]


def _titled(metric: str) -> tuple[str, float, int, bool]:
    return METRICS.get(metric, (metric, 1.0, 3, True))


def _verdict(low: float, high: float, more: bool) -> str:
    if low <= 0 <= high:
        return "unclear"
    return "better" if (low > 0) == more else "worse"


def _tiers(metric: str, old: Figures, new: Figures, tier: Mapping[str, str], order: Sequence[str]) -> list[Json]:
    """One row per tier, paired by the languages that both were scored on."""
    more, found = _titled(metric)[3], list[Json]()
    common = [t for t in new if t in old]
    for name in order:
        members = [t for t in common if name in ("all", tier.get(t))]
        if not members:
            continue
        away = [new[t][0] - old[t][0] for t in members]
        mean, low, high = mean_interval(away, TIMES, "retrain", metric, name)
        rising = sum(d > 0 for d in away)
        won = rising if more else sum(d < 0 for d in away)
        figures = {"old": sum(old[t][0] for t in members) / len(members), "new": sum(new[t][0] for t in members) / len(members)}
        verdict = _verdict(low, high, more) if len(members) > 1 else "unclear"
        row = {"metric": metric, "tier": name, "languages": len(members), **figures, "difference": mean, "low": low, "high": high}
        found.append({**row, "better": won, "worse": sum(d != 0 for d in away) - won, "verdict": verdict})
    return found


def _languages(old: Figures, new: Figures, tier: Mapping[str, str]) -> list[Json]:
    """Every language of both, the most lost first; `clear` where the intervals do not meet."""
    rows = [
        {
            "language": t,
            "tier": tier.get(t, ""),
            "old": old[t],
            "new": new[t],
            "difference": new[t][0] - old[t][0],
            "clear": "worse" if new[t][1] > old[t][2] else "better" if new[t][2] < old[t][1] else "",
        }
        for t in new
        if t in old
    ]
    return sorted(rows, key=lambda r: (-r["difference"], r["language"]))


def compare(old: Released | None, new: Released) -> Json:
    """`{schema, old, new, comparable, tiers: […], languages: […], added, gone, tokenizer, lineage}`."""
    tier = {r["language"]: r["tier"] for r in new.scores if r["language"]}
    found: Json = {"schema": 1, "new": new.name, "old": old.name if old else "", "reason": "", "tiers": [], "languages": []}
    found["lineage"] = _lineage(old, new)
    if old is None:
        return found | {"comparable": False, "reason": "there is no last release"}
    mine, yours = (r.manifest["config"].get("evaluate", {}) for r in (old, new))
    if other := [k for k in SETTINGS if mine.get(k) != yours.get(k)]:
        said = ", ".join(f"{k} {mine.get(k)} → {yours.get(k)}" for k in other)
        return found | {"comparable": False, "reason": f"the evaluation has changed ({said})"}
    order = [*(t for t in dict.fromkeys(r["tier"] for r in new.scores) if t != "all"), "all"]
    for metric in _metrics(new.scores):
        found["tiers"] += _tiers(metric, _figures(old.scores, metric), _figures(new.scores, metric), tier, order)
    before, now = _figures(old.scores, FIRST), _figures(new.scores, FIRST)
    found["languages"] = _languages(before, now, tier)
    found["added"], found["gone"] = sorted(now.keys() - before.keys()), sorted(before.keys() - now.keys())
    contents = [next((p["content"] for p in r.manifest["parents"] if p["role"] == "tokenizer"), "") for r in (old, new)]
    return found | {"comparable": True, "same_tokenizer": contents[0] == contents[1]}


def _lineage(old: Released | None, new: Released) -> list[str]:
    """Lines of the tree; a node that the last release has too is marked."""
    manifests = {**new.lineage, new.manifest["digest"]: new.manifest}
    nodes = {
        digest: {
            "step": m["step"],
            "name": m["name"],
            "parents": [{"role": p["role"], "digest": p["digest"]} for p in m["parents"]],
        }
        for digest, m in manifests.items()
    }
    known = {digest[:12] for digest in old.digests} if old else set()
    lines = tree_lines({"root": new.manifest["digest"], "nodes": nodes})
    return [f"{line}  = last release" if any(d in line for d in known) else line for line in lines]


def _shown(figures: Sequence[float], scale: float, digits: int) -> str:
    mean, low, high = (scale * x for x in figures)
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]" if high > low else f"{mean:.{digits}f}"


def _signed(row: Json, scale: float, digits: int) -> str:
    mean, low, high = (scale * row[k] for k in ("difference", "low", "high"))
    text = f"{mean:+.{digits}f}".replace("-", "−")
    return f"{text} [{low:+.{digits}f}, {high:+.{digits}f}]".replace("-", "−") if high > low else text


def _tier_table(rows: Sequence[Json]) -> str:
    lines = []
    for row in rows:
        title, scale, digits, _ = _titled(row["metric"])
        figures = [f"{scale * row[k]:.{digits}f}" for k in ("old", "new")]
        verdict = row["verdict"] if row["verdict"] == "unclear" else f"**{row['verdict']}**"
        counted = [str(row["languages"]), *figures, _signed(row, scale, digits), f"{row['better']} : {row['worse']}", verdict]
        lines.append([title, row["tier"], *counted])
    return table(["", "tier", "languages", "last", "new", "difference, paired", "better : worse", ""], lines)


def _language_table(rows: Sequence[Json]) -> str:
    _, scale, digits, _ = _titled(FIRST)
    lines = [
        [
            plain(r["language"]),
            r["tier"],
            _shown(r["old"], scale, digits),
            _shown(r["new"], scale, digits),
            f"{scale * r['difference']:+.{digits}f}".replace("-", "−"),
            f"**{r['clear']}**" if r["clear"] else "",
        ]
        for r in rows
    ]
    return table(["language", "tier", "last", "new", "difference", "intervals apart"], lines)


def render(found: Json) -> str:
    """The whole comment."""
    title = plain(found["new"]) + (f" against {plain(found['old'])}" if found["old"] else "")
    parts = [f"### Retrained: {title}"]
    if not found["comparable"]:
        parts.append(f"**Not compared**: {plain(found['reason'])}.")
    else:
        parts += _compared(found)
    return "\n\n".join([*parts, fold("Lineage", "```\n" + "\n".join(found["lineage"]) + "\n```")]) + "\n"


def _compared(found: Json) -> list[str]:
    rows, title = found["languages"], METRICS[FIRST][0]
    worse, better = ([r for r in rows if r["clear"] == k] for k in ("worse", "better"))
    whole = next((r for r in found["tiers"] if (r["metric"], r["tier"]) == (FIRST, "all")), None)
    said = (
        f"{title.capitalize()} over {whole['languages']} languages: {_signed(whole, 1.0, 3)}, **{whole['verdict']}**. "
        if whole
        else ""
    )
    parts = [f"{said}By their own intervals {len(better)} languages are better and {len(worse)} worse."]
    first = [r for r in found["tiers"] if r["metric"] == FIRST]
    parts += [_tier_table(first)] if first else []
    if others := [r for r in found["tiers"] if r["metric"] != FIRST]:
        parts.append(fold("Other metrics", _tier_table(others)))
    lost, won = ([r for r in rows if (r["difference"] > 0) == up and r["difference"]] for up in (True, False))
    if lost:
        parts.append(f"**Lost most**, {title}, less is better:\n\n{_language_table(lost[:MOST])}")
    if won:
        parts.append(fold("Gained most", _language_table(won[::-1][:MOST])))
    for key, word in (("added", "New"), ("gone", "Gone")):
        if found[key]:
            parts.append(f"{word}: {', '.join(plain(t) for t in found[key][:50])}{' …' if found[key][50:] else ''}.")
    if not found["same_tokenizer"]:
        parts.append("The tokenizer is another one, so other tokens are masked: only figures per byte and retrieval compare.")
    parts.append(
        "Intervals are 95 %; a tier's is of differences paired by language, of one seed each: another seed moves them too."
    )
    return parts


def _last(place: str) -> Released | None:
    try:
        return read(place) if place else None
    except Missing:
        return None


def write_metrics(new: str, old: str, out: Path) -> None:
    """Write metrics.md and metrics.json. It only tells: to refuse a release that is worse is the gate's affair (mmenc.gates)."""
    try:
        found = compare(_last(old), read(new))
    except KeyError as error:
        raise Refused(f"{new}: its manifests or scores lack {error}; expected a release of this mmenc") from None
    out.mkdir(parents=True, exist_ok=True)
    text = render(found)
    (out / "metrics.md").write_text(text, encoding="utf-8")
    write_json(out / "metrics.json", found)
    print(text, flush=True)
