"""The masked-language-model head, on masked positions only, and a loss that never holds M x V logits.

Decision: one autograd.Function computes the gradients chunk by chunk during the forward pass: three matrix products, as
the plain form, but logits of one chunk only. Measured on 2 CPU cores, M = 1229, D = 128, V = 8192, fp32, forward +
backward: plain 112 ms, torch 2.13's F.linear_cross_entropy(batch_chunk_size=256) 63 ms, this with chunks of 128 rows
62 ms (512 rows 82 ms, all rows 89 ms). It needs no torch 2.13, sums in fp32 whatever the input (torch's sums bf16 in
bf16), and counts the right guesses on the way.

Shapes: T packed tokens, N documents, D width, M masked positions, V vocabulary, R rows of a chunk.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmenc.errors import Refused
from mmenc.model.encoder import Dropout, Encoder, Linear

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmenc.model.attention import Packing
    from mmenc.model.config import EncoderConfig

CHUNK_CPU = 2**20  # logits at a time: 128 rows at V = 8192, 4 MB, stays in the cache
CHUNK_CUDA = 2**30  # 4 GB of fp32 logits, 4,096 rows at V = 256,000: below, adding up the V x D gradient dominates


def _softmax_stage(z_RV: Tensor, target_R1: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From fp32 logits: unnormalised gradient g_RV (that of the loss times s_R1), s_R1, loss sum, right guesses.

    Dividing by s is left to the caller, who does it on R x D instead of R x V numbers. Works in place on z_RV.
    """
    top_R1 = z_RV.amax(-1, keepdim=True)
    goal_R1 = z_RV.gather(1, target_R1)
    right = (goal_R1 >= top_R1).sum()
    g_RV = z_RV.sub_(top_R1).exp_()
    s_R1 = g_RV.sum(-1, keepdim=True)
    loss = (s_R1.log() + top_R1 - goal_R1).sum(dtype=torch.float64)
    return g_RV.scatter_add_(1, target_R1, -s_R1), s_R1, loss, right


@lru_cache(maxsize=2)
def _stage(device_type: str) -> Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]:
    """On CUDA the stage is compiled, to fuse its eight passes over the logits (checked on a CPU only)."""
    return torch.compile(_softmax_stage, dynamic=True) if device_type == "cuda" else _softmax_stage


class _Job(NamedTuple):
    target_M: Tensor
    dtype: torch.dtype  # of the matrix products
    rows: int  # positions per chunk
    learn: bool  # whether gradients are wanted


class _MaskedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MD: Tensor, weight_VD: Tensor, bias_V: Tensor, job: _Job) -> tuple[Tensor, Tensor]:
        target_M, dtype, rows, learn = job
        device = x_MD.device
        with torch.autocast(device.type, enabled=False):
            x, w_VD, b_V = x_MD.to(dtype), weight_VD.to(dtype), bias_V.float()
            loss, right = (torch.zeros((), dtype=t, device=device) for t in (torch.float64, torch.int64))
            if learn:
                dx_MD = torch.empty_like(x_MD)
                dw_VD, db_V = torch.zeros_like(weight_VD, dtype=torch.float32), torch.zeros_like(b_V)
            for start in range(0, len(x), rows):
                part = slice(start, start + rows)
                # fp32: one fused product; bf16: the product is rounded to bf16 once, then everything is fp32
                z_RV = torch.addmm(b_V, x[part], w_VD.t()) if dtype == torch.float32 else x[part] @ w_VD.t() + b_V
                g_RV, s_R1, part_loss, part_right = _stage(device.type)(z_RV, target_M[part, None])
                loss, right = loss + part_loss, right + part_right
                if not learn:
                    continue
                inverse_R1, g = s_R1.reciprocal(), g_RV.to(dtype)
                dx_MD[part] = (g @ w_VD).float() * inverse_R1
                scaled_RD = (x[part].float() * inverse_R1).to(dtype)
                dw_VD = dw_VD.addmm_(g.t(), scaled_RD) if dtype == torch.float32 else dw_VD.add_(g.t() @ scaled_RD)
                db_V.addmv_(g_RV.t(), inverse_R1[:, 0])
        if learn:
            ctx.save_for_backward(dx_MD, dw_VD.to(weight_VD.dtype), db_V.to(bias_V.dtype))
        ctx.mark_non_differentiable(right)
        return loss.float(), right

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        dx_MD, dw_VD, db_V = ctx.saved_tensors
        scale = grads[0]
        return dx_MD * scale, dw_VD * scale, db_V * scale, None


def masked_loss(
    x_MD: Tensor, weight_VD: Tensor, bias_V: Tensor, target_M: Tensor, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the fp32 SUM of cross-entropies of x W' + b and the number of right guesses (ties count as right).

    The caller divides by the global count of masked positions. Products run in autocast's dtype when it is on (bf16;
    fp16 could overflow), sums and gradients of the weights in fp32. ``chunk`` is the number of logits held at a time.
    """
    kind = x_MD.device.type
    dtype = torch.promote_types(x_MD.dtype, weight_VD.dtype)
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else dtype
    if dtype == torch.float16:
        raise Refused("masked_loss: found float16, expected float32 or bfloat16 (its range is too short here)")
    budget = chunk or (CHUNK_CUDA if kind == "cuda" else CHUNK_CPU)
    rows = max(16, budget // len(weight_VD))
    learn = torch.is_grad_enabled() and any(x.requires_grad for x in (x_MD, weight_VD, bias_V))
    apply: Callable[..., tuple[Tensor, Tensor]] = _MaskedLoss.apply
    return apply(x_MD, weight_VD, bias_V, _Job(target_M, dtype, rows, learn))


def mean_pool(x_TD: Tensor, packing: Packing) -> Tensor:
    """Average the tokens of each document, in fp32: x_ND."""
    total_ND = x_TD.new_zeros((len(packing.lengths), x_TD.shape[1]), dtype=torch.float32)
    total_ND = total_ND.index_add(0, packing.doc_T, x_TD.float())
    return total_ND / packing.cu_seqlens_N1.diff()[:, None]


class Head(nn.Module):
    """Prediction head: dense without bias, exact GELU, LayerNorm without bias."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.dense = Linear(cfg.hidden, cfg.hidden)
        self.norm = nn.LayerNorm(cfg.hidden, eps=cfg.norm_eps, bias=False)

    def forward(self, x_MD: Tensor) -> Tensor:
        """Return y_MD, what the decoder reads."""
        out: Tensor = self.norm(F.gelu(self.dense(x_MD)))
        return out


class Decoder(nn.Module):
    """Only the bias: the weight is the token embedding (tied), held once."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(cfg.vocab_size))


class MaskedLM(nn.Module):
    """Encoder, head and tied decoder, under the parameter names of transformers' ModernBertForMaskedLM."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.model = Encoder(cfg)
        self.head = Head(cfg)
        self.decoder = Decoder(cfg)

    @property
    def tied_weight(self) -> Tensor:
        """The token embedding, which is the decoder's weight too."""
        return self.model.embeddings.tok_embeddings.weight

    def hidden(self, ids_T: Tensor, packing: Packing) -> Tensor:
        """Return x_TD, the encoder's output (for embeddings: mean_pool of it)."""
        out: Tensor = self.model(ids_T, packing)
        return out

    def logits(self, ids_T: Tensor, packing: Packing, index_M: Tensor | None = None) -> Tensor:
        """Return z_MV at the given packed positions (ascending; all without them): for tests and scoring, not for training."""
        return F.linear(self.head(self.model(ids_T, packing, at_M=index_M)), self.tied_weight, self.decoder.bias)

    def forward(
        self, ids_T: Tensor, packing: Packing, masked_index_M: Tensor, target_M: Tensor, dropout_seed: Dropout = None
    ) -> tuple[Tensor, Tensor]:
        """Return (loss_sum fp32, n_correct int64) over the masked positions."""
        x_MD = self.model(ids_T, packing, dropout_seed, masked_index_M)
        return masked_loss(self.head(x_MD), self.tied_weight, self.decoder.bias, target_M)
