"""Attention over packed documents: one function, four backends that agree, and a twin that runs everywhere.

"sdpa" (any device) never builds a T x T mask. Forward + backward on 2 CPU cores, T = 4096, 2 heads x 64, fp32 | bf16,
best of 12 in ms, against one F.scaled_dot_product_attention per document (differences under 30 % are noise):

    documents                      local, 64 each side         global
                                   blocks      one by one      buckets     one by one
    20-512 tokens, median 130      17 | 13     22 | 27         22 | 17     21 | 28
    8-60 tokens, median 25         (= global)  21 | 44         12 | 11     22 | 36
    1024 tokens                    24 |  9     55 | 47         54 | 44     54 | 45

So local = blocks and global = buckets, both as plain matmul + softmax (blocks by SDPA: same in fp32, 24 ms instead of
14 in bf16); only documents beyond 512 tokens go one by one through SDPA. The kernels ("flash", "varlen", "flex") are
CUDA only, imported when first asked for, and have not run yet: test_attention.py compares them where there is a GPU.

Shapes: T packed tokens, N documents, H heads, E head width, B queries per block, K keys per block, C blocks,
L bucket length, S slots (tokens of all buckets, padding included).
"""

from __future__ import annotations

import importlib.util
import inspect
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mmenc.errors import Refused, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BUCKET = 32  # documents up to LOOP tokens are padded to a multiple of this: mean waste 16 tokens
LOOP = 512  # longer documents: SDPA one by one, so that scores never take more than H * 512 * 512 per document
BLOCK = 32  # smallest query block of the local form; otherwise as many queries as the reach
HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False)
class Packing:
    """Where the documents of a packed row lie; masks and index plans are made once per packing and kept here."""

    lengths: npt.NDArray[np.int64]  # N document lengths, in order
    cu_seqlens_N1: Tensor  # int32: 0 and the running sums
    position_T: Tensor  # int64: 0 at the start of every document
    doc_T: Tensor  # int64: which document
    max_len: int
    _made: dict[Any, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, lengths: Sequence[int] | npt.NDArray[np.integer[Any]], device: torch.device | str = "cpu") -> Packing:
        """Lay documents of these lengths one after the other."""
        lens = np.asarray(lengths, dtype=np.int64)
        if lens.ndim != 1 or not len(lens) or lens.min() < 1:
            raise Refused(f"packing: found document lengths {lens.tolist()[:8]}, expected one or more positive numbers")
        ends = np.cumsum(lens)
        doc = np.repeat(np.arange(len(lens)), lens)
        position = np.arange(ends[-1]) - (ends - lens)[doc]
        cu = torch.from_numpy(np.concatenate(([0], ends)).astype(np.int32))
        place = [x.to(device, non_blocking=True) for x in (cu, torch.from_numpy(position), torch.from_numpy(doc))]
        return cls(lens, place[0], place[1], place[2], int(lens.max()))

    @property
    def tokens(self) -> int:
        """T, the number of packed tokens."""
        return len(self.position_T)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what ``make`` gives, made at most once for this packing."""
        if key not in self._made:
            with torch.inference_mode(False), torch.no_grad():
                self._made[key] = make()
        return self._made[key]


def _dense(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k' / sqrt(E) + bias) v over the two last dimensions, by plain matmul."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    out: Tensor = (scores if bias is None else scores + bias).softmax(-1) @ v
    return out


# ---- local layers: blocks of queries against the blocks of keys that they can reach


def _block_bias(packing: Packing, reach: int, block: int, dtype: torch.dtype) -> Tensor:
    """bias_C1BK: 0 where query and key share a document and lie within reach, -inf elsewhere; K = 3 B.

    Slots beyond T form a document of their own (-1), so that no row is masked wholly (its softmax would be NaN).
    """
    device = packing.doc_T.device
    fill = -packing.tokens % block
    query_CB = F.pad(packing.doc_T, (0, fill), value=-1).view(-1, block)
    key_CK = F.pad(packing.doc_T, (block, fill + block), value=-1).unfold(0, 3 * block, block)
    offset_K = torch.arange(3 * block, device=device) - block
    near_BK = (torch.arange(block, device=device)[:, None] - offset_K).abs() <= reach
    open_CBK = (query_CB[:, :, None] == key_CK[:, None, :]) & near_BK
    bias_CBK = torch.zeros(open_CBK.shape, dtype=dtype, device=device).masked_fill_(~open_CBK, -torch.inf)
    return bias_CBK[:, None]


def _local(q_THE: Tensor, k_THE: Tensor, v_THE: Tensor, packing: Packing, reach: int) -> Tensor:
    """Block form: every block of B >= reach queries sees its own B keys and those of the two blocks beside it."""
    tokens, heads, width = q_THE.shape
    block = max(BLOCK, reach)
    bias = packing.once(("block", reach, q_THE.dtype), lambda: _block_bias(packing, reach, block, q_THE.dtype))
    fill = -tokens % block

    def keys(x_THE: Tensor) -> Tensor:
        x_CHBE = F.pad(x_THE, (0, 0, 0, 0, block, fill + block)).view(-1, block, heads, width).transpose(1, 2)
        return torch.cat((x_CHBE[:-2], x_CHBE[1:-1], x_CHBE[2:]), dim=2)  # unfold's backward is 4 times slower

    q_CHBE = F.pad(q_THE, (0, 0, 0, 0, 0, fill)).view(-1, block, heads, width).transpose(1, 2)
    o_CHBE = _dense(q_CHBE, keys(k_THE), keys(v_THE), bias)
    return o_CHBE.transpose(1, 2).reshape(-1, heads, width)[:tokens]


# ---- global layers: documents of similar length together


@dataclass(frozen=True, eq=False)
class _Plan:
    slot_S: Tensor  # packed token that fills each slot
    home_T: Tensor  # slot that holds each packed token
    sizes: list[int]  # slots per bucket
    lengths: list[int]  # L of each bucket
    biases: list[Tensor | None]  # (documents, 1, 1, L): -inf on padding


def _bucket_plan(packing: Packing, dtype: torch.dtype) -> _Plan:
    """Group documents by length rounded up to BUCKET; each one beyond LOOP is a bucket of its own, unpadded."""
    lens, device = packing.lengths, packing.doc_T.device
    starts = np.cumsum(lens) - lens
    groups: dict[tuple[int, int], list[int]] = {}
    for n, length in enumerate(lens.tolist()):
        key = (length, n) if length > LOOP else (-(-length // BUCKET) * BUCKET, -1)
        groups.setdefault(key, []).append(n)
    slots, valids, sizes, biases = [], [], [], []
    for (length, _), docs in groups.items():
        step = np.arange(length)
        valid = step < lens[docs][:, None]
        slots.append(np.where(valid, starts[docs][:, None] + step, starts[docs][:, None]).ravel())
        valids.append(valid.ravel())
        sizes.append(valid.size)
        bias = torch.zeros(valid.shape, dtype=dtype).masked_fill_(torch.from_numpy(~valid), -torch.inf)
        biases.append(None if valid.all() else bias[:, None, None].to(device))
    slot, valid = np.concatenate(slots), np.concatenate(valids)
    home = np.empty(packing.tokens, dtype=np.int64)
    home[slot[valid]] = np.flatnonzero(valid)
    place = [torch.from_numpy(x).to(device) for x in (slot, home)]
    return _Plan(place[0], place[1], sizes, [length for length, _ in groups], biases)


def _global(q_THE: Tensor, k_THE: Tensor, v_THE: Tensor, packing: Packing) -> Tensor:
    """Bucket form: gather into padded buckets, attend within each, put the tokens back."""
    heads, width = q_THE.shape[1:]
    plan: _Plan = packing.once(("bucket", q_THE.dtype), lambda: _bucket_plan(packing, q_THE.dtype))
    parts = [torch.split(x.index_select(0, plan.slot_S), plan.sizes) for x in (q_THE, k_THE, v_THE)]
    out = []
    for length, bias, *qkv in zip(plan.lengths, plan.biases, *parts, strict=True):
        q, k, v = (x.view(-1, length, heads, width).transpose(1, 2) for x in qkv)
        o = F.scaled_dot_product_attention(q, k, v) if length > LOOP else _dense(q, k, v, bias)
        out.append(o.transpose(1, 2).reshape(-1, heads, width))
    return torch.cat(out).index_select(0, plan.home_T)


def _sdpa(q_THE: Tensor, k_THE: Tensor, v_THE: Tensor, packing: Packing, window: int | None) -> Tensor:
    if window is None or packing.max_len <= window + 1:  # the window covers every document
        return _global(q_THE, k_THE, v_THE, packing)
    return _local(q_THE, k_THE, v_THE, packing, window)


# ---- kernels: CUDA only (flex runs forward on a CPU, for the tests)


@lru_cache(maxsize=2)
def _flex_kernel(device_type: str) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    kernel: Callable[..., Any] = flex_attention
    return kernel if device_type == "cpu" else torch.compile(kernel, dynamic=True)


def _flex(q_THE: Tensor, k_THE: Tensor, v_THE: Tensor, packing: Packing, window: int | None) -> Tensor:
    from torch.nn.attention.flex_attention import create_block_mask

    doc_T = packing.doc_T

    def allowed(_b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        same = doc_T[i] == doc_T[j]
        return same if window is None else same & ((i - j).abs() <= window)

    size = packing.tokens
    mask = packing.once(("flex", window), lambda: create_block_mask(allowed, None, None, size, size, doc_T.device))
    q, k, v = (x.transpose(0, 1)[None] for x in (q_THE, k_THE, v_THE))
    o_1HTE: Tensor = _flex_kernel(q_THE.device.type)(q, k, v, block_mask=mask)
    return o_1HTE[0].transpose(0, 1)


def _varlen(q_THE: Tensor, k_THE: Tensor, v_THE: Tensor, packing: Packing, window: int | None) -> Tensor:
    kernel: Any = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    cu, longest, side = packing.cu_seqlens_N1, packing.max_len, -1 if window is None else window
    out: Tensor = kernel(q_THE, k_THE, v_THE, cu, cu, longest, longest, window_size=(side, side))
    return out


def _flash(q_THE: Tensor, k_THE: Tensor, v_THE: Tensor, packing: Packing, window: int | None) -> Tensor:
    kernel: Any = importlib.import_module("flash_attn").flash_attn_varlen_func
    cu, longest, side = packing.cu_seqlens_N1, packing.max_len, -1 if window is None else window
    out: Tensor = kernel(q_THE, k_THE, v_THE, cu, cu, longest, longest, window_size=(side, side))
    return out


_BACKENDS = {"flash": _flash, "varlen": _varlen, "flex": _flex, "sdpa": _sdpa}  # fastest first


def _varlen_has_window() -> bool:
    """torch.nn.attention.varlen takes ``window_size`` in torch 2.13; a version without it cannot run local layers."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return "window_size" in inspect.signature(varlen_attn).parameters


@lru_cache(maxsize=8)
def _usable(device_type: str) -> tuple[str, ...]:
    if device_type != "cuda":
        return ("sdpa",)
    flash = ["flash"] if importlib.util.find_spec("flash_attn") else []
    varlen = ["varlen"] if _varlen_has_window() else []
    return (*flash, *varlen, "flex", "sdpa")


def available(device: torch.device | str) -> list[str]:
    """Name the backends that train on this device, fastest first; "sdpa" is always the last of them."""
    return list(_usable(torch.device(device).type))


def choose(device: torch.device | str, dtype: torch.dtype = torch.bfloat16) -> str:
    """Name the fastest backend for this device and dtype (flash and varlen take bf16 and fp16 only)."""
    return next(name for name in available(device) if dtype in HALF or name not in ("flash", "varlen"))


def attention(
    q_THE: Tensor, k_THE: Tensor, v_THE: Tensor, packing: Packing, window: int | None, *, backend: str = "auto"
) -> Tensor:
    """Attend within each document and return o_THE; ``window`` is the reach on each side (|i - j| <= window)."""
    name = choose(q_THE.device, q_THE.dtype) if backend == "auto" else backend
    if name not in _BACKENDS:
        raise Refused(f"attention backend: found {name!r}, expected one of {list(_BACKENDS)}{nearest(name, _BACKENDS)}")
    return _BACKENDS[name](q_THE, k_THE, v_THE, packing, window)
