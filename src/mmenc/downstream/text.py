"""Texts, pairs and lists of words as rows of ids, with the place of every piece in its text, for any tokenizer.

Decision: words are not tokenised one by one (a tokenizer without a prefix space then sees each as glued to the one before: mmBERT
lost 3 points on WikiANN by that) but joined by spaces, as pretraining saw them, and found again through the offsets. So a
word's label sits on the first piece that holds a character of it, with and without a prefix space; a piece that is nothing
but the space before a word (XLM-R before a rare word) is no part of it. Offsets leave out white space at the beginning.

Shapes: N pieces of a text, W words, T tokens of a row with its special ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmenc.data.tokens import BOS, EOS
from mmenc.evaluate.words import OurWords, TheirWords, Words

Ints = NDArray[np.int64]
PROBES = ("a b", "b")
SPACE = " \t\n▁Ġ"


@dataclass(frozen=True)
class Pieces:
    """Ids of a text without special tokens, and the characters [start, end) that each stands for."""

    ids_N: Ints
    start_N: Ints
    end_N: Ints


@dataclass(frozen=True)
class Row:
    """What an encoder reads: ids with special tokens, and where the texts begin (`second` is 0 without a pair)."""

    ids_T: Ints
    first: int
    second: int = 0


class Texts:
    """A tokenizer as tasks use it."""

    def __init__(self, words: Words, context: int) -> None:
        self.words, self.context = words, context
        self.pad_id = words.pad_id
        if isinstance(words, OurWords):
            self.frame: tuple[Sequence[int], ...] = ((BOS,), (EOS,), (EOS,))
        else:
            self.frame = self._their_frame(words)

    @staticmethod
    def _their_frame(words: Words) -> tuple[Sequence[int], ...]:
        """Special tokens before, between and behind two texts."""
        assert isinstance(words, TheirWords)
        a, b = (words.tokenizer(t, add_special_tokens=False)["input_ids"] for t in PROBES)
        pair: list[int] = words.tokenizer(*PROBES)["input_ids"]
        before = words.outer[0]
        rest = pair[len(before) + len(a) :]
        at = next((i for i in range(len(rest)) if rest[i : i + len(b)] == b), 0)
        return before, rest[:at], rest[at + len(b) :]

    def pieces(self, text: str) -> Pieces:
        """Tokenize, with offsets."""
        if isinstance(self.words, OurWords):
            found = self.words.tokenizer.encode(text, add_special_tokens=False)
            ids, spans, names = found.ids, found.offsets, found.tokens
        else:
            assert isinstance(self.words, TheirWords)
            theirs: Any = self.words.tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
            ids, spans = theirs["input_ids"], theirs["offset_mapping"]
            names = self.words.tokenizer.convert_ids_to_tokens(ids)
        start_N, end_N = np.array(spans, dtype=np.int64).reshape(-1, 2).T.copy()
        for i, name in enumerate(names):
            if not (name or "").strip(SPACE):
                start_N[i] = end_N[i]
            while start_N[i] < end_N[i] and text[start_N[i]].isspace():
                start_N[i] += 1
        return Pieces(np.array(ids, dtype=np.int64), start_N, end_N)

    def row(self, ids_N: Ints, pair_N: Ints | None = None, most: int = 0) -> Row:
        """Add special tokens; what is longer than `most` (0: the context) is cut, of two texts always the longer one."""
        most = min(most or self.context, self.context)
        if pair_N is None:
            before, behind = self.words.outer
            body = ids_N[: most - len(before) - len(behind)]
            return Row(np.array([*before, *body, *behind], dtype=np.int64), len(before))
        before, between, behind = self.frame
        room = most - len(before) - len(between) - len(behind)
        a, b = _shares(len(ids_N), len(pair_N), room)
        ids = np.array([*before, *ids_N[:a], *between, *pair_N[:b], *behind], dtype=np.int64)
        return Row(ids, len(before), len(before) + a + len(between))

    def text(self, text: str, pair: str | None = None, most: int = 0) -> Row:
        """A row of a text, or of two."""
        return self.row(self.pieces(text).ids_N, None if pair is None else self.pieces(pair).ids_N, most)

    def split(self, words: Sequence[str], most: int = 0) -> list[tuple[Row, Ints]]:
        """Rows that hold all words, cut between words where too long, and for each the token of every word (-1: none)."""
        most = min(most or self.context, self.context)
        found, position_W = self._align(words)
        before, behind = self.words.outer
        room = most - len(before) - len(behind)
        if len(found.ids_N) > room and len(words) > 1:
            half = len(words) // 2
            return self.split(words[:half], most) + self.split(words[half:], most)
        position_W = np.where((position_W >= 0) & (position_W < room), position_W + len(before), -1)
        return [(self.row(found.ids_N, None, most), position_W)]

    def _align(self, words: Sequence[str]) -> tuple[Pieces, Ints]:
        """Pieces of the joined words, and the first piece of each word."""
        found = self.pieces(" ".join(words))
        length_W = np.array([len(w) for w in words], dtype=np.int64)
        start_W = np.cumsum([0, *(length_W[:-1] + 1)])
        real = np.flatnonzero(found.end_N > found.start_N)
        end_R = np.maximum.accumulate(found.end_N[real]) if len(real) else np.empty(0, dtype=np.int64)
        at_W = np.searchsorted(end_R, start_W, side="right")  # the first piece that ends behind the word's first character
        position_W = np.full(len(words), -1, dtype=np.int64)
        for w, at in enumerate(at_W):
            if at < len(real) and found.start_N[real[at]] < start_W[w] + length_W[w]:
                position_W[w] = real[at]
        return found, position_W


def _shares(a: int, b: int, room: int) -> tuple[int, int]:
    """How many pieces of two texts stay: the longer one loses first."""
    if a + b <= room:
        return a, b
    half = room // 2
    if min(a, b) <= half:
        return (a, room - a) if a < b else (room - b, b)
    return room - half, half
