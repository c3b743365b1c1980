"""One fine-tuning run: AdamW, linear warm-up and fall, the best epoch on dev kept; a function of its names and inputs only.

Figures and their sources: batch 32 and warm-up 0.06 (mmBERT's sweep), betas 0.9 and 0.999, eps 1e-8, gradients cut at norm 1
(transformers' defaults, which mmBERT's evaluation code used), weight decay 0.01 on matrices only (BERT; the notes give 1e-4 for
question answering, none for the rest). A new head starts from N(0, 0.02), as in BERT. No dropout. Order of examples and
the head's weights come from `rng`, keyed by (seed, task, language, learning rate): one machine gives equal figures twice.

Batches hold examples of like length (sorted within pools of 16 batches), the order of batches is drawn.

Shapes: T tokens of a batch, D width.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmenc import rng
from mmenc.downstream.backbone import Backbone, Body
from mmenc.downstream.task import Floats, Item, Recipe, Task
from mmenc.downstream.text import Texts

BATCH = 32
POOL = 16
WARMUP = 0.06
BETAS, EPS, DECAY, CLIP = (0.9, 0.999), 1e-8, 0.01, 1.0
HEAD_STD = 0.02
PREDICT_TOKENS = 8192
WORST = -2.0
"""The dev figure of a run that diverged; below every metric."""
Tick = Callable[[float, str], None]


@dataclass
class Tuned:
    """A model after its best epoch, and how it got there."""

    body: Body
    head: nn.Module
    dev: float
    curve: list[float] = field(default_factory=list)
    """The dev figure after each epoch."""
    losses: list[float] = field(default_factory=list)
    steps: int = 0


@dataclass(frozen=True)
class Labelled:
    """Examples with their items, tokenised once for all runs of a model."""

    examples: Sequence[Any]
    items: list[Item]

    @classmethod
    def of(cls, task: Task, examples: Sequence[Any], texts: Texts, train: bool = False) -> Labelled:
        """Tokenize."""
        return cls(examples, task.items(examples, texts, train))


def _size(item: Item) -> int:
    return sum(len(r.ids_T) for r in item.rows)


def batches(items: Sequence[Item], size: int, *names: object) -> list[list[int]]:
    """Numbers of the items of each batch of an epoch."""
    order = rng.permutation(len(items), *names, "order").tolist()
    pools = [order[i : i + POOL * size] for i in range(0, len(order), POOL * size)]
    flat = [i for pool in pools for i in sorted(pool, key=lambda i: _size(items[i]))]
    cut = [flat[i : i + size] for i in range(0, len(flat), size)]
    return [cut[i] for i in rng.permutation(len(cut), *names, "batches").tolist()]


def draw_head(head: nn.Module, *names: object) -> nn.Module:
    """Fill a new head: matrices from N(0, 0.02), biases zero, what has one dimension otherwise stays."""
    generator = torch.Generator().manual_seed(rng.seed(*names, "head"))
    with torch.no_grad():
        for name, weight in sorted(head.named_parameters()):
            if weight.ndim > 1:
                weight.copy_(HEAD_STD * torch.randn(weight.shape, generator=generator))
            elif name.endswith("bias"):
                weight.zero_()
    return head


def optimizer_of(parts: Sequence[nn.Module], rate: float) -> torch.optim.Optimizer:
    """AdamW; norms and biases do not decay."""
    weights = [w for part in parts for w in part.parameters()]
    groups = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": DECAY},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, betas=BETAS, eps=EPS, fused=True)


def factor(step: int, total: int) -> float:
    """Of the learning rate at a step (counted from 0)."""
    warm = max(1, round(WARMUP * total))
    return (step + 1) / warm if step < warm else max(0.0, (total - step) / max(1, total - warm))


def predict(task: Task, body: Body, head: nn.Module, items: Sequence[Item]) -> list[Any]:
    """Outputs of all items, in batches of like length."""
    order = sorted(range(len(items)), key=lambda i: _size(items[i]))
    found: dict[int, Any] = {}
    with torch.inference_mode():
        start = 0
        while start < len(order):
            end, longest = start, 0
            while end < len(order):
                longest = max(longest, _size(items[order[end]]))
                if end > start and (end - start + 1) * longest > PREDICT_TOKENS:
                    break
                end += 1
            chosen = [items[i] for i in order[start:end]]
            x_TD, lengths = body([r for item in chosen for r in item.rows])
            found |= dict(zip(order[start:end], task.predict(head, x_TD, lengths, chosen), strict=True))
            start = end
    return [found[i] for i in range(len(items))]


def measure(task: Task, body: Body, head: nn.Module, part: Labelled) -> dict[str, Floats]:
    """Counts of all examples, per metric."""
    return task.counts(part.examples, part.items, predict(task, body, head, part.items))


def headline(task: Task, counts: dict[str, Floats]) -> float:
    """The task's first metric."""
    name = next(iter(task.metrics))
    return float(task.metrics[name].figure(counts[name].sum(0, keepdims=True))[0])


def _step(task: Task, tuned: Tuned, optimizer: torch.optim.Optimizer, chosen: list[Item]) -> float:
    x_TD, lengths = tuned.body([r for item in chosen for r in item.rows])
    loss: Tensor = task.loss(tuned.head, x_TD, lengths, chosen)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    weights = [w for part in (tuned.body, tuned.head) for w in part.parameters()]
    nn.utils.clip_grad_norm_(weights, CLIP)
    optimizer.step()
    return float(loss.detach())


def tune(
    task: Task, backbone: Backbone, train: Labelled, dev: Labelled, rate: float, names: tuple[object, ...], recipe: Recipe,
    steps: int = 0, tick: Tick = lambda _amount, _note: None, start: Tuned | None = None,
) -> Tuned:  # fmt: skip
    """Train on `train`, keep the epoch that is best on `dev`; `names` key everything drawn, `steps` (if any) cap the run.

    `start` goes on from an earlier run's encoder (MNLI before RTE; SIQA before COPA). `tick` gets shares of the run.
    """
    body = backbone.fresh() if start is None else copy.deepcopy(start.body)
    head = draw_head(task.head(backbone.hidden_size), *names).to(backbone.device)
    if start is not None and getattr(task, "keeps_head", False):  # the same question posed again: COPA after SIQA
        head.load_state_dict(start.head.state_dict())
    tuned = Tuned(body, head, WORST)
    optimizer = optimizer_of((body, head), rate)
    per_epoch = -(-len(train.items) // BATCH)
    total = min(recipe.epochs * per_epoch, steps or recipe.epochs * per_epoch)
    epochs = -(-total // per_epoch)
    best: list[dict[str, Tensor]] = []
    for epoch in range(epochs):
        for chosen in batches(train.items, BATCH, *names, epoch)[: total - tuned.steps]:
            for group in optimizer.param_groups:
                group["lr"] = rate * factor(tuned.steps, total)
            tuned.losses.append(_step(task, tuned, optimizer, [train.items[i] for i in chosen]))
            tuned.steps += 1
            tick(1 / total, f"{task.name} loss {tuned.losses[-1]:.2f}")
        tuned.curve.append(headline(task, measure(task, body, head, dev)))
        if not math.isfinite(tuned.losses[-1]):
            break
        if tuned.curve[-1] > tuned.dev:
            tuned.dev = tuned.curve[-1]
            best = [{k: v.clone() for k, v in part.state_dict().items()} for part in (body, head)]
        if epoch - int(np.argmax(tuned.curve)) >= recipe.patience:
            break
    tick(1 - tuned.steps / total, "")
    for part, state in zip((body, head), best, strict=False):
        part.load_state_dict(state)
    return tuned
