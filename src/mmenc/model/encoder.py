"""The encoder: ModernBERT's architecture on packed documents, under transformers' parameter names.

Decision: a forward pass takes one packed row of T tokens and a Packing, never a padded batch; real documents would be
60 % padding (median 147 tokens in rows of 512). Parameter names are those of transformers' ModernBertModel, so that
our state dict is the Hugging Face one. Modules start at zero and take nothing from the global random state: init.py
fills them. Dropout (attention output only, as mmBERT) is a function of ``dropout_seed``: no seed, no dropout.

Shapes: T packed tokens, M some of them, D width, H heads, E head width, I GLU branch width, J = 2 I, F = E / 2.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmenc.errors import Refused
from mmenc.model.attention import Packing, attention, choose, takes_some_queries
from mmenc.model.rope import Angles, in_turning_order, table, turned

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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


def _of_layer(seed: Dropout, layer: int) -> Dropout:
    """The same draws with the seeds of one layer."""
    if seed is None or isinstance(seed, int):
        return None if seed is None else derive_seed(seed, layer)
    return [draw._replace(seed=derive_seed(draw.seed, layer)) for draw in seed]


def _bits(draw: Draw, width: int, device: torch.device) -> Tensor:
    """Return random int16 bits_TD of a draw's tokens; drawn whole, because CUDA's numbers depend on how many are drawn."""
    generator = torch.Generator(device=device).manual_seed(draw.seed)
    words = torch.empty(-(-draw.tokens * width // 4), dtype=torch.int64, device=device)
    words.random_(-(2**63), None, generator=generator)
    return words.view(torch.int16)[draw.low * width : draw.high * width].view(-1, width)


def dropout(
    x_TD: Tensor,
    p: float,
    seed: int | Sequence[Draw],
    at_M: Tensor | None = None,
    tokens: int | None = None,
    draw_bits: Callable[[Draw, int, torch.device], Tensor] = _bits,
) -> Tensor:
    """Drop with probability p (to 1/65536) as a function of (seed, shape, device type) on one torch version.

    Each 64-bit draw decides four elements: on a CPU 1.0 ms for 4096 x 128, against 3.3 ms by bernoulli_. With ``at_M``, x
    holds these of ``tokens`` tokens, and they are dropped as they would be among all.
    """
    tokens, width = tokens or len(x_TD), x_TD.shape[1]
    level = round(p * 65536)
    draws = [Draw(seed, tokens, 0, tokens)] if isinstance(seed, int) else seed
    drawn = [draw_bits(draw, width, x_TD.device) for draw in draws]
    bits = drawn[0] if len(drawn) == 1 else torch.cat(drawn)
    keep = (bits if at_M is None else bits[at_M]) >= level - 32768
    return x_TD * keep * (65536 / (65536 - level))  # in this order: the factor itself is no bf16 number


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
        self.heads, self.head_dim, self.p = cfg.heads, cfg.head_dim, cfg.attn_out_dropout
        self.window = None if cfg.is_global(layer) else cfg.reach
        self.Wqkv = Linear(cfg.hidden, 3 * cfg.hidden)
        self.Wo = Linear(cfg.hidden, cfg.hidden)
        self.attend, self.draw_bits = attention, _bits

    def forward(
        self, x_TD: Tensor, packing: Packing, angles: Angles, backend: str, dropout_seed: Dropout, at_M: Tensor | None = None
    ) -> Tensor:
        """Return the update y_TD of the residual stream, or y_MD at some positions (ascending)."""
        heads, size = self.heads, self.head_dim
        weight = in_turning_order(self.Wqkv.weight, heads, size)
        if at_M is not None and takes_some_queries(x_TD, packing, self.window, backend):
            width = heads * size
            (q_MHE,) = turned(F.linear(x_TD.index_select(0, at_M), weight[:width]).view(-1, 1, heads, size), angles.at(at_M), 1)
            k_THE, v_THE = turned(F.linear(x_TD, weight[width:]).view(-1, 2, heads, size), angles, 1)
            o_MHE = self.attend(q_MHE, k_THE, v_THE, packing, self.window, backend=backend, at_M=at_M)
        else:
            q_THE, k_THE, v_THE = turned(F.linear(x_TD, weight).view(-1, 3, heads, size), angles, 2)
            o_THE = self.attend(q_THE, k_THE, v_THE, packing, self.window, backend=backend)
            o_MHE = o_THE if at_M is None else o_THE.index_select(0, at_M)
        y_MD: Tensor = self.Wo(o_MHE.flatten(1))
        if dropout_seed is None or self.p == 0.0:
            return y_MD
        return dropout(y_MD, self.p, dropout_seed, at_M, len(x_TD), self.draw_bits)


class _GeGlu(torch.autograd.Function):
    """gelu(first half) * second half; the gradient is written into one tensor, where autograd concatenates two."""

    @staticmethod
    def forward(ctx: Any, h_TJ: Tensor) -> Tensor:
        first_TI, second_TI = h_TJ.chunk(2, dim=-1)
        gelu_TI = F.gelu(first_TI)
        ctx.save_for_backward(h_TJ, gelu_TI)
        return gelu_TI * second_TI

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        h_TJ, gelu_TI = ctx.saved_tensors
        first_TI, second_TI = h_TJ.chunk(2, dim=-1)
        total = torch.empty_like(h_TJ)
        into_first, into_second = total.chunk(2, dim=-1)
        torch.mul(grads[0], gelu_TI, out=into_second)
        torch.ops.aten.gelu_backward.grad_input(grads[0] * second_TI, first_TI, grad_input=into_first)
        return total


class Mlp(nn.Module):
    """GeGLU: gelu(first half of Wi x) * second half, exact GELU, then Wo."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.Wi = Linear(cfg.hidden, 2 * cfg.intermediate)
        self.Wo = Linear(cfg.intermediate, cfg.hidden)

    def forward(self, x_TD: Tensor) -> Tensor:
        """Return the update y_TD of the residual stream."""
        out: Tensor = self.Wo(_GeGlu.apply(self.Wi(x_TD)))  # type: ignore[no-untyped-call]
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
        self, x_TD: Tensor, packing: Packing, angles: Angles, backend: str, dropout_seed: Dropout, at_M: Tensor | None = None
    ) -> Tensor:
        """Return x_TD after attention and MLP, or x_MD at some positions."""
        y_MD = self.attn(self.attn_norm(x_TD), packing, angles, backend, dropout_seed, at_M)
        x_MD = (x_TD if at_M is None else x_TD.index_select(0, at_M)) + y_MD
        out: Tensor = x_MD + self.mlp(self.mlp_norm(x_MD))
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

    def compile_layers(self, device: torch.device) -> None:
        """torch.compile each layer, but for two things that run as they are.

        Drawing: torch 2.13 loses the storage behind a view of another dtype and fails. "sdpa": its loops over documents would
        be compiled anew for every packing (90 s, then 10 s a step, against 16 s once for three layers on one CPU core).
        """
        compiler = os.environ.get("CXX", "g++")
        if device.type == "cpu" and not shutil.which(compiler):
            raise Refused(
                f"compute.compile: on a CPU torch.compile needs a C++ compiler, and {compiler} is not here; set it to false"
            )
        name = choose(device) if self.backend == "auto" else self.backend
        for layer in self.layers:
            attn = cast("Attention", layer.attn)
            attn.draw_bits = torch.compiler.disable(_bits)  # type: ignore[no-untyped-call]
            if name == "sdpa":  # the kernels of a GPU are one call each, and flex must be compiled
                attn.attend = torch.compiler.disable(attention)  # type: ignore[no-untyped-call]
            layer.compile(dynamic=True)

    def angles(self, packing: Packing, theta: float) -> Angles:
        """Return the angles of the packed positions, gathered once per packing and base."""

        def gather() -> Angles:
            cos_PF, sin_PF = table(self.cfg.max_position, theta, self.cfg.head_dim, packing.position_T.device)
            return Angles.of(cos_PF[packing.position_T], sin_PF[packing.position_T])

        made: Angles = packing.once(("rope", theta, self.cfg.head_dim), gather)
        return made

    def forward(self, ids_T: Tensor, packing: Packing, dropout_seed: Dropout = None, at_M: Tensor | None = None) -> Tensor:
        """Encode packed documents; a token sees its own document only, and positions restart with each document.

        With ``at_M`` (in ascending order) return x_MD at these positions: the last layer needs keys and values of all
        tokens, but queries, projection and MLP of these alone.
        """
        cfg = self.cfg
        if packing.max_len > cfg.max_position:
            raise Refused(f"encoder: found a document of {packing.max_len} tokens, expected at most {cfg.max_position}")
        # Looked at on the CPU only: on a GPU it would hold up every step.
        if at_M is not None and at_M.device.type == "cpu" and bool((at_M.diff() < 0).any()):
            raise Refused("encoder: found positions in no order, expected them ascending")
        x_TD = self.embeddings(ids_T)
        for i, layer in enumerate(self.layers):
            some = at_M if i == len(self.layers) - 1 else None
            # Derived here: hashing inside of a layer would break the graph of a compiled one.
            args = (x_TD, packing, self.angles(packing, cfg.theta(i)), self.backend, _of_layer(dropout_seed, i), some)
            # Dropout is a function of its seed, so the second computation is the first, bit for bit.
            again = self.checkpointing and torch.is_grad_enabled()
            x_TD = checkpoint(layer, *args, use_reentrant=False) if again else layer(*args)
        out: Tensor = self.final_norm(x_TD)
        return out
