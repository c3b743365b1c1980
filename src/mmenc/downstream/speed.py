"""Tokens per second of an encoder: 512 and 8,192 tokens, rows of one length and of many, ours packed beside transformers padded.

The set-up is that of the paper's efficiency figure (ModernBERT's): random tokens; one length of 512 or 8,192, or lengths from
N(256, 64) cut to 16–512 and N(4096, 1024) cut to 16–8192; only real tokens count. Decisions for a CPU: forward pass alone, fp32;
as many rows as make 16,384 tokens at the longest length (32 or 2) in place of 8,192 rows; a batch holds 8,192 tokens,
padding included, in the order drawn (as there, nothing is sorted); the two engines take turns, the figure is the median of
five, the interval the fastest and slowest. Rows carry time: they stand in `mmenc evaluate --suite speed`
only, never in an artifact. A model with rotary positions is timed at lengths that it was never trained for, which changes
its answers, not its speed; the row says so. One with learned positions is skipped there.

Shapes: B rows of a batch, T tokens of it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mmenc import rng
from mmenc.artifact import Json
from mmenc.downstream.backbone import Body, PackedBody, PaddedBody
from mmenc.downstream.registry import Context
from mmenc.downstream.text import Row
from mmenc.evaluate.models import Packed, Padded, Subject
from mmenc.evaluate.rows import row, skipped
from mmenc.model.head import MaskedLM
from mmenc.model.hf import hf_config, to_hf_state

LENGTHS = (512, 8192)
SPREAD = {512: (256, 64), 8192: (4096, 1024)}
LEAST = 16
TOKENS = {"cpu": 16_384, "cuda": 4_194_304}
"""Tokens of a measurement at the longest length, per kind of device."""
BATCH = {"cpu": 8_192, "cuda": 131_072}
"""Tokens of a batch, padding included."""
REPEATS = 5
Ints = NDArray[np.int64]


def lengths_of(longest: int, variable: bool, tokens: int, seed: int) -> list[int]:
    """Tokens of each row."""
    count = max(2, tokens // longest)
    if not variable:
        return [longest] * count
    a, b = (rng.uniform(count, seed, "speed", longest, side) for side in ("radius", "angle"))
    normal = np.sqrt(-2 * np.log(1 - a)) * np.cos(2 * np.pi * b)  # Box and Muller
    mean, deviation = SPREAD[longest]
    return [int(x) for x in np.clip(np.round(mean + deviation * normal), LEAST, longest)]


def rows_of(lengths: Sequence[int], ordinary: Ints, seed: int) -> list[Row]:
    """Rows of random tokens."""
    picks = (rng.raw(sum(lengths), seed, "speed", "tokens") % np.uint64(len(ordinary))).astype(np.int64)
    return [Row(ordinary[part], 0) for part in np.split(picks, np.cumsum(lengths)[:-1])]


def batches_of(rows: Sequence[Row], longest: int, tokens: int) -> list[list[Row]]:
    """As many rows at a time as fit when each is padded to the longest length."""
    size = max(1, tokens // longest)
    return [list(rows[i : i + size]) for i in range(0, len(rows), size)]


def engines(subject: Subject) -> dict[str, Body]:
    """What runs these weights: ours where they are ModernBERT's, and transformers."""
    pad = subject.words.pad_id
    if isinstance(subject, Packed):
        device, model = next(subject.model.parameters()).device, stretched(subject)
        bf16, theirs = device.type == "cuda", as_transformers(model).to(device)
        bodies: dict[str, Body] = {
            "packed": PackedBody(model.model, device, bf16),
            "padded": PaddedBody(theirs, pad, device, bf16),
        }
    else:
        assert isinstance(subject, Padded)
        device = subject.device
        bodies = {"padded": PaddedBody(subject.model.base_model, pad, device, device.type == "cuda")}
    return {name: body.eval() for name, body in bodies.items()}


def stretched(subject: Packed) -> MaskedLM:
    """The model with room for the longest rows; the encoder refuses what is longer than its context."""
    model = subject.model
    config = dataclasses.replace(model.cfg, max_position=max(model.cfg.max_position, *LENGTHS))
    wide = MaskedLM(config).to(next(model.parameters()).device)
    wide.load_state_dict(model.state_dict())
    return wide


def as_transformers(model: MaskedLM) -> nn.Module:
    """The same weights in transformers' ModernBERT, with the attention that it takes by itself."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    found: Any = AutoModelForMaskedLM.from_config(AutoConfig.for_model(**hf_config(model.cfg)))
    found.load_state_dict(to_hf_state(model), strict=False)  # the tied decoder's weight is the embedding
    base: nn.Module = found.base_model
    return base


def seconds(body: Body, batches: Sequence[Sequence[Row]], device: torch.device) -> float:
    """One pass over everything."""
    began = time.perf_counter()
    with torch.inference_mode():
        for batch in batches:
            body(batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


@dataclass(frozen=True)
class Setting:
    """One bar of the figure."""

    longest: int
    variable: bool

    @property
    def task(self) -> str:
        """What its rows are called."""
        return f"speed/{self.longest}-{'variable' if self.variable else 'uniform'}"


SETTINGS = [Setting(n, variable) for n in LENGTHS for variable in (False, True)]


def time_engines(
    bodies: dict[str, Body], setting: Setting, ordinary: Ints, device: torch.device, seed: int, repeats: int, tokens: int
) -> dict[str, list[float]]:
    """Tokens per second of each engine, once per repeat, in turns after one pass that is not counted."""
    lengths = lengths_of(setting.longest, setting.variable, tokens, seed)
    batches = batches_of(rows_of(lengths, ordinary, seed), setting.longest, BATCH[device.type])
    for body in bodies.values():
        seconds(body, batches[:1], device)
    found: dict[str, list[float]] = {name: [] for name in bodies}
    for _ in range(repeats):
        for name, body in bodies.items():
            found[name].append(sum(lengths) / seconds(body, batches, device))
    return found


def _rotary(subject: Subject) -> bool:
    model: Any = getattr(subject, "model", None)
    config = getattr(model, "config", None)
    return isinstance(subject, Packed) or getattr(config, "position_embedding_type", "") == "sans_pos"


def _setting_rows(
    context: Context, bodies: dict[str, Body], setting: Setting, repeats: int, tokens: int, device: torch.device
) -> list[Json]:
    subject = context.subject
    if setting.longest > subject.context and not _rotary(subject):
        told = f"its context is {subject.context} tokens"
        return [skipped(subject.name, subject.digest, setting.task, "", "all", told)]
    longer = setting.longest > subject.context
    told = f"its context is {subject.context} tokens: this length says how fast, not how good" if longer else ""
    found = time_engines(bodies, setting, subject.words.ordinary, device, context.settings.seed, repeats, tokens)
    figures = {f"tokens_per_second_{name}": values for name, values in found.items()}
    if "packed" in found:
        figures["packed_over_padded"] = [a / b for a, b in zip(found["packed"], found["padded"], strict=True)]
    return [
        row(
            subject.name, subject.digest, setting.task, "", "all", metric,
            (float(np.median(v)), min(v), max(v)), len(v), reason=told,
        )
        for metric, v in figures.items()
    ]  # fmt: skip


def measure(context: Context, repeats: int = REPEATS, say: Callable[..., None] = print) -> list[Json]:
    """Rows of all four settings."""
    bodies = engines(context.subject)
    device = next(next(iter(bodies.values())).parameters()).device
    tokens = context.options.limit * LENGTHS[0] if context.options.limit else TOKENS[device.type]
    kind = f"{torch.get_num_threads()} threads, fp32" if device.type == "cpu" else "bf16"
    say(f"  {context.subject.name}: forward pass on {device.type}, {kind}, batches of {BATCH[device.type]:,} tokens", flush=True)
    rows: list[Json] = []
    for setting in SETTINGS:
        rows += _setting_rows(context, bodies, setting, repeats, tokens, device)
        context.tick(1 / len(SETTINGS), setting.task)
    return rows
