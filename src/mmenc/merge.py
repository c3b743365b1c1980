"""Merge: TIES of the decay branches against their common base, or weights over the checkpoints of one branch.

TIES-Merging (Yadav et al. 2023, arXiv 2306.01708): from each branch's difference to the base keep the `density` largest
by magnitude, per tensor; elect a sign per parameter by the sum of what is left; average the values that agree with it.
mmBERT merged its three decay branches so; it published neither density nor weights (recipe.md section 4), so the
density is swept here on dev. For small, where TIES failed, it weighed several checkpoints of the decay over all languages
exponentially; that decay is swept too. One branch with TIES is passed on as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from mmenc.artifact import Json, write_json
from mmenc.card import describe_merge
from mmenc.data.tokens import is_language, open_split
from mmenc.evaluate.score import choose_round, score
from mmenc.job import Job
from mmenc.model.hf import from_hf_state, save_checkpoint
from mmenc.progress import bar
from mmenc.sections import Merge
from mmenc.train.state import load_model
from mmenc.train.step import HELDOUT_MASK

Tensors = Mapping[str, Tensor]


def trim(delta: Tensor, density: float) -> Tensor:
    """Keep the `density` share of entries that are largest by magnitude (at least one), zero the rest."""
    keep = max(1, round(density * delta.numel()))
    if keep >= delta.numel():
        return delta
    flat = delta.flatten()
    chosen = flat.abs().topk(keep).indices
    out = torch.zeros_like(flat)
    out[chosen] = flat[chosen]
    return out.view_as(delta)


def ties(base: Tensor, branches: list[Tensor], density: float, scale: float) -> tuple[Tensor, float]:
    """TIES for one tensor; also the share of non-zero entries whose branches all agree in sign."""
    delta_B = torch.stack([trim(b - base, density) for b in branches])
    elected = torch.sign(delta_B.sum(0))
    agree_B = (torch.sign(delta_B) == elected) & (delta_B != 0)
    count = agree_B.sum(0)
    merged = (delta_B * agree_B).sum(0) / count.clamp(min=1)
    present = (delta_B != 0).any(0)
    united = present & ((torch.sign(delta_B) == elected) | (delta_B == 0)).all(0)
    return base + scale * merged, float(united.sum() / present.sum().clamp(min=1))


def merge_tensors(
    base: Tensors, branches: Sequence[Tensors], method: str, density: float, scale: float
) -> tuple[dict[str, Tensor], float]:
    """Merge whole checkpoints in float32; also the sign agreement, weighted by the size of the tensors."""
    merged: dict[str, Tensor] = {}
    agreement = size = 0.0
    for name in sorted(base):
        tensors = [b[name].float() for b in branches]
        if method == "mean":
            merged[name], share = torch.stack(tensors).mean(0), 1.0
        else:
            merged[name], share = ties(base[name].float(), tensors, density, scale)
        agreement += share * tensors[0].numel()
        size += tensors[0].numel()
    return merged, agreement / size


@dataclass(frozen=True)
class Candidate:
    """One way to merge: its settings, as the table shows them, and its weights."""

    settings: Json
    tensors: Tensors


def checkpoints(branch: Path) -> list[Path]:
    """Kept checkpoints of a branch, oldest first; the last is the branch itself."""
    return [*sorted((branch / "checkpoints").glob("*")), branch]


def weighted(states: Sequence[Tensors], weights: Sequence[float]) -> dict[str, Tensor]:
    """Weighted mean of checkpoints in float32."""
    total = sum(weights)
    return {n: torch.stack([s[n].float() * (w / total) for s, w in zip(states, weights, strict=True)]).sum(0) for n in states[0]}


def candidates(settings: Merge, base: Tensors, branches: Sequence[Tensors], kept: Sequence[Tensors]) -> Iterator[Candidate]:
    """All ways that the recipe's method leaves open; `kept` are the checkpoints of the only branch, oldest first."""
    if settings.method == "exponential":
        for decay in settings.decays:
            weights = [decay ** (len(kept) - 1 - i) for i in range(len(kept))]
            yield Candidate({"decay": decay, "checkpoints": len(kept)}, weighted(kept, weights))
    elif settings.method == "linear":
        yield Candidate({"checkpoints": len(kept)}, weighted(kept, [float(i + 1) for i in range(len(kept))]))
    elif len(branches) == 1:
        yield Candidate({"branches": 1}, branches[0])
    else:
        for density in settings.densities if settings.method == "ties" else [1.0]:
            tensors, agreement = merge_tensors(base, branches, settings.method, density, settings.scale)
            yield Candidate({"density": density, "sign_agreement": round(agreement, 6)}, tensors)


def run(job: Job) -> Json:
    """Choose each branch's checkpoint and what the method leaves open on dev; write the best merge."""
    settings = job.recipe.merge
    torch.set_num_threads(job.recipe.compute.threads)
    folders = {name: job.inputs[f"branch:{name}"].local("*model.safetensors") for name in settings.branches}
    config = load_model(folders[settings.branches[0]], job.recipe.model).cfg
    split = open_split(job.inputs["tokens"].local("dev/*"), "dev")
    documents = choose_round(split, sorted(f for f in split.ranges if is_language(f)), settings.dev_tokens, job.recipe.seed)

    def dev_loss(tensors: Tensors) -> float:
        found = score(from_hf_state(tensors, config), split, documents, config.max_position, HELDOUT_MASK, job.recipe.seed)
        return round(float(found.loss_M.mean()), 6)

    alone: dict[str, float] = {}
    branches: list[Tensors] = []
    picked: dict[str, str] = {}
    for name, folder in folders.items():
        paths = checkpoints(folder) if settings.checkpoint == "best" else [folder]
        states = [load_file(path / "model.safetensors") for path in paths]
        losses = [dev_loss(state) for state in states]
        at = losses.index(min(losses))
        alone[name], picked[name] = losses[at], "last" if paths[at] == folder else paths[at].name
        branches.append(states[at])
    weighs = settings.method in ("linear", "exponential")
    kept = [load_file(p / "model.safetensors") for p in checkpoints(folders[settings.branches[0]])] if weighs else []
    base = load_file(job.inputs["base"].local("model.safetensors") / "model.safetensors")
    rows: list[Json] = []
    best: tuple[float, Tensors] | None = None
    with bar("merge", len(settings.densities), "models") as shown:
        for candidate in candidates(settings, base, branches, kept):
            loss = dev_loss(candidate.tensors)
            rows.append({**candidate.settings, "dev_loss": loss})
            if best is None or loss < best[0]:
                best = (loss, candidate.tensors)
            shown.advance(1)
    assert best is not None
    save_checkpoint(job.out, from_hf_state(best[1], config))
    chosen = next(r for r in rows if r["dev_loss"] == best[0])
    facts: Json = {"method": settings.method, "chosen": chosen, "sweep": rows, "branches_alone": alone, "checkpoints": picked}
    write_json(job.out / "merge.json", facts)
    job.say(f"{describe_merge(facts)}; dev loss of the branches alone: {alone}")
    return facts
