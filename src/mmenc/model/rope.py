"""Rotary positions (RoPE), half-rotation form over the whole head width, as ModernBERT (not interleaved).

Decision: one autograd.Function, because the gradient of a rotation is the rotation by the opposite angle: nothing but
the angles is kept for the backward pass. Angles and products are fp32; the result has the input's dtype. On a CPU a pair
(f, f + F) is one complex number: the rows of Wqkv are put in that order (scores do not see the order of a head's
dimensions), and a rotation is one product: q and k of 4096 x 2 x 64, two cores, 0.13 ms; by halves 1.46 ms.

Shapes: T packed tokens, P positions, G parts of a projection (q, k, v), H heads, E head width, F = E / 2, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


@lru_cache(maxsize=16)
def table(positions: int, theta: float, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cos_PF and sin_PF in fp32 for positions 0 .. positions-1; the frequencies are theta^(-2f/E)."""
    with torch.autocast(device.type, enabled=False), torch.inference_mode(False), torch.no_grad():
        exponent_F = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
        angle_PF = torch.arange(positions, dtype=torch.float32, device=device)[:, None] * (1.0 / theta**exponent_F)
        return angle_PF.cos(), angle_PF.sin()


def _turn(x_TGHE: Tensor, cos_TF: Tensor, sin_TF: Tensor) -> Tensor:
    """Rotate each pair (x_f, x_{f+F}) by its angle; shape and dtype stay."""
    a, b = x_TGHE.float().chunk(2, dim=-1)
    cos, sin = cos_TF[:, None, None], sin_TF[:, None, None]
    return torch.cat((torch.addcmul(a * cos, b, sin, value=-1), torch.addcmul(b * cos, a, sin)), -1).to(x_TGHE.dtype)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TGHE: Tensor, cos_TF: Tensor, sin_TF: Tensor) -> Tensor:
        ctx.save_for_backward(cos_TF, sin_TF)
        return _turn(x_TGHE, cos_TF, sin_TF)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos_TF, sin_TF = ctx.saved_tensors
        return _turn(grads[0], cos_TF, -sin_TF), None, None


def rotate(x_TGHE: Tensor, cos_TF: Tensor, sin_TF: Tensor) -> Tensor:
    """Rotate queries and keys together: (T, G, H, E) with the angles of each token's position in its document."""
    out: Tensor = _Rotate.apply(x_TGHE, cos_TF, sin_TF)  # type: ignore[no-untyped-call]
    return out


@dataclass(frozen=True, eq=False)
class Angles:
    """The angle of every token's position, as cos and sin and (on a CPU) as complex numbers."""

    cos_TF: Tensor
    sin_TF: Tensor
    turn_TF: Tensor | None
    back_TF: Tensor | None

    @classmethod
    def of(cls, cos_TF: Tensor, sin_TF: Tensor) -> Angles:
        """With the complex numbers where they are used."""
        if cos_TF.device.type != "cpu":
            return cls(cos_TF, sin_TF, None, None)
        return cls(cos_TF, sin_TF, torch.complex(cos_TF, sin_TF), torch.complex(cos_TF, -sin_TF))

    def at(self, index_M: Tensor) -> Angles:
        """Those of some tokens."""
        return Angles.of(self.cos_TF.index_select(0, index_M), self.sin_TF.index_select(0, index_M))


@lru_cache(maxsize=16)
def _paired(heads: int, head_dim: int, device: torch.device) -> Tensor:
    """Rows of Wqkv with q's and k's pairs (f, f + F) side by side; v's as they are."""
    with torch.inference_mode(False):
        row_GHE = torch.arange(3 * heads * head_dim, device=device).view(3, heads, head_dim)
        pairs = row_GHE[:2].view(2, heads, 2, -1).transpose(-1, -2).flatten(-2)
        return torch.cat((pairs, row_GHE[2:])).flatten()


def in_turning_order(weight: Tensor, heads: int, head_dim: int) -> Tensor:
    """Wqkv as `turned` wants its rows on this device."""
    if weight.device.type != "cpu":
        return weight
    return weight.index_select(0, _paired(heads, head_dim, weight.device))


class _Turned(torch.autograd.Function):
    """The parts of a projection, the first ``count`` rotated, each contiguous; their gradients go into one tensor."""

    @staticmethod
    def _product(x_THE: Tensor, turn_TF: Tensor) -> Tensor:
        x = x_THE.float()
        x = x if x.stride(-1) == 1 else x.contiguous()
        z_THF = torch.view_as_complex(x.view(*x.shape[:-1], x.shape[-1] // 2, 2))
        return torch.view_as_real(z_THF * turn_TF[:, None]).flatten(-2).to(x_THE.dtype)

    @staticmethod
    def forward(ctx: Any, x_TGHE: Tensor, turn_TF: Tensor, back_TF: Tensor, count: int) -> tuple[Tensor, ...]:
        ctx.save_for_backward(back_TF)
        ctx.count = count
        parts = x_TGHE.unbind(1)
        return (*(_Turned._product(x, turn_TF) for x in parts[:count]), *(x.clone() for x in parts[count:]))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (back_TF,) = ctx.saved_tensors
        first = grads[0]
        total = first.new_empty((len(first), len(grads), *first.shape[1:]))
        for i, grad in enumerate(grads):
            total[:, i] = _Turned._product(grad, back_TF) if i < ctx.count else grad
        return total, None, None, None


def turned(x_TGHE: Tensor, angles: Angles, count: int) -> tuple[Tensor, ...]:
    """The G parts of a projection by `in_turning_order`, the first ``count`` of them rotated."""
    if angles.turn_TF is None:
        first = rotate(x_TGHE[:, :count], angles.cos_TF, angles.sin_TF)
        return (*first.unbind(1), *x_TGHE[:, count:].unbind(1))
    out: tuple[Tensor, ...] = _Turned.apply(x_TGHE, angles.turn_TF, angles.back_TF, count)  # type: ignore[no-untyped-call]
    return out
