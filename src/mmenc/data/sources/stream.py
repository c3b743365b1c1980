"""Bytes of a file, decompressed, in bounded memory: lines of any length, bombs and cut-off streams.

Decision: a line beyond the limit is counted and passed over, never built; a compressed file that grows too much is refused
while it is read, so that neither memory nor hours are lost. zstd frames are fed 4 kB at a time, because one decompresses to
128 MB at most.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import zstandard

from mmenc.data.shards import ZstdStream
from mmenc.errors import Refused

SURELY_SMALL = 64 * 2**20
"""Bytes up to which no growth is suspicious."""
BUFFER = 2**20


class Limited(io.RawIOBase):
    """A decompressed stream that refuses to grow to more than `times` the bytes that were read for it."""

    def __init__(self, path: Path, times: int) -> None:
        self.path, self.times, self.given = path, times, 0
        self.file = path.open("rb")
        self.inner: Any = _inner(self.file, path.suffix)

    def readable(self) -> bool:
        """Part of io's interface."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, or its beginning."""
        count = int(self.inner.readinto(buffer))
        if not count and not self.file.tell():
            raise EOFError("it has no bytes at all")
        self.given += count
        if self.given > SURELY_SMALL and self.given > self.times * self.file.tell():
            raise Refused(
                f"{self.path}: grows to more than {self.times} times its size ({self.given / 2**20:.0f} MB out of "
                f"{self.file.tell() / 1000:.0f} kB so far): looks like a decompression bomb; if it is real, raise "
                f"ingest.max_expansion"
            )
        return count

    def close(self) -> None:
        """Close the file too."""
        self.file.close()
        super().close()


def _inner(file: IO[bytes], suffix: str) -> Any:
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=file)
    if suffix == ".bz2":
        return bz2.BZ2File(file)
    return ZstdStream(file)


def open_bytes(path: Path, times: int) -> Any:
    """Open a file, decompressed where its name says that it is compressed."""
    if path.suffix in (".gz", ".bz2", ".zst"):
        return io.BufferedReader(Limited(path, times), BUFFER)
    return path.open("rb", buffering=BUFFER)


@contextmanager
def damage(path: Path, at: str = "") -> Iterator[None]:
    """Turn what decompressors say of a cut or damaged stream into a sentence."""
    try:
        yield
    except (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Refused(f"{path}: cut off or damaged{at} ({error}); fetch the file again") from None


def read_lines(path: Path, limit: int, times: int) -> Iterator[tuple[int, bytes, int]]:
    """Yield (number, line, its bytes); of a line beyond the limit only the beginning, with the bytes that it really has."""
    number = 0
    lines = _lines(path, limit, times)
    while True:
        with damage(path, f" after line {number}"):
            found = next(lines, None)
        if found is None:
            return
        number += 1
        line, size = found
        yield number, (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line), size


def _lines(path: Path, limit: int, times: int) -> Iterator[tuple[bytes, int]]:
    with open_bytes(path, times) as stream:
        while line := stream.readline(limit + 1):
            size = len(line)
            if size > limit and not line.endswith(b"\n"):
                head = line[:4096]
                del line
                while True:
                    more = stream.readline(BUFFER)
                    size += len(more)
                    if not more or more.endswith(b"\n"):
                        break
                line = head
            yield line, size
