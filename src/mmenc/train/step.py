"""Train one phase: from the parent's checkpoint to this phase's, exact and resumable.

The global batch, its masks and its dropout are functions of (seed, phase, step); the loss is divided by the masked
tokens of the whole global batch, so micro-batches change nothing but the order of a sum. A signal ends the phase after
the current step with the state saved (exit 75); a killed process goes on from the last saved state, bit for bit.
"""

from __future__ import annotations

import math
import resource
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from mmenc import job as runtime
from mmenc import rng
from mmenc.artifact import Json, atomic_directory, read_json, write_json
from mmenc.costs import phase_costs
from mmenc.data.masking import mask_tokens
from mmenc.data.packing import Row, materialise
from mmenc.data.tokens import is_language, open_split
from mmenc.errors import Refused, Stopped
from mmenc.evaluate.score import choose_round, score
from mmenc.job import Job
from mmenc.model.attention import Packing
from mmenc.model.config import parameter_counts
from mmenc.model.head import MaskedLM
from mmenc.model.hf import save_checkpoint
from mmenc.progress import bar
from mmenc.sections import Phase
from mmenc.train.batches import Batches, make_streams
from mmenc.train.schedule import batch_rows, learning_rate
from mmenc.train.state import (
    load_model,
    load_optimizer,
    make_optimizer,
    newest_resume,
    save_resume,
    write_checkpoint,
)

HELDOUT_TOKENS = 24_000
"""Dev tokens under the held-out loss: about a second on two cores, and a standard error near 0.05 nats at 15 %."""
HELDOUT_MASK = 0.15
"""One rate in every phase, so that the curves of all phases can be laid side by side."""
CURVE_POINTS = 60
PROC = Path("/proc/self/statm").exists()


@dataclass
class Loop:
    """Counters of the loop: everything that a resumed run needs beside model and optimizer."""

    row: int = 0
    step: int = 0
    tokens: int = 0
    row_tokens: int = 0
    folders: dict[str, int] = field(default_factory=dict)
    curve: list[list[float]] = field(default_factory=list)
    heldout: list[list[float]] = field(default_factory=list)
    loss_sum: float = 0.0
    loss_count: int = 0
    counts: list[int] = field(default_factory=list)
    kept: int = 0


class Trainer:
    """One phase of training on one process."""

    def __init__(self, job: Job) -> None:
        self.job, self.recipe = job, job.recipe
        self.memory_before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() if PROC else 0
        self.phase: Phase = job.recipe.phases[job.name]
        compute = job.recipe.compute
        torch.set_num_threads(compute.threads)
        cuda = compute.device == "cuda" or (compute.device == "auto" and torch.cuda.is_available())
        if cuda and not torch.cuda.is_available():
            raise Refused("compute.device: 'cuda' asked for, torch finds no CUDA device; set it to 'cpu' or 'auto'")
        self.device = torch.device("cuda" if cuda else "cpu")
        self.bf16 = job.recipe.model.dtype == "bfloat16"
        self.train_split = open_split(job.inputs["tokens"].path, "train")
        self.dev_split = open_split(job.inputs["tokens"].path, "dev")
        self.before: Json = read_json(job.inputs["init"].path / "state.json")
        self.mixture: Json = read_json(job.inputs["mixture"].path / "mixture.json")
        self._check_growth()
        self.parents = {p.role: p.content for p in job.request.parents}
        resumed = newest_resume(job.resume, self.parents)
        self.loop = Loop(**read_json(resumed / "state.json")) if resumed else Loop()
        source = resumed or job.inputs["init"].path
        self.model: MaskedLM = load_model(source, self.recipe.model, self.phase).to(self.device)
        self.model.model.checkpointing = compute.activation_checkpointing
        self.optimizer = make_optimizer(self.model, self.phase.optimizer, self.phase.lr.peak)
        load_optimizer(source / "optimizer.safetensors", self.model, self.optimizer)
        read = self.before["streams"]
        streams = make_streams(self.train_split, self.mixture, read, self.recipe.seed, job.name, self.phase)
        self.batches = Batches(streams, self.train_split, self.phase, job.name, self.recipe.seed, self.loop.counts)
        self.loop.counts = self.batches.counts
        self.dev_documents = choose_round(self.dev_split, sorted(self.mixture["languages"]), HELDOUT_TOKENS, self.recipe.seed)
        if resumed:
            job.say(f"resumed at step {self.loop.step}, {self.loop.tokens:,} tokens")

    def _check_growth(self) -> None:
        """Languages only grow along the tree (what `checks.check` could not know without counts)."""
        now = {*self.mixture["languages"], *(b["source"] for b in self.mixture["buckets"].values())}
        lost = sorted(t for t, n in self.before["total"]["languages"].items() if n and t not in now)
        if lost:
            parent = self.phase.init
            raise Refused(f"phases.{self.job.name}.languages: drops {lost[0]}, which its parent {parent} was trained on")

    def heldout(self) -> float:
        """Mean masked-LM loss on dev, in nats per masked token."""
        found = score(
            self.model, self.dev_split, self.dev_documents, self.phase.context, HELDOUT_MASK, self.recipe.seed, self.bf16
        )
        self.model.train()
        return float(found.loss_M.mean())

    def micro_batches(self, rows: list[Row]) -> list[list[Row]]:
        """Cut a global batch into pieces of at most `compute.micro_batch_tokens`."""
        size = max(1, self.recipe.compute.micro_batch_tokens // self.phase.context)
        return [rows[i : i + size] for i in range(0, len(rows), size)]

    def train_step(self, rows: list[Row]) -> tuple[float, int]:
        """One optimizer step on one global batch; return (sum of losses, masked tokens)."""
        names = (self.recipe.seed, "mask", self.job.name, self.loop.step)
        ids_T, lengths = materialise(rows, self.train_split)
        input_T, index_M, target_M = mask_tokens(ids_T, self.phase.mask, self.model.cfg.vocab_size, *names)
        total = torch.zeros((), device=self.device)
        token = piece = first_row = 0
        for part in self.micro_batches(rows):
            pieces = sum(len(row) for row in part)
            part_lengths = lengths[piece : piece + pieces]
            tokens = sum(part_lengths)
            low, high = np.searchsorted(index_M, [token, token + tokens])
            dropout_seed = rng.seed(self.recipe.seed, "dropout", self.job.name, self.loop.step, first_row)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                loss_sum, _ = self.model(
                    torch.from_numpy(input_T[token : token + tokens]).to(self.device),
                    Packing.of(part_lengths, self.device),
                    torch.from_numpy(index_M[low:high] - token).to(self.device),
                    torch.from_numpy(target_M[low:high]).to(self.device),
                    dropout_seed,
                )
            (loss_sum / len(index_M)).backward()
            total += loss_sum.detach()
            token, piece, first_row = token + tokens, piece + pieces, first_row + len(part)
        rate = learning_rate(self.phase.lr, self.loop.tokens, self.phase.tokens)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(total), len(index_M)

    def count(self, rows: list[Row], loss: float, masked: int) -> None:
        """Book what a step has read."""
        loop = self.loop
        for row in rows:
            for p in row:
                loop.tokens += p.stored
                loop.row_tokens += p.length
                loop.folders[p.folder] = loop.folders.get(p.folder, 0) + p.stored
        loop.row += len(rows)
        loop.step += 1
        loop.loss_sum, loop.loss_count = loop.loss_sum + loss, loop.loss_count + masked
        if loop.tokens >= self.phase.tokens * (len(loop.curve) + 1) / CURVE_POINTS or loop.row == self.batches.total:
            loop.curve.append([loop.tokens, round(loop.loss_sum / loop.loss_count, 6)])
            loop.loss_sum, loop.loss_count = 0.0, 0

    def take_heldout(self) -> None:
        """Take the held-out loss at the start, at equal distances, and at the end of the phase."""
        due = len(self.loop.heldout) / max(1, self.phase.evaluations)
        if self.loop.row / self.batches.total >= due or self.loop.row == self.batches.total:
            self.loop.heldout.append([self.loop.tokens, round(self.heldout(), 6)])

    def keep(self) -> None:
        """Keep an intermediate checkpoint at equal distances, beside the resume state until the phase is done."""
        due = self.phase.tokens * (self.loop.kept + 1) / (self.phase.checkpoints + 1)
        if self.loop.kept < self.phase.checkpoints and self.loop.tokens >= due:
            with atomic_directory(self.job.resume / "kept" / f"{self.loop.tokens:015d}") as folder:
                save_checkpoint(folder, self.model)
            self.loop.kept += 1

    def save(self) -> None:
        """Write the resume state."""
        save_resume(self.job.resume, self.loop.step, self.parents, self.model, self.optimizer, vars(self.loop))

    def run(self) -> None:
        """Train to the end of the phase."""
        saved = started = time.monotonic()
        done = 0
        self.model.train()
        runtime.graceful = True
        try:
            with bar(f"train {self.job.name}", self.batches.total, "rows") as shown:
                shown.advance(self.loop.row)
                if not self.loop.heldout:
                    self.take_heldout()
                while self.loop.row < self.batches.total:
                    size = self.batches.size(self.loop.row, batch_rows(self.phase, self.loop.tokens))
                    rows = self.batches.rows(self.loop.row, size)
                    loss, masked = self.train_step(rows)
                    if not math.isfinite(loss):
                        raise Refused(
                            f"phases.{self.job.name}: the loss is {loss} at step {self.loop.step}; "
                            f"lower lr.peak or lengthen lr.warmup"
                        )
                    before = self.loop.tokens
                    self.count(rows, loss, masked)
                    done += self.loop.tokens - before
                    self.take_heldout()
                    self.keep()
                    speed = done / (time.monotonic() - started)
                    shown.advance(size, f"loss {loss / masked:.3f} {speed:,.0f} tok/s")
                    if runtime.stop_requested:
                        self.save()
                        where = f"train {self.job.name}: stopped at step {self.loop.step}"
                        raise Stopped(f"{where}, its state is saved; run again to go on")
                    if time.monotonic() - saved > self.recipe.compute.checkpoint_seconds:
                        self.save()
                        saved = time.monotonic()
        finally:
            runtime.graceful = False
        seconds = time.monotonic() - started
        self.job.measured |= {"train_seconds": seconds, "tokens": done, "tokens_per_second": done / max(seconds, 1e-9)}
        self.job.measured["plan"] = self.compare_with_plan(seconds, done)

    def compare_with_plan(self, seconds: float, done: int) -> Json:
        """What `mmenc plan` had predicted for this process, what was measured, and the relative error."""
        parameters = parameter_counts(self.model.cfg)["parameters"]
        planned = phase_costs(self.recipe, self.phase, parameters)
        cuda = self.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        expected = {"seconds": planned["hours"] * 3600 * done / self.phase.tokens, "memory_bytes": planned["memory_bytes"]}
        found = {"seconds": seconds, "memory_bytes": peak - (0 if cuda else self.memory_before)}
        return {"expected": expected, "measured": found, "error": {k: found[k] / expected[k] - 1 for k in found if expected[k]}}

    def state(self) -> Json:
        """state.json of the finished phase (contract)."""
        sources = {b: row["source"] for b, row in self.mixture["buckets"].items()}
        buckets = {b: self.loop.folders.get(source, 0) for b, source in sources.items()}
        languages = {t: n for t, n in self.loop.folders.items() if t in self.mixture["languages"]}
        before = self.before["total"]

        def add(old: Json, new: Json) -> Json:
            return {k: old.get(k, 0) + new.get(k, 0) for k in sorted({*old, *new})}

        return {
            "tokens": self.loop.tokens,
            "steps": self.loop.step,
            "languages": dict(sorted(languages.items())),
            "buckets": buckets,
            "total": {
                "tokens": before["tokens"] + self.loop.tokens,
                "steps": before["steps"] + self.loop.step,
                "languages": add(before["languages"], languages),
                "buckets": add(before["buckets"], buckets),
            },
            "streams": add(self.before["streams"], self.loop.folders),
        }


def _facts(trainer: Trainer, state: Json) -> Json:
    loop, phase = trainer.loop, trainer.phase
    planned = {t: row["share"] for t, row in {**trainer.mixture["languages"], **trainer.mixture["buckets"]}.items()}
    observed = {k: n / loop.tokens for k, n in {**state["languages"], **state["buckets"]}.items()}
    distance = sum(abs(planned[k] - observed.get(k, 0.0)) for k in planned) / 2
    return {
        "tokens": loop.tokens,
        "steps": loop.step,
        "total_tokens": state["total"]["tokens"],
        "rows": loop.row,
        "fill": round(loop.row_tokens / (loop.row * phase.context), 6),
        "learning_rate_end": learning_rate(phase.lr, loop.tokens, phase.tokens),
        "curve": loop.curve,
        "heldout": loop.heldout,
        "observed": observed,
        "mix_distance": round(distance, 6),
        "languages": sum(1 for t in state["languages"] if is_language(t)),
    }


def run(job: Job) -> Json:
    """Train a phase and write its checkpoint."""
    trainer = Trainer(job)
    trainer.run()
    state = trainer.state()
    write_checkpoint(job.out, trainer.model, trainer.optimizer, state)
    if trainer.loop.kept:
        shutil.copytree(job.resume / "kept", job.out / "checkpoints")
    facts = _facts(trainer, state)
    write_json(job.out / "curve.json", {"curve": facts["curve"], "heldout": facts["heldout"]})
    first, last = facts["heldout"][0][1], facts["heldout"][-1][1]
    speed = job.measured["tokens_per_second"]
    job.say(
        f"{facts['tokens']:,} tokens, {facts['steps']} steps, held-out loss {first:.3f} -> {last:.3f}, "
        f"fill {100 * facts['fill']:.1f} %, {speed:,.0f} tokens/s"
    )
    return facts
