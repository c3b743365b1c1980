"""Self-contained HTML pages: one inline stylesheet, twenty lines of script that sort and filter tables; charts.py draws.

Decisions: no external asset (a page must open from an artifact, offline, in ten years) and no library; output is a
function of the arguments alone, and is well-formed XML, so that a test can parse it. Every string is escaped unless it
is `Html`. Colours are Okabe and Ito's eight for colour-blind readers, and no meaning rests on colour alone: verdicts
carry a sign. Light and dark follow the reader's system.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LIGHT = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#8A7F00", "#333333")
DARK = ("#56B4E9", "#E8803C", "#2BC79A", "#E69F00", "#DE9BC0", "#4A90D9", "#F0E442", "#DDDDDD")
"""Okabe and Ito's hues; yellow is darkened on white, blue and the rest lightened on black, to a contrast above 3:1."""
SIGNS = {"ok": "✓", "bad": "✕", "waived": "≈", "best": "★"}
WIDTH = 860
_UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Html(str):
    """Text that is markup already; everything else is escaped."""

    __slots__ = ()


@dataclass(frozen=True)
class Marked:
    """A table cell with a verdict (`ok`, `bad`, `waived`, `best`; none: "") and a small note behind it, such as an interval."""

    value: str | float | None
    kind: str = ""
    note: str = ""
    digits: int | None = None
    """Decimals to show, so that a column of figures lines up."""


Cell = str | float | Marked | None


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
    kinds = {name: value.kind or None if isinstance(value, Marked) else None for name, value in values.items()}
    tiles = (tag("div", tag("b", *_shown(v), class_=kinds[name]), tag("span", name)) for name, v in values.items())
    return tag("div", *tiles, class_="figures")


def details(summary: str, body: str) -> Html:
    """Make a part that opens on a click."""
    return tag("details", tag("summary", summary, dir="auto"), tag("div", body))


def _shown(cell: Cell) -> list[str]:
    """Return the parts of a cell: sign, figure or words, note."""
    if not isinstance(cell, Marked):
        return [cell if isinstance(cell, str) else number(cell)]
    sign = f"{SIGNS[cell.kind]}\u00a0" if cell.kind else ""
    note = [tag("small", "\u00a0", cell.note)] if cell.note else []
    fixed = cell.digits is not None and isinstance(cell.value, (int, float))
    value = [f"{cell.value:,.{cell.digits}f}"] if fixed else _shown(cell.value)
    return [sign, *value, *note]


def _cell(cell: Cell, low: float, high: float) -> Html:
    value, kind = (cell.value, cell.kind or None) if isinstance(cell, Marked) else (cell, None)
    if isinstance(value, str):
        return tag("td", *_shown(cell), dir="auto", class_=kind)
    alpha = 0.5 * (value - low) / (high - low) if value is not None and high > low else 0
    style = f"background:rgba(0,114,178,{alpha:.2f})" if alpha > 0 and math.isfinite(alpha) else None
    classes, key = f"n {kind}" if kind else "n", "-1e999" if value is None else repr(value)
    return tag("td", *_shown(cell), data_v=key, class_=classes, style=style)


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    sortable: bool = True,
    heat: Iterable[str] = (),
    find: str = "",
    scale: tuple[float, float] | None = None,
) -> Html:
    """Make a table; columns in `heat` are shaded from their least to their largest figure, in one hue that all eyes read.

    `scale` are the least and the largest figure of all of them together, for a matrix. With `find`, a box of that name
    hides the rows that do not hold every word typed into it.
    """
    hot, spans = set(heat), []
    for i, header in enumerate(headers):
        plain = [cell.value if isinstance(cell := row[i], Marked) else cell for row in rows]
        seen = [c for c in plain if isinstance(c, (int, float)) and math.isfinite(c)]
        numeric = bool(seen) and not any(isinstance(c, str) for c in plain)
        low, high = scale or ((min(seen), max(seen)) if seen else (0.0, 0.0))
        spans.append((low, high, numeric) if seen and header in hot else (0.0, 0.0, numeric))
    names = [tag("button", h, type="button") if sortable else h for h in headers]
    head = [tag("th", h, scope="col", class_="n" if s[2] else None) for h, s in zip(names, spans, strict=True)]
    body = (tag("tr", *(_cell(c, s[0], s[1]) for c, s in zip(row, spans, strict=True))) for row in rows)
    inner = tag("thead", tag("tr", *head)) + tag("tbody", *body)
    box = Html(f'<input type="search" placeholder="{escape(find)}" aria-label="{escape(find)}"/>' if find else "")
    return Html(box + tag("div", tag("table", Html(inner), class_="sort" if sortable else None), class_="wrap"))


HATCH = Html('<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse"><path d="M0 6L6 0"/></pattern>')
STYLE = f"""
:root{{color-scheme:light dark;--bg:#fff;--ink:#1b1f24;--soft:#5b6570;--rule:#d9dee3;--tint:#f4f6f8;--bad:#b23c00;
{"".join(f"--c{i}:{c};" for i, c in enumerate(LIGHT))}}}
@media (prefers-color-scheme:dark){{:root{{--bg:#14171a;--ink:#e6e9ec;--soft:#9aa4ae;--rule:#363c43;--tint:#1d2125;--bad:#ff9a62;
{"".join(f"--c{i}:{c};" for i, c in enumerate(DARK))}}}}}
*{{box-sizing:border-box}}body{{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,"Noto Sans",sans-serif}}
main{{max-width:1280px;margin:0 auto;padding:28px 24px 64px}}h1{{font-size:1.7rem}}h2{{font-size:1.2rem;margin-top:2em}}
p{{max-width:75ch}}.ok{{color:var(--c2)}}.bad{{color:var(--bad);font-weight:600}}.waived{{color:var(--c0)}}.best{{font-weight:700}}small{{font-weight:400;color:var(--soft)}}
.n small{{display:block}}td:first-child{{white-space:nowrap}}.defs{{position:absolute}}
.figures{{display:flex;flex-wrap:wrap;gap:12px}}.figures div{{background:var(--tint);border-radius:8px;padding:10px 16px}}
.figures b{{display:block;font-size:1.5rem}}.figures span,.v{{color:var(--soft);fill:var(--soft);font-size:.85rem}}
.wrap{{overflow:auto;max-height:80vh;border:1px solid var(--rule);border-radius:8px;width:fit-content;max-width:100%}}
table{{border-spacing:0;font-size:.88rem}}th,td{{padding:5px 10px;text-align:left}}
td{{border-top:1px solid var(--rule);max-width:46ch}}.chart{{width:100%;max-width:{WIDTH}px;height:auto;display:block}}
.n{{text-align:right;font-variant-numeric:tabular-nums}}td.n,th:not(.n){{white-space:nowrap}}
tbody tr:hover td{{background-color:var(--tint)}}thead th{{position:sticky;top:0;background:var(--tint);vertical-align:bottom}}
th button{{font:inherit;text-align:inherit;color:inherit;background:none;border:0;padding:0;cursor:pointer}}
th button::after{{content:"\u00a0↕";color:var(--soft)}}th[aria-sort=ascending] button::after{{content:"\u00a0↑"}}
th[aria-sort=descending] button::after{{content:"\u00a0↓"}}summary{{cursor:pointer;font-weight:600}}.wrap,figure{{margin:14px 0}}
text{{fill:var(--ink);font:12px system-ui,"Noto Sans",sans-serif;unicode-bidi:plaintext}}
.in{{fill:#fff;font-size:11px;paint-order:stroke;stroke:#000b;stroke-width:2.5px;pointer-events:none}}
.grid{{stroke:var(--rule)}}.whisker{{stroke:var(--ink);fill:none}}.axis{{stroke:var(--soft);fill:none}}.l{{fill:none;stroke:var(--c);stroke-width:2}}.f{{fill:var(--c)}}.k{{fill:var(--bg)}}
.cut{{stroke:var(--bg)}}.other{{--c:#8b929a}}pattern path{{stroke:#fff;stroke-width:1.4;opacity:.5}}
{"".join(f".c{i}{{--c:var(--c{i})}}" for i in range(8))}
input[type=search]{{font:inherit;padding:6px 10px;width:min(30em,100%);border:1px solid var(--rule);border-radius:8px;
background:var(--bg);color:var(--ink)}}nav{{display:flex;flex-wrap:wrap;gap:4px 16px}}a{{color:var(--c0)}}
h3{{font-size:1rem;margin:1.4em 0 0}}
mark{{background:none;color:inherit;font-weight:700;text-decoration:underline 2px}}
pre{{font:12px/1.45 ui-monospace,monospace;overflow:auto;background:var(--tint);border-radius:8px;padding:10px 14px}}
.legend{{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:.85rem}}.legend svg{{margin-right:6px;overflow:visible}}
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
document.querySelectorAll("input[type=search]").forEach(box => box.oninput = () => {
  const words = box.value.toLowerCase().split(" ");
  const shown = row => words.every(word => row.textContent.toLowerCase().includes(word));
  box.nextElementSibling.querySelectorAll("tbody tr").forEach(row => row.hidden = !shown(row));
});
"""
