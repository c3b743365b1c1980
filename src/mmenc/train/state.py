"""What training carries: model, optimizer, and how much of each language has been read, since the phase's start and the root.

A checkpoint (contract): model.safetensors + config.json (they load in transformers), optimizer.safetensors, state.json.
Resume state is the same plus the counters of the loop, verified by hash when it is read back.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmenc.artifact import Json, atomic_directory, read_json, sha256_file, write_json
from mmenc.errors import Refused
from mmenc.model.config import EncoderConfig
from mmenc.model.head import MaskedLM
from mmenc.model.hf import config_from_hf, from_hf_state, save_checkpoint
from mmenc.sections import Model, Optimizer, Phase

KEEP = 2
"""Resume checkpoints kept: the newest, and the one before in case the newest is damaged."""


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
            config, rope_theta_global=phase.rope_theta, rope_theta_local=phase.rope_theta, max_position=phase.context
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


def optimizer_tensors(model: MaskedLM, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments by parameter name, and the number of steps."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for key in ("exp_avg", "exp_avg_sq"):
            if key in optimizer.state[parameter]:
                tensors[f"{key}.{name}"] = optimizer.state[parameter][key].detach().cpu().contiguous()
    tensors["step"] = torch.as_tensor(optimizer.param_groups[0].get("step", 0), dtype=torch.int64).reshape(1).clone()
    return tensors


def load_optimizer(path: Path, model: MaskedLM, optimizer: torch.optim.Optimizer) -> None:
    """Put stored moments back; a missing file (a fresh model) leaves them empty."""
    if not path.exists():
        return
    tensors = load_file(path)
    for group in optimizer.param_groups:
        group["setup"], group["step"] = True, tensors["step"][0].to(torch.int32)
    eps = {id(p): g["eps"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        if f"exp_avg.{name}" not in tensors:
            raise Refused(f"{path}: has no moments for {name}; expected the optimizer state of the same model")
        optimizer.state[parameter] = {
            "exp_avg": tensors[f"exp_avg.{name}"].to(parameter.device),
            "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(parameter.device),
            "eps_sq": torch.tensor(eps[id(parameter)] ** 2, dtype=parameter.dtype, device=parameter.device),
            "kahan_comp": None,
        }


def write_checkpoint(folder: Path, model: MaskedLM, optimizer: torch.optim.Optimizer, state: Mapping[str, object]) -> None:
    """Write a checkpoint's four files."""
    save_checkpoint(folder, model)
    save_file(optimizer_tensors(model, optimizer), folder / "optimizer.safetensors", metadata={"format": "pt"})
    write_json(folder / "state.json", state)


def save_resume(root: Path, step: int, parents: Json, model: MaskedLM, optimizer: torch.optim.Optimizer, loop: Json) -> None:
    """Write one resume checkpoint, whole or not at all, and drop the oldest."""
    with atomic_directory(root / f"{step:09d}") as folder:
        write_checkpoint(folder, model, optimizer, loop)
        hashes = {p.name: sha256_file(p) for p in sorted(folder.iterdir())}
        write_json(folder / "resume.json", {"parents": parents, "files": hashes})
    for old in sorted(p for p in root.iterdir() if p.name.isdigit())[:-KEEP]:
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
