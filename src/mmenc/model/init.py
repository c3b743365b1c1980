"""Random start: ModernBERT's "full_megatron" as mmBERT uses it (recipe notes section 1), from one integer seed.

Every matrix is a truncated normal cut at +-2 sigma (sigma is that of the uncut normal; what is left has 0.8796 sigma):
0.02 for embeddings, Wqkv, Wi and the prediction head's dense, 0.02 / sqrt(2 * layers) for both Wo. Norms are 1. The
decoder bias is U(+-1/sqrt(D)): ModernBERT skips the tied decoder, so torch's default for a bias stays.

Each tensor has its own CPU generator seeded by (seed, name): no draw depends on another tensor, on the device or on the
global random state. The same torch version gives the same bits; torch promises nothing across versions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmenc.model.encoder import derive_seed
from mmenc.model.head import MaskedLM

if TYPE_CHECKING:
    from mmenc.model.config import EncoderConfig


def _draw(name: str, shape: torch.Size, cfg: EncoderConfig, seed: int) -> Tensor:
    """Return the fp32 start value of the parameter ``name``."""
    out = torch.empty(shape, dtype=torch.float32, device="cpu")
    generator = torch.Generator(device="cpu").manual_seed(derive_seed("init", seed, name))
    if name.endswith("norm.weight"):
        return out.fill_(1.0)
    if name == "decoder.bias":
        return out.uniform_(-(cfg.hidden**-0.5), cfg.hidden**-0.5, generator=generator)
    std = cfg.initializer_range / (math.sqrt(2.0 * cfg.layers) if name.endswith("Wo.weight") else 1.0)
    bound = cfg.cutoff * std
    return nn.init.trunc_normal_(out, std=std, a=-bound, b=bound, generator=generator)


@torch.no_grad()
def initialise(model: MaskedLM, seed: int) -> MaskedLM:
    """Fill every parameter of ``model`` in place as a function of (seed, configuration, torch version)."""
    for name, parameter in model.named_parameters():
        parameter.copy_(_draw(name, parameter.shape, model.cfg, seed))
    return model


def build(cfg: EncoderConfig, seed: int) -> MaskedLM:
    """Make a new randomly initialised model on the CPU, in fp32."""
    return initialise(MaskedLM(cfg), seed)
