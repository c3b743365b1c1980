"""TIES-Merging of tensors (Yadav et al. 2023, arXiv 2306.01708), and weighted means: the arithmetic, without any choice.

Trim: from each branch's difference to the base keep the `density` largest by magnitude, per tensor (the authors' code trims over
all tensors at once; per tensor, as mergekit and PEFT do, no tensor is left out because its values are small). Elect: per
parameter the sign of the weighted sum of what is left. Disjoint mean: the weighted mean of the values that have that
sign. `scale` (the paper's lambda) multiplies it. Weights and scale act as in mergekit with `normalize: true`: the test
holds its numbers. Legend: B branches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


def trim(delta: Tensor, density: float) -> Tensor:
    """Keep the `density` share of entries that are largest by magnitude (at least one), zero the rest."""
    keep = max(1, round(density * delta.numel()))
    if keep >= delta.numel():
        return delta
    flat = delta.flatten()
    chosen = flat.abs().topk(keep).indices
    out = torch.zeros_like(flat)
    out[chosen] = flat[chosen]
    return out.view_as(delta)


def ties(
    base: Tensor, branches: Sequence[Tensor], density: float, scale: float = 1.0, weights: Sequence[float] = ()
) -> tuple[Tensor, float]:
    """TIES for one tensor; also the share of non-zero entries whose branches all agree in sign. No weights: all equal."""
    weight_B = torch.tensor(weights or [1.0] * len(branches), dtype=base.dtype).view(-1, *[1] * base.ndim)
    delta_B = torch.stack([trim(b - base, density) for b in branches]) * weight_B
    elected = torch.sign(delta_B.sum(0))
    agree_B = (torch.sign(delta_B) == elected) & (delta_B != 0)
    total = (weight_B * agree_B).sum(0)
    merged = (delta_B * agree_B).sum(0) / torch.where(total > 0, total, 1.0)
    present = (delta_B != 0).any(0)
    united = present & ((torch.sign(delta_B) == elected) | (delta_B == 0)).all(0)
    return base + scale * merged, float(united.sum() / present.sum().clamp(min=1))


def merge_ties(
    base: Tensors, branches: Sequence[Tensors], density: float, scale: float = 1.0, weights: Sequence[float] = ()
) -> tuple[dict[str, Tensor], float]:
    """Merge whole checkpoints in float32; also the sign agreement, weighted by the size of the tensors."""
    merged: dict[str, Tensor] = {}
    agreement = size = 0.0
    for name in sorted(base):
        tensors = [b[name].float() for b in branches]
        merged[name], share = ties(base[name].float(), tensors, density, scale, weights)
        agreement += share * tensors[0].numel()
        size += tensors[0].numel()
    return merged, agreement / size


def weighted(states: Sequence[Tensors], weights: Sequence[float]) -> dict[str, Tensor]:
    """Weighted mean of checkpoints in float32."""
    total = sum(weights)
    return {n: torch.stack([s[n].float() * (w / total) for s, w in zip(states, weights, strict=True)]).sum(0) for n in states[0]}
