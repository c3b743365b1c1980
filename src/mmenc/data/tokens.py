"""Token shards: one flat memory-mapped array per split, with document offsets and a range of documents per language.

Measured (performance.md section 4): a flat memmap viewed as ndarray feeds 202 M tokens/s, MosaicML's shards 18 M.
A document is stored as `bos … eos`. Folder names that are no language tag are buckets (code, …).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
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
        documents = [json.loads(line) for line in (folder / "documents.jsonl").read_text(encoding="utf-8").splitlines()]
    ranges = {tag: (row["first"], row["last"]) for tag, row in index["folders"].items()}
    return Split(flat, np.load(folder / "offsets.npy"), ranges, documents)


class SplitWriter:
    """Writes one split; folders come one after the other, in sorted order."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.dtype = "<u2" if vocab_size <= 2**16 else "<u4"
        self.stream = (folder / "tokens.bin").open("wb")
        self.lengths: list[int] = []
        self.folders: dict[str, Json] = {}
        self.documents: list[str] = []

    def add(self, name: str, documents: Iterable[tuple[list[int], int, Json | None]]) -> None:
        """Append the documents of one folder: (ids, bytes of text, row for dev and test)."""
        first, tokens, size = len(self.lengths), 0, 0
        for ids, nbytes, row in documents:
            self.stream.write(np.asarray(ids, dtype=self.dtype).tobytes())
            self.lengths.append(len(ids))
            tokens, size = tokens + len(ids), size + nbytes
            if row is not None:
                self.documents.append(json.dumps(row, ensure_ascii=False, sort_keys=True))
        self.folders[name] = {"first": first, "last": len(self.lengths), "tokens": tokens, "bytes": size}

    def close(self) -> None:
        """Write offsets and index."""
        self.stream.close()
        np.save(self.folder / "offsets.npy", np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64))
        write_json(self.folder / "index.json", {"dtype": self.dtype, "folders": self.folders})
        if self.documents:
            (self.folder / "documents.jsonl").write_text("\n".join(self.documents) + "\n", encoding="utf-8")
