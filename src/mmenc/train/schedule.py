"""Learning rate and batch size as functions of the tokens seen in the phase.

Trapezoid of mmBERT: linear warm-up, constant, and in the decay phases 1 − sqrt down to `end` × peak:
f(t) = end + (1 − end) · (1 − sqrt(t / T)) (recipe.md section 2, the `one_minus_sqrt` scheduler).
"""

from __future__ import annotations

from mmenc.sections import LearningRate, Phase


def learning_rate(lr: LearningRate, tokens: int, total: int) -> float:
    """Learning rate for the step that begins after `tokens` of `total` tokens (and after a warm-up, if any)."""
    if tokens < lr.warmup:
        return lr.peak * (tokens + 1) / lr.warmup
    if lr.shape == "constant":
        return lr.peak
    t = min(1.0, (tokens - lr.warmup) / max(1, total - lr.warmup))
    fall = t**0.5 if lr.shape == "one_minus_sqrt" else t
    return lr.peak * (lr.end + (1 - lr.end) * (1 - fall))


def batch_rows(phase: Phase, tokens: int) -> int:
    """Rows of `context` tokens in the next batch; during a warm-up it grows linearly with the tokens seen."""
    size = phase.batch_tokens
    warm = phase.batch_warmup
    if warm and tokens < warm.tokens:
        size = int(warm.start + (size - warm.start) * tokens / warm.tokens)
    return max(1, size // phase.context)
