"""Copies within a language: exact ones by hash, near ones by MinHash and locality-sensitive hashing, in bounded memory.

Decision: signatures come from rensa (Rust; 0.1 s per million windows), the rest is numpy over files: a document costs
16 bytes of marks and 4 bytes per permutation on disk; bands are sorted in ranges of `RANGE` documents, so memory does not
grow with the language. Documents in one band's bucket are compared with the bucket's first; a pair counts when its estimated
Jaccard similarity reaches the threshold (s = √(J(1-J)/permutations): ±0.035 at 0.8 and 128); union-find joins pairs.

Which copy stays: one with a `group` before one without, then the first by shard and position. Two documents with groups
are never near copies of each other: articles of a declaration resemble each other and are held out as groups, in all languages.
Copies in other languages are left alone. Of exact copies one is left, so none can lie on both sides of the split. Of near copies
one may be left over: where a bucket's first has a group it is not compared with others that have one, and what resembles
another member of the bucket, not its first, is found only by another band.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmenc.artifact import Json
from mmenc.data.scripts import density, scaled
from mmenc.data.windows import U64, mix, points, windows

SHINGLE = 12
"""Characters of a shingle for Latin (two words); 3 for Han."""
LEAST = 120
"""Shorter documents (in Latin characters) are compared exactly only: one word of ten makes another sentence."""
ROWS = 8
RANGE = 4_000_000
SEED = 42
MARK = np.dtype([("high", "<u8"), ("low", "<u8"), ("line", "<u4"), ("grouped", "?"), ("near", "?")])
I64 = NDArray[np.int64]


class Signer:
    """Collects the marks and signatures of a shard's documents and writes them."""

    def __init__(self, tag: str, permutations: int) -> None:
        self.tag, self.permutations = tag, permutations
        self.marks: list[tuple[int, int, int, bool, bool]] = []
        self.waiting: list[U64] = []
        self.size = 0
        self.blocks: list[NDArray[np.uint32]] = []

    def add(self, text: str, line: int, grouped: bool) -> None:
        """Take one document, its text folded; `line` is its place in the raw shard."""
        mark = hashlib.sha256(text.encode()).digest()
        near = self.permutations > 0 and len(text) * density(self.tag) >= LEAST
        self.marks.append((int.from_bytes(mark[:8], "big"), int.from_bytes(mark[8:16], "big"), line, grouped, near))
        if near:
            shingles = windows(points(text), scaled(SHINGLE, self.tag, 3))
            self.waiting.append(shingles)
            self.size += len(shingles)
            if self.size > 2_000_000:
                self._sign()

    def _sign(self) -> None:
        from rensa import RMinHash

        if self.waiting:
            offsets = np.concatenate([[0], np.cumsum([len(w) for w in self.waiting])])
            found = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(self.waiting), offsets, self.permutations, SEED)
            self.blocks.append(np.array(found.to_rows(), dtype=np.uint32))
        self.waiting, self.size = [], 0

    def write(self, marks: Path, signatures: Path) -> None:
        """Write what was collected; a document's row in the signatures is its rank among those with `near`."""
        self._sign()
        np.save(marks, np.array(self.marks, dtype=MARK))
        empty = np.empty((0, max(1, self.permutations)), dtype=np.uint32)
        np.save(signatures, np.concatenate([empty, *self.blocks]) if self.blocks else empty)


class Language:
    """The marks and signatures of all shards of a language, memory-mapped; documents are numbered through the shards."""

    def __init__(self, marks: list[Path], signatures: list[Path]) -> None:
        self.marks = [np.load(p, mmap_mode="r") for p in marks]
        self.signatures = [np.load(p, mmap_mode="r") for p in signatures]
        self.starts = np.concatenate([[0], np.cumsum([len(m) for m in self.marks])]).astype(np.int64)
        self.count = int(self.starts[-1])
        self.rows = np.concatenate([[0], np.cumsum([len(s) for s in self.signatures])]).astype(np.int64)

    def gather(self, rows: I64) -> NDArray[np.uint32]:
        """Signatures of some rows, in their order."""
        shard = np.searchsorted(self.rows, rows, side="right") - 1
        found = np.empty((len(rows), self.signatures[0].shape[1]), dtype=np.uint32)
        for s in np.unique(shard):
            here = shard == s
            found[here] = self.signatures[s][rows[here] - self.rows[s]]
        return found


def ranges(count: int) -> Iterator[tuple[np.uint64, np.uint64]]:
    """Cut the 64-bit numbers into ranges that hold about RANGE of `count` evenly spread ones (last value included)."""
    parts = max(1, -(-count // RANGE))
    edges = [(i << 64) // parts for i in range(parts + 1)]
    for low, high in pairwise(edges):
        yield np.uint64(low), np.uint64(high - 1)


def exact(language: Language, stays: I64) -> int:
    """Write into `stays` (-1: itself) the copy that stays in place of each exact copy; return how many there are."""
    found = 0
    for low, high in ranges(language.count):
        high_, low_, number, last = [], [], [], []
        for start, marks in zip(language.starts[:-1], language.marks, strict=True):
            first = np.asarray(marks["high"])
            here = np.flatnonzero((first >= low) & (first <= high))
            high_.append(first[here])
            low_.append(np.asarray(marks["low"])[here])
            number.append(here + start)
            last.append(~np.asarray(marks["grouped"])[here])
        a, b, n, z = (np.concatenate(x) for x in (high_, low_, number, last))
        order = np.lexsort((n, z, b, a))
        a, b, n = a[order], b[order], n[order]
        same = np.concatenate([[False], (a[1:] == a[:-1]) & (b[1:] == b[:-1])])
        begin = np.maximum.accumulate(np.where(same, 0, np.arange(len(n))))
        stays[n[same]] = n[begin[same]]
        found += int(same.sum())
    return found


def _bands(language: Language, stays: I64, band: int, low: np.uint64, high: np.uint64) -> tuple[U64, I64, I64, NDArray[np.bool_]]:
    """(key, row, number, grouped) of the documents whose band key lies in a range; exact copies are out."""
    parts: list[tuple[U64, I64, I64, NDArray[np.bool_]]] = []
    for shard, marks in enumerate(language.marks):
        numbers = np.flatnonzero(marks["near"])
        for at in range(0, len(numbers), RANGE):
            block = np.asarray(language.signatures[shard][at : at + RANGE, band * ROWS : (band + 1) * ROWS])
            key = np.full(len(block), band, dtype=np.uint64)
            for column in block.T:
                key = mix(key * np.uint64(0x9E3779B97F4A7C15) + column.astype(np.uint64))
            own = numbers[at : at + RANGE] + language.starts[shard]
            here = np.flatnonzero((key >= low) & (key <= high) & (stays[own] < 0))
            grouped = np.asarray(marks["grouped"])[numbers[at : at + RANGE][here]]
            parts.append((key[here], here + at + language.rows[shard], own[here], grouped))
    key, row, number, grouped = (np.concatenate(x) for x in zip(*parts, strict=True))
    return key, row, number, grouped


def _pairs(language: Language, stays: I64, permutations: int, threshold: float) -> Iterator[tuple[int, int]]:
    """Pairs of (numbers of) near copies, from every band; a pair may come more than once."""
    near = int(language.rows[-1])
    for band in range(permutations // ROWS if near > 1 else 0):
        for low, high in ranges(near):
            key, row, number, grouped = _bands(language, stays, band, low, high)
            order = np.lexsort((number, ~grouped, key))
            key, row, number, grouped = key[order], row[order], number[order], grouped[order]
            same = np.concatenate([[False], key[1:] == key[:-1]])
            begin = np.maximum.accumulate(np.where(same, 0, np.arange(len(key))))
            second = np.flatnonzero(same)
            second = second[~(grouped[second] & grouped[begin[second]])]
            for at in range(0, len(second), 65_536):
                b = second[at : at + 65_536]
                a = begin[b]
                alike = (language.gather(row[a]) == language.gather(row[b])).mean(1)
                good = alike >= threshold
                yield from zip(number[a[good]].tolist(), number[b[good]].tolist(), strict=True)


def near(language: Language, stays: I64, parent: I64, grouped: NDArray[np.bool_], permutations: int, threshold: float) -> int:
    """Join near copies (`parent`, a file, starts as everyone its own) and write into `stays` who stays; return how many go."""

    def root(n: int) -> int:
        while (up := int(parent[n])) != n:
            parent[n] = parent[up]
            n = up
        return n

    for a, b in _pairs(language, stays, permutations, threshold):
        x, y = root(a), root(b)
        if x != y:
            first, second = sorted((x, y), key=lambda n: (not grouped[n], n))
            parent[second] = first
    found = 0
    for at in range(0, language.count, RANGE):
        numbers = np.arange(at, min(at + RANGE, language.count))
        for n in numbers[(parent[numbers] != numbers) & ~grouped[numbers]].tolist():
            stays[n] = root(n)
            found += 1
    return found


def copies(folder: Path, marks: list[Path], signatures: list[Path], permutations: int, threshold: float) -> Json:
    """Write `SHARD.npy` of every shard: for each document the number of the copy that stays, -1 where it stays itself."""
    language = Language(marks, signatures)
    stays: I64 = np.lib.format.open_memmap(folder / ".stays.npy", mode="w+", dtype=np.int64, shape=(language.count,))
    stays[:] = -1
    found = {"exact": exact(language, stays) if language.count else 0, "near": 0}
    exact_only = np.array(stays < 0) if permutations else np.empty(0, dtype=bool)
    if permutations:
        grouped = np.concatenate([np.asarray(m["grouped"]) for m in language.marks])
        parent: I64 = np.lib.format.open_memmap(folder / ".parent.npy", mode="w+", dtype=np.int64, shape=(language.count,))
        for at in range(0, language.count, RANGE):
            parent[at : at + RANGE] = np.arange(at, min(at + RANGE, language.count))
        found["near"] = near(language, stays, parent, grouped, permutations, threshold)
        (folder / ".parent.npy").unlink()
    for shard, path in enumerate(marks):
        mine = np.asarray(stays[language.starts[shard] : language.starts[shard + 1]])
        copy = np.flatnonzero(mine >= 0)
        kinds, of, line = (np.zeros(len(mine), dtype=t) for t in (np.int8, np.int32, np.int64))
        kinds[copy] = 1 + (exact_only[copy + language.starts[shard]] if permutations else 0)
        of[copy] = np.searchsorted(language.starts, mine[copy], side="right") - 1
        for other in np.unique(of[copy]):
            here = copy[of[copy] == other]
            line[here] = language.marks[other]["line"][mine[here] - language.starts[other]]
        np.savez(folder / f"{path.name.split('.')[0]}.npz", kinds=kinds, shard=of, line=line)
    del stays
    (folder / ".stays.npy").unlink()
    return found
