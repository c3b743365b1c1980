"""JSON lines: one object per line with at least `text`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmenc.data.sources import Item, Made, Maker, Rejected
from mmenc.data.sources.stream import read_lines
from mmenc.errors import Refused
from mmenc.sections_data import Ingest


def rows(maker: Maker) -> Iterator[tuple[int, Any]]:
    """Yield (line, object), or (line, Rejected) for what is too long or no text."""
    path, limit = maker.file, maker.settings.max_document_bytes
    for number, data, size in read_lines(path, limit, maker.settings.max_expansion):
        if size > limit:
            yield number, maker.too_long(f"line {number}", size, data)
            continue
        line = maker.decode(data, f"line {number}")
        if not isinstance(line, Rejected) and "\0" in line:  # never valid in JSON: the rule for such text decides
            line = maker.whole(line, f"line {number}")
        if isinstance(line, Rejected):
            yield number, line
            continue
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError):
            whole = "" if line.endswith("\n") else " and the file ends in the middle of it: it was cut off"
            raise Refused(f"{path}: line {number} is not JSON{whole}; expected one document per line") from None


def documents(file: Path, item: Item, settings: Ingest) -> Iterator[Made]:
    """Yield a document per line."""
    maker = Maker(file, item, settings)
    key = maker.columns["text"]
    for number, row in rows(maker):
        if isinstance(row, Rejected):
            yield row
            continue
        if not isinstance(row, dict) or not isinstance(row.get(key), str):
            raise Refused(f"{file}: line {number} has no text; expected an object with the key {key!r}")
        yield maker.document(number, row[key], row)
