"""Data steps shared by workers on several machines, against a real S3 server: they make what one makes alone; and on Kubeflow."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmenc.artifact import Artifact
from mmenc.cli import main
from mmenc.errors import Refused
from mmenc.kubeflow import assist_step, run_step, send
from mmenc.recipe import load, parse
from mmenc.share import SPLIT
from mmenc.steps import TABLE
from mmenc.store import Store
from tests.pipeline import REPO, commands, contents, hashes, tiny_recipe, workplace
from tests.pipeline import made as artifacts_of
from tests.s3 import S3, running

pytest.importorskip("s3fs")
PROGRAM = """
import json, sys
from mmenc import cli
from mmenc.data import clean, ingest, stream
if __name__ == "__main__":  # parts so small that the tiny corpus has some of them
    clean.BATCH = clean.SMALL = stream.BUNDLE_BYTES = 1_000
    ingest.SHARD_BYTES = 60_000
    sys.exit(max(cli.main(words) for words in json.loads(sys.argv[1])))
"""


def start(folder: Path, env: dict[str, str], *steps: str, share: str = "") -> subprocess.Popen[str]:
    """Run steps on a machine, in a process of their own."""
    program = folder.parent / "worker.py"
    program.write_text(PROGRAM)
    words = json.dumps([[*commands(folder)[step][1:], *(["--share", share] if share else [])] for step in steps])
    env = os.environ | env | {"PYTHONPATH": os.pathsep.join([str(REPO / "src"), str(REPO)])}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, str(program), words], cwd=folder, env=env, **pipes)


def run(folder: Path, env: dict[str, str], *steps: str, share: str = "") -> str:
    process = start(folder, env, *steps, share=share)
    out = process.communicate(timeout=200)[0]
    assert process.returncode == 0, out
    return out


def made(out: str) -> dict[str, tuple[int, int]]:
    """Per stage: parts made here, of how many."""
    return {stage: (int(a), int(b)) for stage, a, b in re.findall(r"  (\w+): (\d+) of (\d+) parts made here", out)}


def another(folder: Path, name: str) -> Path:
    """A second machine: the artifacts as Kubeflow brings them, nothing of what a machine keeps beside them."""
    ignored = shutil.ignore_patterns(".resume", ".cache", ".runs")
    return shutil.copytree(folder, folder.with_name(name), symlinks=True, ignore=ignored)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with running(tmp_path_factory.mktemp("s3") / "weed") as found:
        found.bucket("shared")
        yield found


@pytest.fixture
def place(corpus: Path, tmp_path: Path) -> Path:
    """A machine that knows a store."""
    recipe = tiny_recipe()
    recipe["compute"] |= {"store": f"s3://shared/{tmp_path.name}", "store_patience": 60, "threads": 1}
    return workplace(tmp_path / "one", corpus, recipe)


def shared(folder: Path, env: dict[str, str], step: str) -> list[str]:
    """Two helpers at the same time, on machines of their own, then the worker that puts together: what the helpers said."""
    helpers = [another(folder, f"{step}{n}") for n in (2, 3)]
    started = [start(helper, env, step, share=f"{n}/3") for n, helper in zip((2, 3), helpers, strict=True)]
    lines = [process.communicate(timeout=200)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], lines
    count = {stage: of for stage, (_, of) in made(lines[0]).items()}
    for stage, of in count.items():
        assert sum(made(out)[stage][0] for out in lines) >= of  # near the end of a stage a part may be made twice
    assert max(count.values()) >= 6
    assert not [h for h in helpers if (h / "artifacts" / step).exists()]
    assert made(run(folder, env, step, share="1/3")) == {stage: (0, of) for stage, of in count.items()}
    return lines


def test_reading_is_shared(place: Path, corpus: Path, server: S3, tmp_path: Path):
    alone = workplace(tmp_path / "alone", corpus)  # with parts of the same size, since those of ingest are its shards
    run(alone, {}, "ingest")
    shared(place, server.env, "ingest")
    assert contents(place) == contents(alone)
    late = run(another(place, "late"), server.env, "ingest", share="2/3")  # a pod that had no node before
    assert "finished in s3://shared" in late
    assert not made(late)


def test_cleaning_and_tokenising_are_shared(place: Path, finished: Path, server: S3):
    for name in ("ingest", "validate", "tokenizer"):
        shutil.copytree(finished / "artifacts" / name, place / "artifacts" / name)
    stages = made(shared(place, server.env, "clean")[0])
    assert list(stages) == ["read", "frequent", "languages", "judge", "copies", "write"]
    assert stages["frequent"][1] > 1
    assert stages["copies"][1] > 1
    shared(place, server.env, "tokenize")  # its input lies in the store
    for step in ("clean", "tokenize"):
        assert contents(place)[step] == contents(finished)[step]
        assert Artifact.read(place / "artifacts" / step).manifest.external


def keys(store: Store, prefix: str) -> list[str]:
    """What really lies there: the server shows folders for a while when they are empty."""
    bucket, _, root = store.root.partition("/")
    found = store.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{root}/{prefix}/")
    return [row["Key"] for row in found.get("Contents", []) if not row["Key"].endswith("/")]


def test_a_killed_worker_goes_on_and_its_step_too_on_another_machine(place: Path, finished: Path, server: S3, monkeypatch):
    for key, value in server.env.items():
        monkeypatch.setenv(key, value)
    store = Store(json.loads((place / "params.yaml").read_text())["compute"]["store"], 10)
    shutil.copytree(finished / "artifacts/ingest", place / "artifacts/ingest")
    process = start(place, server.env, "clean", share="2/2")
    end = time.monotonic() + 100
    while len([k for k in keys(store, "resume") if "/read/" in k]) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    out = run(place, server.env, "clean", share="2/2")
    there, of = map(int, re.findall(r"read: (\d+) of (\d+) parts are there from before", out)[0])
    assert there >= 2
    assert made(out)["read"] == (of - there, of) if there < of else "read" in made(out)
    for name in ("two", "three"):  # the first of them is lost before it ends
        machine = another(place, name)
        process = start(machine, server.env, "clean", share="1/2")
        if name == "two":
            for line in process.stdout or ():
                if "made here" in line:
                    process.kill()
        out = process.communicate(timeout=200)[0]
    assert process.returncode == 0, out
    assert set(made(out).values()) == {(0, n) for _, n in made(out).values()}
    assert contents(machine)["clean"] == contents(finished)["clean"]
    assert not keys(store, "resume")


class Given:
    """What a face gets of Kubeflow."""

    def __init__(self, path: Path) -> None:
        self.path, self.uri, self.metadata = str(path), str(path), dict[str, Any]()


def test_the_faces_of_a_split_step(finished: Path, tmp_path: Path, monkeypatch, capsys):
    """A helper's task and the step's own, as Kubeflow calls them; the store is a folder here."""
    sent = send(load(finished / "params.yaml"))
    sections = {"clean": sent["clean"], "store": str(tmp_path / "store")}
    raw = {"raw": Given(finished / "artifacts/ingest")}
    metrics, page = Given(tmp_path / "two" / "metrics"), Given(tmp_path / "two" / "page")
    assist_step("clean", TABLE["clean"].version, "2/2", sections, raw, metrics, page)
    assert metrics.metadata == json.loads(Path(metrics.path).read_text())
    assert metrics.metadata["write.made"] == 1
    assert ">write<" in Path(page.path).read_text()
    assert {p.name for p in (tmp_path / "two").iterdir()} == {"metrics", "page"}
    capsys.readouterr()
    monkeypatch.setenv("MMENC_SHARE", "1/2")
    out = Given(tmp_path / "one" / "out")
    run_step("clean", TABLE["clean"].version, "", sections, raw, out)
    assert "write: 0 of 1 parts made here" in capsys.readouterr().out
    found, expected = (Artifact.read(p).manifest for p in (Path(out.path), finished / "artifacts/clean"))
    assert (found.digest, found.content) == (expected.digest, expected.content)
    assert out.metadata["run"]["measured"]["parts"]["write"] == {"made": 0, "of": 1}
    assist_step("clean", TABLE["clean"].version, "2/2", sections, raw, metrics, page)
    assert "finished already" in Path(page.path).read_text()
    with pytest.raises(SystemExit):
        assist_step("clean", TABLE["clean"].version, "3/2", sections, raw, metrics, page)
    assert "expected I/N" in capsys.readouterr().err


def test_helpers_run_in_the_compiled_graph(finished: Path, tmp_path: Path, monkeypatch):
    """By Kubeflow's own runner, each task in a process; it knows no annotations, so the step itself has no share."""
    local = pytest.importorskip("kfp.local")
    from kfp import components

    from pipelines.common import Graph, Site, build, save

    def data_steps(graph: Graph) -> None:
        graph.run("clean", raw=graph.run("ingest", data=graph.raw()))

    recipe = json.loads((finished / "params.yaml").read_text())
    recipe["compute"] |= {"store": str(tmp_path / "store"), "cluster": {"split": 2}}
    read = parse(recipe)
    sent = send(read)
    defaults = {"data_uri": "data"} | {key: sent[key] for key in ("ingest", "clean", "store")}
    site = Site("registry/cpu:abc", "registry/gpu:abc")
    save(build("pretrain", "Data", site, read, defaults, data_steps), tmp_path / "data.yaml", "data")
    monkeypatch.delenv("MMENC_STATE", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a laptop cannot honour: limits, images, display names
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "root"), raise_on_error=True)
        components.load_component_from_file(str(tmp_path / "data.yaml"))(data_uri=str(finished / "data"))
    found, expected = hashes(artifacts_of(tmp_path / "root")), contents(finished)
    assert found == {step: expected[step] for step in ("ingest", "clean")}
    pages = {p.parent.name: p.read_text() for p in (tmp_path / "root").rglob("page")}
    assert {name for name, text in pages.items() if ", share 2/2" in text} == {"ingest-share", "clean-share"}


def test_the_graph_has_helpers_beside_each_data_step_and_no_other_change(tmp_path: Path):
    pytest.importorskip("kfp.kubernetes")
    from pipelines.pretrain import write

    recipe = tiny_recipe()
    recipe["compute"] |= {"store": "s3://bucket/mmenc"}
    specs = {}
    for count in (1, 3):
        recipe["compute"]["cluster"] = {"split": count} if count > 1 else {}
        write(parse(recipe), tmp_path / f"{count}.yaml", image="registry/cpu:abc", gpu_image="registry/gpu:abc")
        spec, platform = yaml.safe_load_all((tmp_path / f"{count}.yaml").read_text())
        tasks = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]
        by_name = {task["taskInfo"]["name"]: task for task in tasks.values()}
        specs[count] = spec, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"], by_name
    (_, _, plain), (spec, told, split) = specs[1], specs[3]
    assert set(split) - set(plain) == {f"{step} share {n}/3" for step in SPLIT for n in (2, 3)}
    for name, task in plain.items():  # order and arguments of every other task are as they were
        assert {**split[name], "inputs": 0} == {**task, "inputs": 0}, name
        assert split[name].get("inputs") == task.get("inputs"), name
    for step in SPLIT:
        executor = spec["components"][split[step]["componentRef"]["name"]]["executorLabel"]
        assert told[executor]["podMetadata"]["annotations"]["mmenc/share"] == "1/3"
        assert {"name": "MMENC_SHARE", "fieldPath": "metadata.annotations['mmenc/share']"} in told[executor]["fieldPathAsEnv"]
        for n in (2, 3):
            helper = split[f"{step} share {n}/3"]
            assert helper["inputs"]["parameters"].pop("share") == {"runtimeValue": {"constant": f"{n}/3"}}
            assert helper["inputs"] == split[step]["inputs"]
            assert helper["dependentTasks"] == split[step]["dependentTasks"], "a sibling: neither waits for the other"
            label = spec["components"][helper["componentRef"]["name"]]["executorLabel"]
            assert "mmenc/share" not in told[label]["podMetadata"]["annotations"]
    assert not [t for t in split.values() if "share" in str(t.get("dependentTasks"))]


def test_nowhere_to_meet_or_nothing_to_share_is_a_sentence(corpus: Path, tmp_path: Path, capsys, monkeypatch):
    recipe = tiny_recipe()
    recipe["compute"]["cluster"] = {"split": 2}
    with pytest.raises(Refused, match=r"compute\.store: is empty, but compute\.cluster\.split is 2; expected s3://"):
        parse(recipe)
    recipe["compute"]["cluster"] = {}
    folder = workplace(tmp_path / "w", corpus, recipe)
    monkeypatch.chdir(folder)
    for share in ("1/2", "2/2"):
        assert main([*commands(folder)["ingest"][1:], "--share", share]) == 1
        assert "compute.store: is empty; --share needs" in capsys.readouterr().err
    assert main([*commands(folder)["ingest"][1:], "--share", "two"]) == 1
    assert "expected I/N" in capsys.readouterr().err
    recipe["compute"]["store"] = str(tmp_path / "store")
    (folder / "params.yaml").write_text(json.dumps(recipe))
    assert main(commands(folder)["ingest"][1:]) == main(commands(folder)["clean"][1:]) == 0
    assert main([*commands(folder)["validate"][1:], "--share", "2/2"]) == 1
    assert "validate: its work is not split; --share is for ingest, clean, tokenize" in capsys.readouterr().err


def test_a_helpers_face_has_its_steps_version_roles_and_sections():
    """It asks for the digest of the step's own face: an argument more or less would be another request."""
    pytest.importorskip("kfp")
    from components import data, shares
    from pipelines.common import HELPERS
    from tests.contract.test_kubeflow import literal

    steps = {n.name: n for n in ast.parse(Path(data.__file__).read_text()).body if isinstance(n, ast.FunctionDef)}
    helpers = {n.name: n for n in ast.parse(Path(shares.__file__).read_text()).body if isinstance(n, ast.FunctionDef)}
    assert set(helpers) == {f"{step}_share" for step in SPLIT}
    for step in SPLIT:
        own, helper = steps[step], helpers[f"{step}_share"]
        call = helper.body[-1].value
        assert (call.func.id, call.args[0].value, call.args[1].value) == ("assist_step", step, TABLE[step].version)
        for name in ("sections", "inputs"):
            assert literal(helper, name) == literal(own, name)
        spec = HELPERS[step].component_spec
        assert all(given.description for given in [*spec.inputs.values(), *spec.outputs.values()])
        assert "out" not in spec.outputs
