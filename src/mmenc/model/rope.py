"""Rotary positions (RoPE), half-rotation form over the whole head width, as ModernBERT (not interleaved).

Decision: one autograd.Function, because the gradient of a rotation is the rotation by the opposite angle: nothing but
cos and sin is kept for the backward pass. Angles and products are fp32; the result has the input's dtype.

Shapes: T packed tokens, P positions, G how many of q, k are rotated together, H heads, E head width, F = E / 2.
"""

from __future__ import annotations

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
