"""Several processes train a phase as one does: equal losses, equal weights in all of them, and they live and die together."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from mmenc.artifact import read_json
from mmenc.data.packing import Rows
from mmenc.data.tokens import open_split
from mmenc.errors import Refused
from mmenc.model.encoder import dropout
from mmenc.sections import Compute, Phase
from mmenc.train import group as groups
from mmenc.train import launch
from mmenc.train import step as training
from mmenc.train.group import Group, processes
from mmenc.train.micro import NOTHING, cut
from mmenc.train.prefetch import Prepared
from mmenc.train.task import Task
from tests.pipeline import commands, run_stage, tiny_recipe, write_recipe

TRAIN = "train@pretrain"


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Training sets torch's threads for the process that it runs in."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def recipe(**compute: object) -> dict:
    """Batches grow from one row to eight; micro-batches of three rows, so that no process's share begins where one does."""
    plain = tiny_recipe()
    plain["phases"]["pretrain"] |= {"tokens": 16_000, "batch_warmup": {"start": 64, "tokens": 4_000}, "checkpoints": 1}
    plain["phases"]["pretrain"]["lr"] |= {"warmup": 4_000, "peak": 3e-3}
    plain["compute"] |= {"micro_batch_tokens": 192, "threads": 1, **compute}
    return plain


def copy(ready: Path, target: Path, **compute: object) -> Path:
    """The same, not yet trained."""
    folder = shutil.copytree(ready, target, symlinks=True)
    shutil.rmtree(folder / "artifacts" / "train" / "pretrain")
    write_recipe(folder, recipe(**compute))
    return folder


def trained(folder: Path) -> Path:
    return folder / "artifacts" / "train" / "pretrain"


def measured(folder: Path) -> dict:
    digest = read_json(trained(folder) / "manifest.json")["digest"]
    return read_json(folder / "artifacts" / ".runs" / digest / "run.json")["measured"]


def assert_same_training(mine: Path, one: Path) -> None:
    """Counts are equal, losses and weights differ by rounding (and what StableAdamW makes of it)."""
    facts, expected = (read_json(trained(f) / "manifest.json")["facts"] for f in (mine, one))
    for key in expected.keys() - {"curve", "heldout"}:
        assert facts[key] == expected[key], key
    for key in ("curve", "heldout"):
        points, right = np.array(facts[key]), np.array(expected[key])
        assert (points[:, 0] == right[:, 0]).all()
        np.testing.assert_allclose(points[:, 1], right[:, 1], rtol=1e-5)
    assert read_json(trained(mine) / "state.json") == read_json(trained(one) / "state.json")
    assert sorted(p.relative_to(trained(mine)) for p in trained(mine).rglob("*")) == sorted(
        p.relative_to(trained(one)) for p in trained(one).rglob("*")
    )
    for name in ("model.safetensors", "optimizer.safetensors"):
        tensors, right = load_file(trained(mine) / name), load_file(trained(one) / name)
        assert tensors.keys() == right.keys()
        for key, tensor in tensors.items():
            assert (tensor.double() - right[key].double()).norm() <= 1e-4 * right[key].double().norm(), key


@pytest.mark.parametrize(("count", "sharding"), [(2, "none"), (3, "none"), (2, "full")])
def test_several_processes_train_as_one(ready: Path, tmp_path: Path, monkeypatch, capfd, count: int, sharding: str):
    folder = copy(ready, tmp_path / "w", processes=count, sharding=sharding)
    assert run_stage(folder, commands(folder)[TRAIN], monkeypatch) == 0
    out, err = capfd.readouterr()
    assert out.count("held-out loss") == 1
    assert not err
    assert_same_training(folder, ready)
    weights = measured(folder)["processes"]["weights"]
    assert len(weights) == count
    assert len(set(weights)) == 1
    assert not list((folder / "artifacts").rglob(".processes"))
    assert not list((folder / "artifacts").rglob(".tmp*"))


def start(folder: Path) -> subprocess.Popen[str]:
    code = "import sys; from mmenc.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, *commands(folder)[TRAIN][1:]]
    return subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def workers(process: subprocess.Popen[str]) -> dict[int, int]:
    """Process ids of its workers by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            status = (path / "stat").read_text().rpartition(")")[2].split()
            if int(status[1]) == process.pid and b"mmenc.train.worker" in (path / "cmdline").read_bytes():
                words = (path / "environ").read_bytes().split(b"\0")
                found[next(int(w[5:]) for w in words if w.startswith(b"RANK="))] = int(path.name)
        except (OSError, StopIteration):
            continue
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait(until: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.01)


def saved(folder: Path) -> int:
    """The newest step of which a state is saved."""
    found = (folder / "artifacts" / ".resume").glob("*/[0-9]*")
    return max((int(p.name) for p in found), default=0)


def until_step(folder: Path, step: int) -> tuple[subprocess.Popen[str], dict[int, int]]:
    """Start training and wait for a saved state of this step."""
    process = start(folder)
    wait(lambda: saved(folder) >= step or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    return process, workers(process)


def test_killed_at_any_place_then_resumed_with_another_number_of_processes(ready: Path, tmp_path: Path, monkeypatch, capfd):
    folder = copy(ready, tmp_path / "w", processes=2, checkpoint_seconds=0)
    process, ranks = until_step(folder, 3)
    assert sorted(ranks) == [0, 1]
    process.kill()  # the main process: its lock is gone, so the workers must be too
    process.communicate()
    wait(lambda: not any(alive(pid) for pid in ranks.values()), 10)

    before = saved(folder)
    process, ranks = until_step(folder, before + 3)
    os.kill(ranks[1], signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"resumed at step {before}" in out
    assert err.startswith("mmenc: train pretrain: process 1 of 2 was killed by signal 9")
    assert f"the state of step {saved(folder)} is kept" in err
    assert err.count("\n") == 1, err
    assert not any(alive(pid) for pid in ranks.values())
    assert not trained(folder).exists()

    write_recipe(folder, recipe(processes=1))
    assert run_stage(folder, commands(folder)[TRAIN], monkeypatch) == 0
    assert "resumed at step" in capfd.readouterr().out
    assert_same_training(folder, ready)


def test_a_signal_stops_all_in_one_step_and_the_store_has_the_state(ready: Path, tmp_path: Path, monkeypatch, capfd):
    store = str(tmp_path / "store")
    folder = copy(ready, tmp_path / "w", processes=2, checkpoint_seconds=0, store=store)
    process, ranks = until_step(folder, 4)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    step = saved(folder)
    assert err == f"mmenc: train pretrain: stopped at step {step}, its state is saved; run again to go on\n"
    assert not any(alive(pid) for pid in ranks.values())
    assert not list((folder / "artifacts").rglob(".tmp*"))
    shutil.rmtree(folder / "artifacts" / ".resume")
    write_recipe(folder, recipe(processes=1, store=store))
    assert run_stage(folder, commands(folder)[TRAIN], monkeypatch) == 0
    out = capfd.readouterr().out
    assert "resume state taken from" in out
    assert f"resumed at step {step}," in out
    assert not list((tmp_path / "store" / "resume").rglob("*.json"))
    facts = [read_json(trained(f) / "manifest.json")["facts"] for f in (folder, ready)]
    np.testing.assert_allclose(facts[0]["curve"], facts[1]["curve"], rtol=1e-5)


def test_one_process_then_two(ready: Path, tmp_path: Path, monkeypatch, capfd):
    folder = copy(ready, tmp_path / "w", checkpoint_seconds=0)
    original = training.Trainer.step

    def die_at_nine(self: training.Trainer, made: Prepared) -> object:
        if self.loop.step == 9:
            raise RuntimeError("killed")
        return original(self, made)

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "step", die_at_nine)
        with pytest.raises(RuntimeError, match="killed"):
            run_stage(folder, commands(folder)[TRAIN], patch)
    write_recipe(folder, recipe(processes=2))
    assert run_stage(folder, commands(folder)[TRAIN], monkeypatch) == 0
    assert "resumed at step 9" in capfd.readouterr().out
    assert_same_training(folder, ready)


def test_a_refusal_of_the_workers_is_one_sentence(ready: Path, tmp_path: Path, monkeypatch, capfd):
    folder = copy(ready, tmp_path / "w")
    plain = recipe(processes=2)
    plain["phases"]["pretrain"]["lr"] |= {"peak": 1e30, "warmup": 0}
    write_recipe(folder, plain)
    assert run_stage(folder, commands(folder)["mixture@pretrain"], monkeypatch) == 0
    capfd.readouterr()
    assert run_stage(folder, commands(folder)[TRAIN], monkeypatch) == 1
    err = capfd.readouterr().err
    assert "phases.pretrain: 21 steps were skipped, skip.most allows 20; the last one is step 22: the loss is not finite" in err
    assert err.count("\n") == 1, err
    assert not trained(folder).exists()


def test_the_worker_that_the_agent_ended_is_not_the_reason(tmp_path: Path):
    """torch's agent ends the others by SIGTERM when one has failed, and lists them among the failures."""

    def reason(**codes: int) -> str:
        failures = {int(k[1:]): ProcessFailure(int(k[1:]), 1, code, "") for k, code in codes.items()}
        return str(launch._reason(tmp_path, failures, 2, cast("Task", SimpleNamespace(name="pretrain", resume=tmp_path))))

    assert "process 0 of 2 was killed by signal 15" in reason(r0=-15)
    (tmp_path / "failure.json").write_text('{"rank": 1, "refused": "the data is at fault"}')
    assert reason(r0=-15, r1=1) == "the data is at fault"
    assert "process 1 of 2 was killed by signal 9" in reason(r0=-15, r1=-9)


def batch(ready: Path, documents: list[list[int]]) -> tuple[Rows, object]:
    """Rows of whole documents of the train split."""
    split = open_split(ready / "artifacts" / "tokenize", "train")
    flat = np.array([d for row in documents for d in row])
    length = np.array([min(len(split.document(d)) - 2, 40) for d in flat])
    ends = np.cumsum([len(row) for row in documents])
    zero = np.zeros(len(flat), dtype=np.int64)
    return Rows(zero, flat, zero, length, np.ones(len(flat), dtype=bool), ends, ("eng_Latn",)), split


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_shares_make_up_the_batch_its_masks_and_its_dropout(ready: Path, count: int, size: int):
    rows, split = batch(ready, [[0, 1], [2], [3, 4, 5], [6], [7]])
    phase = Phase.model_validate(tiny_recipe()["phases"]["pretrain"])
    whole, masked = cut(rows, split, phase, 1024, (0, "pretrain", 4), size, slice(0, len(rows)))
    shares = []
    for rank in range(count):
        group = Group(Compute(threads=2), rank, count)
        parts, total = cut(rows, split, phase, 1024, (0, "pretrain", 4), size, group.shares(len(rows))[rank])
        assert total == masked
        shares += [part for part in parts if part is not NOTHING]

    def masks(parts: list) -> np.ndarray:
        starts = np.cumsum([0, *(len(p.input_T) for p in parts)])
        return np.concatenate([p.index_M + start for p, start in zip(parts, starts, strict=False)])

    def drops(parts: list) -> torch.Tensor:
        return torch.cat([dropout(torch.ones(len(p.input_T), 24), 0.3, p.draws) for p in parts])

    for column in ("input_T", "lengths", "target_M"):
        mine, right = (np.concatenate([getattr(p, column) for p in parts]) for parts in (shares, whole))
        assert (mine == right).all(), column
    assert (masks(shares) == masks(whole)).all()
    assert len(masks(whole)) == masked
    assert torch.equal(drops(shares), drops(whole))


def test_the_number_of_processes_follows_from_the_recipe(monkeypatch):
    assert processes(Compute()) == 1
    assert processes(Compute(processes=5)) == 5
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Refused, match="torch finds no CUDA device"):
        processes(Compute(device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert processes(Compute(device="cuda", accelerators=4)) == 4
    assert processes(Compute(device="auto")) == 1
    assert processes(Compute(device="cpu", accelerators=8, processes=2)) == 2
    with pytest.raises(Refused, match="is 8, this machine has 4 CUDA devices; set it to 4"):
        processes(Compute(device="cuda", accelerators=8))
    with pytest.raises(Refused, match="is 2, but on CUDA each of 4"):
        processes(Compute(device="cuda", accelerators=4, processes=2))


def test_other_weights_in_one_process_are_refused(monkeypatch):
    def gather(found: list[str], mine: str) -> None:
        found[:] = [mine, mine, "another"]

    monkeypatch.setattr(groups.dist, "all_gather_object", gather)
    with pytest.raises(Refused, match="process 2 ended with other weights"):
        Group(Compute(), 0, 3).prove_equal(torch.nn.Linear(2, 2))
