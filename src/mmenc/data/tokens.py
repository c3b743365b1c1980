"""Token shards: one flat memory-mapped array per split, with document offsets and a range of documents per language.

Measured (performance.md section 4): a flat memmap viewed as ndarray feeds 202 M tokens/s, MosaicML's shards 18 M.
A document is stored as `bos … eos`. Folder names that are no language tag are buckets (code, …).
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmenc.artifact import Json, read_json, write_json

SPLITS = ("train", "dev", "test")
TAG = re.compile(r"^[a-z]{3}_[A-Z][a-z]{3}$")
PAD, EOS, BOS, UNK, MASK = range(5)
"""Ids of the special tokens, as in Gemma 2's vocabulary that mmBERT uses (recipe.md section 6)."""
SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
EDGES = "edges.npy"
"""Where words begin and end, by id: one file of a `tokenize` artifact, for all its splits."""


COPY = 1 << 22


def is_language(folder: str) -> bool:
    """Whether a folder of raw data is a language tag (otherwise it is a bucket)."""
    return bool(TAG.match(folder))


@dataclass(frozen=True)
class Split:
    """All documents of one split: `flat[offsets[i]:offsets[i + 1]]` is document i."""

    flat: NDArray[np.unsignedinteger]
    offsets: NDArray[np.int64]
    ranges: dict[str, tuple[int, int]]
    """Documents [first, last) of each folder."""
    documents: list[Json]
    """For dev and test `{id, group, bytes}` per document; empty for train."""
    edges_V: NDArray[np.uint8] | None = None
    """Where words begin and end, by id (words.py); only whole-word masking needs it."""

    def lengths(self, folder: str) -> NDArray[np.int64]:
        """Tokens of each document of a folder."""
        first, last = self.ranges[folder]
        return np.diff(self.offsets[first : last + 1])

    def document(self, index: int) -> NDArray[np.unsignedinteger]:
        """Tokens of one document."""
        return self.flat[self.offsets[index] : self.offsets[index + 1]]

    def folder_tokens(self, folder: str) -> NDArray[np.unsignedinteger]:
        """All tokens of a folder, one document after the other."""
        first, last = self.ranges[folder]
        return self.flat[self.offsets[first] : self.offsets[last]]


def open_split(artifact: Path, split: str) -> Split:
    """Map one split of a `tokenize` artifact into memory."""
    folder = artifact / split
    index = read_json(folder / "index.json")
    path = folder / "tokens.bin"
    flat = (
        np.memmap(path, dtype=index["dtype"], mode="r").view(np.ndarray) if path.stat().st_size else np.empty(0, index["dtype"])
    )
    documents: list[Json] = []
    if (folder / "documents.jsonl").exists():
        with (folder / "documents.jsonl").open(encoding="utf-8", newline="\n") as stream:
            documents = [json.loads(line) for line in stream]
    ranges = {tag: (row["first"], row["last"]) for tag, row in index["folders"].items()}
    offsets = np.load(folder / "offsets.npy", mmap_mode="r").view(np.ndarray)
    edges_V = np.load(artifact / EDGES) if (artifact / EDGES).is_file() else None
    return Split(flat, offsets, ranges, documents, edges_V)


def dtype_of(vocab_size: int) -> str:
    """Type of a stored token."""
    return "<u2" if vocab_size <= 2**16 else "<u4"


class SplitWriter:
    """Puts the files of one split together from pieces, in order, copying bytes: memory does not grow with the corpus.

    A piece is a folder with `SPLIT.tokens` (ids), `SPLIT.lengths` (uint32 per document) and, for dev and test,
    `SPLIT.documents` (JSON lines).
    """

    def __init__(self, folder: Path, vocab_size: int, documents: int) -> None:
        folder.mkdir(parents=True)
        self.folder, self.name = folder, folder.name
        self.dtype = dtype_of(vocab_size)
        self.tokens = (folder / "tokens.bin").open("wb")
        self.offsets = (folder / "offsets.npy").open("wb")
        header = {"descr": "<i8", "fortran_order": False, "shape": (documents + 1,)}
        np.lib.format.write_array_header_1_0(self.offsets, header)
        self.offsets.write(np.zeros(1, "<i8").tobytes())
        self.end = 0
        self.expected = documents

    def append(self, piece: Path) -> None:
        """Append the documents of one piece."""
        with (piece / f"{self.name}.tokens").open("rb") as stream:
            shutil.copyfileobj(stream, self.tokens, COPY)
        lengths = np.fromfile(piece / f"{self.name}.lengths", "<u4")
        if len(lengths):
            ends = self.end + np.cumsum(lengths, dtype=np.int64)
            self.offsets.write(ends.astype("<i8").tobytes())
            self.end = int(ends[-1])
        self.expected -= len(lengths)
        rows = piece / f"{self.name}.documents"
        if rows.exists() and rows.stat().st_size:
            with rows.open("rb") as stream, (self.folder / "documents.jsonl").open("ab") as target:
                shutil.copyfileobj(stream, target, COPY)

    def close(self, folders: dict[str, Json]) -> None:
        """Write the index: `{folder: {documents, tokens, bytes}}` in order becomes ranges of documents."""
        assert self.expected == 0, "a piece holds other documents than was counted"
        self.tokens.close()
        self.offsets.close()
        rows: dict[str, Json] = {}
        first = 0
        for name, row in folders.items():
            last = first + row["documents"]
            rows[name] = {"first": first, "last": last, "tokens": row["tokens"], "bytes": row["bytes"]}
            first = last
        write_json(self.folder / "index.json", {"dtype": self.dtype, "folders": rows})
