"""The graph of artifacts as SVG: a layered layout of our own, left to right, a column per distance from the raw data.

Decision: 30 to 200 nodes need no library. A node's column is its longest way from a node without parents (a mixture's is the
one before its phase); within a column nodes are ordered by the mean place of their parents, then of their children (four
sweeps), which leaves few crossings in graphs of this shape. Edges that a longer way implies are drawn faintly. Every node is a
button for keyboards; its step is written out, colour only repeats it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from mmenc.artifact import Json
from mmenc.lineage import label
from mmenc.page import Html, tag

BOX_WIDTH, BOX_HEIGHT = 130, 34
COLUMN, ROW, EDGE = 160, 46, 12
"""Distance of columns and rows, margin."""
COLOURS = {"ingest": 0, "clean": 0, "validate": 0, "tokenizer": 2, "tokenize": 2, "init": 4, "mixture": 3, "train": 1, "merge": 1}
"""Which of page.py's eight; all others have the sixth."""
Layout = dict[str, tuple[int, float]]
"""Column and row of every digest."""


def layout(manifests: Mapping[str, Json]) -> Layout:
    """Column and row of every node."""
    parents = {d: [p["digest"] for p in m["parents"] if p["digest"] in manifests] for d, m in manifests.items()}
    depth: dict[str, int] = {}

    def of(digest: str) -> int:
        if digest not in depth:
            depth[digest] = 1 + max((of(p) for p in parents[digest]), default=-1)
        return depth[digest]

    for manifest in manifests.values():
        for parent in manifest["parents"]:
            # A mixture belongs to its phase: without this, those of all phases stand in one high column.
            if parent["digest"] in manifests and manifests[parent["digest"]]["step"] == "mixture":
                depth[parent["digest"]] = of(manifest["digest"]) - 1
    columns: list[list[str]] = []
    for digest in sorted(manifests, key=lambda d: (of(d), label(manifests[d]), d)):
        columns += [[] for _ in range(of(digest) + 1 - len(columns))]
        columns[of(digest)].append(digest)
    children: dict[str, list[str]] = {d: [] for d in manifests}
    for digest, above in parents.items():
        for parent in above:
            children[parent].append(digest)
    return {d: (x, y) for x, column in enumerate(columns) for d, y in _ordered(columns, parents, children)[x].items()}


def _ordered(
    columns: Sequence[list[str]], parents: Mapping[str, list[str]], children: Mapping[str, list[str]]
) -> list[dict[str, float]]:
    """Rows of all nodes, each column centred on the largest."""
    high = max(map(len, columns))

    def rows(column: Sequence[str]) -> dict[str, float]:
        return {d: i + (high - len(column)) / 2 for i, d in enumerate(column)}

    at = [rows(column) for column in columns]
    for sweep in range(4):
        near = parents if sweep % 2 == 0 else children
        flat = {d: y for column in at for d, y in column.items()}
        for x in range(len(at)):
            centre = {d: mean([flat[n] for n in near[d]]) if near[d] else flat[d] for d in at[x]}
            at[x] = rows(sorted(at[x], key=lambda d: (centre[d], flat[d])))
            flat |= at[x]
    return at


def draw(manifests: Mapping[str, Json], root: str) -> Html:
    """The graph; edges first, so that nodes lie above them."""
    places = layout(manifests)
    wide = (max(x for x, _ in places.values()) + 1) * COLUMN - (COLUMN - BOX_WIDTH) + 2 * EDGE
    high = (max(y for _, y in places.values()) + 1) * ROW + 2 * EDGE
    parts = [tag("title", "Artifacts, from the raw data on the left to the result on the right")]
    side = implied(manifests)
    ends = [(p["digest"], d) for d, m in manifests.items() for p in m["parents"] if p["digest"] in places]
    parts += [_edge(places, parent, child, aside=(parent, child) in side) for parent, child in sorted(set(ends))]
    order = sorted(places, key=lambda d: places[d])
    parts += [_node(manifests[d], *places[d], chosen=d == root) for d in order]
    size = {"width": f"{wide:.0f}", "height": f"{high:.0f}", "viewBox": f"0 0 {wide:.0f} {high:.0f}"}
    return tag("svg", *parts, id="graph", role="group", aria_label="Graph of artifacts", **size)


def implied(manifests: Mapping[str, Json]) -> set[tuple[str, str]]:
    """Edges that another way says too (tokenize to a phase, whose mixture is made from it): drawn faintly."""
    parents = {d: {p["digest"] for p in m["parents"]} for d, m in manifests.items()}
    above: dict[str, set[str]] = {}

    def of(digest: str) -> set[str]:
        if digest not in above:
            near = {p for p in parents[digest] if p in parents}
            above[digest] = near.union(*(of(p) for p in near)) if near else set()
        return above[digest]

    return {(p, d) for d, near in parents.items() for p in near if any(p in of(q) for q in near if q in parents and q != p)}


def _edge(places: Layout, parent: str, child: str, *, aside: bool) -> Html:
    (x0, y0), (x1, y1) = places[parent], places[child]
    ax, ay = EDGE + x0 * COLUMN + BOX_WIDTH, EDGE + y0 * ROW + BOX_HEIGHT / 2
    bx, by = EDGE + x1 * COLUMN, EDGE + y1 * ROW + BOX_HEIGHT / 2
    bend = max(20, (bx - ax) / 2)
    # An edge over several columns would run through the boxes between: it sags below a straight line's level.
    sag = ROW * 0.62 if x1 - x0 > 1 and abs(y0 - y1) < 0.5 else 0
    path = f"M{ax} {ay:.1f}C{ax + bend:.0f} {ay + sag:.1f} {bx - bend:.0f} {by + sag:.1f} {bx} {by:.1f}"
    return tag("path", d=path, class_="edge side" if aside else "edge", data_a=parent, data_b=child)


def _node(manifest: Json, x: int, y: float, *, chosen: bool) -> Html:
    name, step = manifest["name"], manifest["step"]
    colour = f"c{COLOURS.get(step, 5)}"
    shown = name if len(name) <= 18 else f"{name[:17]}…"
    words = [tag("text", step, x=10, y=15 if name else 21, class_="step")]
    if name:
        words.append(tag("text", shown, x=10, y=28))
    return tag(
        "g",
        tag("title", f"{label(manifest)} {manifest['digest'][:12]}"),
        tag("rect", width=BOX_WIDTH, height=BOX_HEIGHT, rx=6, class_="box"),
        tag("rect", width=4, height=BOX_HEIGHT, rx=2, class_=f"f {colour}"),
        *words,
        tag("text", x=BOX_WIDTH - 8, y=22, text_anchor="end", class_="sign"),
        transform=f"translate({EDGE + x * COLUMN} {EDGE + y * ROW:.1f})",
        class_="node" + (" root" if chosen else ""),
        tabindex=0,
        role="button",
        aria_label=label(manifest),
        aria_pressed="false",
        data_d=manifest["digest"],
    )
