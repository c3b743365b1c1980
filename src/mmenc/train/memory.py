"""Out of memory is one sentence: the setting to change, and what `mmenc plan` had predicted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mmenc.costs import phase_costs
from mmenc.errors import Refused
from mmenc.model.config import encoder_config, parameter_counts
from mmenc.recipe import Recipe
from mmenc.train.watch import memory


@contextmanager
def explained(recipe: Recipe, name: str, device: torch.device) -> Iterator[None]:
    """Around a step: Refused when torch could not get memory."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        short = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error)
        if not short:
            raise
        compute, phase = recipe.compute, recipe.phases[name]
        planned = phase_costs(recipe, phase, parameter_counts(encoder_config(recipe))["parameters"])["memory_bytes"]
        half = max(phase.context, compute.micro_batch_tokens // 2)
        way = f"lower compute.micro_batch_tokens ({compute.micro_batch_tokens}) to {half}"
        if compute.micro_batch_tokens <= phase.context:
            way = "take a machine with more memory"
        if not compute.activation_checkpointing:
            way += ", or set compute.activation_checkpointing: true"
        raise Refused(
            f"phases.{name}: out of memory on {device.type} with {memory(device) / 1e9:.1f} GB in use (the plan had predicted "
            f"{planned / 1e9:.1f} GB); {way}"
        ) from None
