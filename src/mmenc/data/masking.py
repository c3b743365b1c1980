"""Masking: a function of (seed, names, step), so that a resumed run sees the same masks bit for bit.

80 % of the selected positions become `<mask>`, 10 % a random token, 10 % stay (recipe.md section 7). Unlike the code
that trained mmBERT, special tokens are never selected and never drawn as the random token. The rate is exact in
expectation over the positions that may be masked.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmenc import rng
from mmenc.data.tokens import MASK, SPECIALS

SPECIAL_COUNT = len(SPECIALS)


def mask_tokens(
    ids_T: NDArray[np.int64], rate: float, vocab_size: int, *names: object
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return (input ids (T,), masked positions (M,), their original ids (M,)); M ≥ 1 where any token can be masked."""
    draws_T = rng.uniform(len(ids_T), *names)
    draws_T[ids_T < SPECIAL_COUNT] = 2.0
    index_M = np.flatnonzero(draws_T < rate)
    if not len(index_M) and len(ids_T) and draws_T.min() < 1:
        index_M = np.array([int(draws_T.argmin())])
    target_M = ids_T[index_M]
    kind_M = rng.uniform(len(index_M), *names, "kind")
    random_M = SPECIAL_COUNT + (rng.uniform(len(index_M), *names, "random") * (vocab_size - SPECIAL_COUNT)).astype(np.int64)
    input_T = ids_T.copy()
    input_T[index_M] = np.where(kind_M < 0.8, MASK, np.where(kind_M < 0.9, random_M, target_M))
    return input_T, index_M, target_M
