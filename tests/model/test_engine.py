"""Around the steps of training: bad steps, checkpoints written beside it, the log, memory that runs out."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mmenc.artifact import read_json
from mmenc.errors import Refused
from mmenc.sections import Skip
from mmenc.train import guard
from mmenc.train.loop import Trainer
from mmenc.train.saver import Saver
from mmenc.train.watch import measured_peak
from tests.pipeline import commands, run_stage, tiny_recipe, workplace, write_recipe

TRAIN = "train@pretrain"


def recipe(skip: dict | None = None, **compute: object) -> dict:
    plain = tiny_recipe()
    plain["phases"]["pretrain"] |= {"skip": skip or {}, "checkpoints": 1, "tokens": 12_000}
    plain["compute"] |= {"log_seconds": 0, "checkpoint_seconds": 1e9, **compute}
    return plain


@pytest.fixture(scope="module")
def ready(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the phase reads, and the phase as it is trained without an interruption."""
    folder = workplace(tmp_path_factory.mktemp("ready"), corpus, recipe())
    stages = commands(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in sorted(("ingest", "clean", "validate", "tokenizer", "tokenize", "init", "mixture@pretrain", TRAIN),
                           key=list(stages).index):  # fmt: skip
            assert run_stage(folder, stages[name], patch) == 0
    return folder


def anew(ready: Path, target: Path, plain: dict, patch: pytest.MonkeyPatch) -> Path:
    """The same, not yet trained."""
    folder = shutil.copytree(ready, target, symlinks=True)
    shutil.rmtree(folder / "artifacts" / "train" / "pretrain")
    shutil.rmtree(folder / "artifacts" / ".runs")
    write_recipe(folder, plain)
    if plain["phases"] != recipe()["phases"]:
        assert run_stage(folder, commands(folder)["mixture@pretrain"], patch) == 0
    return folder


def trained(folder: Path) -> dict:
    return read_json(folder / "artifacts" / "train" / "pretrain" / "manifest.json")


def lines(folder: Path) -> list[dict]:
    path = folder / "artifacts" / ".runs" / trained(folder)["digest"] / "train.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---- bad steps


def test_what_a_spike_is():
    settings = Skip(sigma=3, window=10, most=1)
    before = [2.0, 2.2] * 5
    spread = np.std(before, ddof=1)
    assert guard.reason(2.1 + 3.01 * spread, 1.0, before, settings).startswith("the loss is above")
    assert not guard.reason(2.1 + 2.99 * spread, 1.0, before, settings)
    assert not guard.reason(99.0, 1.0, before[:4], settings), "four losses of a window of ten say too little"
    assert guard.reason(99.0, 1.0, [50.0] * 3 + before, settings), "only the window counts"
    assert not guard.reason(99.0, 1.0, before, Skip(sigma=0))
    assert guard.reason(math.nan, 1.0, [], settings) == "the loss is not finite"
    assert guard.reason(1.0, math.inf, [], settings) == "the gradient is not finite"
    guard.check([{}], settings, "p")
    with pytest.raises(Refused, match=r"phases.p: 2 steps were skipped, skip.most allows 1; the last one is step 7: too loud"):
        guard.check([{}, guard.entry(7, 70, "too loud", math.nan)], settings, "p")


def test_a_skipped_step_changes_no_weight_and_is_told_and_a_resume_skips_the_same(ready, tmp_path, monkeypatch, capsys):
    plain = recipe({"sigma": 1.0, "window": 8, "most": 1000})
    whole = anew(ready, tmp_path / "whole", plain, monkeypatch)
    seen: list[tuple[int, bool, bool]] = []
    original = Trainer.step

    def watched(self, made):
        before, count = [p.clone() for p in self.model.parameters()], len(self.loop.skipped)
        found = original(self, made)
        same = all(torch.equal(a, b) for a, b in zip(before, self.model.parameters(), strict=True))
        seen.append((self.loop.step, same, len(self.loop.skipped) > count))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", watched)
        assert run_stage(whole, commands(whole)[TRAIN], patch) == 0
    skipped = trained(whole)["facts"]["skipped"]
    assert skipped
    assert [row["step"] for row in skipped] == [step for step, _, bad in seen if bad]
    assert all(same == bad for _, same, bad in seen)
    assert capsys.readouterr().out.count("changes nothing: the loss is above") == len(skipped)
    assert lines(whole)[-1]["skipped"] == len(skipped)

    halved = anew(ready, tmp_path / "halved", plain, monkeypatch)
    stop = skipped[0]["step"] + 1

    def die(self, made):
        if self.loop.step == stop:
            self.save()
            raise RuntimeError("killed")
        return original(self, made)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", die)
        with pytest.raises(RuntimeError, match="killed"):
            run_stage(halved, commands(halved)[TRAIN], patch)
    assert run_stage(halved, commands(halved)[TRAIN], monkeypatch) == 0
    assert f"resumed at step {stop}" in capsys.readouterr().out
    assert trained(halved)["content"] == trained(whole)["content"]


# ---- checkpoints


def test_writes_come_one_after_the_other_and_their_errors_are_raised():
    saver, order, gate = Saver(), [], threading.Event()
    saver.write(lambda: (gate.wait(5), order.append(1)))
    began = time.monotonic()
    threading.Timer(0.2, gate.set).start()
    saver.write(lambda: order.append(2))  # waits for the first
    assert time.monotonic() - began > 0.15
    saver.wait()
    assert order == [1, 2]

    def full():
        raise OSError(28, "No space left on device")

    saver.write(full)
    with pytest.raises(OSError, match="No space"):
        saver.wait()
    saver.wait()
    saver.close()


def test_states_are_written_beside_training_and_as_many_kept_as_asked(ready, tmp_path, monkeypatch):
    folder = anew(ready, tmp_path / "w", recipe(checkpoint_seconds=0, keep_states=3), monkeypatch)
    threads: set[str] = set()
    counts: list[int] = []
    from mmenc.train import loop

    original = loop.save_resume

    def watched(root, *args):
        original(root, *args)
        threads.add(threading.current_thread().name)
        counts.append(sum(p.name.isdigit() for p in root.iterdir()))

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_resume", watched)
        assert run_stage(folder, commands(folder)[TRAIN], patch) == 0
    assert threads == {"checkpoint_0"}
    assert max(counts) == 3
    assert trained(folder)["content"] == trained(ready)["content"], "saving changes no bit of what is trained"


def test_a_disk_that_fills_up_while_a_state_is_written_stops_training(ready, tmp_path, monkeypatch, capsys):
    folder = anew(ready, tmp_path / "w", recipe(checkpoint_seconds=0), monkeypatch)
    from mmenc.train import loop

    def full(root, *_args):
        raise OSError(28, "No space left on device", str(root))

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_resume", full)
        assert run_stage(folder, commands(folder)[TRAIN], patch) == 1
    assert "no space left on the device" in capsys.readouterr().err


# ---- the log


def test_the_log_as_lines_and_in_tensorboard_also_after_a_resume(ready, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = anew(ready, tmp_path / "w", recipe(checkpoint_seconds=0), monkeypatch)
    original = Trainer.step

    def die(self, made):
        if self.loop.step == 12:
            self.saver.wait()
            shutil.rmtree(max(self.task.resume.glob("0*")))  # what was logged after the state is trained again
            raise RuntimeError("killed")
        return original(self, made)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", die)
        with pytest.raises(RuntimeError, match="killed"):
            run_stage(folder, commands(folder)[TRAIN], patch)
    assert run_stage(folder, commands(folder)[TRAIN], monkeypatch) == 0
    rows, facts = lines(folder), trained(folder)["facts"]
    assert [r["step"] for r in rows] == list(range(1, facts["steps"] + 1)), "every step once"
    assert rows[-1]["tokens"] == rows[-1]["total_tokens"] == facts["tokens"]
    assert rows[-1]["seconds_left"] < 2
    for row in rows:
        assert 0 <= row["data_wait_share"] < 1
        assert row["tokens_per_second"] > 0
        assert 0 < row["mfu"] < 1
        assert row["memory_bytes"] > 1e7
        assert row["gradient_norm"] > 0
        assert abs(row["mask"] - 0.3) < 0.1
    first = facts["curve"][0]
    near = [r["loss"] for r in rows if r["tokens"] <= first[0]]
    assert abs(np.mean(near) - first[1]) < 0.1
    board = EventAccumulator(str(folder / "artifacts" / ".runs" / trained(folder)["digest"] / "tensorboard" / "pretrain"))
    board.Reload()
    shown = {e.step: e.value for e in board.Scalars("train/loss")}
    np.testing.assert_allclose([shown[r["total_tokens"]] for r in rows], [r["loss"] for r in rows], rtol=1e-6)
    assert len(shown) == len(rows)
    assert [e.step for e in board.Scalars("heldout/loss")][-1] == facts["tokens"]
    run = read_json(folder / "artifacts" / ".runs" / trained(folder)["digest"] / "run.json")["measured"]
    assert 0 < run["mfu"] < 1
    assert 0 < run["data_wait_seconds"] < run["train_seconds"]
    assert trained(folder)["content"] == trained(ready)["content"]


def test_the_measured_peak_is_of_this_machine():
    fast = max(measured_peak(torch.device("cpu"), torch.float32) for _ in range(3))
    assert 1e9 < fast < 1e14


# ---- memory


def test_out_of_memory_is_one_sentence(ready, tmp_path, monkeypatch):
    plain = recipe(micro_batch_tokens=512)
    folder = anew(ready, tmp_path / "w", plain, monkeypatch)
    program = (
        "import sys\nfrom mmenc.cli import main\nfrom mmenc.train.loop import Trainer\nimport torch, resource\n"
        "original = Trainer.backward\n"
        "def backward(self, parts, masked):\n"
        "    held = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (held + 50_000_000,) * 2)\n"
        "    torch.ones(10**9)\n"
        "Trainer.backward = backward\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = [sys.executable, "-c", program, *commands(folder)[TRAIN][1:]]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("mmenc: phases.pretrain: out of memory on cpu with 0.")
    assert "lower compute.micro_batch_tokens (512) to 256, or set compute.activation_checkpointing: true" in done.stderr
    assert "the plan had predicted 0.0 GB" in done.stderr
    assert done.stderr.count("\n") == 1
