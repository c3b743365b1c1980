"""What a phase costs: steps, FLOPs, hours, money, energy, memory and disk, by formula from the recipe alone.

Decisions and their sources:
* A row holds `context - 4` stored tokens: two go to the bos and eos that a cut document needs in each of its rows, about
  two stay empty. Measured: 123.8 of 128 and 509.7 of 512 (default recipe), 121.7 to
  124.1 of 128, 90.6 and 91.6 of 96, 61.3 of 64 (tiny ones): steps are right to about 2 % where rows are short.
* Steps follow `train.schedule.batch_rows` and the rule of `train.batches.Batches.take` for the last batch. Steps of
  equal size are taken together, so that 500,000 of them are a few thousand additions.
* FLOPs are those that are computed: 2 per weight and token forward, 4 backward (Kaplan et al. 2020, arXiv 2001.08361,
  section 2.1); attention 4 x keys x width forward and twice that backward, a local layer with min(window + 1, document)
  keys, a global one with the whole document; documents are taken as long as the context, an upper bound. Of the last layer
  queries, attention, Wo and MLP, then the head and its V x H decoder only on masked positions; the look-up of embeddings,
  norms and softmax count nothing. Activation checkpointing computes the layers' forward pass once more. What a kernel computes
  beyond that (flash-attn's scores again, the last layer's other queries) is part of the utilisation, as in published ones.
* Hours = FLOPs / (peak x utilisation); accelerator-hours do not depend on how many there are (`compute`).
* Memory is counted from what src/mmenc/model and /train keep: fp32 weights, gradients and two moments (16 bytes a
  parameter), in bf16 the copies that autocast keeps, what autograd saves per token and layer, the loss (chunked
  logits, `model/head.py`), and the optimizer's temporaries on the largest tensor. Kernels such as flash-attn are
  assumed on an accelerator; a CPU keeps the scores of the twin. GB are 10^9 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmenc.model.config import EncoderConfig, encoder_config
from mmenc.recipe import Recipe
from mmenc.sections import Compute, Phase
from mmenc.train.schedule import batch_rows, mask_mean

CUT_TOKENS = 2
"""bos and eos, which every piece of a cut document gets anew (data/order.py)."""
EMPTY_TOKENS = 2
"""What packing leaves empty in a row, on average; empty tokens are not computed."""
LOGITS = {"cpu": 2**20, "cuda": 2**30}
"""Logits held at a time: CHUNK_CPU and CHUNK_CUDA of model/head.py, which imports torch; a test compares them."""
LOOP, BLOCK, TWIN_KEYS = 512, 32, 3
"""Of the twin in model/sdpa.py: longer documents go through SDPA; smallest block; blocks of keys per block."""
CHECKPOINTING = ("without_checkpointing", "with_checkpointing")


def rows_of(phase: Phase) -> int:
    """Rows that hold the phase's tokens."""
    room = max(1, phase.context - CUT_TOKENS - EMPTY_TOKENS)
    return max(1, -(-phase.tokens // room))


def computed_tokens(phase: Phase) -> int:
    """Tokens that go through the model: those that are stored, and the bos and eos that cuts add."""
    return round(phase.tokens * phase.context / max(1, phase.context - CUT_TOKENS))


def _repeats(phase: Phase, row: int, size: int, most: int, per_row: float) -> int:
    """How many steps of `size` rows follow each other from row `row` on, at most `most`, before the batch grows."""

    def same(steps: int) -> bool:
        return batch_rows(phase, int((row + steps * size) * per_row)) == size

    low, high = 0, 1  # `same(low)` holds; the answer lies in (low, high]
    while high < most and same(high):
        low, high = high, high * 2
    high = min(high, most)
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if same(middle) else (low, middle)
    return high


def steps_of(phase: Phase, rows: int | None = None) -> int:
    """Optimizer steps of a phase of `rows` rows: a remainder of less than half a batch joins the last one."""
    total = rows if rows is not None else rows_of(phase)
    per_row = phase.tokens / total
    row = steps = 0
    while row < total:
        size = batch_rows(phase, int(row * per_row))
        left = total - row
        if 2 * left < 3 * size:
            return steps + 1
        count = _repeats(phase, row, size, (2 * left - 3 * size) // (2 * size) + 1, per_row)
        row, steps = row + count * size, steps + count
    return steps


def phase_flops(cfg: EncoderConfig, phase: Phase, checkpointing: bool) -> dict[str, int]:
    """FLOPs of a phase by part: linear layers, attention, masked head, and what activation checkpointing adds."""
    tokens = computed_tokens(phase)
    masked = mask_mean(phase) * phase.tokens  # special tokens are never masked
    wide = sum(cfg.is_global(i) for i in range(cfg.layers))
    local_keys, global_keys = min(cfg.window + 1, phase.context), phase.context
    # The last layer: keys and values of all tokens, the rest of the masked ones.
    keys_values, rest = 2 * cfg.hidden**2, 2 * cfg.hidden**2 + 3 * cfg.hidden * cfg.intermediate
    matrices = ((cfg.layers - 1) * (keys_values + rest) + keys_values) * tokens + rest * masked
    last = global_keys if cfg.is_global(cfg.layers - 1) else local_keys
    others = wide * global_keys + (cfg.layers - wide) * local_keys - last
    attention = 4 * cfg.hidden * (others * tokens + last * masked)
    return {
        "linear": round(6 * matrices),
        "attention": round(3 * attention),
        "head": round(6 * (cfg.hidden**2 + cfg.hidden * cfg.vocab_size) * masked),
        "recomputed": round(2 * matrices + attention) if checkpointing else 0,
    }


@dataclass(frozen=True)
class Price:
    """What a number of FLOPs costs on the recipe's machine."""

    gpu_hours: float
    hours: float
    cost: float
    kwh: float


def price(flops: int, compute: Compute) -> Price:
    """Accelerator-hours at the expected utilisation, wall-clock hours over all accelerators, money, energy."""
    gpu_hours = flops / (compute.peak_tflops * 1e12 * compute.utilisation) / 3600
    return Price(
        gpu_hours=gpu_hours,
        hours=gpu_hours / (compute.accelerators * compute.nodes),
        cost=gpu_hours * compute.price_per_hour,
        kwh=gpu_hours * compute.watts / 1000,
    )


@dataclass(frozen=True)
class _Saved:
    """Bytes per token that autograd saves in a layer: before the queries (of all tokens), the rest, the attention's scores."""

    before: int
    rest: float
    wide: float
    near: float


def _saved(cfg: EncoderConfig, context: int, half: bool, twin: bool) -> _Saved:
    """Of one layer: fp32 inputs of both norms; in the compute type b the rest, counted on a CPU to 3 % (tests/unit/test_plan.py).

    Normed inputs of Wqkv and Wi (2 H), q, k and v (3 H; with a kernel also before they were turned, 2 H), attention's output
    (H), Wi's output, gelu and the product (4 I), and with dropout its kept mask (H). The twin keeps scores.
    """
    b, h = 2 if half else 4, cfg.hidden
    rest = 4 * h + b * (3 * h + 4 * cfg.intermediate) + (b * h if cfg.attn_out_dropout else 0) + (0 if twin else b * h)
    far = context if context <= LOOP else 0
    scores = cfg.heads * b if twin else 0
    return _Saved(4 * h + b * (3 * h + (0 if twin else h)), rest, scores * far, scores * TWIN_KEYS * max(BLOCK, cfg.reach))


def micro_tokens(phase: Phase, compute: Compute, micro: int | None = None) -> int:
    """Tokens in a micro-batch of one accelerator: whole rows, at least one, at most its part of the batch."""
    rows = max(1, (micro or compute.micro_batch_tokens) // phase.context)
    own = max(1, -(-(phase.batch_tokens // phase.context) // (compute.accelerators * compute.nodes)))
    return min(rows, own) * phase.context


def memory(recipe: Recipe, phase: Phase, parameters: int, checkpointing: bool, micro: int | None = None) -> dict[str, int]:
    """Bytes on one accelerator by use, at the peak of a step (the end of the forward pass, or the optimizer's step)."""
    cfg, compute = encoder_config(recipe, phase), recipe.compute
    half, cpu = recipe.model.dtype == "bfloat16", compute.device == "cpu"
    tokens = micro_tokens(phase, compute, micro)
    masked = max([phase.mask, *(c.mask for c in phase.changes if c.mask)]) * tokens
    layer = _saved(cfg, phase.context, half, twin=cpu)
    wide = sum(cfg.is_global(i) for i in range(cfg.layers))
    whole = layer.before + layer.rest
    if checkpointing:  # keeps each layer's fp32 input and, for one layer at a time, everything
        kept = (4 * cfg.hidden * cfg.layers + whole + max(layer.wide, layer.near)) * tokens
    else:
        last = layer.wide if cfg.is_global(cfg.layers - 1) else layer.near
        others = (cfg.layers - 1) * whole + wide * layer.wide + (cfg.layers - wide) * layer.near - last
        kept = (others + layer.before) * tokens + (layer.rest + last) * masked
    activations = kept + 12 * cfg.hidden * tokens + masked * cfg.hidden * (24 if half else 20)
    table = cfg.vocab_size * cfg.hidden
    rows = min(max(16, LOGITS["cpu" if cpu else "cuda"] // cfg.vocab_size), max(1, round(masked)))
    logits = rows * cfg.vocab_size * (8 if half else 4)
    head = logits + table * (4 + (2 + 2 if half else 0))  # the table's fp32 gradient; in bf16 its copy and one product
    optimizer = 2 * 4 * table  # StableAdamW's temporaries on the largest tensor, after the activations are gone
    running = round(activations) + head
    parts = {
        "weights": parameters * (6 if half else 4),
        "gradients": 4 * parameters,
        "moments": 8 * parameters,
        "activations": round(activations),
        "head": head,
    }
    return {**parts, "total": sum(parts.values()) - running + max(running, optimizer)}


def largest_micro_batch(recipe: Recipe, phase: Phase, parameters: int, checkpointing: bool) -> int:
    """The largest micro-batch in tokens that fits `compute.memory_gb`; 0 if not even one row does."""
    room = recipe.compute.memory_gb * 1e9
    low, high = 0, max(1, recipe.compute.micro_batch_tokens // phase.context)
    while low < high:
        middle = (low + high + 1) // 2
        fits = memory(recipe, phase, parameters, checkpointing, middle * phase.context)["total"] <= room
        low, high = (middle, high) if fits else (low, middle - 1)
    return low * phase.context


def fit_warnings(recipe: Recipe, name: str, planned: Mapping[str, Any], parameters: int) -> list[dict[str, str]]:
    """Nothing if a planned phase fits, else the line to change."""
    if planned["fits"]:
        return []
    compute, phase = recipe.compute, recipe.phases[name]
    needs = f"phases.{name} needs {planned['memory_bytes'] / 1e9:,.1f} GB of {compute.memory_gb:g}"
    size = planned["memory"]["with_checkpointing"]["total"] / 1e9
    if smaller := largest_micro_batch(recipe, phase, parameters, compute.activation_checkpointing):
        path, remedy = "compute.micro_batch_tokens", f"; {smaller} would fit"
    elif size <= compute.memory_gb:
        path, remedy = "compute.activation_checkpointing", f"; true would need {size:,.1f} GB"
    else:
        path, remedy = "compute.memory_gb", f", even with one row of {phase.context} tokens at a time"
    return [{"path": path, "message": needs + remedy}]


def checkpoint_bytes(phase: Phase, parameters: int) -> int:
    """Disk of a phase: weights and two moments in fp32, and the weights of each intermediate checkpoint."""
    return parameters * (12 + 4 * phase.checkpoints)


def tree_bytes(parameters: int, vocab_size: int, tokens: int, states: int) -> int:
    """Disk beside the phases: token shards, weights of init, merge and release, and the states to resume from.

    A stored token takes two bytes up to 65,536 entries, else four (data/tokens.py); one phase trains at a time, and writes
    a state before it drops the oldest of `states`.
    """
    return tokens * (2 if vocab_size <= 2**16 else 4) + parameters * (3 * 4 + (states + 1) * 12)


def phase_costs(recipe: Recipe, phase: Phase, parameters: int) -> dict[str, Any]:
    """All figures of a phase; `memory_bytes` is with activation checkpointing if the recipe asks for it."""
    compute = recipe.compute
    rows, asked = rows_of(phase), compute.activation_checkpointing
    parts = phase_flops(encoder_config(recipe, phase), phase, asked)
    flops = sum(parts.values())
    memories = {key: memory(recipe, phase, parameters, key == "with_checkpointing") for key in CHECKPOINTING}
    needed = memories["with_checkpointing" if asked else "without_checkpointing"]["total"]
    return {
        "steps": steps_of(phase, rows),
        "rows": rows,
        "batch_tokens": phase.batch_tokens,
        "flops": flops,
        "flops_parts": parts,
        **vars(price(flops, compute)),
        "memory_bytes": needed,
        "memory": memories,
        "fits": needed <= compute.memory_gb * 1e9,
        "disk_bytes": checkpoint_bytes(phase, parameters),
    }
