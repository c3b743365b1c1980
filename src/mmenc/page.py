"""Self-contained HTML pages: one inline stylesheet, charts as inline SVG, twelve lines of script that sort tables.

Decisions: no external asset (a page must open from an artifact, offline, in ten years) and no chart library; output
is a function of the arguments alone, and is well-formed XML, so that a test can parse it. Every string is escaped
unless it is `Html`. Colours are Okabe and Ito's eight for colour-blind readers, and no meaning rests on colour alone:
lines also differ in dash and marker, bars carry labels, verdicts carry a sign. Light and dark follow the reader's system.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LIGHT = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#8A7F00", "#333333")
DARK = ("#56B4E9", "#E8803C", "#2BC79A", "#E69F00", "#DE9BC0", "#4A90D9", "#F0E442", "#DDDDDD")
"""Okabe and Ito's hues; yellow is darkened on white, blue and the rest lightened on black, to a contrast above 3:1."""
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4")
_CIRCLE, _SQUARE, _DIAMOND, _STROKE = "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0", "M-3-3h6v6h-6z", "M0-4L4 0L0 4L-4 0z", "M-1-6h2v12h-2z"
MARKS = (_CIRCLE, _SQUARE, "M0-4L4 3H-4z", _DIAMOND, "M0 4L4-3H-4z", _STROKE)
SIGNS = {"ok": "✓", "bad": "✕", "waived": "≈"}
WIDTH = 860
_UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Html(str):
    """Text that is markup already; everything else is escaped."""

    __slots__ = ()


@dataclass(frozen=True)
class Marked:
    """A table cell with a verdict: `ok`, `bad` or `waived`."""

    value: str | float | None
    kind: str


Cell = str | float | Marked | None
Bars = Mapping[str, Mapping[str, float | tuple[float, float, float]]]


def escape(value: object) -> Html:
    """Escape anything but Html; what no document may hold (control characters, lone surrogates) becomes U+FFFD."""
    return value if isinstance(value, Html) else Html(html.escape(_UNSAFE.sub("\ufffd", str(value))))


def tag(name: str, *body: object, **attributes: object) -> Html:
    """Write one element; `class_` is `class`, underscores in names are hyphens, None leaves an attribute out."""
    given = [f' {k.rstrip("_").replace("_", "-")}="{escape(v)}"' for k, v in attributes.items() if v is not None]
    return Html(f"<{name}{''.join(given)}>{''.join(map(escape, body))}</{name}>")


def number(value: float | None) -> str:
    """Write a figure for people: whole numbers with separators, others with four significant digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, int) or not math.isfinite(value):
        return f"{value:,}"
    if value and not 1e-4 <= abs(value) < 1e15:
        return f"{value:.3g}"
    digits = max(0, 3 - math.floor(math.log10(abs(value)))) if value else 0
    shown = f"{value:,.{digits}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def short(value: float) -> str:
    """Write an axis label: 1.5k, 20M."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def page(title: str, body_parts: Iterable[str]) -> str:
    """Return a whole document; parts that are not Html become paragraphs."""
    body = "".join(part if isinstance(part, Html) else tag("p", part, dir="auto") for part in body_parts)
    head = f'<meta charset="utf-8"/><meta name="viewport" content="width=device-width"/><title>{escape(title)}</title>'
    defs = tag("svg", tag("defs", HATCH), width=0, height=0, class_="defs")
    main = tag("main", tag("h1", title, dir="auto"), Html(body))
    start = f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head><body>'
    return f"{start}{defs}{main}<script>{SCRIPT}</script></body></html>\n"


def figures(values: Mapping[str, Cell]) -> Html:
    """Make a row of large figures with their names."""
    tiles = []
    for name, value in values.items():
        kind = value.kind if isinstance(value, Marked) else None
        tiles.append(tag("div", tag("b", _shown(value), class_=kind), tag("span", name)))
    return tag("div", *tiles, class_="figures")


def details(summary: str, body: str) -> Html:
    """Make a part that opens on a click."""
    return tag("details", tag("summary", summary, dir="auto"), tag("div", body))


def _shown(cell: Cell) -> str:
    if isinstance(cell, Marked):
        return f"{SIGNS[cell.kind]}\u00a0{_shown(cell.value)}"
    return cell if isinstance(cell, str) else number(cell)


def _cell(cell: Cell, low: float, high: float) -> Html:
    value = cell.value if isinstance(cell, Marked) else cell
    kind = cell.kind if isinstance(cell, Marked) else None
    if isinstance(value, str):
        return tag("td", _shown(cell) if kind else cell, dir="auto", class_=kind)
    alpha = 0.5 * (value - low) / (high - low) if value is not None and high > low else 0
    style = f"background:rgba(0,114,178,{alpha:.2f})" if alpha > 0 and math.isfinite(alpha) else None
    classes, key = f"n {kind}" if kind else "n", "-1e999" if value is None else repr(value)
    return tag("td", _shown(cell), data_v=key, class_=classes, style=style)


def table(headers: Sequence[str], rows: Sequence[Sequence[Cell]], sortable: bool = True, heat: Iterable[str] = ()) -> Html:
    """Make a table; numbers stand to the right, columns in `heat` are shaded from their least to their largest figure.

    One hue of growing strength reads the same for colour-blind readers; the figure itself stays printed.
    """
    hot, spans = set(heat), []
    for i, header in enumerate(headers):
        plain = [c.value if isinstance(c, Marked) else c for c in (row[i] for row in rows)]
        seen = [c for c in plain if isinstance(c, (int, float)) and math.isfinite(c)]
        numeric = bool(seen) and not any(isinstance(c, str) for c in plain)
        spans.append((min(seen), max(seen), numeric) if seen and header in hot else (0.0, 0.0, numeric))
    head = [
        tag("th", tag("button", h, type="button") if sortable else h, scope="col", class_="n" if s[2] else None)
        for h, s in zip(headers, spans, strict=True)
    ]
    body = (tag("tr", *(_cell(c, s[0], s[1]) for c, s in zip(row, spans, strict=True))) for row in rows)
    inner = tag("thead", tag("tr", *head)) + tag("tbody", *body)
    return tag("div", tag("table", Html(inner), class_="sort" if sortable else None), class_="wrap")


def _units(text: str) -> float:
    """Estimate the width of a label in digits: wide characters count twice, combining ones not at all."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _clip(text: str, room: float) -> str:
    if _units(text) <= room:
        return text
    while text and _units(text) > room - 1:
        text = text[:-1]
    return text + "…"


def _text(x: float, y: float, text: str, anchor: str = "start", room: float = 99, **more: object) -> Html:
    full = [tag("title", text)] if _units(text) > room else []
    return tag("text", _clip(text, room), *full, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, **more)


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
    keys = []
    for i, name in enumerate(names):
        line = tag("path", d="M0 6H28", class_=f"l c{i % 8}", stroke_dasharray=DASHES[i % 5] or None)
        mark = tag("path", d=MARKS[i % 6], transform="translate(14 6)", class_=f"f c{i % 8}")
        other = name.startswith("other (")
        square = tag("rect", width=14, height=12, class_="f other" if other else f"f c{i % 8}")
        hatch = tag("rect", width=14, height=12, fill="url(#hatch)") if i >= 8 and not other else ""
        key = Html(line + mark) if kind == "line" else Html(square + hatch)
        keys.append(tag("span", tag("svg", key, width=28 if kind == "line" else 14, height=12), tag("bdi", name)))
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
    middle = (top + height - bottom) / 2
    parts.append(_text((left + WIDTH - right) / 2, height - 8, x_label, "middle"))
    parts.append(_text(14, middle, y_label, "middle", transform=f"rotate(-90 14 {middle:.1f})"))
    for i, (name, line) in enumerate(points.items()):
        spots = [at(x, y) for x, y in line]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        dash = DASHES[i % 5] or None
        drawn = [tag("path", d=f"M{path}", class_=f"l c{i % 8}", stroke_dasharray=dash)] if spots else []
        marked = spots[:: max(1, math.ceil(len(spots) / 12))]
        drawn += [tag("path", d=MARKS[i % 6], transform=f"translate({x:.1f} {y:.1f})", class_=f"f c{i % 8}") for x, y in marked]
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
            if math.isfinite(below) and math.isfinite(above) and above > below:
                whisker = f"M{at(below):.1f} {y + 6}H{at(above):.1f}m0-3v6M{at(below):.1f} {y + 3}v6"
                parts.append(tag("path", d=whisker, class_="whisker"))
            parts.append(_text(at(max(mean, above, 0)) + 5, y + 10, number(mean), class_="v"))
    parts.append(tag("path", d=f"M{at(0):.1f} 4V{height - 44}", class_="axis"))
    parts.append(_text(left + room / 2, height - 8, x_label, "middle"))
    return _figure(height, x_label, parts, _legend(list(values) if len(values) > 1 else [], "fill"))


def stacked_shares(shares: Mapping[str, Mapping[str, float]], most: int = 14) -> Html:
    """Draw one bar a phase, cut by language; beyond the `most` largest over all bars, languages are summed as `other (n)`."""
    weight: dict[str, float] = {}
    for row in shares.values():
        for name, share in row.items():
            weight[name] = weight.get(name, 0.0) + share
    ordered = sorted(weight, key=lambda n: (-weight[n], n))
    names, rest = (ordered, []) if len(ordered) <= most else (ordered[: most - 1], ordered[most - 1 :])
    legend = [*names, f"other ({len(rest)})"] if rest else names
    left = 24 + 7.2 * min(30, max((_units(p) for p in shares), default=0))
    room, parts = WIDTH - left - 12, list[Html]()
    for number_, (phase, row) in enumerate(shares.items()):
        y, x, total = 6 + 40 * number_, left, sum(row.values()) or 1.0
        parts.append(_text(left - 8, y + 20, phase, "end", 30))
        parts_of_row = [row.get(n, 0.0) / total for n in names] + ([sum(row.get(n, 0.0) for n in rest) / total] if rest else [])
        for i, (name, share) in enumerate(zip(legend, parts_of_row, strict=True)):
            if share <= 0:
                continue
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


HATCH = Html('<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse"><path d="M0 6L6 0"/></pattern>')
STYLE = f"""
:root{{color-scheme:light dark;--bg:#fff;--ink:#1b1f24;--soft:#5b6570;--rule:#d9dee3;--tint:#f4f6f8;--bad:#b23c00;
{"".join(f"--c{i}:{c};" for i, c in enumerate(LIGHT))}}}
@media (prefers-color-scheme:dark){{:root{{--bg:#14171a;--ink:#e6e9ec;--soft:#9aa4ae;--rule:#363c43;--tint:#1d2125;--bad:#ff9a62;
{"".join(f"--c{i}:{c};" for i, c in enumerate(DARK))}}}}}
*{{box-sizing:border-box}}body{{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,"Noto Sans",sans-serif}}
main{{max-width:1280px;margin:0 auto;padding:28px 24px 64px}}h1{{font-size:1.7rem}}h2{{font-size:1.2rem;margin-top:2em}}
p{{max-width:75ch}}.ok{{color:var(--c2)}}.bad{{color:var(--bad);font-weight:600}}.waived{{color:var(--c0)}}.defs{{position:absolute}}
.figures{{display:flex;flex-wrap:wrap;gap:12px}}.figures div{{background:var(--tint);border-radius:8px;padding:10px 16px}}
.figures b{{display:block;font-size:1.5rem}}.figures span,.v{{color:var(--soft);fill:var(--soft);font-size:.85rem}}
.wrap{{overflow:auto;max-height:80vh;border:1px solid var(--rule);border-radius:8px;
width:fit-content;max-width:100%;margin:12px 0}}
table{{border-spacing:0;font-size:.88rem}}th,td{{padding:5px 10px;text-align:left}}
td{{border-top:1px solid var(--rule);max-width:46ch}}.chart{{width:100%;max-width:{WIDTH}px;height:auto;display:block}}
.n{{text-align:right;font-variant-numeric:tabular-nums}}td.n,th:not(.n){{white-space:nowrap}}
tbody tr:hover td{{background-color:var(--tint)}}thead th{{position:sticky;top:0;background:var(--tint);vertical-align:bottom}}
th button{{font:inherit;text-align:inherit;color:inherit;background:none;border:0;padding:0;cursor:pointer}}
th button::after{{content:"\u00a0↕";color:var(--soft)}}th[aria-sort=ascending] button::after{{content:"\u00a0↑"}}
th[aria-sort=descending] button::after{{content:"\u00a0↓"}}summary{{cursor:pointer;font-weight:600}}figure{{margin:16px 0}}
text{{fill:var(--ink);font:12px system-ui,"Noto Sans",sans-serif;unicode-bidi:plaintext}}
.in{{fill:#fff;font-size:11px;paint-order:stroke;stroke:#0008;stroke-width:2px;pointer-events:none}}
.grid{{stroke:var(--rule)}}.whisker{{stroke:var(--ink);fill:none}}.axis{{stroke:var(--soft);fill:none}}.l{{fill:none;stroke:var(--c);stroke-width:2}}.f{{fill:var(--c)}}
.cut{{stroke:var(--bg)}}.other{{--c:#8b929a}}pattern path{{stroke:#fff;stroke-width:1.6;opacity:.7}}
{"".join(f".c{i}{{--c:var(--c{i})}}" for i in range(8))}
.legend{{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:.85rem}}.legend svg{{margin-right:6px;overflow:visible}}
@media print{{.wrap{{max-height:none;overflow:visible}}}}
"""
SCRIPT = """
document.querySelectorAll("table.sort th button").forEach(button => button.onclick = () => {
  const head = button.parentNode, i = head.cellIndex, body = head.closest("table").tBodies[0];
  const down = head.ariaSort === "ascending" ? -1 : 1, value = row => row.cells[i].dataset.v ?? row.cells[i].textContent;
  const order = (x, y) => isNaN(x - y) ? x.localeCompare(y) : x - y;
  head.parentNode.querySelectorAll("th").forEach(th => th.removeAttribute("aria-sort"));
  head.ariaSort = down === 1 ? "ascending" : "descending";
  body.append(...[...body.rows].sort((a, b) => down * order(value(a), value(b))));
});
"""
