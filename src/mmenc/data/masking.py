"""Masking: a function of (seed, names, step), so that a resumed run sees the same masks bit for bit.

Of the selected positions 80 % become `<mask>`, 10 % a random token, 10 % stay (recipe.md section 7) unless the recipe says
otherwise (EuroBERT and NeoBERT: all `<mask>`). Unlike the code that trained mmBERT, special tokens are never selected and
never drawn as the random token. The rate is exact in expectation over the positions that may be masked.

Whole words: a word is selected as a whole, by the draw of its first token, so the rate stays exact; which of its tokens
become `<mask>` is drawn per token, as in BERT's whole-word models. Random bits are compared as integers: 19 ns a token, as
floats 25 (default options, 30 % of 65,536 tokens, one busy core); always `<mask>` takes 9 ns, whole words 34.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mmenc import rng
from mmenc.data.tokens import MASK, SPECIALS
from mmenc.errors import Refused
from mmenc.sections import Masking

Ids = NDArray[np.int64]
SPECIAL_COUNT = len(SPECIALS)
DEFAULT = Masking()
BEGINS, ENDS, INSIDE = 1, 2, 4
"""Bits of an id where whole words are selected (words.py)."""
LOW = 11
"""Bits of a word that a float in [0, 1) has no room for (rng.uniform)."""


def first_of_word(ids_T: Ids, edges_V: NDArray[np.uint8]) -> Ids:
    """Position of the first token of each token's word, (T,)."""
    edges_T = edges_V[ids_T]
    begins_T = edges_T & BEGINS
    begins_T[1:] |= edges_T[:-1] & ENDS
    begins_T[edges_T & INSIDE != 0] = 0
    return np.maximum.accumulate(np.where(begins_T, np.arange(len(ids_T)), 0))


def _select(
    ids_T: Ids, plain_T: NDArray[np.bool_], rate: float, names: tuple[object, ...], edges_V: NDArray[np.uint8] | None
) -> Ids:
    """Positions (M,) in order; at least one where any token can be masked (`plain_T`)."""
    raw_T = rng.raw(len(ids_T), *names)
    first_T = None if edges_V is None else first_of_word(ids_T, edges_V)
    if first_T is not None:
        raw_T = raw_T[first_T]
    # uniform < rate, in integers: both sides times 2^64
    limit = (min(math.ceil(rate * 2**53), 2**53) << LOW) - 1
    index_M = np.flatnonzero((raw_T <= np.uint64(limit)) & plain_T) if limit > 0 else np.empty(0, dtype=np.int64)
    if not len(index_M) and plain_T.any():
        draws_T = np.where(plain_T, raw_T >> np.uint64(LOW), np.uint64(2**64 - 1))
        least = int(draws_T.argmin())
        index_M = np.array([least]) if first_T is None else np.flatnonzero((first_T == first_T[least]) & plain_T)
    return index_M


def mask_tokens(
    ids_T: Ids,
    rate: float,
    vocab_size: int,
    *names: object,
    masking: Masking = DEFAULT,
    edges_V: NDArray[np.uint8] | None = None,
    ordinary: Ids | None = None,
    mask_id: int = MASK,
) -> tuple[Ids, Ids, Ids]:
    """Return (input ids (T,), masked positions (M,), their original ids (M,)); M ≥ 1 where any token can be masked.

    `ordinary` are the ids that are no special ones, where they are not all from SPECIAL_COUNT on (a foreign tokenizer).
    """
    if masking.whole_word and edges_V is None:
        raise Refused("masking.whole_word: the tokens do not say where words begin; expected edges.npy, run tokenize again")
    plain_T = ids_T >= SPECIAL_COUNT if ordinary is None else np.isin(ids_T, ordinary)
    index_M = _select(ids_T, plain_T, rate, names, edges_V if masking.whole_word else None)
    target_M = ids_T[index_M]
    input_T = ids_T.copy()
    if masking.mask == 1:
        input_T[index_M] = mask_id
        return input_T, index_M, target_M
    new_M = np.full(len(index_M), mask_id)
    kind_M = rng.uniform(len(index_M), *names, "kind")
    if masking.random:
        count = vocab_size - SPECIAL_COUNT if ordinary is None else len(ordinary)
        drawn_M = (rng.uniform(len(index_M), *names, "random") * count).astype(np.int64)
        new_M = np.where(kind_M < masking.mask, new_M, drawn_M + SPECIAL_COUNT if ordinary is None else ordinary[drawn_M])
    input_T[index_M] = np.where(kind_M < 1 - masking.keep, new_M, target_M)
    return input_T, index_M, target_M
