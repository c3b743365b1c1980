"""Interleaved documents of text and images (mOSCAR; the fields of mmc4 and OBELICS too): the text parts in order.

A document is an object whose `text` (or `texts`, `text_list`) is a list of strings or of objects with `text`; gaps that stand
for images are left out. Where every part has an index (`text_idx: "#4"`), that is the order. Parts are joined by a blank
line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmenc.data.sources import Item, Made, Maker, Rejected
from mmenc.data.sources.jsonl import rows
from mmenc.errors import Refused
from mmenc.sections_data import Ingest

LISTS = ("text", "texts", "text_list")


def documents(file: Path, item: Item, settings: Ingest) -> Iterator[Made]:
    """Yield a document per line."""
    maker = Maker(file, item, settings)
    for number, row in rows(maker):
        if isinstance(row, Rejected):
            yield row
            continue
        parts = next((row[k] for k in (maker.columns["text"], *LISTS) if k in row), None) if isinstance(row, dict) else None
        texts = _texts(parts)
        if texts is None:
            raise Refused(f"{file}: line {number} has no list of text parts; expected one of {', '.join(LISTS)}")
        yield maker.document(number, "\n\n".join(texts), row)


def _texts(parts: Any) -> list[str] | None:
    if isinstance(parts, str):
        return [parts]
    if not isinstance(parts, list):
        return None
    found: list[tuple[int, str]] = []
    for place, part in enumerate(parts):
        text = part.get("text") if isinstance(part, dict) else part
        if text is None:
            continue
        if not isinstance(text, str):
            return None
        index = str(part.get("text_idx", "")).lstrip("#") if isinstance(part, dict) else ""
        found.append((int(index) if index.isdecimal() else -place - 1, text.strip()))
    if all(index >= 0 for index, _ in found):
        found.sort(key=lambda pair: pair[0])
    return [text for _, text in found if text]
