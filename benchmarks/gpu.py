"""Training on one GPU: steps of ours with each attention backend, against transformers' ModernBertForMaskedLM.

mmBERT small and base (recipes/), vocabulary 256,000, bf16 autocast: rows of 1024 with a mask of 30 %, of 8192 with 15 and
5 %; documents as long as the row (what the limits of performance.md mean) and documents of real lengths. All sides have the
same weights, and the losses of the first batch must agree. Prints and writes each comparison when it is measured: run again
with the same --json to go on. `--tiny` runs every line that a CPU can run, at sizes that mean nothing.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_profile, gpu_sides
from benchmarks.gpu_sides import Batch, Side, make_batch
from benchmarks.table import Row, in_turn, main, write
from mmenc.errors import Refused
from mmenc.model.attention import available
from mmenc.model.config import EncoderConfig, encoder_config
from mmenc.recipe import load

AGREE = 0.01
"""Relative difference of first losses that bf16 explains (12.45 at random weights; seen between float32 and bf16: 0.001)."""
SEED = 7
BATCHES = 3


@dataclass(frozen=True)
class Case:
    """What is trained: `limits` in tokens/s with an FA3/4-class and an FA2 kernel (performance.md section 1)."""

    context: int
    mask: float
    limits: dict[str, tuple[float, float]]


CASES = (
    Case(1024, 0.30, {"small": (828e3, 764e3), "base": (389e3, 361e3)}),
    Case(8192, 0.15, {"small": (589e3, 444e3), "base": (282e3, 215e3)}),
    Case(8192, 0.05, {"small": (639e3, 472e3), "base": (305e3, 228e3)}),
)
STEP, MICRO = 262_144, (16_384, 32_768, 65_536)
"""Tokens of a step, and of a micro-batch: each side tries these and keeps the best."""
TINY_CASES = (Case(64, 0.30, {}), Case(256, 0.05, {}))
TINY_STEP, TINY_MICRO = 1_024, (512, 1_024)
FAST = ("flash3", "flash4", "fa3", "fa4")
"""Backends whose limit is that of an FA3/4-class kernel."""


def _config(model: str, tiny: bool) -> EncoderConfig:
    recipe = load(Path(f"recipes/mmbert-{model}.yaml"))
    cfg = dataclasses.replace(encoder_config(recipe), max_position=8192, attn_out_dropout=0.0)
    cfg = dataclasses.replace(cfg, rope_theta_global=160_000.0, rope_theta_local=160_000.0)
    small = {"vocab_size": 512, "hidden": 64, "heads": 2, "layers": 2, "intermediate": 96, "window": 32, "max_position": 256}
    return dataclasses.replace(cfg, **small) if tiny else cfg


def _flash_kinds() -> list[str]:
    from transformers.utils import import_utils

    known = {4: "is_flash_attn_4_available", 3: "is_flash_attn_3_available", 2: "is_flash_attn_2_available"}
    return [f"flash_attention_{n}" for n, name in known.items() if getattr(import_utils, name, lambda: False)()]


class Bench:
    """One model on one device; sides that cannot run are named once and left out."""

    def __init__(self, model: str, options: Namespace) -> None:
        self.model, self.options = model, options
        self.device = torch.device("cpu" if options.tiny else "cuda")
        self.cfg = _config(model, options.tiny)
        self.cases = TINY_CASES if options.tiny else CASES
        self.size, self.micro = (TINY_STEP, TINY_MICRO) if options.tiny else (STEP, MICRO)
        self.sides: list[Side] = []
        self.expected = 0.0

    def batches(self, case: Case, real: bool) -> list[Batch]:
        """Global batches of a case."""
        vocab = self.cfg.vocab_size
        return [make_batch(real, case.context, case.mask, self.size, vocab, SEED + i) for i in range(BATCHES)]

    def attempt(self, what: str, do: Callable[[], Any]) -> Any:
        """What `do` gives; None, with a sentence, where it cannot run."""
        try:
            return do()
        except torch.OutOfMemoryError:
            print(f"  {what}: left out, out of memory", flush=True)
        except Exception as error:  # noqa: BLE001 (a kernel that does not run must not end the others' measurement)
            print(
                f"  {what}: left out, {type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}",
                flush=True,
            )
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def tune(self, side: Side, batch: Batch) -> Side | None:
        """The side with the micro-batch at which it is fastest; None if it runs at none."""
        speeds: dict[int, float] = {}
        for side.micro in self.micro:
            if (
                self.attempt(f"{side.name}, micro-batches of {side.micro}", lambda: side.total(batch, self.device, learn=True))
                is None
            ):
                break
            started = time.perf_counter()
            side.total(batch, self.device, learn=True)
            speeds[side.micro] = batch.tokens / (time.perf_counter() - started)
        if not speeds:
            return None
        side.micro, side.speed = max(speeds.items(), key=lambda item: item[1])
        print(f"  {side.name}: " + ", ".join(f"{n}: {v:,.0f} tokens/s" for n, v in speeds.items()), flush=True)
        return side

    def prepare(self) -> None:
        """Make all sides: our backends, the fastest of them compiled, the peers; each finds its micro-batch."""
        cfg, device = self.cfg, self.device
        state = gpu_sides.weights(cfg, device, SEED)
        for backend in available(device):
            self.add(partial(gpu_sides.ours, cfg, state, backend, device, compiled=False))
        if self.sides:
            fastest = max(self.sides, key=lambda side: side.speed).model.model.backend
            self.add(partial(gpu_sides.ours, cfg, state, fastest, device, compiled=True))
        peers = [("sdpa", False, False), ("sdpa", True, False), *((kind, True, True) for kind in _flash_kinds()[:1])]
        for kind, sparse, varlen in peers:
            self.add(partial(gpu_sides.theirs, cfg, state, kind, device, sparse=sparse, varlen=varlen))

    def add(self, make: partial[Side]) -> None:
        """Make a side; it stays if it runs and its first loss is that of the others."""
        batch = self.batches(self.cases[0], real=True)[0]
        side = self.attempt(str(make.args[2]), make)
        if side is None:
            return
        side.micro = self.micro[0]
        loss = self.attempt(side.name, partial(side.total, batch, self.device, learn=False))
        if loss is None:
            return
        self.expected = self.expected or loss
        print(f"  first loss {loss:.5f} of {side.name}", flush=True)
        if abs(loss - self.expected) > AGREE * self.expected:
            print(f"  {side.name}: left out, its first loss is not {self.expected:.5f}", flush=True)
        elif tuned := self.tune(side, batch):
            self.sides.append(tuned)

    def peak(self, side: Side, batch: Batch) -> float:
        """GB that a step of a side takes beside the weights and moments of all."""
        if self.device.type != "cuda":
            return 0.0
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        side.total(batch, self.device, learn=True)
        return (torch.cuda.max_memory_allocated() - before) / 1e9

    def compare(self, case: Case, real: bool) -> list[Row]:
        """The rows of one case: each of ours against the best peer, and the best of ours against each peer."""
        batches = self.batches(case, real)
        memory = {s.name: self.attempt(s.name, partial(self.peak, s, batches[0])) for s in self.sides}
        sides = [s for s in self.sides if memory[s.name] is not None]
        found = in_turn({s.name: s.steps(batches, self.device) for s in sides}, self.options.seconds, self.options.rounds)
        mine, peers = [s for s in sides if s.ours], [s for s in sides if not s.ours]
        if not mine or not peers:
            return []
        best, best_peer = (max(group, key=lambda s: found[s.name]) for group in (mine, peers))
        pairs = [(s, best_peer) for s in mine] + [(best, p) for p in peers if p is not best_peer]
        title = self.title(case, real)
        rows = []
        for a, b in pairs:
            limits = {} if real else case.limits
            limit = limits.get(self.model, (0.0, 0.0))[0 if any(f in a.name for f in FAST) else 1]
            setting = f"{title}; {a.name}; micro {a.micro} / {b.micro}; {memory[a.name]:.1f} / {memory[b.name]:.1f} GB"
            rows.append(Row("training step", setting, "tokens/s", found[a.name], found[b.name], b.name, b.version, limit))
        gpu_profile.show(best, batches[0], self.device, title, self.options.json)
        return rows

    def title(self, case: Case, real: bool) -> str:
        """What names a case in the rows, also when they are read back."""
        where = "TINY on a CPU, no measurement: " if self.options.tiny else f"{torch.cuda.get_device_name()}: "
        documents = "real lengths" if real else "documents as long as the row"
        return f"{where}{self.model}, rows of {case.context}, mask {case.mask:g}, {documents}"


def run(options: Namespace) -> list[Row]:
    """Both models, all cases, until the minutes are over."""
    if not options.tiny and not torch.cuda.is_available():
        raise Refused("benchmarks.gpu: torch finds no CUDA device here; nothing was measured (--tiny tries the code on a CPU)")
    if options.tiny:
        torch.set_num_threads(1)
    end = time.monotonic() + 60 * options.minutes
    there = json.loads(options.json.read_text()) if options.json and options.json.is_file() else []
    fields = [f.name for f in dataclasses.fields(Row)]
    rows = [Row(**{k: row[k] for k in fields}) for row in there]
    for model in ("small", "base"):
        bench = Bench(model, options)
        todo = [(c, real) for c in bench.cases for real in (False, True)]
        todo = [t for t in todo if not any(r.setting.startswith(f"{bench.title(*t)};") for r in rows)]
        if todo and time.monotonic() < end:
            print(f"{model}: {len(todo)} comparisons", flush=True)
            bench.prepare()
        for case, real in todo:
            if time.monotonic() > end:
                print(f"{bench.title(case, real)}: not measured, {options.minutes:g} minutes are over; run again", flush=True)
                continue
            new = bench.attempt(bench.title(case, real), partial(bench.compare, case, real)) or []
            rows += new
            for row in new:
                print(f"{row.setting}: {row.ours:,.0f} against {row.peer:,.0f} {row.unit} of {row.peer_name}", flush=True)
            write(options.json, rows)
        bench.sides.clear()
        gc.collect()
        torch.cuda.empty_cache()  # does nothing where there is no CUDA
    return rows


def choices(parser: ArgumentParser) -> None:
    """Options beside those of every benchmark."""
    parser.add_argument("--minutes", type=float, default=8, help="begin no comparison after these")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on a CPU: tries the code, measures nothing")


if __name__ == "__main__":
    main(__doc__, run, choices, seconds=0.8)
