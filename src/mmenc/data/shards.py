"""Shards of documents: JSON lines, zstd-compressed inside artifacts; one folder per language.

A document is `{"id", "text", "source", "license"}` and, where documents are translations of each other, `"group"`.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NotRequired, TypedDict

import zstandard

from mmenc.errors import Refused

FEED = 4096
"""Compressed bytes that are handed to zstd at once: a block of four bytes can stand for 128 kB, so 128 MB come out at most."""


class ZstdStream(io.RawIOBase):
    """Decompressed bytes of a .zst file; unlike `stream_reader` it raises when the last frame is not complete."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.frame = zstandard.ZstdDecompressor().decompressobj()
        self.ready = memoryview(b"")

    def readable(self) -> bool:
        """Part of io's interface."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, or its beginning."""
        while not self.ready:
            if self.frame.eof:
                data = self.frame.unused_data or self.file.read(FEED)
                if not data:
                    return 0
                self.frame = zstandard.ZstdDecompressor().decompressobj()
            else:
                data = self.file.read(FEED)
            if not data:
                raise EOFError("the compressed stream ends too early")
            self.ready = memoryview(self.frame.decompress(data))
        count = min(len(buffer), len(self.ready))
        buffer[:count] = self.ready[:count]
        self.ready = self.ready[count:]
        return count

    def close(self) -> None:
        """Close the file too."""
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
        raw = io.BufferedReader(ZstdStream(path.open("rb")), 2**20)
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


SHARD_BYTES = 64 * 2**20
"""Text bytes per shard: small enough to be one unit of parallel work, large enough that 10 TB are 160,000 files."""


class ShardWriter:
    """Writes rows as JSON lines into zstd shards `00000.jsonl.zst`, … of a folder, one row in memory at a time.

    Level 3, with the checksum that shows truncation; a new shard begins when one has `shard_bytes` of text.
    """

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self.shards = self.size = 0
        self.raw: IO[bytes] | None = None
        self.stream: Any = None

    def write(self, row: Mapping[str, Any], size: int) -> bool:
        """Write a row whose text has `size` bytes; True if it is the last of its shard."""
        if self.raw is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.raw = (self.folder / f"{self.shards:05d}.jsonl.zst").open("wb")
            self.stream = zstandard.ZstdCompressor(level=3, write_checksum=True).stream_writer(self.raw, closefd=False)
        self.stream.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
        self.size += size
        if self.size >= self.shard_bytes:
            self.end()
            return True
        return False

    def end(self) -> None:
        """Close the shard that is open, if one is."""
        if self.raw is not None:
            self.stream.close()
            self.raw.close()
            self.raw, self.size, self.shards = None, 0, self.shards + 1


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
