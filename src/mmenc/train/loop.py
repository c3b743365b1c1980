"""The loop over the global batches of a phase, in each of the processes that train it.

The global batch, its masks and its dropout are functions of (seed, phase, step); the loss is divided by the masked
tokens of the whole global batch, so micro-batches and processes change nothing but the order of a sum. A signal ends the
phase after the current step with the state saved (exit 75); a killed process goes on from the last saved state, bit for bit.
Files are written beside training (saver.py), bad steps change nothing (guard.py), watch.py is the log.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mmenc import stop
from mmenc.artifact import Json, atomic_directory, read_json
from mmenc.costs import phase_flops
from mmenc.data.packing import Rows
from mmenc.data.tokens import open_split
from mmenc.errors import Refused, Stopped
from mmenc.evaluate.score import choose_round, score
from mmenc.model.attention import Packing
from mmenc.model.head import MaskedLM
from mmenc.progress import bar
from mmenc.train import guard
from mmenc.train.batches import Batches, Place, make_streams
from mmenc.train.group import Group
from mmenc.train.memory import explained
from mmenc.train.micro import NOTHING, Part, cut
from mmenc.train.prefetch import Ahead, Prepared, prepare
from mmenc.train.saver import Saver
from mmenc.train.schedule import at, learning_rate, set_rates
from mmenc.train.state import Snapshot, load_model, load_optimizer, make_optimizer, save_resume
from mmenc.train.task import Task
from mmenc.train.watch import Watch, measured_peak, memory

HELDOUT_TOKENS = 24_000
"""Dev tokens under the held-out loss: about a second on two cores, and a standard error near 0.05 nats at 15 %."""
HELDOUT_MASK = 0.15
"""One rate in every phase, so that the curves of all phases can be laid side by side."""
CURVE_POINTS = 60


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
    recent: list[float] = field(default_factory=list)
    """Mean losses of the last steps that were taken, as many as `skip.window`."""
    skipped: list[Json] = field(default_factory=list)
    cut_documents: int = 0
    cut_tokens: int = 0


class Trainer:
    """One phase of training, as one process of its group sees it; process 0 alone writes files."""

    def __init__(self, task: Task, group: Group, saved: Callable[[], None]) -> None:
        self.task, self.group, self.saved, self.saver = task, group, saved, Saver()
        self.saved_at = time.monotonic()
        self.memory_before = memory(torch.device("cpu"))
        self.recipe, self.phase = task.recipe, task.phase
        self.bf16 = self.recipe.model.dtype == "bfloat16"
        self.train_split, self.dev_split = open_split(task.tokens, "train"), open_split(task.tokens, "dev")
        self.before: Json = read_json(task.init / "state.json")
        self.mixture: Json = read_json(task.mixture / "mixture.json")
        self._check_growth()
        self.loop = Loop(**read_json(task.source / "state.json")) if task.resumed else Loop()
        compute = self.recipe.compute
        with explained(self.recipe, task.name, group.device):
            self.model: MaskedLM = load_model(task.source, self.recipe.model, self.phase)
            if not group.divided:  # FSDP moves each layer's part
                self.model.to(group.device)
        self.model.model.checkpointing = compute.activation_checkpointing
        if compute.compile:
            self.model.model.compile_layers(group.device)
        self.ended = False
        """Whether every row of the phase has been read."""
        self.shared = group.wrap(self.model)
        self.optimizer = make_optimizer(self.model, self.phase.optimizer, self.phase.lr.peak)
        load_optimizer(task.source / "optimizer.safetensors", self.model, self.optimizer)
        read = self.before["streams"]
        streams = make_streams(self.train_split, self.mixture, read, self.recipe.seed, task.name, self.phase)
        self.batches = Batches(streams, self.train_split, self.phase, task.name, self.recipe.seed)
        self.dev_documents = choose_round(self.dev_split, sorted(self.mixture["languages"]), HELDOUT_TOKENS, self.recipe.seed)
        self.watch = Watch(task.log, task.name, group.device, compute.log_seconds, self.phase.tokens)
        self.watch.before = self.before["total"]["tokens"]
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
        self.group.rest(self.model)
        return float(found.loss_M.mean())

    def flops_per_token(self, tokens: int) -> float:
        """What the model needs (nothing twice) under the mask in force after so many tokens."""
        phase = at(self.phase, tokens).model_copy(update={"changes": []})
        return sum(phase_flops(self.model.cfg, phase, checkpointing=False).values()) / phase.tokens

    def parts(self, rows: Rows, tokens: int, step: int) -> tuple[list[Part], int]:
        """Micro-batches of this process for a step, and the masked tokens of the whole batch; called ahead, in another thread."""
        names = (self.recipe.seed, self.task.name, step)
        size = max(1, self.recipe.compute.micro_batch_tokens // self.phase.context)
        shares = self.group.shares(len(rows))
        phase, vocab = at(self.phase, tokens), self.model.cfg.vocab_size
        parts, masked = cut(rows, self.train_split, phase, vocab, names, size, shares[self.group.rank])
        if self.group.divided:  # processes gather weights together, so each takes as many micro-batches as any other
            most = max(-(-(s.stop - s.start) // size) for s in shares)
            parts += [NOTHING] * (most - len(parts))
        return parts, masked

    def backward(self, parts: list[Part], masked: int) -> float:
        """Gradients of one global batch; return the sum of its losses."""
        device = self.group.device
        total = torch.zeros((), device=device)
        for number, part in enumerate(parts, 1):
            with self.group.hold(self.shared, last=number == len(parts)):
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
        due = not self.group.rank and time.monotonic() - self.saved_at > self.recipe.compute.checkpoint_seconds
        return self.group.sum(total, due=due)

    def step(self, made: Prepared) -> tuple[float, Json]:
        """One optimizer step on one global batch, or none if the batch is bad; return the sum of its losses and what to log."""
        loss = self.backward(made.parts, made.masked)
        norm = self.group.norm(self.model)
        mean, loop, skip = loss / max(1, made.masked), self.loop, self.phase.skip
        why = guard.reason(mean, norm, loop.recent, skip)
        if not why:
            set_rates(self.optimizer, self.phase, loop.tokens)
            self.optimizer.step()
            loop.recent = [*loop.recent, mean][-skip.window :]
        # DDP's gradients are views of what is exchanged: kept, so that they are not copied at every step.
        self.optimizer.zero_grad(set_to_none=self.group.size == 1 or self.group.divided)
        rate, read = learning_rate(self.phase, loop.tokens), self.book(made)
        if why:
            loop.skipped.append(guard.entry(loop.step, loop.tokens, why, mean))
            if self.group.rank == 0:
                print(f"  warning: step {loop.step} changes nothing: {why} (loss {mean:.3f}, gradient {norm:.3g})", flush=True)
            guard.check(loop.skipped, skip, self.task.name)
        else:
            loop.loss_sum, loop.loss_count = loop.loss_sum + loss, loop.loss_count + made.masked
        return loss, {"learning_rate": rate, "gradient_norm": norm, "mask": made.masked / read}

    def book(self, made: Prepared) -> int:
        """Count what a step has read, and where the next one begins; return its tokens."""
        loop, rows, before = self.loop, made.rows, self.loop.tokens
        for folder, tokens in rows.stored().items():
            loop.tokens += tokens
            loop.folders[folder] = loop.folders.get(folder, 0) + tokens
        loop.row_tokens += int(rows.lengths().sum())
        loop.rows += len(rows)
        documents, tokens = rows.divided()
        loop.cut_documents, loop.cut_tokens = loop.cut_documents + documents, loop.cut_tokens + tokens
        loop.window, loop.window_row = made.after.window, made.after.row
        loop.step += 1
        self.ended = made.last
        if any(before < c.after <= loop.tokens for c in self.phase.changes if c.mask or c.masking):
            loop.recent = []  # losses under another mask say nothing of the next ones
        return loop.tokens - before

    def point(self) -> None:
        """A point of the training curve, at equal distances and at the end."""
        loop = self.loop
        if loop.loss_count and (loop.tokens >= self.phase.tokens * (len(loop.curve) + 1) / CURVE_POINTS or self.ended):
            loop.curve.append([loop.tokens, round(loop.loss_sum / loop.loss_count, 6)])
            loop.loss_sum, loop.loss_count = 0.0, 0

    def place(self) -> Place:
        """Where the next batch begins."""
        return Place(self.loop.window, self.loop.window_row)

    def take_heldout(self) -> None:
        """Take the held-out loss at the start, at equal distances, and at the end of the phase."""
        if self.group.rank and not self.group.divided:
            return
        due = len(self.loop.heldout) / max(1, self.phase.evaluations)
        if self.loop.tokens / self.phase.tokens >= due or self.ended:
            loss = self.heldout()
            self.loop.heldout.append([self.loop.tokens, round(loss, 6)])
            self.watch.heldout(self.loop, loss)

    def snapshot(self, *, moments: bool = True) -> Snapshot | None:
        """The state to be written, in process 0; where the model is divided all processes take part."""
        if self.group.rank and not self.group.divided:
            return None
        self.saver.wait()  # memory holds one copy
        found = Snapshot.of(self.model, self.optimizer if moments else None)
        return None if self.group.rank else found

    def keep(self) -> None:
        """Keep an intermediate checkpoint at equal distances, beside the resume state until the phase is done."""
        due = self.phase.tokens * (self.loop.kept + 1) / (self.phase.checkpoints + 1)
        if self.loop.kept == self.phase.checkpoints or self.loop.tokens < due:
            return
        self.loop.kept += 1
        snapshot, folder = self.snapshot(moments=False), self.task.resume / "kept" / f"{self.loop.tokens:015d}"
        if snapshot:
            self.saver.write(lambda: _write(snapshot, folder))

    def save(self) -> None:
        """Write the resume state, beside training."""
        snapshot, task, loop = self.snapshot(), self.task, copy.deepcopy(vars(self.loop))
        keep = self.recipe.compute.keep_states

        def write() -> None:
            assert snapshot
            save_resume(task.resume, loop["step"], task.parents, snapshot, loop, keep)
            self.saved()

        if snapshot:
            self.saver.write(write)

    def run(self) -> Json:
        """Train to the end of the phase; return what was measured."""
        self.model.train()
        peak = 0.0
        if not self.group.rank:
            dtype = torch.bfloat16 if self.bf16 else torch.float32
            peak = self.watch.peak = self.group.size * measured_peak(self.group.device, dtype)
            self.watch.open(self.loop)
        started, before = time.monotonic(), self.loop.tokens
        self.saved_at = started
        with stop.unhurried():
            try:
                with explained(self.recipe, self.task.name, self.group.device):
                    self._steps(started)
                self.saver.wait()
            finally:
                self.saver.close()
                self.watch.close()
        seconds, done = time.monotonic() - started, self.loop.tokens - before
        speed = done / max(seconds, 1e-9)
        found = {"train_seconds": seconds, "tokens": done, "tokens_per_second": speed, "data_wait_seconds": self.watch.waited}
        return found | ({"peak_flops": peak, "mfu": speed * self.watch.flops_per_token / peak} if peak else {})

    def _steps(self, started: float) -> None:
        first, waited = self.loop.tokens, 0.0
        steps = prepare(self.batches, self.phase, self.parts, self.place(), self.loop.tokens, self.loop.step)
        with Ahead(steps) as ahead, bar(f"train {self.task.name}", self.phase.tokens, "tokens") as shown:
            shown.advance(self.loop.tokens)
            if not self.loop.heldout:
                self.take_heldout()
            self.watch.begin()
            for made in ahead:
                before = self.loop.tokens
                loss, extra = self.step(made)
                self.point()
                self.take_heldout()
                self.keep()
                read, note = self.loop.tokens - before, ""
                if not self.group.rank:
                    lost, waited = ahead.waited - waited, ahead.waited
                    self.watch.flops_per_token = self.flops_per_token(before)
                    note = self.watch.step(self.loop, read, loss, made.masked, lost, extra, last=self.ended)
                speed = (self.loop.tokens - first) / (time.monotonic() - started)
                shown.advance(read, f"{note} {speed:,.0f} tok/s")
                if self.group.stopping:
                    self.save()
                    self.saver.wait()
                    where = f"train {self.task.name}: stopped at step {self.loop.step}"
                    raise Stopped(f"{where}, its state is saved; run again to go on")
                if self.group.saving:
                    self.save()
                    self.saved_at = time.monotonic()


def _write(snapshot: Snapshot, folder: Path) -> None:
    with atomic_directory(folder) as work:
        snapshot.write(work)
