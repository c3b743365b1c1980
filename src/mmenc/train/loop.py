"""The loop over the global batches of a phase, in each of the processes that train it.

The global batch, its masks and its dropout are functions of (seed, phase, step); the loss is divided by the masked
tokens of the whole global batch, so micro-batches and processes change nothing but the order of a sum. A signal ends the
phase after the current step with the state saved (exit 75); a killed process goes on from the last saved state, bit for bit.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mmenc import job as runtime
from mmenc.artifact import Json, atomic_directory, read_json
from mmenc.data.packing import Rows
from mmenc.data.tokens import open_split
from mmenc.errors import Refused, Stopped
from mmenc.evaluate.score import choose_round, score
from mmenc.model.attention import Packing
from mmenc.model.head import MaskedLM
from mmenc.model.hf import save_checkpoint
from mmenc.progress import bar
from mmenc.train.batches import Batches, Place, make_streams
from mmenc.train.group import Group
from mmenc.train.micro import cut
from mmenc.train.schedule import batch_rows, learning_rate
from mmenc.train.state import load_model, load_optimizer, make_optimizer, save_resume
from mmenc.train.task import Task

HELDOUT_TOKENS = 24_000
"""Dev tokens under the held-out loss: about a second on two cores, and a standard error near 0.05 nats at 15 %."""
HELDOUT_MASK = 0.15
"""One rate in every phase, so that the curves of all phases can be laid side by side."""
CURVE_POINTS = 60
PROC = Path("/proc/self/statm").exists()


@dataclass
class Loop:
    """Counters of the loop: everything that a resumed run needs beside model and optimizer."""

    window: int = 0
    window_row: int = 0
    rows: int = 0
    step: int = 0
    tokens: int = 0
    row_tokens: int = 0
    folders: dict[str, int] = field(default_factory=dict)
    curve: list[list[float]] = field(default_factory=list)
    heldout: list[list[float]] = field(default_factory=list)
    loss_sum: float = 0.0
    loss_count: int = 0
    kept: int = 0


class Trainer:
    """One phase of training, as one process of its group sees it; process 0 alone writes files and takes held-out losses."""

    def __init__(self, task: Task, group: Group, saved: Callable[[], None]) -> None:
        self.task, self.group, self.saved = task, group, saved
        self.memory_before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() if PROC else 0
        self.recipe, self.phase = task.recipe, task.phase
        self.bf16 = self.recipe.model.dtype == "bfloat16"
        self.train_split, self.dev_split = open_split(task.tokens, "train"), open_split(task.tokens, "dev")
        self.before: Json = read_json(task.init / "state.json")
        self.mixture: Json = read_json(task.mixture / "mixture.json")
        self._check_growth()
        self.loop = Loop(**read_json(task.source / "state.json")) if task.resumed else Loop()
        self.model: MaskedLM = load_model(task.source, self.recipe.model, self.phase).to(group.device)
        self.model.model.checkpointing = self.recipe.compute.activation_checkpointing
        self.shared = group.wrap(self.model)
        self.optimizer = make_optimizer(self.model, self.phase.optimizer, self.phase.lr.peak)
        load_optimizer(task.source / "optimizer.safetensors", self.model, self.optimizer)
        read = self.before["streams"]
        streams = make_streams(self.train_split, self.mixture, read, self.recipe.seed, task.name, self.phase)
        self.batches = Batches(streams, self.train_split, self.phase, task.name, self.recipe.seed)
        self.dev_documents = choose_round(self.dev_split, sorted(self.mixture["languages"]), HELDOUT_TOKENS, self.recipe.seed)
        if task.resumed:
            print(f"  resumed at step {self.loop.step}, {self.loop.tokens:,} tokens", flush=True)

    def _check_growth(self) -> None:
        """Languages only grow along the tree (what `checks.check` could not know without counts)."""
        now = {*self.mixture["languages"], *(b["source"] for b in self.mixture["buckets"].values())}
        lost = sorted(t for t, n in self.before["total"]["languages"].items() if n and t not in now)
        if lost:
            parent = self.phase.init
            raise Refused(f"phases.{self.task.name}.languages: drops {lost[0]}, which its parent {parent} was trained on")

    def heldout(self) -> float:
        """Mean masked-LM loss on dev, in nats per masked token."""
        found = score(
            self.model, self.dev_split, self.dev_documents, self.phase.context, HELDOUT_MASK, self.recipe.seed, self.bf16
        )
        self.model.train()
        return float(found.loss_M.mean())

    def train_step(self, rows: Rows) -> tuple[float, int]:
        """One optimizer step on one global batch; return (sum of losses, masked tokens)."""
        names = (self.recipe.seed, self.task.name, self.loop.step)
        size = max(1, self.recipe.compute.micro_batch_tokens // self.phase.context)
        share, device = self.group.share(len(rows)), self.group.device
        parts, masked = cut(rows, self.train_split, self.phase, self.model.cfg.vocab_size, names, size, share)
        total = torch.zeros((), device=device)
        for part in parts:
            with self.group.hold(self.shared, last=part is parts[-1]):
                with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
                    loss_sum, _ = self.shared(
                        torch.from_numpy(part.input_T).to(device),
                        Packing.of(part.lengths, device),
                        torch.from_numpy(part.index_M).to(device),
                        torch.from_numpy(part.target_M).to(device),
                        part.draws,
                    )
                (loss_sum * self.group.size / masked).backward()
            total += loss_sum.detach()
        rate = learning_rate(self.phase.lr, self.loop.tokens, self.phase.tokens)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        # DDP's gradients are views of what is exchanged: kept, so that they are not copied at every step.
        self.optimizer.zero_grad(set_to_none=self.group.size == 1)
        return self.group.sum(total), masked

    def count(self, rows: Rows, after: Place, loss: float, masked: int) -> None:
        """Book what a step has read."""
        loop = self.loop
        for folder, tokens in rows.stored().items():
            loop.tokens += tokens
            loop.folders[folder] = loop.folders.get(folder, 0) + tokens
        loop.row_tokens += int(rows.lengths().sum())
        loop.rows += len(rows)
        loop.window, loop.window_row = after.window, after.row
        loop.step += 1
        loop.loss_sum, loop.loss_count = loop.loss_sum + loss, loop.loss_count + masked
        if loop.tokens >= self.phase.tokens * (len(loop.curve) + 1) / CURVE_POINTS or self.finished():
            loop.curve.append([loop.tokens, round(loop.loss_sum / loop.loss_count, 6)])
            loop.loss_sum, loop.loss_count = 0.0, 0

    def place(self) -> Place:
        """Where the next batch begins."""
        return Place(self.loop.window, self.loop.window_row)

    def finished(self) -> bool:
        """Whether every row of the phase has been read."""
        return not self.batches.left(self.place(), 1)

    def take_heldout(self) -> None:
        """Take the held-out loss at the start, at equal distances, and at the end of the phase."""
        if self.group.rank:
            return
        due = len(self.loop.heldout) / max(1, self.phase.evaluations)
        if self.loop.tokens / self.phase.tokens >= due or self.finished():
            self.loop.heldout.append([self.loop.tokens, round(self.heldout(), 6)])

    def keep(self) -> None:
        """Keep an intermediate checkpoint at equal distances, beside the resume state until the phase is done."""
        if self.group.rank:
            return
        due = self.phase.tokens * (self.loop.kept + 1) / (self.phase.checkpoints + 1)
        if self.loop.kept < self.phase.checkpoints and self.loop.tokens >= due:
            with atomic_directory(self.task.resume / "kept" / f"{self.loop.tokens:015d}") as folder:
                save_checkpoint(folder, self.model)
            self.loop.kept += 1

    def save(self) -> None:
        """Write the resume state."""
        if self.group.rank:
            return
        save_resume(self.task.resume, self.loop.step, self.task.parents, self.model, self.optimizer, vars(self.loop))
        self.saved()

    def run(self) -> Json:
        """Train to the end of the phase; return what was measured."""
        saved = started = time.monotonic()
        done = 0
        self.model.train()
        runtime.graceful = True
        try:
            with bar(f"train {self.task.name}", self.phase.tokens, "tokens") as shown:
                shown.advance(self.loop.tokens)
                if not self.loop.heldout:
                    self.take_heldout()
                while taken := self.batches.take(self.place(), batch_rows(self.phase, self.loop.tokens)):
                    rows, after = taken
                    loss, masked = self.train_step(rows)
                    if not math.isfinite(loss):
                        raise Refused(
                            f"phases.{self.task.name}: the loss is {loss} at step {self.loop.step}; "
                            f"lower lr.peak or lengthen lr.warmup"
                        )
                    before = self.loop.tokens
                    self.count(rows, after, loss, masked)
                    done += self.loop.tokens - before
                    self.take_heldout()
                    self.keep()
                    speed = done / (time.monotonic() - started)
                    shown.advance(self.loop.tokens - before, f"loss {loss / masked:.3f} {speed:,.0f} tok/s")
                    if self.group.stopping:
                        self.save()
                        where = f"train {self.task.name}: stopped at step {self.loop.step}"
                        raise Stopped(f"{where}, its state is saved; run again to go on")
                    if time.monotonic() - saved > self.recipe.compute.checkpoint_seconds:
                        self.save()
                        saved = time.monotonic()
        finally:
            runtime.graceful = False
        seconds = time.monotonic() - started
        return {"train_seconds": seconds, "tokens": done, "tokens_per_second": done / max(seconds, 1e-9)}
