"""The interactive page of an artifact's lineage: one file, no network, from file://; script.py holds what it does.

Decisions: the page is well-formed XML like all pages (page.py), its data one JSON block. It is at most LIMIT bytes: tables in
facts and lists of files are cut to the longest length in CUTS with which the whole fits, and the page says so; what is cut is in
`manifest.json` and `lineage.json`. Never cut: nodes, edges, hashes, config, and which folders of text a mixture reads, so that
"what used this?" is right for every language. Raw files and shards beyond the cut are still found by their folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmenc.artifact import Artifact, Json
from mmenc.errors import Refused
from mmenc.lineage import label, manifests_of, sources_of
from mmenc.lineage.graph import draw
from mmenc.lineage.script import SCRIPT, STYLE
from mmenc.page import Html, page, tag

LIMIT = 6_000_000
"""Bytes of the page: 30 steps over 464 languages take 1.5 MB, 90 evaluations over 1,833 languages are cut to fit."""
CUTS = (5, 20, 100, 500, 2_000, 100_000)
SCRIPTS = 60_000
"""Bytes of style and script, rounded up."""


def cut(value: Any, most: int) -> Any:
    """A value whose tables and lists have at most `most` entries each; how many more there were stands under `…`."""
    if isinstance(value, Mapping):
        kept = {key: cut(inner, most) for key, inner in list(value.items())[:most]}
        return kept | ({"…": f"{len(value) - most} more"} if len(value) > most else {})
    if isinstance(value, list):
        return [cut(inner, most) for inner in value[:most]] + ([f"… {len(value) - most} more"] if len(value) > most else [])
    return value


def node_data(manifest: Json, most: int) -> Json:
    """What the page knows of one artifact."""
    facts = {k: v for k, v in manifest["facts"].items() if not (manifest["step"] == "ingest" and k == "sources")}
    reads = (
        sorted([*facts["languages"], *(b["source"] for b in facts["buckets"].values())]) if manifest["step"] == "mixture" else []
    )
    inputs = {i["path"]: i.get("sha256") or i.get("version", "") for i in manifest["inputs"]}
    external = {e["path"]: {k: e[k] for k in ("uri", "bytes", "sha256")} for e in manifest["external"]}
    return {
        **{key: manifest[key] for key in ("step", "name", "version", "digest", "content", "config")},
        "label": label(manifest),
        "parents": [{"role": p["role"], "digest": p["digest"]} for p in manifest["parents"]],
        "reads": reads,
        "facts": cut(facts, most),
        # Raw files have a table of their own (sources), so of ingest they are not said twice.
        "inputs": {} if manifest["step"] == "ingest" else cut(inputs, most),
        "files": cut(manifest["files"], most),
        "external": cut(external, most),
        "counts": {"inputs": len(inputs), "files": len(manifest["files"]), "external": len(external)},
    }


def page_data(artifact: Artifact, other: Artifact | None, broken: list[Json] | None, most: int) -> Json:
    """Everything that the script works on."""
    mine = manifests_of(artifact)
    theirs = {d: m for d, m in manifests_of(other).items() if d not in mine} if other else {}
    rows = [{"digest": m["digest"], **row} for m in {**mine, **theirs}.values() for row in sources_of(m)]
    keys = ("digest", "path", "language", "sha256", "documents", "bytes", "license")
    sources = [[row[key] for key in keys] for row in rows]
    return {
        "root": artifact.manifest.digest,
        "other": other.manifest.digest if other else "",
        "nodes": {digest: node_data(m, most) for digest, m in mine.items()},
        "others": {digest: node_data(m, most) for digest, m in theirs.items()},
        "sources": sources[: max(most, 100) * 10],
        "all_sources": len(sources),
        "languages": sorted({row["language"] for row in rows}),
        "broken": broken or [],
        "cut": most,
    }


def _pack(data: Json) -> str:
    """JSON that may stand in a script of HTML and of XML alike."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029\x7f":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def render(artifact: Artifact, other: Artifact | None = None, broken: list[Json] | None = None) -> str:
    """The page, with the longest cut that is small enough (the short ones are tried first: they cost nothing)."""
    drawn = draw(manifests_of(artifact), artifact.manifest.digest)
    packed, used = "", 0
    for most in CUTS:
        more = _pack(page_data(artifact, other, broken, most))
        if len(more.encode()) + len(drawn) + SCRIPTS > LIMIT:
            break
        packed, used = more, most
    if not packed:
        raise Refused(f"{artifact.path}: its lineage does not fit on a page of {LIMIT // 1_000_000} MB; use --json")
    return page(f"Lineage of {label(artifact.manifest.json())}", _parts(artifact, drawn, packed, broken, used))


def _parts(artifact: Artifact, drawn: Html, packed: str, broken: list[Json] | None, most: int) -> list[Html]:
    nodes = manifests_of(artifact)
    words = f"{len(nodes)} artifacts, each made from those on its left. Choose one for what it was asked for and what came out; "
    words += "type below to find a raw file, a shard, a language, a setting or a hash, and see what used it."
    verdict = (
        "" if broken is None else f"{len(broken)} broken: see below." if broken else "Every hash that can be reached is right."
    )
    note = f"Tables and lists are cut to {most} entries; manifest.json and lineage.json have all." if most != CUTS[-1] else ""
    box = '<input id="find" type="search" autocomplete="off" placeholder="find: eng_Latn, udhr.jsonl, mask, a hash …" '
    box += 'aria-label="Find an artifact, a file, a language, a setting or a hash" aria-controls="hits"/>'
    choose = (
        tag("label", "What changed between ", tag("select", id="left", aria_label="first artifact")),
        tag("label", " and ", tag("select", id="right", aria_label="second artifact")),
    )
    bad = [tag("p", tag("b", "✕ broken"), f" {b['path']}: {b['reason']}", class_="bad") for b in (broken or [])[:50]]
    return [
        Html(f"<style>{STYLE}</style>"),
        tag("p", words, *(f" {x}" for x in (verdict, note) if x)),
        *bad,
        Html(f'<div class="bar">{box}</div>'),
        tag("div", id="hits", aria_live="polite"),
        tag("div", drawn, class_="canvas", tabindex=0, aria_label="Graph; scroll with the arrow keys"),
        tag("p", id="said", role="status"),
        tag("div", *choose, class_="bar"),
        tag("section", id="panel", aria_live="polite", aria_label="Details"),
        Html(f'<script type="application/json" id="data">{packed}</script>'),
        Html(f"<script>//<![CDATA[\n{SCRIPT}//]]></script>"),
    ]


def write_page(target: Path, artifact: Artifact, other: Artifact | None, broken: list[Json] | None) -> str:
    """Write the page; return a sentence about it."""
    if target.is_dir():
        raise Refused(f"{target}: is a folder; expected the name of a page, such as lineage.html")
    text = render(artifact, other, broken)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Refused(f"{target}: cannot be written ({error.strerror})") from None
    return f"{target}: {len(manifests_of(artifact))} artifacts, {len(text.encode()) / 1e6:.1f} MB; open it in a browser"
