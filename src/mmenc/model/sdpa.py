"""Attention by plain matrix products, never by a T x T mask: blocks in local layers, buckets of like lengths in global ones.

Why forms of our own: forward + backward on 2 CPU cores, T = 4096, 2 heads x 64, fp32 | bf16, best of 12 in ms, against one
F.scaled_dot_product_attention per document (differences under 30 % are noise; measured before the backward passes were
written by hand):

    documents                      local, 64 each side         global
                                   blocks      one by one      buckets     one by one
    20-512 tokens, median 130      17 | 13     22 | 27         22 | 17     21 | 28
    8-60 tokens, median 25         (= global)  21 | 44         12 | 11     22 | 36
    1024 tokens                    24 |  9     55 | 47         54 | 44     54 | 45

Only documents beyond 512 tokens go one by one through SDPA, which keeps no scores. The backward passes are written by hand:
scale and mask enter with the product that makes the scores (baddbmm), blocks of keys overlap as views, and each of q, k, v
and their gradients is laid out by one gather. In global layers queries may be fewer than keys: the last layer's, of which
only the masked positions are needed.

Shapes: T packed tokens, M those that are queries, N documents or blocks (times heads), H heads, E head width, Q queries and
K keys of each, B queries per block, C blocks of a head, S slots (rows of all buckets, padding included), R rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mmenc.model.packing import Packing

BUCKET = 32  # documents up to LOOP tokens are padded to at most a multiple of this: mean waste below 16 tokens
LOOP = 512  # longer documents: SDPA one by one, so that scores never take more than H * 512 * 512 per document
BLOCK = 32  # smallest query block of the local form; otherwise as many queries as the reach


def _attend(q_NQE: Tensor, k_NKE: Tensor, v_NKE: Tensor, scores_NQK: Tensor, *, biased: bool) -> tuple[Tensor, Tensor]:
    """softmax(q k' / sqrt(E) + bias) v and the probabilities; ``scores_NQK`` holds the bias, if any, and is overwritten."""
    scores_NQK.baddbmm_(q_NQE, k_NKE.transpose(1, 2), beta=float(biased), alpha=q_NQE.shape[-1] ** -0.5)
    p_NQK = scores_NQK.softmax(-1)
    return torch.bmm(p_NQK, v_NKE), p_NQK


def _attend_backward(do_NQE: Tensor, q_NQE: Tensor, k_NKE: Tensor, v_NKE: Tensor, p_NQK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v from that of the output."""
    dv_NKE = torch.bmm(p_NQK.transpose(1, 2), do_NQE)
    dp_NQK = torch.bmm(do_NQE, v_NKE.transpose(1, 2))
    ds_NQK = torch.ops.aten._softmax_backward_data(dp_NQK, p_NQK, -1, p_NQK.dtype)  # noqa: SLF001 (no public name)
    scale = q_NQE.shape[-1] ** -0.5
    dq_NQE = torch.bmm(ds_NQK, k_NKE).mul_(scale)
    dk_NKE = torch.bmm(ds_NQK.transpose(1, 2), q_NQE).mul_(scale)  # baddbmm with alpha takes twice as long
    return dq_NQE, dk_NKE, dv_NKE


# ---- local layers: blocks of queries against the blocks of keys that they can reach


def _block_bias(packing: Packing, reach: int, block: int, dtype: torch.dtype) -> Tensor:
    """bias_CBK: 0 where query and key share a document and lie within reach, -inf elsewhere; K = 3 B.

    Slots beyond T form a document of their own (-1), so that no row is masked wholly (its softmax would be NaN). One block
    of them follows the last token: heads lie one after the other, and their blocks must not meet.
    """
    device = packing.doc_T.device
    fill = -packing.tokens % block + block
    query_CB = F.pad(packing.doc_T, (0, fill), value=-1).view(-1, block)
    key_CK = F.pad(packing.doc_T, (block, fill + block), value=-1).unfold(0, 3 * block, block)
    offset_K = torch.arange(3 * block, device=device) - block
    near_BK = (torch.arange(block, device=device)[:, None] - offset_K).abs() <= reach
    open_CBK = (query_CB[:, :, None] == key_CK[:, None, :]) & near_BK
    return torch.zeros(open_CBK.shape, dtype=dtype, device=device).masked_fill_(~open_CBK, -torch.inf)


def _heads_in_blocks(x_THE: Tensor, block: int) -> Tensor:
    """x_NBE: all heads' blocks one after the other, a block of zeros before the first and after each head."""
    tokens, heads, width = x_THE.shape
    span = (-(-tokens // block) + 1) * block
    rows = x_THE.new_empty(heads * span + 2 * block, width)
    rows[:block].zero_()
    rows[-block:].zero_()
    body_HSE = rows[block:-block].view(heads, span, width)
    body_HSE[:, :tokens].copy_(x_THE.transpose(0, 1))
    body_HSE[:, tokens:].zero_()
    return rows.view(-1, block, width)


def _windows(x_NBE: Tensor) -> Tensor:
    """Keys of each block and the two beside it, (N - 2, 3 B, E), as an overlapping view: nothing is copied."""
    blocks, block, width = x_NBE.shape
    return x_NBE.as_strided((blocks - 2, 3 * block, width), (block * width, width, 1))


class _Local(torch.autograd.Function):
    """Block form: every block of B >= reach queries sees its own B keys and those of the two blocks beside it."""

    @staticmethod
    def forward(ctx: Any, q_THE: Tensor, k_THE: Tensor, v_THE: Tensor, bias_CBK: Tensor) -> Tensor:
        (tokens, heads, width), block = q_THE.shape, bias_CBK.shape[1]
        q, k, v = (_heads_in_blocks(x, block) for x in (q_THE, k_THE, v_THE))
        scores = bias_CBK.expand(heads, *bias_CBK.shape).reshape(-1, block, 3 * block)
        if heads == 1:  # then the reshape is a view of the bias that other layers need
            scores = scores.clone()
        o, p = _attend(q[1:-1], _windows(k), _windows(v), scores, biased=True)
        ctx.save_for_backward(q, k, v, p)
        ctx.shape = q_THE.shape
        return o.view(heads, -1, width)[:, :tokens].transpose(0, 1).contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, p = ctx.saved_tensors
        (tokens, heads, width), block = ctx.shape, q.shape[1]
        do = _heads_in_blocks(grads[0], block)[1:-1]
        dq, dk, dv = _attend_backward(do, q[1:-1], _windows(k), _windows(v), p)

        def home(x_NBE: Tensor) -> Tensor:
            return x_NBE.view(heads, -1, width)[:, :tokens].transpose(0, 1)

        def overlapped(x: Tensor) -> Tensor:
            before, own, after = x.view(-1, 3, block, width).unbind(1)
            total = own.clone()
            total[:-1] += before[1:]
            total[1:] += after[:-1]
            return home(total)

        return home(dq), overlapped(dk), overlapped(dv), None


def _local(q_THE: Tensor, k_THE: Tensor, v_THE: Tensor, packing: Packing, reach: int) -> Tensor:
    block = max(BLOCK, reach)
    bias = packing.once(("block", reach, q_THE.dtype), lambda: _block_bias(packing, reach, block, q_THE.dtype))
    out: Tensor = _Local.apply(q_THE, k_THE, v_THE, bias)  # type: ignore[no-untyped-call]
    return out


# ---- global layers: documents of similar length together


@dataclass(frozen=True, eq=False)
class _Side:
    """Where queries or keys lie: rows are (token, head) pairs, slots are (document, head, place) with padding."""

    slot_S: Tensor  # row that fills each slot; padding repeats the document's first
    home_R: Tensor  # slot that holds each row
    lengths: list[int]  # places per document of each bucket


@dataclass(frozen=True, eq=False)
class _Plan:
    docs: list[int]  # documents of each bucket
    query: _Side
    key: _Side
    biases: list[Tensor | None]  # (documents, 1, 1, L): -inf on padding


def _groups(lens: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Documents by length rounded up to BUCKET."""
    groups: dict[int, list[int]] = {}
    for n, length in enumerate(lens.tolist()):
        groups.setdefault(-(-length // BUCKET), []).append(n)
    return [np.array(docs) for docs in groups.values()]


def _side(counts: npt.NDArray[np.int64], groups: list[npt.NDArray[np.int64]], heads: int, device: torch.device) -> _Side:
    """Slots of the documents' rows; a bucket is as long as its longest document."""
    starts, lengths, slots, valids = np.cumsum(counts) - counts, [], [], []
    for docs in groups:
        length = int(counts[docs].max())
        step = np.arange(length)
        valid = step < counts[docs][:, None]
        first = np.minimum(starts[docs], max(0, counts.sum() - 1))[:, None]
        row = np.where(valid, first + step, first)[:, None, :] * heads + np.arange(heads)[:, None]
        lengths.append(length)
        slots.append(row.ravel())
        valids.append(np.broadcast_to(valid[:, None, :], row.shape).ravel())
    slot, valid = np.concatenate(slots), np.concatenate(valids)
    home = np.empty(counts.sum() * heads, dtype=np.int64)
    home[slot[valid]] = np.flatnonzero(valid)
    return _Side(torch.from_numpy(slot).to(device), torch.from_numpy(home).to(device), lengths)


def _bucket_plan(packing: Packing, at_M: Tensor | None, heads: int, dtype: torch.dtype) -> _Plan:
    """Plan for all tokens as queries, or those at_M only."""
    lens, device = packing.lengths, packing.doc_T.device
    groups = _groups(lens)
    key = _side(lens, groups, heads, device)
    query = key
    if at_M is not None:
        asked = np.bincount(packing.doc_T[at_M].cpu().numpy(), minlength=len(lens)).astype(np.int64)
        query = _side(asked, groups, heads, device)
    biases: list[Tensor | None] = []
    for docs, length in zip(groups, key.lengths, strict=True):
        padding = torch.from_numpy(np.arange(length) >= lens[docs][:, None])
        bias = torch.zeros(padding.shape, dtype=dtype).masked_fill_(padding, -torch.inf)
        biases.append(bias[:, None, None].to(device) if padding.any() else None)
    return _Plan([len(docs) for docs in groups], query, key, biases)


class _Global(torch.autograd.Function):
    """Bucket form: gather into padded buckets, attend within each, put the rows back. Queries may be fewer than keys."""

    @staticmethod
    def _cut(x_RE: Tensor, side: _Side, docs: list[int], heads: int) -> list[Tensor]:
        """Slots (S, E) as one (documents * H, L, E) per bucket."""
        sizes = [n * heads * length for n, length in zip(docs, side.lengths, strict=True)]
        parts = zip(torch.split(x_RE, sizes), docs, side.lengths, strict=True)
        return [x.view(n * heads, length, x.shape[-1]) for x, n, length in parts]  # no query at all: length 0

    @staticmethod
    def forward(ctx: Any, q_MHE: Tensor, k_THE: Tensor, v_THE: Tensor, plan: _Plan) -> Tensor:
        heads, width = q_MHE.shape[1:]
        sides = (plan.query, plan.key, plan.key)
        gathered = [
            x.reshape(-1, width).index_select(0, side.slot_S) for x, side in zip((q_MHE, k_THE, v_THE), sides, strict=True)
        ]
        cut = [_Global._cut(x, side, plan.docs, heads) for x, side in zip(gathered, sides, strict=True)]
        o_SE, probabilities = torch.empty_like(gathered[0]), []
        for o, q, k, v, bias, docs in zip(
            _Global._cut(o_SE, plan.query, plan.docs, heads), *cut, plan.biases, plan.docs, strict=True
        ):
            scores = q.new_empty(docs, heads, q.shape[1], k.shape[1])
            if bias is not None:
                scores.copy_(bias)
            found, p = _attend(q, k, v, scores.flatten(0, 1), biased=bias is not None)
            o.copy_(found)
            probabilities.append(p)
        ctx.save_for_backward(*gathered, *probabilities)
        ctx.plan, ctx.heads = plan, heads
        return o_SE.index_select(0, plan.query.home_R).view(-1, heads, width)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        saved: tuple[Tensor, ...] = ctx.saved_tensors  # asked for once: activation checkpointing refuses a second time
        gathered, probabilities, plan, heads = saved[:3], saved[3:], ctx.plan, ctx.heads
        sides = (plan.query, plan.key, plan.key)
        width = grads[0].shape[-1]
        do_SE = torch.zeros_like(gathered[0]).index_copy_(0, plan.query.home_R, grads[0].reshape(-1, width))
        made = [torch.empty_like(x) for x in gathered]
        cut, into = ([_Global._cut(x, s, plan.docs, heads) for x, s in zip(xs, sides, strict=True)] for xs in (gathered, made))
        found = zip(_Global._cut(do_SE, plan.query, plan.docs, heads), *cut, probabilities, zip(*into, strict=True), strict=True)
        for do, q, k, v, p, targets in found:
            for target, gradient in zip(targets, _attend_backward(do, q, k, v, p), strict=True):
                target.copy_(gradient)
        dq, dk, dv = (x.index_select(0, side.home_R).view(-1, heads, width) for x, side in zip(made, sides, strict=True))
        return dq, dk, dv, None


@dataclass(frozen=True, eq=False)
class _Split:
    """A packing with documents beyond LOOP: those one by one, so that their scores are never held, the others together."""

    spans: list[tuple[slice, slice]]  # queries and keys of each long document that is asked for
    short: Packing | None
    query: Tensor  # queries of the short documents
    key: Tensor  # their keys
    at_M: Tensor | None  # at_M among the short documents' tokens
    home_M: Tensor  # place of each query in the parts' outputs, one after the other


def _split(packing: Packing, at_M: Tensor | None) -> _Split | None:
    """How to split; None where no document is long."""
    lens, device = packing.lengths, packing.doc_T.device
    if packing.max_len <= LOOP:
        return None
    long, ends = lens > LOOP, np.cumsum(lens)
    doc = np.repeat(np.arange(len(lens)), lens)
    at = np.arange(len(doc)) if at_M is None else at_M.cpu().numpy()
    edge = np.searchsorted(at, np.concatenate([[0], ends]))
    asked = [n for n in np.flatnonzero(long).tolist() if edge[n] < edge[n + 1]]
    spans = [(slice(edge[n], edge[n + 1]), slice(ends[n] - lens[n], ends[n])) for n in asked]
    query, key = np.flatnonzero(~long[doc[at]]), np.flatnonzero(~long[doc])
    order = np.concatenate([*(np.arange(edge[n], edge[n + 1]) for n in asked), query])
    inner = None if at_M is None else torch.from_numpy(np.searchsorted(key, at[query])).to(device)
    place = [torch.from_numpy(x.astype(np.int64)).to(device) for x in (query, key, np.argsort(order))]
    short = Packing.of(lens[~long], device) if len(query) else None
    return _Split(spans, short, place[0], place[1], inner, place[2])


def _global(q_MHE: Tensor, k_THE: Tensor, v_THE: Tensor, packing: Packing, at_M: Tensor | None = None) -> Tensor:
    """All documents; at_M (ascending) are the tokens that the queries stand for, all of them without it."""
    heads, dtype = q_MHE.shape[1], q_MHE.dtype
    if at_M is not None and not len(at_M):
        return q_MHE
    name = None if at_M is None else id(at_M)  # what is made holds at_M, so that no other tensor gets its id
    split: _Split | None = packing.once(("split", name), lambda: (_split(packing, at_M), at_M))[0]
    if split is None:
        key = ("bucket", heads, dtype, name)
        plan = packing.once(key, lambda: (_bucket_plan(packing, at_M, heads, dtype), at_M))[0]
        out: Tensor = _Global.apply(q_MHE, k_THE, v_THE, plan)  # type: ignore[no-untyped-call]
        return out
    parts = []
    for query, keys in split.spans:
        q, k, v = (x.transpose(0, 1)[None] for x in (q_MHE[query], k_THE[keys], v_THE[keys]))
        parts.append(F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1))
    if split.short is not None:
        parts.append(_global(q_MHE[split.query], k_THE[split.key], v_THE[split.key], split.short, split.at_M))
    return torch.cat(parts)[split.home_M]


def whole_documents(packing: Packing, window: int | None) -> bool:
    """Whether every token sees its whole document."""
    return window is None or packing.max_len <= window + 1


def sdpa(q_THE: Tensor, k_THE: Tensor, v_THE: Tensor, packing: Packing, window: int | None, at_M: Tensor | None = None) -> Tensor:
    """The backend "sdpa": see `mmenc.model.attention.attention`."""
    if window is None or whole_documents(packing, window):
        return _global(q_THE, k_THE, v_THE, packing, at_M)
    return _local(q_THE, k_THE, v_THE, packing, window)
