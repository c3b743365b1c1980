"""Plain text, cut into documents at blank lines once a document has `ingest.document_bytes`.

A stretch without a blank line that grows beyond `ingest.max_document_bytes` is rejected up to the next blank line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmenc.data.sources import Item, Made, Maker, Rejected
from mmenc.data.sources.stream import read_lines
from mmenc.sections_data import Ingest


def documents(file: Path, item: Item, settings: Ingest) -> Iterator[Made]:
    """Yield paragraphs collected into documents."""
    maker = Maker(file, item, settings)
    held: list[str] = []
    count = size = first = 0
    lost: Rejected | None = None
    for number, data, length in read_lines(file, settings.max_document_bytes, settings.max_expansion):
        size += length
        if size > settings.max_document_bytes and lost is None:
            lost = maker.too_long(f"line {first or number}", 0, "".join(held)[:1000] or data[:1000])
            held = []
        if lost is None:
            line = maker.decode(data, f"line {number}")
            if isinstance(line, Rejected):
                lost, held = line, []
            else:
                held.append(line)
        first = first or number
        if (not data.strip() and size >= settings.document_bytes) or (lost is not None and not data.strip()):
            yield from _end(maker, count, held, lost, size, first)
            held, size, first, lost, count = [], 0, 0, None, count + 1
    yield from _end(maker, count, held, lost, size, first)


def _end(maker: Maker, count: int, held: list[str], lost: Rejected | None, size: int, first: int) -> Iterator[Made]:
    text = "".join(held).strip()
    if lost is not None:
        yield Rejected(lost.where, lost.reason, size, lost.head)
    elif text:
        yield maker.document(count, text, where=f"the document that begins in line {first}")
