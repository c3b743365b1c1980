"""What an encoder is: one frozen dataclass, checked when made, and its parameter counts by formula.

The architecture is ModernBERT's as mmBERT trains it (recipe notes section 1): pre-norm, no biases, GeGLU, RoPE,
every third layer global and the others local. The defaults below are mmBERT's; sizes have no default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmenc.errors import Refused

if TYPE_CHECKING:
    from mmenc.recipe import Recipe
    from mmenc.sections import Phase

UNSET = -1  # a special-token id that the source of the configuration did not state: ask the tokenizer


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes and constants of one encoder; ``window`` is the total local window (128 = 64 tokens each side)."""

    vocab_size: int
    hidden: int
    layers: int
    heads: int
    intermediate: int  # width of one GLU branch: Wi is hidden -> 2 * intermediate
    window: int = 128  # mmBERT `sliding_window: 128`
    global_every: int = 3  # layer i is global iff i % global_every == 0
    rope_theta_global: float = 10_000.0  # phase 1; phases 2 and 3 use 160,000
    rope_theta_local: float = 10_000.0  # mmBERT keeps it equal to the global one, ModernBERT leaves it at 10,000
    max_position: int = 1024  # longest document, in tokens
    norm_eps: float = 1e-5  # all six mmBERT YAMLs (the paper's 1e-12 is an unused inherited key)
    attn_out_dropout: float = 0.1  # mmBERT `attn_out_dropout_prob`; every other dropout is 0
    initializer_range: float = 0.02
    cutoff: float = 2.0  # truncated normal, cut at this many standard deviations
    pad_id: int = 0  # mmBERT's tokenizer (Gemma 2): pad 0, eos 1, bos 2, unk 3, mask 4
    eos_id: int = 1
    bos_id: int = 2
    unk_id: int = 3
    mask_id: int = 4

    def __post_init__(self) -> None:
        sizes = "vocab_size hidden layers heads intermediate window global_every max_position"
        for name in sizes.split():
            if getattr(self, name) < 1:
                raise Refused(f"model.{name}: found {getattr(self, name)}, expected a positive integer")
        if self.hidden % self.heads or self.head_dim % 2:
            raise Refused(f"model.heads: {self.heads} heads do not divide hidden {self.hidden} into even head widths")
        if self.window % 2:
            raise Refused(f"model.window: found {self.window}, expected an even number (half of it on each side)")
        if not 0.0 <= self.attn_out_dropout < 1.0:
            raise Refused(f"model.attn_out_dropout: found {self.attn_out_dropout}, expected 0 <= p < 1")
        for name in ("pad_id", "eos_id", "bos_id", "unk_id", "mask_id"):
            if not UNSET <= getattr(self, name) < self.vocab_size:
                raise Refused(f"model.{name}: found {getattr(self, name)}, expected an id below {self.vocab_size}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head (64 in mmBERT)."""
        return self.hidden // self.heads

    @property
    def reach(self) -> int:
        """Tokens that a local layer sees on each side: |i - j| <= reach, as flash-attn's window (64, 64)."""
        return self.window // 2

    def is_global(self, layer: int) -> bool:
        """Whether ``layer`` attends to the whole document."""
        return layer % self.global_every == 0

    def theta(self, layer: int) -> float:
        """RoPE base of ``layer``."""
        return self.rope_theta_global if self.is_global(layer) else self.rope_theta_local


def parameter_counts(cfg: EncoderConfig) -> dict[str, int]:
    """Count parameters by formula: all (MLM model), backbone (without the head), and backbone without embeddings.

    mmBERT-small 140,897,536 / 140,493,696 / 42,189,696; mmBERT-base 307,786,240 / 306,939,648 / 110,331,648.
    """
    width, inner = cfg.hidden, cfg.intermediate
    matrices = 4 * width * width + 3 * width * inner  # Wqkv, Wo | Wi (two branches), Wo
    norms = 2 * cfg.layers - 1 + 2  # layer 0 has no attention norm; + embedding norm, final norm
    non_embedding = cfg.layers * matrices + norms * width
    backbone = non_embedding + cfg.vocab_size * width
    head = width * width + width + cfg.vocab_size  # dense, norm, decoder bias (decoder weight is tied)
    return {"parameters": backbone + head, "backbone": backbone, "non_embedding": non_embedding}


def encoder_config(recipe: Recipe, phase: Phase | None = None) -> EncoderConfig:
    """Return the encoder that a recipe describes, with the context and RoPE base of a phase where one is given."""
    m = recipe.model
    return EncoderConfig(
        vocab_size=recipe.tokenizer.vocab_size,
        hidden=m.hidden,
        layers=m.layers,
        heads=m.heads,
        intermediate=m.intermediate,
        window=m.window,
        global_every=m.global_every,
        rope_theta_global=phase.rope_theta if phase else 10_000.0,
        rope_theta_local=(phase.rope_theta_local or phase.rope_theta) if phase else 10_000.0,
        max_position=phase.context if phase else 1024,
        norm_eps=m.norm_eps,
        attn_out_dropout=m.attn_out_dropout,
        initializer_range=m.initializer_range,
    )
