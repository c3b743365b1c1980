"""Tokens of a text and the UTF-8 bytes that each stands for, for our tokenizers and for any fast one of Hugging Face.

Decision: every byte of a text belongs to exactly one token, or bits per byte would not compare: a byte-level tokenizer
counts the space before a word, WordPiece drops it. So a token owns what lies between the end of the token before it and
its own end, and tokens that share an end (pieces of one character) share the bytes evenly. Unknown tokens are special:
they are never masked, because `[UNK]` for a whole word of a script that a tokenizer does not know is easily guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mmenc.data.tokenizer import load, token_bytes
from mmenc.data.tokens import BOS, EOS, MASK, PAD, SPECIALS
from mmenc.data.vocabulary import spec_of, style
from mmenc.errors import Refused

Ints = NDArray[np.int64]
PROBE = "a b"


@dataclass(frozen=True)
class Tokens:
    """A text's ids without special tokens, bytes of each, and the share of the text's bytes that is unknown."""

    ids_N: Ints
    size_N: NDArray[np.float64]
    unknown: float


class Words:
    """What an evaluation must know of a tokenizer."""

    outer: tuple[Sequence[int], Sequence[int]]
    """Special tokens before and behind a text."""
    ordinary: Ints
    """Ids that may be masked and drawn."""
    mask_id: int
    pad_id: int
    note: str = ""
    """What it loses of a text; its figures are flattered by that."""
    longest: int = 2**31
    """Tokens that it says a row may have."""

    def of(self, text: str) -> Tokens:
        """Tokenize."""
        raise NotImplementedError


class OurWords(Words):
    """Our special ids and a vocabulary of whole bytes (`vocabulary.style`): what each token stands for is exact."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.outer, self.mask_id, self.pad_id = ((BOS,), (EOS,)), MASK, PAD
        self.tokenizer, self.size_V = tokenizer, token_bytes(tokenizer).astype(np.float64)
        self.ordinary = np.arange(len(SPECIALS), len(self.size_V))

    def of(self, text: str) -> Tokens:
        """Tokenize."""
        ids_N = np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int64)
        size_N = self.size_V[ids_N]
        if len(size_N) and size_N.sum() == len(text.encode()) + 1:
            size_N[0] -= 1  # the space that the tokenizer put before the text
        return Tokens(ids_N, size_N, 0.0)


def share_bytes(text: str, spans: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    """Bytes of each token from its span of characters (module docstring)."""
    until = np.cumsum([0, *(len(c.encode()) for c in text)])
    end_N = np.maximum.accumulate(np.array([b for _, b in spans], dtype=np.int64))
    ends, group_N, count = np.unique(end_N, return_inverse=True, return_counts=True)
    whole = np.diff(np.concatenate([[0], until[ends]]))
    return np.asarray((whole / count)[group_N], dtype=np.float64)


class TheirWords(Words):
    """Any fast tokenizer of transformers, through its offsets."""

    def __init__(self, tokenizer: Any, vocab: int) -> None:
        self.tokenizer = tokenizer
        whole, inner = tokenizer(PROBE)["input_ids"], self._plain(PROBE)["input_ids"]
        at = next((i for i in range(len(whole)) if whole[i : i + len(inner)] == inner), 0)
        self.outer = (whole[:at], whole[at + len(inner) :])
        special = {*tokenizer.all_special_ids}
        self.ordinary = np.array([i for i in range(min(vocab, len(tokenizer))) if i not in special], dtype=np.int64)
        self.mask_id = -1 if tokenizer.mask_token_id is None else int(tokenizer.mask_token_id)
        self.pad_id = int(tokenizer.pad_token_id or 0)
        self.longest = int(min(tokenizer.model_max_length, self.longest))
        lost = [what for a, b, what in (("A b", "a b", "case"), ("é", "e", "accents")) if self._same(a, b)]
        self.note = f"its tokenizer drops {' and '.join(lost)}" if lost else ""

    def _plain(self, text: str, **more: Any) -> Any:
        return self.tokenizer(text, add_special_tokens=False, verbose=False, **more)

    def _same(self, a: str, b: str) -> bool:
        found: list[int] = self._plain(a)["input_ids"]
        return bool(found == self._plain(b)["input_ids"] and self.tokenizer.unk_token_id not in found)

    def of(self, text: str) -> Tokens:
        """Tokenize."""
        found = self._plain(text, return_offsets_mapping=True)
        if not found["input_ids"]:
            return Tokens(np.empty(0, dtype=np.int64), np.empty(0), 1.0)
        ids_N, size_N = np.array(found["input_ids"], dtype=np.int64), share_bytes(text, found["offset_mapping"])
        unknown = size_N[ids_N == self.tokenizer.unk_token_id].sum() if self.tokenizer.unk_token_id is not None else 0.0
        return Tokens(ids_N, size_N, float(unknown / max(1.0, size_N.sum())))


def ours(folder: Path) -> OurWords | None:
    """The tokenizer of a directory if it is one of ours: our special ids, no text lost (bytes, or ▁ with byte fallback)."""
    if not (folder / "tokenizer.json").is_file():
        return None
    tokenizer = load(folder)
    same = all(tokenizer.token_to_id(token) == i for i, token in enumerate(SPECIALS))
    return OurWords(tokenizer) if same and style(spec_of(tokenizer)) else None


def theirs(folder: Path, vocab: int) -> TheirWords:
    """The tokenizer of any other directory."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise Refused(f"{folder}: its tokenizer cannot be loaded ({str(error).splitlines()[0]})") from None
    if not tokenizer.is_fast:
        raise Refused(f"{folder}: its tokenizer gives no offsets; expected a fast one (tokenizer.json)")
    return TheirWords(tokenizer, vocab)
