"""Learning rate, mask and batch size as functions of the tokens seen in the phase: nothing to save, nothing to resume.

Learning rate: the trapezoid of mmBERT (`warmup_stable_decay`), told phase by phase: linear warm-up, constant through
pretraining and extension, and a fall in the decay: `one_minus_sqrt` (base), f(t) = end + (1 − end) · (1 − sqrt(t / T)), or
`linear` (small; ModernBERT's public WSD), f(t) = end + (1 − end) · (1 − t / T). Published: 8e-4, warm-up over 3 B tokens
(small 4 B), falls over 100 B to 1.6e-5 = 0.02 × 8e-4 = 0.04 × 4e-4 (ModernBERT's scheduler.py; mmBERT's six files).
The warm-up's first step is 1 token up the ramp, not at 0: it would be a step that learns nothing.

Batch warm-up: ModernBERT's `BatchSizeWarmupScheduler` (src/sequence_packer.py). Sizes b = start, start + increment, … below
the full batch; size i ends after ceil(W · (b_1 + … + b_i) / Σ b) tokens, so each size gets the same number of steps. mmBERT-base:
W = 60 B, from 384 rows by 384 to 4,608: 0.91, 2.73, 5.45, 9.09, 13.6, 19.1, 25.5, 32.7, 40.9, 50.0, 60 B. Theirs counts per rank
and forgets the count at a restart; ours counts the phase's tokens.

Changes within a phase: at 1.2 T of 2.3 T tokens mmBERT-small's learning rate and weight decay were halved and its mask set to
20 % (a footnote of the paper); Ettin let its rate fall by 1 − sqrt in mid phase. Optimizer state, order and packing go on.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from mmenc.sections import LearningRate, Phase

if TYPE_CHECKING:
    import torch


def fall(lr: LearningRate, tokens: int, total: int) -> float:
    """Learning rate for the step that begins after `tokens` of the `total` tokens under one schedule."""
    if tokens < lr.warmup:
        return lr.peak * (tokens + 1) / lr.warmup
    if lr.shape == "constant":
        return lr.peak
    t = min(1.0, (tokens - lr.warmup) / max(1, total - lr.warmup))
    gone = t**0.5 if lr.shape == "one_minus_sqrt" else t
    return lr.peak * (lr.end + (1 - lr.end) * (1 - gone))


def schedules(phase: Phase) -> list[tuple[int, int, LearningRate]]:
    """Each schedule of the learning rate with the tokens [start, stop) that it holds for."""
    named = [(0, phase.lr), *((c.after, c.lr) for c in phase.changes if c.lr)]
    stops = [*(start for start, _ in named[1:]), phase.tokens]
    return [(start, stop, lr) for (start, lr), stop in zip(named, stops, strict=True)]


def at(phase: Phase, tokens: int) -> Phase:
    """The phase as the step that begins after `tokens` tokens sees it: mask, masking, schedule and weight decay in force."""
    return _after(phase, sum(c.after <= tokens for c in phase.changes)) if phase.changes else phase


def _after(phase: Phase, count: int) -> Phase:
    new: dict[str, object] = {}
    for change in phase.changes[:count]:
        new |= {key: value for key in ("mask", "masking", "lr") if (value := getattr(change, key)) is not None}
        if change.weight_decay is not None:
            new["optimizer"] = phase.optimizer.model_copy(update={"weight_decay": change.weight_decay})
    return phase.model_copy(update=new)


def learning_rate(phase: Phase, tokens: int) -> float:
    """Learning rate for the step that begins after `tokens` tokens of the phase."""
    start, stop, lr = [s for s in schedules(phase) if s[0] <= tokens][-1]
    return fall(lr, tokens - start, stop - start)


def set_rates(optimizer: torch.optim.Optimizer, phase: Phase, tokens: int) -> None:
    """Give the optimizer what holds for the step that begins after `tokens` tokens.

    Weight decay is decoupled: a step takes off `weight_decay` × rate / peak of the schedule in force, as a restart with
    new values (ModernBERT's `restart_override`) would.
    """
    now, rate = at(phase, tokens), learning_rate(phase, tokens)
    for group in optimizer.param_groups:
        group["lr"], group["max_lr"] = rate, now.lr.peak
        if group["params"][0].ndim > 1:  # the others never decay (train/state.py)
            group["weight_decay"] = now.optimizer.weight_decay


def mask_mean(phase: Phase) -> float:
    """Mean mask rate over the phase's tokens."""
    edges = [0, *(min(c.after, phase.tokens) for c in phase.changes), phase.tokens]
    return sum(at(phase, a).mask * (b - a) for a, b in pairwise(edges)) / phase.tokens if phase.changes else phase.mask


def mask_words(phase: Phase) -> str:
    """The mask rates of the phase, for people: `30 % → 20 %`."""
    return " → ".join(f"{100 * mask:g} %" for mask in [phase.mask, *(c.mask for c in phase.changes if c.mask)])


@lru_cache(maxsize=64)
def thresholds(start: int, increment: int, full: int, warmup: int) -> list[int]:
    """Tokens after which each size below the full batch ends (start, start + increment, …)."""
    sizes = range(start, full, increment)
    return [-(-warmup * total // sum(sizes)) for total in accumulate(sizes)]


def batch_rows(phase: Phase, tokens: int) -> int:
    """Rows of `context` tokens in the batch that begins after `tokens` tokens of the phase."""
    size = phase.batch_tokens
    warm = phase.batch_warmup
    if warm and tokens < warm.tokens:
        increment = warm.increment or warm.start
        reached = bisect_right(thresholds(warm.start, increment, size, warm.tokens), tokens)
        size = min(size, warm.start + reached * increment)
    return max(1, size // phase.context)
