"""What training carries: model, optimizer, and how much of each language has been read, since the phase's start and the root.

A checkpoint (contract): model.safetensors + config.json (they load in transformers), optimizer.safetensors, state.json.
Resume state is the same plus the counters of the loop, verified by hash when it is read back.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmenc.artifact import Json, atomic_directory, read_json, sha256_file, write_json
from mmenc.errors import Refused
from mmenc.model.config import EncoderConfig
from mmenc.model.head import MaskedLM
from mmenc.model.hf import config_from_hf, from_hf_state, write_state
from mmenc.sections import Model, Optimizer, Phase
from mmenc.train.group import whole


def no_consumption() -> Json:
    """state.json of a model that has seen nothing."""
    total: Json = {"tokens": 0, "steps": 0, "languages": {}, "buckets": {}}
    return {**total, "total": total, "streams": {}}


def load_model(folder: Path, model: Model, phase: Phase | None = None) -> MaskedLM:
    """Read a checkpoint; with a phase, its RoPE base and context take the place of the stored ones."""
    config: EncoderConfig = config_from_hf(read_json(folder / "config.json"))
    config = dataclasses.replace(config, attn_out_dropout=model.attn_out_dropout)
    if phase is not None:
        config = dataclasses.replace(
            config,
            rope_theta_global=phase.rope_theta,
            rope_theta_local=phase.rope_theta_local or phase.rope_theta,
            max_position=phase.context,
        )
    return from_hf_state(load_file(folder / "model.safetensors"), config)


def make_optimizer(model: MaskedLM, settings: Optimizer, peak: float) -> torch.optim.Optimizer:
    """StableAdamW with fully decoupled weight decay, none on norms and biases (one-dimensional parameters)."""
    from optimi import StableAdamW

    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer: torch.optim.Optimizer = StableAdamW(
        groups,
        lr=peak,
        max_lr=peak,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        decouple_lr=True,
        foreach=False,
        triton=False,
    )
    return optimizer


def _copy(tensor: Tensor) -> Tensor:
    """A copy on the CPU that later steps do not touch."""
    return whole(tensor).detach().to("cpu", copy=True).contiguous()


@dataclass(frozen=True)
class Snapshot:
    """Weights and moments after one step, held apart from the model, so that training goes on while they are written."""

    config: EncoderConfig
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    """By moment and parameter name, and the number of optimizer steps; empty where only the weights are wanted."""

    @classmethod
    def of(cls, model: MaskedLM, optimizer: torch.optim.Optimizer | None = None) -> Snapshot:
        """Copy a model's weights, and an optimizer's moments."""
        weights, moments = model.state_dict(), dict[str, Tensor]()
        if optimizer:
            for name, parameter in model.named_parameters():
                kept = optimizer.state[parameter]
                assert kept or not optimizer.param_groups[0].get("step", 0), f"no moments for {name}"
                moments |= {f"{key}.{name}": _copy(kept[key]) for key in ("exp_avg", "exp_avg_sq") if key in kept}
            moments["step"] = torch.as_tensor(optimizer.param_groups[0].get("step", 0), dtype=torch.int64).reshape(1).clone()
        return cls(model.cfg, {name: _copy(t) for name, t in weights.items()}, moments)

    def write(self, folder: Path, state: Mapping[str, object] | None = None) -> None:
        """Write a checkpoint: two files of the model and, with a state, the moments and state.json."""
        write_state(folder, self.weights, self.config)
        if state is not None:
            save_file(self.moments, folder / "optimizer.safetensors", metadata={"format": "pt"})
            write_json(folder / "state.json", state)


def load_optimizer(path: Path, model: MaskedLM, optimizer: torch.optim.Optimizer) -> None:
    """Put stored moments back; a missing file (a fresh model) leaves them empty."""
    if not path.exists():
        return
    tensors = load_file(path)
    if not int(tensors["step"]):
        return  # no step was taken yet: there are no moments
    for group in optimizer.param_groups:
        group["setup"], group["step"] = True, tensors["step"][0].to(torch.int32)
    eps = {id(p): g["eps"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        if f"exp_avg.{name}" not in tensors:
            raise Refused(f"{path}: has no moments for {name}; expected the optimizer state of the same model")
        optimizer.state[parameter] = {
            "exp_avg": _like(tensors[f"exp_avg.{name}"], parameter),
            "exp_avg_sq": _like(tensors[f"exp_avg_sq.{name}"], parameter),
            "eps_sq": torch.tensor(eps[id(parameter)] ** 2, dtype=parameter.dtype, device=parameter.device),
            "kahan_comp": None,
        }


def _like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor placed, or divided, as a parameter is."""
    if hasattr(parameter, "device_mesh"):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(parameter, DTensor)
        return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
    return tensor.to(parameter.device)


def save_resume(root: Path, step: int, parents: Json, snapshot: Snapshot, loop: Json, keep: int) -> None:
    """Write one state to resume from, whole or not at all; drop all but the newest `keep`, and what claims to be newer."""
    with atomic_directory(root / f"{step:09d}") as folder:
        snapshot.write(folder, loop)
        hashes = {p.name: sha256_file(p) for p in sorted(folder.iterdir())}
        write_json(folder / "resume.json", {"parents": parents, "files": hashes})
    states = sorted(p for p in root.iterdir() if p.name.isdigit())
    own = [p for p in states if int(p.name) <= step]  # later ones are damaged, or of inputs that were made anew since
    for old in {*states} - {*own[-keep:]}:
        shutil.rmtree(old)


def newest_resume(root: Path, parents: Json) -> Path | None:
    """The newest resume checkpoint that is whole and descends from the same parents' content."""
    folders = sorted((p for p in root.glob("*") if p.name.isdigit()), reverse=True) if root.is_dir() else []
    for folder in folders:
        try:
            meta = json.loads((folder / "resume.json").read_text(encoding="utf-8"))
            whole = all(sha256_file(folder / name) == digest for name, digest in meta["files"].items())
        except (OSError, ValueError, KeyError):
            whole, meta = False, {}
        if not whole:
            print(f"  warning: {folder} is damaged, falling back to the one before", flush=True)
        elif meta["parents"] == parents:
            return folder
    return None
