"""Start a model from one of another size: strided down to a narrower one, or tiled up to a wider and deeper one.

Decision: both are one list of source indices per axis (hidden width, heads, MLP, layers), so what goes where can be read
off and tested index by index. Weights are never rescaled. Masked-LM loss in nats before any training, from the default
run's extension (width 128, 4 layers: 4.72; random weights 9.1 to 9.2): strided to 64 6.82; tiled to 7 layers 4.98, to width
256 8.78, to 384 15.2: sums over a repeated width grow with it, so what tiling far brings shows only after some steps.

`stride`, as mmBERT-small began as mmBERT-base (768 → 384, 12 → 6 heads, same 22 layers and MLP; recipe.md section 2, after
DistilBERT): indices 0, k, 2k, … of the hidden width, every k-th head, whole. The authors' fork of the training code
(JHU-CLSP/ModernBERT, src/bert_layers/initialization.py, `subselect_strided`) takes every k-th row of q, k and v instead:
there one head of the small model is made of the even rows of two, and RoPE turns pairs that never belonged together. Ours keeps
heads (6.82 against 6.86 in the case above). Their norms end on the last index; their final norm is fresh.

`tile`, as ModernBERT-large began as ModernBERT-base: `tile_weights_from_middle` of the same file (wraparound from the middle,
after Phi): index j of N takes (j − ⌊(N − n) / 2⌋) mod n of n, for q, k, v and both halves of Wi apart; layer i of L takes
round(i · l / L) of l (Gopher). Two things differ: heads are tiled whole (the same as long as they grow by an even number),
and the final norm is tiled too (theirs starts at 1). Layers that round beyond the last take the last. A norm that the
source's first layer lacks starts at 1.

Legend: H hidden, N heads, E head size, I intermediate, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmenc.errors import Refused
from mmenc.model.config import EncoderConfig

SAME = ("vocab_size", "window", "global_every", "norm_eps")
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Map:
    """Source index of every index of the target, by axis; `rows_H` are rows of q, k or v: heads, and E inside each."""

    hidden_H: Tensor
    rows_H: Tensor
    inner_I: Tensor
    layers: list[int]


def middle(source: int, target: int) -> Tensor:
    """Source index of each target index where the source lies in the middle and repeats to both sides."""
    return (torch.arange(target) - (target - source) // 2) % source


def _rows(heads_N: Tensor, size: int) -> Tensor:
    return (heads_N[:, None] * size + torch.arange(size)).flatten()


def _equal(source: EncoderConfig, target: EncoderConfig, *names: str) -> None:
    for name in names:
        if getattr(source, name) != getattr(target, name):
            raise Refused(
                f"model.{name}: the source has {getattr(source, name)}, the recipe {getattr(target, name)}; expected equal"
            )


def stride_map(source: EncoderConfig, target: EncoderConfig) -> Map:
    """Every k-th hidden index and head; Refused where the widths do not divide."""
    k, rest = divmod(source.hidden, target.hidden)
    if rest or source.heads != k * target.heads:
        raise Refused(
            f"model.resize: hidden {source.hidden} -> {target.hidden} and heads {source.heads} -> {target.heads} are not "
            f"strides of one whole number"
        )
    _equal(source, target, "layers", "intermediate", *SAME)
    rows_H = _rows(torch.arange(0, source.heads, k), source.head_dim)
    return Map(torch.arange(0, source.hidden, k), rows_H, torch.arange(source.intermediate), list(range(source.layers)))


def tile_map(source: EncoderConfig, target: EncoderConfig) -> Map:
    """From the middle to both sides; Refused where anything shrinks or heads have another size."""
    for name in ("hidden", "intermediate", "layers"):
        if getattr(target, name) < getattr(source, name):
            raise Refused(
                f"model.{name}: the source has {getattr(source, name)}, the recipe {getattr(target, name)}; "
                f"expected as many or more to tile it"
            )
    if source.head_dim != target.head_dim:
        raise Refused(
            f"model.heads: heads of the source are {source.head_dim} wide, the recipe's {target.head_dim}; expected equal"
        )
    _equal(source, target, *SAME)
    layers = [min(round(i * source.layers / target.layers), source.layers - 1) for i in range(target.layers)]
    return Map(
        middle(source.hidden, target.hidden),
        _rows(middle(source.heads, target.heads), source.head_dim),
        middle(source.intermediate, target.intermediate),
        layers,
    )


def resize_state(state: Mapping[str, Tensor], source: EncoderConfig, target: EncoderConfig, how: str) -> dict[str, Tensor]:
    """Return the resized tensors under the target's names; `how` is `stride` or `tile`."""
    chosen = stride_map(source, target) if how == "stride" else tile_map(source, target)
    h, inner = chosen.hidden_H, chosen.inner_I
    qkv = torch.cat([chosen.rows_H + part * source.hidden for part in range(3)])
    axes: dict[str, tuple[Tensor | None, ...]] = {  # rows, columns; None: as it is
        "attn.Wqkv.weight": (qkv, h),
        "attn.Wo.weight": (h, chosen.rows_H),
        "mlp.Wi.weight": (torch.cat([inner, inner + source.intermediate]), h),
        "mlp.Wo.weight": (h, inner),
        "head.dense.weight": (h, h),
        "model.embeddings.tok_embeddings.weight": (None, h),
        "decoder.bias": (None,),
    }

    def taken(name: str, tensor: Tensor) -> Tensor:
        for axis, index in enumerate(axes.get(name, (h,))):  # the others are norms (H)
            tensor = tensor if index is None else tensor.index_select(axis, index)
        return tensor.contiguous()

    out = {name: taken(name, tensor) for name, tensor in state.items() if not LAYER.match(name)}
    parts = sorted({found[2] for name in state if (found := LAYER.match(name))})
    for new, old in enumerate(chosen.layers):
        for part in parts:
            if new == 0 and part == "attn_norm.weight":
                continue
            tensor = state.get(f"model.layers.{old}.{part}")
            fresh = torch.ones(target.hidden)  # the first layer's missing norm
            out[f"model.layers.{new}.{part}"] = fresh if tensor is None else taken(part, tensor)
    return out
