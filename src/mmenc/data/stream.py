"""Documents of an artifact in bundles (one part of the work) and batches (one call of an encoder), in bounded memory.

Decision: a part is a run of neighbouring shards with about 4 MB of compressed text, not one language: 464 small languages
would be 464 parts of milliseconds each (a part costs two fsyncs), one large language would be one part. How shards are
bundled follows from their sizes alone and never changes a result. A batch holds about 2 million characters, so memory is that
of one batch or of the longest document (`clean.max_chars` bounds it). Bytes are split at line feeds and parsed as they are,
twice as fast as lines through a text stream (150 against 75 MB/s of text on one core).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import zstandard

from mmenc.data.shards import Document, languages, shard_paths
from mmenc.errors import Refused
from mmenc.external import size_of

BUNDLE_BYTES = 4_000_000
"""Compressed; at least this, and at most about 4,096 bundles in all."""
BATCH_CHARS = 2_000_000
READ = 1 << 20

Bundle = list[tuple[str, list[Path]]]
"""Languages with their shards, in order."""


def bundles(clean: Path) -> dict[str, Bundle]:
    """All shards of an artifact, in order, cut into parts of about equal size."""
    sizes = [(language, path, size_of(path)) for language in languages(clean) for path in shard_paths(clean, language)]
    limit = max(BUNDLE_BYTES, sum(n for _, _, n in sizes) // 4096)
    found: list[Bundle] = []
    filled = limit
    for language, path, size in sizes:
        if filled >= limit:
            found.append([])
            filled = 0
        bundle, filled = found[-1], filled + size
        if not bundle or bundle[-1][0] != language:
            bundle.append((language, []))
        bundle[-1][1].append(path)
    return {f"{i:05d}": bundle for i, bundle in enumerate(found)}


def lines(path: Path) -> Iterator[bytes]:
    """Lines of a zstd shard, without their line feed; a stream that ends too early is a sentence."""
    rest = b""
    with path.open("rb") as raw:
        frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            while data := raw.read(READ):
                while data:
                    if frame.eof:
                        frame = zstandard.ZstdDecompressor().decompressobj()
                    *whole, rest = (rest + frame.decompress(data)).split(b"\n")
                    yield from whole
                    data = frame.unused_data if frame.eof else b""
        except zstandard.ZstdError as error:
            raise Refused(f"{path}: damaged ({error}); make it again") from None
        if not frame.eof:
            raise Refused(f"{path}: the compressed stream ends too early; make it again")
    if rest:
        yield rest


def documents(paths: list[Path]) -> Iterator[Document]:
    """Documents of some shards."""
    for path in paths:
        for line in lines(path):
            yield json.loads(line)


def batches(paths: list[Path], chars: int = BATCH_CHARS) -> Iterator[list[Document]]:
    """Documents of some shards, about `chars` characters of text at a time."""
    batch: list[Document] = []
    size = 0
    for document in documents(paths):
        batch.append(document)
        size += len(document["text"])
        if size >= chars:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
