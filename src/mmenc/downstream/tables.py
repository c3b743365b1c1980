"""Tables of labelled texts as they are published: tab-separated with and without a header, JSON lines, rows of the hub.

Decision: quotes mean nothing in tab-separated files (GLUE, SIB-200, XTREME have stray ones), and a line that lacks a column
is refused with its number, where a reader of CSV would silently swallow the lines up to the next quote.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mmenc.data import tags
from mmenc.downstream.classify import Labelled
from mmenc.downstream.sources import PACKED, Data
from mmenc.downstream.task import PARTS
from mmenc.errors import Refused

Row = dict[str, Any]
MEANT = {"zh": "cmn_Hans", "az": "azj_Latn", "hau": "hau_Latn", "twi": "twi_Latn"}
"""Codes of these data sets that stand for several tags (XTREME: simplified)."""


def tsv(data: Data, path: Path | None, columns: Sequence[str], *, header: bool = True, short: bool = False) -> list[Row]:
    """Rows of a file; without a header `columns` are all there are. `short`: leave out lines that lack a column (QQP has six)."""
    if path is None:
        return []
    lines = data.lines(path)
    head = next(lines, "").removeprefix("\ufeff").split("\t") if header else list(columns)
    if lacking := [c for c in columns if c not in head]:
        raise Refused(f"{path}: has no column {lacking[0]!r}; expected {', '.join(columns)}")
    found: list[Row] = []
    for number, line in enumerate(lines, 2 if header else 1):
        row = dict(zip(head, line.split("\t"), strict=False))
        if all(c in row for c in columns):
            found.append(row)
        elif line.strip() and not short:
            raise Refused(f"{path}: line {number} has {len(row)} columns, expected {len(head)}")
    return found


def jsonl(data: Data, path: Path | None, columns: Sequence[str]) -> list[Row]:
    """Rows of a file with an object per line."""
    if path is None:
        return []
    try:
        found: list[Row] = [json.loads(line) for line in data.lines(path) if line.strip()]
    except ValueError as error:
        raise Refused(f"{path}: a line is no JSON object ({error})") from None
    if bad := next((c for r in found for c in columns if c not in r), ""):
        raise Refused(f"{path}: a line has no key {bad!r}; expected {', '.join(columns)}")
    return found


def labelled(rows: Iterable[Row], text: str, pair: str, label: str, name: Callable[[Any], str | float]) -> list[Labelled]:
    """Examples; `name` turns what stands in the table into the task's label."""
    return [Labelled(str(r[text]), str(r[pair]) if pair else None, name(r[label])) for r in rows]


def tag_of(name: str) -> str:
    """The tag that a data set's name of a language stands for; the name itself where nobody can tell."""
    try:
        return MEANT.get(name) or tags.resolve(name).name
    except Refused:
        return name


def plain(path: Path) -> str:
    """A file's name without .gz or .zst."""
    return next((path.name.removesuffix(p) for p in PACKED if p and path.name.endswith(p)), path.name)


def by_language(folder: Path, ending: str) -> dict[str, dict[str, Path]]:
    """XTREME's `{train,dev,test}-<lang>.tsv`: {language: {part: file}}."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        part, dash, language = plain(path).removesuffix(ending).partition("-")
        if dash and part in PARTS and plain(path).endswith(ending):
            found.setdefault(tag_of(language), {})[part] = path
    return found
