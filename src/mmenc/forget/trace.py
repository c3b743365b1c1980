"""Where a document lies: its line in the shards of ingest and clean, or why it was rejected, and its copies.

Decision: shards are read once, line by line, and only lines in which the name occurs as bytes are parsed: 200 MB of text a
second on one core, so 100 GB take eight minutes (the splits take twice as long); memory is that of the matches. Copies are what
dedup.py found when the text was cleaned (its words stand in the rejected documents): a document that stays in place of the one to
forget, and those that the one to forget stayed in place of, the first of which would take its place again. Copies in other
languages are never looked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mmenc.artifact import Json
from mmenc.data.shards import languages, shard_paths
from mmenc.data.stages import name_of
from mmenc.data.stream import lines

COPY = re.compile(r"^copy of line (\d+) of raw shard (.+)$")
FEW = 50
"""Ids that are looked for as bytes; more are looked up after parsing every line."""


@dataclass
class Wanted:
    """What is to be forgotten: ids, a source, an address."""

    ids: frozenset[str]
    source: str = ""
    url: str = ""

    def needles(self) -> list[bytes]:
        """Bytes one of which a line must hold; none: every line is parsed."""
        if len(self.ids) > FEW:
            return []
        names = [json.dumps(name, ensure_ascii=False) for name in [*self.ids, *([self.source] if self.source else [])]]
        return [text.encode() for text in [*names, *([json.dumps(self.url, ensure_ascii=False)[1:-1]] if self.url else [])]]

    def matches(self, document: Json) -> bool:
        """Whether a document is meant; an address also means what lies below it."""
        names = (str(document["id"]), str(document.get("source", "")))
        below = self.url and any(n == self.url or n.startswith(self.url.rstrip("/") + "/") for n in names)
        return names[0] in self.ids or bool(self.source and names[1] == self.source) or bool(below)


@dataclass
class Document:
    """One document to forget, and all that is found out about it."""

    id: str
    language: str
    shard: str
    line: int
    """1-based, in the raw shard of that name."""
    source: str
    group: str
    bytes: int
    kept: tuple[str, int] | None = None
    """Shard and line in clean."""
    text: str = ""
    """As clean keeps it; never printed."""
    rejected: str = ""
    copies: list[Json] = field(default_factory=list)
    """`{id, relation}` of the copies that cleaning found."""
    split: str = ""
    in_sample: bool | None = None
    token_index: int | None = None
    phases: dict[str, int] = field(default_factory=dict)
    """Tokens of it that each phase read; a phase that read none is not in it."""


def scan(root: Path, folder: str, tags: Iterable[str], wanted: Wanted) -> Iterator[tuple[str, Path, int, Json]]:
    """(language, shard, line, document) of every match below `folder` ("shards" or "rejected")."""
    needles = wanted.needles()
    for tag in tags:
        for path in sorted((root / folder / tag).glob("*.jsonl.zst")):
            for number, line in enumerate(lines(path), 1):
                if (not needles or any(n in line for n in needles)) and wanted.matches(row := json.loads(line)):
                    yield tag, path, number, row


def find(raw: Path, wanted: Wanted) -> list[Document]:
    """The documents that are meant, in the shards of ingest."""
    return [
        Document(row["id"], tag, name_of(path), number, row.get("source", ""), row.get("group", ""), len(row["text"].encode()))
        for tag, path, number, row in scan(raw, "shards", languages(raw), wanted)
    ]


def trace_clean(raw: Path, clean: Path, found: list[Document]) -> None:
    """Fill in where each lies in clean, or why it was rejected, and its copies."""
    by_language: dict[str, dict[str, Document]] = {}
    for document in found:
        by_language.setdefault(document.language, {})[document.id] = document
    for tag, mine in by_language.items():
        ids = Wanted(frozenset(mine))
        for _, path, number, row in scan(clean, "shards", [tag], ids):
            mine[row["id"]].kept, mine[row["id"]].text = (f"{tag}/{path.name}", number), row["text"]
        _copies(raw, clean, tag, mine)


def _copies(raw: Path, clean: Path, tag: str, mine: dict[str, Document]) -> None:
    places = {(d.shard, d.line): d for d in mine.values()}
    stays: dict[tuple[str, int], list[tuple[Document, str]]] = {}
    for path in sorted((clean / "rejected" / tag).glob("*.jsonl.zst")):
        for line in lines(path):
            row = json.loads(line)
            copy = COPY.match(row.get("detail", ""))
            place = (copy[2], int(copy[1])) if copy else None
            if document := mine.get(row["id"]):
                document.rejected = row["reason"]
                if place:
                    stays.setdefault(place, []).append((document, row["reason"]))
            elif place in places:
                places[place].copies.append({"id": row["id"], "relation": f"{row['reason']} of it, left out in its favour"})
    for (shard, number), copies in stays.items():
        name = _id_at(raw, tag, shard, number)
        for document, reason in copies:
            if name not in mine:
                document.copies.append({"id": name, "relation": f"stays in place of it ({reason})"})


def _id_at(raw: Path, tag: str, shard: str, number: int) -> str:
    path = next(p for p in shard_paths(raw, tag) if name_of(p) == shard)
    return next(str(json.loads(line)["id"]) for n, line in enumerate(lines(path), 1) if n == number)


def mentions(folder: Path, names: Iterable[str], ids: Iterable[str], quick: Callable[[Path], bool]) -> dict[str, list[str]]:
    """Small files of an artifact (pages, examples) in which an id stands."""
    wanted = {i: json.dumps(i, ensure_ascii=False)[1:-1].encode() for i in ids}
    found: dict[str, list[str]] = {}
    for name in names:
        path = folder / name
        if path.suffix in (".json", ".jsonl", ".html", ".md") and path.is_file() and quick(path):
            data = path.read_bytes()
            if hits := [i for i, needle in wanted.items() if needle in data]:
                found[name] = hits
    return found
