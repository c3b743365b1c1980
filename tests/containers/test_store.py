"""Pods and their store: containers on the host's network, a real S3 server, and nothing else between them but manifests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmenc.artifact import read_json
from mmenc.cli import main
from mmenc.store import Store
from tests.containers.conftest import IMAGE, docker
from tests.pipeline import commands, contents, tiny_recipe, workplace
from tests.s3 import S3, running


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with running(tmp_path_factory.mktemp("s3") / "weed") as server, pytest.MonkeyPatch.context() as patch:
        for key, value in server.env.items():
            patch.setenv(key, value)
        server.bucket("runs")
        server.bucket("raw", versions=True)
        yield server


class Pod:
    """One task: a container of its own, which sees the artifacts' folder and the network, and is gone afterwards."""

    def __init__(self, folder: Path, words: list[str], env: dict[str, str]) -> None:
        self.name = f"mmenc-{uuid.uuid4().hex[:12]}"
        given = [part for key, value in env.items() for part in ("--env", f"{key}={value}")]
        place = ["--volume", f"{folder}:{folder}", "--workdir", str(folder), "--network", "host"]
        docker("run", "--detach", "--name", self.name, *place, *given, IMAGE, *words)

    def running(self) -> bool:
        return docker("inspect", "--format", "{{.State.Running}}", self.name).stdout.strip() == "true"

    def kill(self, signal: str) -> None:
        docker("kill", "--signal", signal, self.name)

    def end(self) -> tuple[int, str]:
        """Exit code and what was printed."""
        code = int(docker("wait", self.name).stdout)
        done = docker("logs", self.name)
        docker("rm", "--force", self.name)
        return code, done.stdout + done.stderr


@pytest.fixture(scope="module")
def cluster(s3: S3, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything up to the first phase's mixture, each step in a pod; raw data by pointer, large files in the store."""
    for path in sorted(corpus.rglob("*.jsonl")):
        Store("s3://raw/data").put(path, path.relative_to(corpus).as_posix())
    assert main(["point", "s3://raw/data", "--to", "s3://raw/pointer.json"]) == 0
    recipe = tiny_recipe()
    recipe["compute"] |= {"store": "s3://runs/one", "checkpoint_seconds": 0, "store_patience": 60}
    folder = workplace(tmp_path_factory.mktemp("cluster") / "work", corpus, recipe)
    shutil.rmtree(folder / "data")
    open_to_all(folder)
    for name, words in commands(folder).items():
        if name.startswith("train@"):
            break
        given = [w if not w.startswith("data=") else "data=s3://raw/pointer.json" for w in words]
        code, out = Pod(folder, given, s3.env).end()
        assert code == 0, out
    return folder


def open_to_all(folder: Path) -> None:
    """The image's user is not the tests'; it may write here, and come in from above (pytest's folders are their owner's)."""
    for path in [folder, *folder.parents]:
        if "pytest-of-" in str(path) and path.stat().st_uid == os.getuid():
            path.chmod(0o777 if path == folder else 0o755)
    for path in folder.rglob("*"):
        path.chmod(0o777 if path.is_dir() else 0o666)


def another_node(folder: Path) -> None:
    """What a pod leaves on its node is gone; the manifests stay, Kubeflow keeps them."""
    for name in (".resume", ".cache", ".runs"):
        shutil.rmtree(folder / "artifacts" / name, ignore_errors=True)


def train(folder: Path) -> list[str]:
    return next(words for name, words in commands(folder).items() if name == "train@pretrain")


def wait_for_state(pod: Pod) -> None:
    store = Store("s3://runs/one")
    end = time.monotonic() + 120
    while time.monotonic() < end and pod.running():
        if store.fs.glob("runs/one/resume/*/current.json"):
            return
        time.sleep(0.1)
    raise AssertionError(pod.end()[1])


def test_a_pods_artifacts_are_manifests_and_equal_the_local_ones(cluster: Path, finished: Path):
    expected = contents(finished)
    found = contents(cluster)
    assert {k: v[1] for k, v in found.items()} == {k: expected[k][1] for k in found}
    assert set(found) > {"ingest", "clean", "validate", "tokenizer", "tokenize", "train/init", "mixture/pretrain"}
    assert all({*row} == {"path", "version"} for row in read_json(cluster / "artifacts/ingest/manifest.json")["inputs"])
    assert not list((cluster / "artifacts/tokenize").rglob("*.bin"))
    large = sum(row["bytes"] for row in read_json(cluster / "artifacts/tokenize/manifest.json")["external"])
    small = sum(p.stat().st_size for p in (cluster / "artifacts/tokenize").rglob("*") if p.is_file())
    print(f"tokenize: {large} bytes in the store, {small} in the artifact")
    assert large > 300_000


def test_a_wrong_key_is_one_sentence_and_is_not_printed(cluster: Path, s3: S3):
    code, out = Pod(cluster, train(cluster), {**s3.env, "AWS_SECRET_ACCESS_KEY": "not-the-key"}).end()
    assert code == 1
    assert out.splitlines()[-1].startswith("mmenc: s3://runs/one: the store refuses the key")
    assert "not-the-key" not in out
    assert s3.secret not in out
    assert not (cluster / "artifacts/train/pretrain").exists()


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_a_retried_pod_resumes_on_another_node(cluster: Path, finished: Path, s3: S3, tmp_path: Path, signal: str):
    folder = tmp_path / "work"
    shutil.copytree(cluster, folder, symlinks=True)
    recipe = json.loads((folder / "params.yaml").read_text())
    recipe["compute"]["store"] = "s3://runs/one"
    (folder / "params.yaml").write_text(json.dumps(recipe))
    open_to_all(folder)
    another_node(folder)
    pod = Pod(folder, train(folder), s3.env)
    wait_for_state(pod)
    pod.kill(signal)
    code, out = pod.end()
    assert code == (137 if signal == "KILL" else 75), out
    another_node(folder)
    code, out = Pod(folder, train(folder), s3.env).end()
    assert code == 0, out
    assert "resume state taken from s3://runs/one" in out
    assert "resumed at step" in out
    assert contents(folder)["train/pretrain"][1] == contents(finished)["train/pretrain"][1]
    # For the next test nothing is finished yet.
    Store("s3://runs/one").remove(f"finished/{read_json(folder / 'artifacts/train/pretrain/manifest.json')['digest']}")


def test_an_outage_in_the_middle_is_waited_for(cluster: Path, finished: Path, s3: S3):
    another_node(cluster)
    pod = Pod(cluster, train(cluster), s3.env)
    wait_for_state(pod)
    s3.down()
    timer = threading.Timer(8, s3.up)
    timer.start()
    code, out = pod.end()
    timer.join()
    assert code == 0, out
    assert "not reachable" in out
    assert contents(cluster)["train/pretrain"][1] == contents(finished)["train/pretrain"][1]
    # And a third pod, on a third node, finds it finished.
    another_node(cluster)
    shutil.rmtree(cluster / "artifacts/train/pretrain")
    code, out = Pod(cluster, train(cluster), s3.env).end()
    assert code == 0, out
    assert "where it was finished before" in out


class Node:
    """A container in the place of a process, for the loopback cluster."""

    def __init__(self, trainer: dict[str, Any], env: dict[str, str], log: Path) -> None:
        self.name, self.code, self.looking = f"mmenc-{uuid.uuid4().hex[:12]}", None, threading.Lock()
        given = [part for key, value in env.items() for part in ("--env", f"{key}={value}")]
        words = [*trainer["command"], *trainer["args"]]
        docker("run", "--detach", "--name", self.name, "--network", "host", *given, trainer["image"], *words)
        with log.open("wb") as stream:
            self.log = subprocess.Popen(["docker", "logs", "--follow", self.name], stdout=stream, stderr=stream)

    def poll(self) -> int | None:
        with self.looking:  # the server's threads ask at the same time, and the first to see the end removes the container
            if self.code is None:
                running, code = docker("inspect", "--format", "{{.State.Running}} {{.State.ExitCode}}", self.name).stdout.split()
                if running == "false":
                    self.log.wait(20)
                    docker("rm", "--force", self.name)
                    self.code = int(code)
            return self.code

    def send_signal(self, number: int) -> None:
        docker("kill", "--signal", str(int(number)), self.name, check=False)

    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < end:
            time.sleep(0.1)


def saved(root: str) -> int:
    """The newest step whose state lies in the store."""
    store = Store(root)
    found = [store.read_json(p.partition("nodes/")[2])[0] for p in store.fs.glob("runs/nodes/resume/*/current.json")]
    return max((int(n.partition("/")[0]) for f in found if f for n in f["files"] if n[0].isdigit()), default=-1)


def until(condition: Callable[[], bool], launcher: Pod) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, launcher.end()[1]
        assert launcher.running(), launcher.end()[1]
        time.sleep(0.1)


@pytest.mark.timeout(900)
def test_two_nodes_one_preempted_and_the_task_moved(cluster: Path, s3: S3, tmp_path: Path):
    """The task and its TrainJob's nodes are containers: the task is stopped, tried again, then a spot node is taken away.

    The phase is longer than in other tests: a signal arrives seconds after it is due where the machine is busy.
    """
    from mmenc.recipe import load
    from mmenc.trainjob import template
    from tests.trainer_server import trainer_server

    alone, folder, root = tmp_path / "alone", tmp_path / "work", "s3://runs/nodes"
    shutil.copytree(cluster, alone, symlinks=True)
    shutil.rmtree(alone / "artifacts" / "train" / "pretrain", ignore_errors=True)  # of the tests before
    recipe = json.loads((alone / "params.yaml").read_text())
    recipe["phases"]["pretrain"]["tokens"] = 96_000
    recipe["phases"]["pretrain"]["lr"]["peak"] = 1e-3  # at ten times that, 200 steps make percents of what rounding differs in
    recipe["compute"] |= {"store": "s3://runs/alone", "checkpoint_seconds": 1000}
    (alone / "params.yaml").write_text(json.dumps(recipe))
    open_to_all(alone)
    code, out = Pod(alone, commands(alone)["mixture@pretrain"], s3.env).end()
    assert code == 0, out
    shutil.copytree(alone, folder, symlinks=True)
    code, out = Pod(alone, train(alone), s3.env).end()
    assert code == 0, out

    recipe["compute"] |= {"store": root, "nodes": 2, "checkpoint_seconds": 0}
    recipe["compute"]["cluster"] = {"secrets": {"keys": {name: name for name in s3.env}}}
    (folder / "params.yaml").write_text(json.dumps(recipe))
    another_node(folder)
    (folder / "cluster").mkdir()
    with trainer_server(folder / "cluster") as server:
        server.start, server.secrets = Node, {"keys": s3.env}
        made = json.dumps(template(load(folder / "params.yaml"), "pretrain", IMAGE))
        env = {**s3.env, "MMENC_TRAINJOB": made, "KUBECONFIG": str(folder / "cluster" / "config")}
        open_to_all(folder)

        launcher = Pod(folder, train(folder), env)
        until(lambda: saved(root) >= 2, launcher)
        launcher.kill("TERM")
        code, out = launcher.end()
        assert code == 75, out
        first = saved(root)
        assert f"is deleted, the state of step {first} is in the store; run again to go on" in out
        assert not server.jobs
        another_node(folder)

        launcher = Pod(folder, train(folder), env)
        until(lambda: saved(root) > first + 2, launcher)
        (nodes,) = server.pods.values()
        nodes[1].end()  # SIGTERM, as a spot node's notice
        code, out = launcher.end()
        assert code == 0, out
        assert f"resumed at step {first}," in out, out
        assert "failed (exit code 75); all nodes begin anew at step" in out, out
        assert len(server.created) == 3
        assert not server.jobs
    facts = [read_json(f / "artifacts/train/pretrain/manifest.json")["facts"] for f in (folder, alone)]
    assert [f["tokens"] for f in facts] == [facts[0]["tokens"]] * 2
    for key in ("curve", "heldout"):
        mine, one = ([loss for _, loss in f[key]] for f in facts)
        assert mine == pytest.approx(one, rel=1e-4), key
