"""Merge: TIES of the decay branches against their common base, a mean of them, or weights over one branch's checkpoints.

mmBERT merged its three decay branches with TIES and published neither density nor weights (recipe.md section 4); for small,
where TIES failed, it weighed several checkpoints of the decay over all languages exponentially. So everything that is
free is chosen on dev, by `merge.criterion`, one setting after the other (weights, density, scale): 8 merges for three
branches and the default lists instead of the 32 of the full grid. Every one is in the facts, with the loss of the base and of
each branch alone, and a branch alone is what comes out where no merge is better (`merge.alone`). On the default recipe it
is: two rounds over 20 merges (5 s each on two cores) came down to 5.874 on dev, the branch over all languages is at 5.863.

The criterion `languages` is the mean over languages, each counting the same: the headline of the evaluation. `tokens`
weighs each language by its share of the dev text, which favours those with much. Legend: L languages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from mmenc.artifact import Json, write_json
from mmenc.card import describe_merge
from mmenc.data.tokens import Split, is_language, open_split
from mmenc.evaluate.score import Scores, choose_round, score
from mmenc.job import Job
from mmenc.model.hf import from_hf_state, save_checkpoint
from mmenc.progress import bar
from mmenc.sections import Merge
from mmenc.ties import Tensors, merge_ties, weighted
from mmenc.train.state import load_model
from mmenc.train.step import HELDOUT_MASK


@dataclass(frozen=True)
class Point:
    """One way to merge branches."""

    density: float
    weights: tuple[float, ...]
    scale: float


@dataclass(frozen=True)
class Tried:
    """A merge with its settings, as tables show them, and its dev loss per language."""

    settings: Json
    tensors: Tensors
    losses: Mapping[str, float]
    loss: float


@dataclass(frozen=True)
class Judge:
    """Dev text and the criterion; the same masked tokens for every model."""

    split: Split
    documents: list[int]
    criterion: str
    run: Callable[[Tensors], Scores]

    def losses(self, tensors: Tensors) -> dict[str, float]:
        """Mean loss per language (nats per masked token)."""
        return losses_by_language(self.split, self.run(tensors))

    def mean(self, losses: Mapping[str, float], criterion: str = "") -> float:
        """The one figure that is compared."""
        return mean_loss(self.split, losses, criterion or self.criterion)

    def tried(self, settings: Json, tensors: Tensors) -> Tried:
        """Judge one merge."""
        losses = self.losses(tensors)
        return Tried(settings, tensors, losses, self.mean(losses))


def losses_by_language(split: Split, scores: Scores) -> dict[str, float]:
    """Mean loss of each language that has masked tokens."""
    found: dict[str, float] = {}
    for tag, (first, last) in sorted(split.ranges.items()):
        inside = (scores.document_M >= first) & (scores.document_M < last)
        if inside.any():
            found[tag] = float(scores.loss_M[inside].mean())
    return found


def mean_loss(split: Split, losses: Mapping[str, float], criterion: str) -> float:
    """Mean over languages: each the same (`languages`), or by its tokens of dev text (`tokens`)."""
    loss_L = np.array(list(losses.values()))
    weight_L = np.ones(len(losses))
    if criterion == "tokens":
        weight_L = np.array([split.offsets[split.ranges[t][1]] - split.offsets[split.ranges[t][0]] for t in losses], dtype=float)
    return round(float((loss_L * weight_L).sum() / weight_L.sum()), 6)


def checkpoints(branch: Path) -> list[Path]:
    """Kept checkpoints of a branch, oldest first; the last is the branch itself."""
    return [*sorted((branch / "checkpoints").glob("*")), branch]


def weight_sets(branches: int, favours: Sequence[float]) -> list[tuple[float, ...]]:
    """Equal weights, then each branch in turn with so many times the weight of each of the others."""
    sets = [(1.0,) * branches]
    for i in range(branches):
        sets += [tuple(favour if i == j else 1.0 for j in range(branches)) for favour in favours if favour != 1]
    return sets


def search(axes: Mapping[str, Sequence[Any]], loss: Callable[[Point], float]) -> Point:
    """The best point along one axis after the other, from the first values and the middle density; the earlier wins a tie."""
    first = {name: values[len(values) // 2 if name == "density" else 0] for name, values in axes.items()}
    at = Point(**first)
    for name, values in axes.items():
        at = min((dataclasses.replace(at, **{name: value}) for value in values), key=loss)
    return at


def axes_of(settings: Merge, branches: int) -> dict[str, list[Any]]:
    """What is free for branches: a mean has neither density nor scale."""
    ties_ = settings.method == "ties"
    return {
        "weights": weight_sets(branches, settings.favours),
        "density": settings.densities if ties_ else [1.0],
        "scale": settings.scales if ties_ else [1.0],
    }


def merged(settings: Merge, base: Tensors, branches: Mapping[str, Tensors], at: Point) -> tuple[Json, Tensors]:
    """One merge of branches, with its settings for the table."""
    weights = dict(zip(branches, at.weights, strict=True))
    if settings.method == "mean":
        return {"weights": weights}, weighted(list(branches.values()), at.weights)
    tensors, agreement = merge_ties(base, list(branches.values()), at.density, at.scale, at.weights)
    told = {"density": at.density, "weights": weights, "scale": at.scale}
    return {**told, "sign_agreement": round(agreement, 6)}, tensors


def over_checkpoints(settings: Merge, kept: Sequence[Tensors]) -> Iterator[tuple[Json, Tensors]]:
    """Means of one branch's checkpoints (oldest first) that the method leaves open."""
    if settings.method == "linear":
        yield {"checkpoints": len(kept)}, weighted(kept, [float(i + 1) for i in range(len(kept))])
        return
    for decay in settings.decays:
        weights = [decay ** (len(kept) - 1 - i) for i in range(len(kept))]
        yield {"decay": decay, "checkpoints": len(kept)}, weighted(kept, weights)


def sweep(settings: Merge, judge: Judge, base: Tensors, branches: Mapping[str, Tensors], kept: Sequence[Tensors]) -> list[Tried]:
    """Every merge that was judged, in the order of the search; only the best one so far keeps its weights."""
    found: list[Tried] = []

    def note(settings_: Json, tensors: Tensors) -> float:
        one = judge.tried(settings_, tensors)
        best = min((t.loss for t in found), default=float("inf"))
        if one.loss < best:
            found[:] = [dataclasses.replace(t, tensors={}) for t in found]
        found.append(one if one.loss < best else dataclasses.replace(one, tensors={}))
        shown.advance(1)
        return one.loss

    axes = axes_of(settings, len(branches))
    with bar("merge", 1 + sum(len(values) - 1 for values in axes.values()), "models") as shown:
        if settings.method in ("linear", "exponential"):
            for pair in over_checkpoints(settings, kept):
                note(*pair)
        elif len(branches) == 1:
            note({"branch": next(iter(branches))}, next(iter(branches.values())))
        else:
            known: dict[Point, float] = {}

            def loss(at: Point) -> float:
                if at not in known:
                    known[at] = note(*merged(settings, base, branches, at))
                return known[at]

            search(axes, loss)
    return found


def pick(judge: Judge, settings: Merge, folder: Path) -> tuple[str, Tensors, dict[str, float]]:
    """The checkpoint that stands for a branch: its name, its weights, its losses."""
    paths = checkpoints(folder) if settings.checkpoint == "best" else [folder]
    states = [load_file(path / "model.safetensors") for path in paths]
    losses = [judge.losses(state) for state in states]
    means = [judge.mean(found) for found in losses]
    at = means.index(min(means))
    return "last" if paths[at] == folder else paths[at].name, states[at], losses[at]


def run(job: Job) -> Json:
    """Choose each branch's checkpoint and what the method leaves open on dev; write the best merge."""
    settings, seed = job.recipe.merge, job.recipe.seed
    torch.set_num_threads(job.recipe.compute.threads)
    folders = {name: job.inputs[f"branch:{name}"].local("*model.safetensors") for name in settings.branches}
    config = load_model(folders[settings.branches[0]], job.recipe.model).cfg
    split = open_split(job.inputs["tokens"].local("dev/*"), "dev")
    documents = choose_round(split, sorted(f for f in split.ranges if is_language(f)), settings.dev_tokens, seed)

    def scores(tensors: Tensors) -> Scores:
        return score(from_hf_state(tensors, config), split, documents, config.max_position, HELDOUT_MASK, seed)

    judge = Judge(split, documents, settings.criterion, scores)
    base = load_file(job.inputs["base"].local("model.safetensors") / "model.safetensors")
    picked = {name: pick(judge, settings, folder) for name, folder in folders.items()}
    branches = {name: state for name, (_, state, _) in picked.items()}
    weighs = settings.method in ("linear", "exponential")
    kept = [load_file(p / "model.safetensors") for p in checkpoints(folders[settings.branches[0]])] if weighs else []
    tried = sweep(settings, judge, base, branches, kept)
    alone = {name: judge.mean(losses) for name, (_, _, losses) in picked.items()}
    if settings.alone and not (len(branches) == 1 and not weighs):
        tried += [Tried({"branch": n}, branches[n], losses, alone[n]) for n, (_, _, losses) in picked.items()]
    best = min(tried, key=lambda t: t.loss)
    save_checkpoint(job.out, from_hf_state(best.tensors, config))
    columns = [judge.losses(base), *(losses for _, _, losses in picked.values()), best.losses]
    facts: Json = {
        "method": settings.method,
        "criterion": settings.criterion,
        "chosen": {**best.settings, "dev_loss": best.loss},
        "sweep": [{**t.settings, "dev_loss": t.loss} for t in tried],
        "branches_alone": alone,
        "checkpoints": {name: found for name, (found, _, _) in picked.items()},
        "columns": [settings.base, *branches, "merge"],
        "means": {c: [judge.mean(losses, c) for losses in columns] for c in ("languages", "tokens")},
        "languages": {t: [round(losses[t], 4) for losses in columns] for t in best.losses},
    }
    write_json(job.out / "merge.json", facts)
    job.say(f"{describe_merge(facts)}, of {len(tried)} tried; dev loss of the branches alone: {alone}")
    return facts
