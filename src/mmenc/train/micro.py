"""The parts of a global batch that one process computes, ready for the model.

What is exact: the batch, its masks and its dropout are functions of (seed, phase, step) alone, whatever the number of
processes. Dropout is drawn per micro-batch of the whole batch (`compute.micro_batch_tokens` from its first row on), as one
process needs it; a process whose micro-batches begin elsewhere takes its tokens out of those draws. So the number of
processes changes nothing but the order of sums, while another `micro_batch_tokens` draws other dropout.

Every process reads and masks the whole batch, because masks are drawn by position in it: 19 ns per token on one core.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmenc import rng
from mmenc.data.masking import mask_tokens
from mmenc.data.packing import Rows, materialise
from mmenc.data.tokens import BOS, EOS, Split
from mmenc.model.encoder import Draw
from mmenc.sections import Phase

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """One micro-batch of one process: packed tokens (T) and masked positions (M) in it."""

    input_T: Ids
    lengths: list[int]
    index_M: Ids
    target_M: Ids
    draws: list[Draw]
    """Its dropout."""


NOTHING = Part(np.array([BOS, EOS]), [2], np.array([], dtype=np.int64), np.array([], dtype=np.int64), [Draw(0, 2, 0, 2)])
"""What a process without rows computes: a loss of 0 and gradients of 0, so that it takes part in the exchange."""


def cut(
    rows: Rows, split: Split, phase: Phase, vocab: int, names: tuple[int, str, int], size: int, share: slice
) -> tuple[list[Part], int]:
    """The micro-batches of at most `size` rows in the share of a global batch; and the masked tokens of the whole batch.

    `names` are seed, phase and step.
    """
    ids_T, lengths = materialise(rows, split)
    seed, name, step = names
    input_T, index_M, target_M = mask_tokens(
        ids_T, phase.mask, vocab, seed, "mask", name, step, masking=phase.masking, edges_V=split.edges_V
    )
    piece_R1 = np.concatenate([[0], rows.ends]).tolist()
    token_R1 = np.concatenate([[0], np.cumsum(lengths)])[piece_R1].tolist()
    parts: list[Part] = []
    for first in range(share.start, share.stop, size):
        last = min(first + size, share.stop)
        start, stop = token_R1[first], token_R1[last]
        low, high = np.searchsorted(index_M, [start, stop])
        draws = []
        for whole in range(first // size * size, last, size):
            zero, end = token_R1[whole], token_R1[min(whole + size, len(rows))]
            key = rng.seed(seed, "dropout", name, step, whole)
            draws.append(Draw(key, end - zero, max(start, zero) - zero, min(stop, end) - zero))
        pieces = lengths[piece_R1[first] : piece_R1[last]]
        parts.append(Part(input_T[start:stop], pieces, index_M[low:high] - start, target_M[low:high], draws))
    return parts or [NOTHING], len(index_M)
