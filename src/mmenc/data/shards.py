"""Shards of documents: JSON lines, zstd-compressed inside artifacts; one folder per language.

A document is `{"id", "text", "source", "license"}` and, where documents are translations of each other, `"group"`.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import zstandard

from mmenc.errors import Refused


class _ZstdStream(io.RawIOBase):
    """Decompressed bytes of a .zst file; unlike `stream_reader` it raises when the last frame is not complete."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("rb")
        self.frame = zstandard.ZstdDecompressor().decompressobj()
        self.ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            if self.frame.eof:
                data = self.frame.unused_data or self.file.read(1 << 20)
                if not data:
                    return 0
                self.frame = zstandard.ZstdDecompressor().decompressobj()
            else:
                data = self.file.read(1 << 20)
            if not data:
                raise EOFError("the compressed stream ends too early")
            self.ready = self.frame.decompress(data)
        count = min(len(buffer), len(self.ready))
        buffer[:count], self.ready = self.ready[:count], self.ready[count:]
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


class Document(TypedDict):
    """One document of a shard."""

    id: str
    text: str
    source: str
    license: str
    group: NotRequired[str]


def open_text(path: Path) -> io.TextIOBase:
    """Open .jsonl/.txt, plain or .gz/.zst, as strict UTF-8 text; only a line feed ends a line."""
    raw: io.BufferedIOBase
    if path.suffix == ".gz":
        raw = gzip.open(path, "rb")  # noqa: SIM115 (closed with the wrapper around it)
    elif path.suffix == ".zst":
        raw = io.BufferedReader(_ZstdStream(path))
    else:
        raw = path.open("rb")
    return io.TextIOWrapper(raw, encoding="utf-8", errors="strict", newline="\n")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line); a wrong encoding or a truncated stream is a sentence."""
    number = 0
    try:
        with open_text(path) as stream:
            for line in stream:
                number += 1
                yield number, line
    except UnicodeDecodeError as error:
        raise Refused(
            f"{path}: line {number + 1} or shortly after is not UTF-8 ({error.reason}); convert the file to UTF-8"
        ) from None
    except (EOFError, OSError, zstandard.ZstdError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Refused(f"{path}: cut off or damaged after line {number} ({error}); fetch the file again") from None


def read_documents(path: Path) -> Iterator[Document]:
    """Yield the documents of an artifact's shard."""
    for _, line in read_lines(path):
        yield json.loads(line)


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write a zstd shard (level 3, with the checksum that shows truncation); return the number of documents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    with path.open("wb") as raw, compressor.stream_writer(raw) as stream:
        for document in documents:
            stream.write((json.dumps(document, ensure_ascii=False) + "\n").encode())
            count += 1
    return count


def languages(root: Path) -> list[str]:
    """Folder names of an artifact's `shards/`, sorted."""
    return sorted(p.name for p in (root / "shards").iterdir() if p.is_dir())


def shard_paths(root: Path, language: str) -> list[Path]:
    """Shards of one language in an artifact, sorted."""
    return sorted((root / "shards" / language).glob("*.jsonl.zst"))
