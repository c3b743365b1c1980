"""Merge: TIES of the decay branches against their common base (trim, elect sign, disjoint mean), density chosen on dev.

TIES-Merging (Yadav et al. 2023, arXiv 2306.01708): from each branch's difference to the base keep the `density` largest
by magnitude, per tensor; elect a sign per parameter by the sum of what is left; average the values that agree with it.
mmBERT merged its three decay branches so; it published neither density nor weights (recipe.md section 4), so the
density is swept here on dev. One branch is passed on as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from safetensors.torch import load_file
from torch import Tensor

from mmenc.artifact import Json, write_json
from mmenc.data.tokens import is_language, open_split
from mmenc.evaluate.score import choose_round, score
from mmenc.job import Job
from mmenc.model.head import MaskedLM
from mmenc.model.hf import from_hf_state, save_checkpoint
from mmenc.progress import bar
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


def run(job: Job) -> Json:
    """Sweep the density on dev, write the best merge."""
    settings = job.recipe.merge
    torch.set_num_threads(job.recipe.compute.threads)
    folders = {role: job.inputs[role].path for role in ("base", *(f"branch:{b}" for b in settings.branches))}
    tensors = {role: load_file(folder / "model.safetensors") for role, folder in folders.items()}
    branches = [tensors[f"branch:{b}"] for b in settings.branches]
    template = load_model(folders[f"branch:{settings.branches[0]}"], job.recipe.model)
    config = template.cfg
    split = open_split(job.inputs["tokens"].path, "dev")
    documents = choose_round(split, sorted(f for f in split.ranges if is_language(f)), settings.dev_tokens, job.recipe.seed)

    def dev_loss(model: MaskedLM) -> float:
        found = score(model, split, documents, config.max_position, HELDOUT_MASK, job.recipe.seed)
        return round(float(found.loss_M.mean()), 6)

    densities = settings.densities if settings.method == "ties" and len(branches) > 1 else [1.0]
    rows: list[Json] = []
    best: tuple[float, MaskedLM] | None = None
    with bar("merge", len(densities) + len(branches), "models") as shown:
        alone = {}
        for name, branch in zip(settings.branches, branches, strict=True):
            alone[name] = dev_loss(from_hf_state(branch, config))
            shown.advance(1, name)
        for density in densities:
            if len(branches) == 1:
                state, agreement = dict(branches[0]), 1.0
            else:
                state, agreement = merge_tensors(tensors["base"], branches, settings.method, density, settings.scale)
            model = from_hf_state(state, config)
            loss = dev_loss(model)
            rows.append({"density": density, "dev_loss": loss, "sign_agreement": round(agreement, 6)})
            if best is None or loss < best[0]:
                best = (loss, model)
            shown.advance(1, f"density {density:g}")
    assert best is not None
    save_checkpoint(job.out, best[1])
    chosen = next(r for r in rows if r["dev_loss"] == best[0])
    facts: Json = {"method": settings.method, "chosen": chosen, "sweep": rows, "branches_alone": alone}
    write_json(job.out / "merge.json", facts)
    job.say(f"density {chosen['density']:g}: dev loss {chosen['dev_loss']:.3f}; branches alone: {alone}")
    return facts
