"""The encoder: ModernBERT's architecture on packed documents, under transformers' parameter names.

Decision: a forward pass takes one packed row of T tokens and a Packing, never a padded batch; real documents would be
60 % padding (median 147 tokens in rows of 512). Parameter names are those of transformers' ModernBertModel, so that
our state dict is the Hugging Face one. Modules start at zero and take nothing from the global random state: init.py
fills them. Dropout (attention output only, as mmBERT) is a function of ``dropout_seed``: no seed, no dropout.

Shapes: T packed tokens, D width, H heads, E head width, I GLU branch width, F = E / 2.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmenc.errors import Refused
from mmenc.model.attention import Packing, attention
from mmenc.model.rope import rotate, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmenc.model.config import EncoderConfig

__all__ = ["Draw", "Encoder", "Layer", "Linear", "Packing", "derive_seed", "dropout"]


class Draw(NamedTuple):
    """Tokens [low, high) of the dropout of `tokens` tokens under one seed: what a process drops that holds a part of them."""

    seed: int
    tokens: int
    low: int
    high: int


Dropout: TypeAlias = "int | Sequence[Draw] | None"
"""A seed for all tokens, or draws that cover them one after the other; None: no dropout."""


def derive_seed(*parts: int | str) -> int:
    """Mix parts into 32 bits by BLAKE2b: torch's CPU generator reads only the low 32 bits of its seed."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=4).digest(), "big")


def _bits(draw: Draw, width: int, device: torch.device) -> Tensor:
    """Return random int16 bits_TD of a draw's tokens; drawn whole, because CUDA's numbers depend on how many are drawn."""
    generator = torch.Generator(device=device).manual_seed(draw.seed)
    words = torch.empty(-(-draw.tokens * width // 4), dtype=torch.int64, device=device)
    words.random_(-(2**63), None, generator=generator)
    return words.view(torch.int16)[draw.low * width : draw.high * width].view(-1, width)


def dropout(x_TD: Tensor, p: float, seed: int | Sequence[Draw]) -> Tensor:
    """Drop with probability p (to 1/65536) as a function of (seed, shape, device type) on one torch version.

    Each 64-bit draw decides four elements: on a CPU 1.0 ms for 4096 x 128, against 3.3 ms by bernoulli_.
    """
    tokens, width = x_TD.shape
    level = round(p * 65536)
    draws = [Draw(seed, tokens, 0, tokens)] if isinstance(seed, int) else seed
    bits = [_bits(draw, width, x_TD.device) for draw in draws]
    keep = (bits[0] if len(bits) == 1 else torch.cat(bits)) >= level - 32768
    return x_TD * (keep.to(x_TD.dtype) * (65536 / (65536 - level)))


class Linear(nn.Linear):
    """A projection without bias that starts at zero (torch's default would draw from the global random state)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        """Start at zero."""
        nn.init.zeros_(self.weight)


class Embeddings(nn.Module):
    """Token embedding and its norm; no positions (RoPE), no types. Padding has no special row: nothing is padded."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        start = torch.zeros(cfg.vocab_size, cfg.hidden)
        self.tok_embeddings = nn.Embedding(cfg.vocab_size, cfg.hidden, _weight=start)
        self.norm = nn.LayerNorm(cfg.hidden, eps=cfg.norm_eps, bias=False)

    def forward(self, ids_T: Tensor) -> Tensor:
        """Return x_TD."""
        out: Tensor = self.norm(self.tok_embeddings(ids_T))
        return out


class Attention(nn.Module):
    """Wqkv (rows ordered q, k, v), RoPE on q and k, attention within documents, Wo, dropout on the output."""

    def __init__(self, cfg: EncoderConfig, layer: int) -> None:
        super().__init__()
        self.heads, self.head_dim, self.layer, self.p = cfg.heads, cfg.head_dim, layer, cfg.attn_out_dropout
        self.window = None if cfg.is_global(layer) else cfg.reach
        self.Wqkv = Linear(cfg.hidden, 3 * cfg.hidden)
        self.Wo = Linear(cfg.hidden, cfg.hidden)

    def forward(
        self, x_TD: Tensor, packing: Packing, angles: tuple[Tensor, Tensor], backend: str, dropout_seed: Dropout
    ) -> Tensor:
        """Return the update y_TD of the residual stream; ``angles`` are cos_TF, sin_TF."""
        qkv = self.Wqkv(x_TD).view(-1, 3, self.heads, self.head_dim)
        q_THE, k_THE = rotate(qkv[:, :2], *angles).unbind(1)
        o_THE = attention(q_THE, k_THE, qkv[:, 2], packing, self.window, backend=backend)
        y_TD: Tensor = self.Wo(o_THE.flatten(1))
        if dropout_seed is None or self.p == 0.0:
            return y_TD
        if isinstance(dropout_seed, int):
            return dropout(y_TD, self.p, derive_seed(dropout_seed, self.layer))
        return dropout(y_TD, self.p, [draw._replace(seed=derive_seed(draw.seed, self.layer)) for draw in dropout_seed])


class Mlp(nn.Module):
    """GeGLU: gelu(first half of Wi x) * second half, exact GELU, then Wo."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.Wi = Linear(cfg.hidden, 2 * cfg.intermediate)
        self.Wo = Linear(cfg.intermediate, cfg.hidden)

    def forward(self, x_TD: Tensor) -> Tensor:
        """Return the update y_TD of the residual stream."""
        first_TI, second_TI = self.Wi(x_TD).chunk(2, dim=-1)
        out: Tensor = self.Wo(F.gelu(first_TI) * second_TI)
        return out


class Layer(nn.Module):
    """Pre-norm block; layer 0 has no attention norm, because the embedding norm comes right before it."""

    def __init__(self, cfg: EncoderConfig, layer: int) -> None:
        super().__init__()
        norm = nn.Identity() if layer == 0 else nn.LayerNorm(cfg.hidden, eps=cfg.norm_eps, bias=False)
        self.attn_norm: nn.Module = norm
        self.attn = Attention(cfg, layer)
        self.mlp_norm = nn.LayerNorm(cfg.hidden, eps=cfg.norm_eps, bias=False)
        self.mlp = Mlp(cfg)

    def forward(
        self, x_TD: Tensor, packing: Packing, angles: tuple[Tensor, Tensor], backend: str, dropout_seed: Dropout
    ) -> Tensor:
        """Return x_TD after attention and MLP."""
        x_TD = x_TD + self.attn(self.attn_norm(x_TD), packing, angles, backend, dropout_seed)
        out: Tensor = x_TD + self.mlp(self.mlp_norm(x_TD))
        return out


class Encoder(nn.Module):
    """ids_T and a Packing in, x_TD out. ``backend`` names an attention backend, "auto" takes the fastest."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.cfg, self.backend = cfg, "auto"
        self.checkpointing = False
        """Keep only each layer's input for the backward pass and compute the layer again: less memory, a third more work."""
        self.embeddings = Embeddings(cfg)
        self.layers = nn.ModuleList(Layer(cfg, i) for i in range(cfg.layers))
        self.final_norm = nn.LayerNorm(cfg.hidden, eps=cfg.norm_eps, bias=False)

    def angles(self, packing: Packing, theta: float) -> tuple[Tensor, Tensor]:
        """Return cos_TF and sin_TF for the packed positions, gathered once per packing and base."""

        def gather() -> tuple[Tensor, Tensor]:
            cos_PF, sin_PF = table(self.cfg.max_position, theta, self.cfg.head_dim, packing.position_T.device)
            return cos_PF[packing.position_T], sin_PF[packing.position_T]

        made: tuple[Tensor, Tensor] = packing.once(("rope", theta, self.cfg.head_dim), gather)
        return made

    def forward(self, ids_T: Tensor, packing: Packing, dropout_seed: Dropout = None) -> Tensor:
        """Encode packed documents; a token sees its own document only, and positions restart with each document."""
        cfg = self.cfg
        if packing.max_len > cfg.max_position:
            raise Refused(f"encoder: found a document of {packing.max_len} tokens, expected at most {cfg.max_position}")
        x_TD = self.embeddings(ids_T)
        for i, layer in enumerate(self.layers):
            args = (x_TD, packing, self.angles(packing, cfg.theta(i)), self.backend, dropout_seed)
            # Dropout is a function of its seed, so the second computation is the first, bit for bit.
            again = self.checkpointing and torch.is_grad_enabled()
            x_TD = checkpoint(layer, *args, use_reentrant=False) if again else layer(*args)
        out: Tensor = self.final_norm(x_TD)
        return out
