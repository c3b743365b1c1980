"""A phase on two nodes trains as one process does: the launcher, a loopback cluster, and pods that are real processes (Gloo)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmenc import trainer, trainer_api
from mmenc.cluster import TRAINJOB
from mmenc.recipe import parse
from mmenc.train.exchange import Exchange
from mmenc.trainjob import template
from tests.model.test_parallel import TRAIN, assert_same_training, copy, measured, recipe, trained
from tests.pipeline import REPO, commands, run_stage
from tests.trainer_server import Server, trainer_server

NODES = {"nodes": 2, "checkpoint_seconds": 0}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A cluster whose pods are processes, and the environment of a launcher in it."""
    (folder := tmp_path / "cluster").mkdir()
    monkeypatch.setattr(trainer, "POLL", 0.1)
    monkeypatch.setattr(trainer_api, "PAUSE", 0.1)
    monkeypatch.setenv("KUBECONFIG", str(folder / "config"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(REPO / "src"), os.environ.get("PYTHONPATH", "")])))
    with trainer_server(folder) as server:
        yield server


def prepared(ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **more: object) -> Path:
    """The phase not yet trained, its recipe for two nodes, and its TrainJob in the environment, as a compiled graph gives it."""
    told = NODES | {"store": str(tmp_path / "store")} | more
    folder = copy(ready, tmp_path / "w", **told)
    made = template(parse(recipe(**told)), "pretrain", "registry/mmenc-cpu:abc")
    monkeypatch.setenv(TRAINJOB, json.dumps(made))
    return folder


def whole(folder: Path) -> Path:
    """The artifact with what the store owns of it put back."""
    for row in json.loads((trained(folder) / "manifest.json").read_text())["external"]:
        (path := trained(folder) / row["path"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(row["uri"], path)
    return folder


def states(folder: Path) -> list[Path]:
    return list((folder.parent / "store" / "resume").glob("*/current.json"))


def saved(folder: Path) -> int:
    """The newest step in the store."""
    found = [int(n.partition("/")[0]) for p in states(folder) for n in json.loads(p.read_text())["files"]]
    return max(found, default=-1)


def when(condition: Callable[[], bool], action: Callable[[], object]) -> threading.Thread:
    """Do something as soon as a condition holds, beside what the test does."""

    def watch() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if condition():
                action()
                return
            time.sleep(0.01)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def kill(server: Server, index: int) -> None:
    """A node is gone without a word."""
    (pods,) = server.pods.values()
    pods[index].end(signal.SIGKILL)


def test_a_launcher_is_stopped_a_node_is_lost_and_the_loss_is_that_of_one_process(
    ready: Path, tmp_path: Path, cluster: Server, monkeypatch, capfd
):
    folder = prepared(ready, tmp_path, monkeypatch)
    # The launcher's node is taken away: its pods save their state, the job is gone, the code says "try again".
    when(lambda: saved(folder) >= 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert run_stage(folder, commands(folder)[TRAIN], monkeypatch) == 75
    out, err = capfd.readouterr()
    first = saved(folder)
    assert err.startswith("mmenc: train pretrain: TrainJob mmenc-pretrain-")
    assert f"is deleted, the state of step {first} is in the store; run again to go on" in err
    assert err.count("\n") == 1, err
    assert not cluster.jobs
    assert not trained(folder).exists()
    (log,) = cluster.folder.glob("1.0.log")
    assert f"stopped at step {first}, its state is saved" in log.read_text()

    # Again, on another machine; a node is lost on the way, without a word.
    shutil.rmtree(folder / "artifacts" / ".resume", ignore_errors=True)
    when(lambda: saved(folder) >= first + 3, lambda: kill(cluster, 1))
    assert run_stage(folder, commands(folder)[TRAIN], monkeypatch) == 0
    out, err = capfd.readouterr()
    assert "resume state taken from" in out
    assert f"resumed at step {first}," in out
    assert "failed (exit code 137); all nodes begin anew at step" in out
    assert out.count("held-out loss") == 1
    assert len(cluster.created) == 3
    assert not cluster.jobs
    assert_same_training(whole(folder), ready)
    found = measured(folder)["processes"]
    assert (found["count"], found["nodes"], len(set(found["weights"]))) == (2, 2, 1)
    assert not list((tmp_path / "store" / "resume").rglob("*.json"))
    log = folder / "artifacts" / ".runs" / json.loads((trained(folder) / "manifest.json").read_text())["digest"]
    assert (log / "train.jsonl").stat().st_size


def by_hand(exchange: Exchange) -> list[subprocess.Popen[bytes]]:
    """Two nodes without a TrainJob; the variables are torchrun's own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    pythonpath = os.pathsep.join(filter(None, [str(REPO / "src"), os.environ.get("PYTHONPATH", "")]))
    words = [sys.executable, "-m", "mmenc.train.node", exchange.store.url, exchange.digest]
    env = {"PET_NNODES": "2", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port, "PYTHONPATH": pythonpath}
    return [subprocess.Popen(words, env={**os.environ, **env, "PET_NODE_RANK": str(rank)}) for rank in (0, 1)]


def test_a_notice_to_one_node_ends_all_at_once_and_by_hand_they_go_on(ready: Path, tmp_path: Path, monkeypatch, capfd):
    """A spot node's SIGTERM: the other does not wait for it. Then again, to the end: the curve of one process, with FSDP2."""
    folder = prepared(ready, tmp_path, monkeypatch, sharding="full")

    def launch(job):
        exchange = Exchange(trainer.Store(job.recipe.compute.store), job.request.digest)
        exchange.publish(job)
        nodes = by_hand(exchange)
        when(lambda: saved(folder) >= 2, nodes[1].terminate)
        assert [node.wait(90) for node in nodes] == [75, 75]
        assert exchange.collect(job) is None
        assert capfd.readouterr().err.count("run again to go on") == 2
        assert [node.wait(90) for node in by_hand(exchange)] == [0, 0]
        return exchange.collect(job)

    monkeypatch.setattr(trainer, "launch", launch)
    assert run_stage(folder, commands(folder)[TRAIN], monkeypatch) == 0
    out, err = capfd.readouterr()
    assert "resumed at step" in out
    assert not err
    assert_same_training(whole(folder), ready)


def test_a_refusal_in_a_pod_is_the_launchers_sentence_and_no_new_beginning(
    ready: Path, tmp_path: Path, cluster: Server, monkeypatch, capfd
):
    folder = prepared(ready, tmp_path, monkeypatch)
    plain = recipe(**NODES, store=str(tmp_path / "store"))
    plain["phases"]["pretrain"]["lr"] |= {"peak": 1e30, "warmup": 0}
    (folder / "params.yaml").write_text(json.dumps(plain))
    assert run_stage(folder, commands(folder)["mixture@pretrain"], monkeypatch) == 0
    capfd.readouterr()
    assert run_stage(folder, commands(folder)[TRAIN], monkeypatch) == 1
    err = capfd.readouterr().err
    assert "phases.pretrain: 21 steps were skipped, skip.most allows 20" in err
    assert err.count("\n") == 1, err
    assert len(cluster.created) == 1
    assert not cluster.jobs
