"""Pods and their store: containers on the host's network, a real S3 server, and nothing else between them but manifests."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

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
