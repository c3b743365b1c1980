"""Masked-LM scores of single tokens on held-out documents: the one measure that training, merge and evaluation share.

Masks are drawn per document (keyed by seed and document), so they do not depend on batching, context or model; all
three of training's corruptions are used, the loss is over every selected token.
Legend: T packed tokens, M masked positions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mmenc import rng
from mmenc.data.masking import mask_tokens
from mmenc.data.order import cut
from mmenc.data.tokens import BOS, EOS, Split
from mmenc.model.attention import Packing
from mmenc.model.head import MaskedLM

BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Scores:
    """One entry per masked token: its document, its id, −ln p of it (nats), the id that the model holds likeliest."""

    document_M: NDArray[np.int64]
    target_M: NDArray[np.int64]
    loss_M: NDArray[np.float64]
    guess_M: NDArray[np.int64]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the likeliest token was the right one."""
        return np.equal(self.guess_M, self.target_M)


def choose(split: Split, folder: str, tokens: int, seed: int) -> list[int]:
    """Documents of a folder in random order until `tokens` are reached (at least one document where there is one)."""
    first, last = split.ranges.get(folder, (0, 0))
    chosen, count = [], 0
    for i in rng.permutation(last - first, seed, "choose", folder):
        if count >= tokens:
            break
        chosen.append(first + int(i))
        count += len(split.document(chosen[-1]))
    return chosen


def choose_round(split: Split, folders: list[str], tokens: int, seed: int) -> list[int]:
    """About `tokens` of documents over all folders, one document per folder and round, folders in random order."""
    order = [folders[i] for i in rng.permutation(len(folders), seed, "folders")]
    queues = [choose(split, folder, tokens, seed) for folder in order]
    chosen, count, level = [], 0, 0
    while count < tokens and any(level < len(q) for q in queues):
        for queue in queues:
            if level < len(queue) and count < tokens:
                chosen.append(queue[level])
                count += len(split.document(queue[level]))
        level += 1
    return chosen


@dataclass
class _Piece:
    document: int
    input_T: NDArray[np.int64]
    index_M: NDArray[np.int64]
    target_M: NDArray[np.int64]


def _pieces(split: Split, documents: list[int], context: int, rate: float, vocab: int, seed: int) -> list[_Piece]:
    found: list[_Piece] = []
    for document in documents:
        ids_T = split.document(document).astype(np.int64)
        input_T, index_M, target_M = mask_tokens(ids_T, rate, vocab, seed, "score", document)
        pieces = cut(np.array([document]), np.array([len(ids_T)]), context)
        for start, stop in zip(pieces.start, pieces.stop, strict=True):
            inside = (index_M > start) & (index_M <= stop)
            if inside.any():
                piece_T = np.concatenate([[BOS], input_T[1 + start : 1 + stop], [EOS]])
                found.append(_Piece(document, piece_T, index_M[inside] - start, target_M[inside]))
    return sorted(found, key=lambda p: len(p.input_T))


def score(
    model: MaskedLM, split: Split, documents: list[int], context: int, rate: float, seed: int, bf16: bool = False
) -> Scores:
    """Score documents with a model; the model is left in evaluation mode."""
    pieces = _pieces(split, documents, context, rate, model.cfg.vocab_size, seed)
    device = next(model.parameters()).device
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]] = []
    model.eval()
    batch: list[_Piece] = []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for i, piece in enumerate(pieces):
            batch.append(piece)
            if i + 1 < len(pieces) and sum(len(p.input_T) for p in batch) < BATCH_TOKENS:
                continue
            starts = np.cumsum([0, *(len(p.input_T) for p in batch)])
            ids_T = torch.from_numpy(np.concatenate([p.input_T for p in batch])).to(device)
            index_M = np.concatenate([p.index_M + s for p, s in zip(batch, starts, strict=False)])
            target_M = np.concatenate([p.target_M for p in batch])
            packing = Packing.of([len(p.input_T) for p in batch], device)
            z_MV = model.logits(ids_T, packing, torch.from_numpy(index_M).to(device)).float()
            wanted = torch.from_numpy(target_M).to(device)
            loss_M = torch.nn.functional.cross_entropy(z_MV, wanted, reduction="none").double().cpu().numpy()
            guess_M = z_MV.argmax(-1).cpu().numpy()
            document_M = np.concatenate([np.full(len(p.index_M), p.document) for p in batch])
            parts.append((document_M, target_M, loss_M, guess_M))
            batch = []
    if not parts:
        empty = np.empty(0)
        return Scores(empty.astype(np.int64), empty.astype(np.int64), empty, empty.astype(np.int64))
    return Scores(*(np.concatenate(column) for column in zip(*parts, strict=True)))
