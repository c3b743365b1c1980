"""Whether a step may change the weights: not with a loss or gradient that is no number, nor with a loss far above the last ones.

Decision: such a step is skipped, as AI2's OLMo-core does (SkipStepOptimizer: six standard deviations above the mean of the
last 128 losses): its tokens count as read, weights and moments stay as they were, and the facts name it. Too many of them
are a refusal, because then the recipe is at fault, not a batch.
"""

from __future__ import annotations

import math
import statistics

from mmenc.artifact import Json
from mmenc.errors import Refused
from mmenc.sections import Skip


def reason(loss: float, norm: float, before: list[float], settings: Skip) -> str:
    """Why a step with this mean loss and gradient norm must not be taken; empty if it may. `before`: losses of taken steps."""
    if not math.isfinite(loss):
        return "the loss is not finite"
    if not math.isfinite(norm):
        return "the gradient is not finite"
    recent = before[-settings.window :]
    if not settings.sigma or len(recent) < max(2, settings.window // 2):
        return ""
    limit = statistics.fmean(recent) + settings.sigma * statistics.stdev(recent)
    return f"the loss is above {limit:.3f}" if loss > limit else ""


def check(skipped: list[Json], settings: Skip, phase: str) -> None:
    """Refused when more steps were skipped than the recipe allows."""
    if len(skipped) <= settings.most:
        return
    last = skipped[-1]
    raise Refused(
        f"phases.{phase}: {len(skipped)} steps were skipped, skip.most allows {settings.most}; the last one is step "
        f"{last['step']}: {last['reason']}; lower lr.peak, lengthen lr.warmup, or look at the data around that step"
    )


def entry(step: int, tokens: int, why: str, loss: float) -> Json:
    """The row of a skipped step in the facts; a loss that is no number has no place in JSON."""
    row: Json = {"step": step, "tokens": tokens, "reason": why}
    return row | ({"loss": round(loss, 6)} if math.isfinite(loss) else {})
