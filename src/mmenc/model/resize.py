"""Start a narrow model from a wide one by striding: every k-th hidden index, every k-th head, the rest unchanged.

mmBERT-small began as mmBERT-base strided down, 768 → 384 and 12 → 6 heads with the same 22 layers and the same MLP width
(recipe.md section 2, after DistilBERT); its exact map is unpublished, so this takes index 0, k, 2k, … of each axis that
runs over the hidden width and keeps head size. Weights are not rescaled: the norms before every matrix do that.
Legend: H hidden, N heads, E head size, I intermediate, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmenc.errors import Refused
from mmenc.model.config import EncoderConfig


def stride_state(state: Mapping[str, Tensor], source: EncoderConfig, target: EncoderConfig) -> dict[str, Tensor]:
    """Return the strided tensors under the same names; Refused where the widths do not divide."""
    k, rest = divmod(source.hidden, target.hidden)
    if rest or source.heads != k * target.heads:
        raise Refused(
            f"model.resize: hidden {source.hidden} -> {target.hidden} and heads {source.heads} -> {target.heads} are not "
            f"strides of one whole number"
        )
    for name in ("layers", "intermediate", "vocab_size"):
        if getattr(source, name) != getattr(target, name):
            raise Refused(
                f"model.{name}: the source has {getattr(source, name)}, the recipe {getattr(target, name)}; expected equal"
            )
    size = source.head_dim

    def heads(x_HD: Tensor) -> Tensor:
        return x_HD.view(source.heads, size, -1)[::k].reshape(target.heads * size, -1)

    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith("Wqkv.weight"):
            q, key, v = tensor[:, ::k].reshape(3, source.hidden, -1).unbind(0)
            new = torch.cat([heads(q), heads(key), heads(v)])
        elif name.endswith("attn.Wo.weight"):
            new = heads(tensor[::k].T.contiguous()).T
        elif name.endswith("mlp.Wo.weight"):
            new = tensor[::k]
        elif name == "decoder.bias":
            new = tensor
        elif name == "head.dense.weight":
            new = tensor[::k, ::k]
        else:  # embeddings (V, H), Wi (2I, H), norms (H)
            new = tensor[..., ::k]
        out[name] = new.contiguous()
    return out
