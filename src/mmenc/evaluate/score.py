"""Masked-LM scores of single tokens on held-out documents: the one measure that training, merge and evaluation share.

Masks are drawn per document (keyed by seed and document), so they do not depend on batching, context or model; all
three of training's corruptions are used, the loss is over every selected token.
Legend: T packed tokens, M masked positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

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
    top_M: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """Probability of the likeliest token; empty where there is no guess (unigram models)."""
    size_M: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """UTF-8 bytes of the masked token; empty where nobody asked."""

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


@dataclass(frozen=True)
class Piece:
    """A row for the model: a document, or as much of it as fits the context, with some tokens masked."""

    document: int
    input_T: NDArray[np.int64]
    index_M: NDArray[np.int64]
    target_M: NDArray[np.int64]
    size_M: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))


def batches(items: Iterable[Piece], tokens: int) -> Iterable[list[Piece]]:
    """Batches of at least `tokens` tokens (but the last)."""
    batch: list[Piece] = []
    held = 0
    for item in items:
        batch.append(item)
        held += len(item.input_T)
        if held >= tokens:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def score_pieces(pieces: Sequence[Piece], logits: Callable[[list[Piece]], torch.Tensor], tokens: int = BATCH_TOKENS) -> Scores:
    """Score the masked tokens of pieces; `logits` gives z_MV (fp32) of a batch, in the order of its pieces."""
    parts: list[tuple[NDArray[np.float64 | np.int64], ...]] = []
    with torch.no_grad():  # not inference mode: what FSDP gathers for it is used again in training
        for batch in batches(pieces, tokens):
            target_M = np.concatenate([p.target_M for p in batch])
            z_MV = logits(batch)
            wanted = torch.from_numpy(target_M).to(z_MV.device)
            loss = torch.nn.functional.cross_entropy(z_MV, wanted, reduction="none").double()
            guess = z_MV.argmax(-1)
            # ln p of the guess is its logit minus ln Σ exp, which the loss holds already.
            apart = (z_MV.gather(1, guess[:, None]) - z_MV.gather(1, wanted[:, None]))[:, 0].double()
            top_M, loss_M, guess_M = (x.cpu().numpy() for x in ((apart - loss).exp().clamp(max=1.0), loss, guess))
            document_M = np.concatenate([np.full(len(p.index_M), p.document) for p in batch])
            parts.append((document_M, target_M, loss_M, guess_M, top_M, np.concatenate([p.size_M for p in batch])))
    if not parts:
        empty = np.empty(0)
        return Scores(empty.astype(np.int64), empty.astype(np.int64), empty, empty.astype(np.int64))
    return Scores(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def cut_document(
    masked: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    document: int,
    context: int,
    outer: tuple[Sequence[int], Sequence[int]] = ((BOS,), (EOS,)),
    size_M: NDArray[np.float64] | None = None,
) -> list[Piece]:
    """Cut a document as `mask_tokens` returned it (one special token at each end) into rows of `context` tokens.

    Each row gets the special tokens `outer` before and behind it; rows without a masked token are left out.
    """
    input_T, index_M, target_M = masked
    before, behind = (np.array(ids, dtype=np.int64) for ids in outer)
    room = context - len(before) - len(behind)
    rows = cut(np.array([document]), np.array([len(input_T)]), room + 2)
    found: list[Piece] = []
    for start, stop in zip(rows.start, rows.stop, strict=True):
        inside = (index_M > start) & (index_M <= stop)
        if inside.any():
            row_T = np.concatenate([before, input_T[1 + start : 1 + stop], behind])
            size = np.empty(0) if size_M is None else size_M[inside]
            found.append(Piece(document, row_T, index_M[inside] - start - 1 + len(before), target_M[inside], size))
    return found


def packed_logits(model: MaskedLM, bf16: bool) -> Callable[[list[Piece]], torch.Tensor]:
    """Logits of the masked tokens by our encoder: pieces one after the other in one packed row."""
    device = next(model.parameters()).device

    def logits(batch: list[Piece]) -> torch.Tensor:
        starts = np.cumsum([0, *(len(p.input_T) for p in batch)])
        ids_T = torch.from_numpy(np.concatenate([p.input_T for p in batch])).to(device)
        index_M = np.concatenate([p.index_M + s for p, s in zip(batch, starts, strict=False)])
        packing = Packing.of([len(p.input_T) for p in batch], device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return model.logits(ids_T, packing, torch.from_numpy(index_M).to(device)).float()

    return logits


def score(
    model: MaskedLM, split: Split, documents: list[int], context: int, rate: float, seed: int, bf16: bool = False
) -> Scores:
    """Score documents with a model; the model is left in evaluation mode."""
    pieces: list[Piece] = []
    for document in documents:
        ids_T = split.document(document).astype(np.int64)
        masked = mask_tokens(ids_T, rate, model.cfg.vocab_size, seed, "score", document)
        pieces += cut_document(masked, document, context)
    model.eval()
    return score_pieces(sorted(pieces, key=lambda p: len(p.input_T)), packed_logits(model, bf16))
