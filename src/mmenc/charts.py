"""Charts as inline SVG, in the colours and style of page.py: lines, grouped bars with intervals, stacked shares.

Decisions: no chart library and no script; drawn by hand so that a page opens anywhere. No meaning rests on colour alone:
lines also differ in dash and marker, bars carry the marker of their series and labels, the ninth and later shares are hatched.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from mmenc.page import WIDTH, Html, number, tag

DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4")
_CIRCLE, _SQUARE, _DIAMOND, _STROKE = "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0", "M-3-3h6v6h-6z", "M0-4L4 0L0 4L-4 0z", "M-1-6h2v12h-2z"
MARKS = (_CIRCLE, _SQUARE, "M0-4L4 3H-4z", _DIAMOND, "M0 4L4-3H-4z", _STROKE)
Bars = Mapping[str, Mapping[str, float | tuple[float, float, float]]]


def short(value: float) -> str:
    """Write an axis label: 1.5k, 20M."""
    units = (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3), ("", 0))
    unit, size = next(pair for pair in units if abs(value) >= pair[1])
    return f"{value / (size or 1):.4g}{unit}"


def _units(text: str) -> float:
    """Estimate the width of a label in digits: wide characters count twice, combining ones not at all."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _text(x: float, y: float, text: str, anchor: str = "start", room: float = 99, **more: object) -> Html:
    shown, full = text, [tag("title", text)] if _units(text) > room else []
    while full and _units(shown) > room - 1:
        shown = shown[:-1]
    return tag("text", shown + ("…" if full else ""), *full, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, **more)


def _ticks(low: float, high: float, count: int = 6) -> list[float]:
    step: float = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(m for m in (1, 2, 5, 10, 20) if (high - low) / (step * m) <= count)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _range(values: Iterable[float]) -> tuple[float, float]:
    finite = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    return (low, high) if high > low else (low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1))


def _figure(height: float, label: str, parts: Iterable[Html], legend: Html) -> Html:
    box = f"0 0 {WIDTH} {height:.0f}"
    return tag("figure", tag("svg", *parts, viewBox=box, role="img", aria_label=label, class_="chart"), legend)


def _legend(names: Sequence[str], kind: str) -> Html:
    """Draw keys beside their names: a line with its marker, or a filled square."""
    keys, key = [], ""
    for i, name in enumerate(names):
        if kind == "line":
            line = tag("path", d="M0 6H28", class_=f"l c{i % 8}", stroke_dasharray=DASHES[i % 5] or None)
            key = line + tag("path", d=MARKS[i % 6], transform="translate(14 6)", class_=f"f c{i % 8}")
        else:
            other = name.startswith("other (")
            key = tag("rect", width=14, height=12, class_="f other" if other else f"f c{i % 8}")
            key += tag("rect", width=14, height=12, fill="url(#hatch)") if i >= 8 and not other else ""
            key += tag("path", d=MARKS[i % 6], transform="translate(7 6)", class_="k") if kind == "bar" else ""
        keys.append(tag("span", tag("svg", Html(key), width=28 if kind == "line" else 14, height=12), tag("bdi", name)))
    return tag("div", *keys, class_="legend")


def line_chart(series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> Html:
    """Draw lines over two linear axes; points that are not finite are left out; at most 12 markers a line."""
    left, right, top, bottom, height = 62, 16, 12, 48, 340
    points = {n: [p for p in line if math.isfinite(p[0]) and math.isfinite(p[1])] for n, line in series.items()}
    (x0, x1), (y0, y1) = (_range(p[axis] for line in points.values() for p in line) for axis in (0, 1))
    y0, y1 = y0 - 0.04 * (y1 - y0), y1 + 0.04 * (y1 - y0)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (x - x0) / (x1 - x0) * (WIDTH - left - right), top + (y1 - y) / (y1 - y0) * (height - top - bottom)

    parts: list[Html] = []
    for tick in _ticks(y0, y1):
        y = at(x0, tick)[1]
        parts += [tag("path", d=f"M{left} {y:.1f}H{WIDTH - right}", class_="grid"), _text(left - 8, y + 4, short(tick), "end")]
    for tick in _ticks(x0, x1, 8):
        x = at(tick, y0)[0]
        parts.append(tag("path", d=f"M{x:.1f} {height - bottom}v5", class_="axis"))
        parts.append(_text(x, height - bottom + 18, short(tick), "middle"))
    parts.append(tag("path", d=f"M{left} {top}V{height - bottom}H{WIDTH - right}", class_="axis"))
    parts.append(_text((left + WIDTH - right) / 2, height - 8, x_label, "middle"))
    parts.append(_text(0, 0, y_label, "middle", transform=f"translate(14 {(top + height - bottom) / 2:.1f}) rotate(-90)"))
    for i, (name, line) in enumerate(points.items()):
        spots = [f"{x:.1f} {y:.1f}" for x, y in (at(*point) for point in line)]
        marked = spots[:: max(1, math.ceil(len(spots) / 12))]
        drawn = [tag("path", d=MARKS[i % 6], transform=f"translate({spot})", class_=f"f c{i % 8}") for spot in marked]
        if spots:
            drawn.append(tag("path", d="M" + "L".join(spots), class_=f"l c{i % 8}", stroke_dasharray=DASHES[i % 5] or None))
        parts.append(tag("g", tag("title", name), *drawn))
    return _figure(height, f"{y_label} over {x_label}", parts, _legend(list(series), "line"))


def bar_chart(values: Bars, x_label: str) -> Html:
    """Draw horizontal bars, grouped: {series: {category: figure, or (mean, low, high) for an interval}}."""
    triples = {s: {c: v if isinstance(v, tuple) else (v, v, v) for c, v in row.items()} for s, row in values.items()}
    categories = list(dict.fromkeys(c for row in triples.values() for c in row))
    left = 24 + 7.2 * min(30, max((_units(c) for c in categories), default=0))
    low, high = _range([0.0, *(v for row in triples.values() for triple in row.values() for v in triple)])
    group = 15 * len(triples) + 9
    height, room = group * len(categories) + 52, WIDTH - left - 76

    def at(v: float) -> float:
        return left + (v - low) / (high - low) * room

    parts: list[Html] = []
    for tick in _ticks(low, high):
        parts.append(tag("path", d=f"M{at(tick):.1f} 4V{height - 44}", class_="grid"))
        parts.append(_text(at(tick), height - 28, short(tick), "middle"))
    for row_number, category in enumerate(categories):
        top = 8 + group * row_number
        parts.append(_text(left - 8, top + (group - 9) / 2 + 4, category, "end", 30))
        for i, (name, row) in enumerate(triples.items()):
            mean, below, above = row.get(category, (math.nan,) * 3)
            if not math.isfinite(mean):
                continue
            y, start = top + 15 * i, min(at(0), at(mean))
            bar = {"x": f"{start:.1f}", "y": y, "width": f"{abs(at(mean) - at(0)):.1f}", "height": 12}
            parts.append(tag("rect", tag("title", f"{category}, {name}: {number(mean)}"), class_=f"f c{i % 8}", **bar))
            if len(triples) > 1 and abs(at(mean) - at(0)) > 18:
                spot = at(0) + math.copysign(9, mean)
                parts.append(tag("path", d=MARKS[i % 6], transform=f"translate({spot:.1f} {y + 6})", class_="k"))
            if math.isfinite(below) and math.isfinite(above) and above > below:
                whisker = f"M{at(below):.1f} {y + 6}H{at(above):.1f}m0-3v6M{at(below):.1f} {y + 3}v6"
                parts.append(tag("path", d=whisker, class_="whisker"))
            parts.append(_text(at(max(mean, above, 0)) + 5, y + 10, number(mean), class_="v"))
    parts.append(tag("path", d=f"M{at(0):.1f} 4V{height - 44}", class_="axis"))
    parts.append(_text(left + room / 2, height - 8, x_label, "middle"))
    return _figure(height, x_label, parts, _legend(list(values) if len(values) > 1 else [], "bar"))


def stacked_shares(shares: Mapping[str, Mapping[str, float]], most: int = 14) -> Html:
    """Draw one bar a phase, cut by language; beyond the `most` largest over all bars, languages are summed as `other (n)`."""
    weight = {name: sum(row.get(name, 0.0) for row in shares.values()) for one in shares.values() for name in one}
    ordered = sorted(weight, key=lambda n: (-weight[n], n))
    names, rest = (ordered, []) if len(ordered) <= most else (ordered[: most - 1], ordered[most - 1 :])
    legend = [*names, f"other ({len(rest)})"] if rest else names
    left = 24 + 7.2 * min(30, max((_units(p) for p in shares), default=0))
    room, parts = WIDTH - left - 12, list[Html]()
    for number_, (phase, row) in enumerate(shares.items()):
        y, x, total = 6 + 40 * number_, left, sum(row.values()) or 1.0
        parts.append(_text(left - 8, y + 20, phase, "end", 30))
        cut = [row.get(n, 0.0) / total for n in names] + ([sum(row.get(n, 0.0) for n in rest) / total] if rest else [])
        for i, name, share in ((i, n, s) for i, (n, s) in enumerate(zip(legend, cut, strict=True)) if s > 0):
            box = {"x": f"{x:.2f}", "y": y, "width": f"{share * room:.2f}", "height": 32}
            fill = "other" if rest and i == len(names) else f"c{i % 8}"
            parts.append(tag("rect", tag("title", f"{name}: {share:.2%}"), class_=f"f cut {fill}", **box))
            if i >= 8 and fill != "other":
                parts.append(tag("rect", fill="url(#hatch)", pointer_events="none", **box))
            for label, dy in ((name, 13), (f"{share:.1%}", 27)):
                if share * room > 6.4 * _units(label) + 6:
                    parts.append(_text(x + 4, y + dy, label, class_="in"))
            x += share * room
    axis = 6 + 40 * len(shares)
    parts += [_text(left + room * t / 4, axis + 12, f"{25 * t} %", "end" if t == 4 else "middle") for t in range(5)]
    return _figure(axis + 20, "shares per phase", parts, _legend(legend, "fill"))
