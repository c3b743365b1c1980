"""Attention over packed documents: one function, kernels that agree, and a twin that runs everywhere.

"sdpa" (any device) is in sdpa.py, with its figures; it alone can give the output of some tokens only. The kernels ("flash3",
"flash4" and "flash": flash-attn of that generation, the last one flash-attn 2; "varlen" and "flex": torch's) are CUDA only,
imported when first asked for: test_attention.py compares them where there is a GPU.

Shapes: T packed tokens, M some of them, H heads, E head width.
"""

from __future__ import annotations

import importlib.util
import inspect
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmenc.errors import Refused, nearest
from mmenc.model.packing import Packing
from mmenc.model.sdpa import sdpa, whole_documents

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ONLY_HALF", "Packing", "attention", "available", "choose", "takes_some_queries"]

HALF = (torch.bfloat16, torch.float16)


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


FLASH = {"flash3": "flash_attn_interface", "flash4": "flash_attn.cute", "flash": "flash_attn.flash_attn_interface"}
"""Modules of the generations of flash-attn; each is a package of its own (the third needs a Hopper GPU or newer)."""


def _flash(generation: str) -> Callable[..., Tensor]:
    def attend(q_THE: Tensor, k_THE: Tensor, v_THE: Tensor, packing: Packing, window: int | None) -> Tensor:
        kernel: Any = importlib.import_module(FLASH[generation]).flash_attn_varlen_func
        sides = {} if window is None else {"window_size": (window, window)}
        cu, longest = packing.cu_seqlens_N1, packing.max_len
        lengths = {"cu_seqlens_q": cu, "cu_seqlens_k": cu, "max_seqlen_q": longest, "max_seqlen_k": longest}
        found = kernel(q_THE, k_THE, v_THE, **lengths, **sides)
        out: Tensor = found[0] if isinstance(found, tuple) else found  # 4 and early versions of 3 also give the log-sums
        return out

    return attend


def _varlen_has_window() -> bool:
    """torch.nn.attention.varlen takes ``window_size`` in torch 2.13; a version without it cannot run local layers."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return "window_size" in inspect.signature(varlen_attn).parameters


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of its parent
        return False


@dataclass(frozen=True)
class Backend:
    """A row of the table: all that this package knows of a kernel."""

    attend: Callable[..., Tensor]
    device: str = "cuda"
    """Kind of device that it trains on; empty: any."""
    half: bool = False
    """Whether it takes bf16 and fp16 only."""
    usable: Callable[[], bool] = lambda: True
    """Whether what it needs is installed."""


# Fastest first. Another kernel is one row here, and tests/model/test_attention.py compares it with the dense softmax.
_BACKENDS: dict[str, Backend] = {
    **{name: Backend(_flash(name), half=True, usable=partial(_installed, module)) for name, module in FLASH.items()},
    "varlen": Backend(_varlen, half=True, usable=_varlen_has_window),
    "flex": Backend(_flex),
    "sdpa": Backend(sdpa, device=""),
}
ONLY_HALF = tuple(name for name, backend in _BACKENDS.items() if backend.half)


@lru_cache(maxsize=8)
def _usable(device_type: str) -> tuple[str, ...]:
    return tuple(name for name, b in _BACKENDS.items() if b.device in ("", device_type) and b.usable())


def available(device: torch.device | str) -> list[str]:
    """Name the backends that train on this device, fastest first; "sdpa" is always the last of them."""
    return list(_usable(torch.device(device).type))


def choose(device: torch.device | str, dtype: torch.dtype = torch.bfloat16) -> str:
    """Name the fastest backend for this device and dtype (flash-attn and varlen take bf16 and fp16 only)."""
    return next(name for name in available(device) if dtype in HALF or name not in ONLY_HALF)


def takes_some_queries(q_THE: Tensor, packing: Packing, window: int | None, backend: str = "auto") -> bool:
    """Whether `attention` can be asked for some tokens' output only: "sdpa" where every token sees its whole document."""
    name = choose(q_THE.device, q_THE.dtype) if backend == "auto" else backend
    return name == "sdpa" and whole_documents(packing, window)


def attention(
    q_THE: Tensor,
    k_THE: Tensor,
    v_THE: Tensor,
    packing: Packing,
    window: int | None,
    *,
    backend: str = "auto",
    at_M: Tensor | None = None,
) -> Tensor:
    """Attend within each document and return o_THE; ``window`` is the reach on each side (|i - j| <= window).

    With ``at_M`` (positions in ascending order, where `takes_some_queries`) q and the result hold those tokens only.
    """
    name = choose(q_THE.device, q_THE.dtype) if backend == "auto" else backend
    if name not in _BACKENDS:
        raise Refused(f"attention backend: found {name!r}, expected one of {list(_BACKENDS)}{nearest(name, _BACKENDS)}")
    if at_M is None:
        return _BACKENDS[name].attend(q_THE, k_THE, v_THE, packing, window)
    if name != "sdpa" or not whole_documents(packing, window):
        raise Refused(f"attention backend: {name} with window {window} gives the output of all tokens, not of some")
    return sdpa(q_THE, k_THE, v_THE, packing, window, at_M)
