"""Where the time of a training step goes, by class of kernel (torch.profiler); written beside the rows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_sides import Batch, Side

CLASSES = {
    "attention": r"flash|fmha|attention|varlen|flex|sdpa|softmax_warp",
    "matrix products": r"gemm|cutlass|nvjet|cublas|xmma|::mm|addmm|bmm|matmul|::linear|dot",
    "head: softmax, loss": r"triton.*(amax|exp|log|softmax)|log_softmax|nll|cross_entropy|scatter|gather",
    "norms": r"layer_norm|LayerNorm|native_norm|GammaBeta",
    "embedding, index": r"index|embedding",
    "optimizer": r"adam|lerp|addcdiv|addcmul|foreach",
    "copies": r"memcpy|memset|copy|::cat|CatArray|::to|fill",
    "element-wise, fused": r"triton|elementwise|vectorized|gelu|::mul|::add|::sub|::div|reduce|::sum|exp|norm",
}


def classify(name: str) -> str:
    """The first class whose pattern a kernel's (on a CPU: an operator's) name holds."""
    return next((kind for kind, pattern in CLASSES.items() if re.search(pattern, name, re.IGNORECASE)), "other")


def times(side: Side, batch: Batch, device: torch.device) -> tuple[dict[str, float], list[tuple[str, float]]]:
    """Share of a step's device time by class, and its ten longest kernels."""
    cuda = device.type == "cuda"
    kinds = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU]
    with profile(activities=kinds) as found:
        side.total(batch, device, learn=True)
    spent: dict[str, float] = {}
    for event in found.key_averages():
        # With CUDA the time of a kernel counts, not that of the operator which launched it.
        kernel: Any = event
        if cuda and kernel.device_type != torch.autograd.DeviceType.CUDA:
            continue
        spent[kernel.key] = spent.get(kernel.key, 0.0) + (kernel.self_device_time_total if cuda else kernel.self_cpu_time_total)
    total = sum(spent.values()) or 1.0
    shares: dict[str, float] = {}
    for name, value in spent.items():
        shares[classify(name)] = shares.get(classify(name), 0.0) + value / total
    longest = sorted(spent.items(), key=lambda item: -item[1])[:10]
    return dict(sorted(shares.items(), key=lambda item: -item[1])), [(name[:120], value / total) for name, value in longest]


def show(side: Side, batch: Batch, device: torch.device, title: str, rows: Path | None) -> None:
    """Print the shares, and keep them in `<rows>.profile.json`."""
    shares, longest = times(side, batch, device)
    print(f"  {side.name}: " + ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in shares.items()), flush=True)
    if rows is None:
        return
    path = rows.with_suffix(".profile.json")
    kept = json.loads(path.read_text()) if path.is_file() else {}
    kept[title] = {"side": side.name, "shares": shares, "longest": longest}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
