"""The compiled pipeline runs in the image, task by task in containers without a network, and makes what dvc.yaml makes."""

from __future__ import annotations

import json
import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from mmenc.cli import main
from tests.containers.conftest import IMAGE, docker
from tests.pipeline import contents, hashes, made


def run(pipeline: Path, root: Path, data: Path) -> list[tuple[str, float, int]]:
    """Run a compiled pipeline on kfp's DockerRunner; return each container's task, seconds and exit code.

    KFP asks for the exit code after the last line of the log, and takes a container that the engine has removed by then for
    one that succeeded; here the code is asked for while the container lives.
    """
    import docker as client
    from docker.models.containers import Container, ContainerCollection
    from kfp import components, local
    from kfp.local import docker_task_handler

    ran: list[tuple[str, float, int]] = []
    real = docker_task_handler.run_docker_container

    start_container = ContainerCollection.run

    def waited(self: ContainerCollection, **words: object) -> Container:
        container = start_container(self, **words)
        container.wait = ThreadPoolExecutor(1).submit(container.wait).result
        return container

    def timed(command: list[str], **rest: object) -> int:
        start = time.monotonic()
        code = real(command=command, **rest)
        task = Path(json.loads(command[command.index("--executor_input") + 1])["outputs"]["outputFile"]).parent.name
        ran.append((task, time.monotonic() - start, code))
        return code

    root.mkdir()
    root.chmod(0o777)
    raw = client.types.Mount(str(data), str(data), type="bind", read_only=True)
    umask = os.umask(0)  # what KFP makes here, the image's own user fills
    try:
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what this runner cannot honour: limits, display names
            patch.setattr(ContainerCollection, "run", waited)
            patch.setattr(docker_task_handler, "run_docker_container", timed)
            local.init(local.DockerRunner(network_mode="none", mounts=[raw]), pipeline_root=str(root), raise_on_error=False)
            components.load_component_from_file(str(pipeline))(data_uri=str(data))
    finally:
        os.umask(umask)
    return ran


@pytest.fixture(scope="module")
def compiled(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    words = ["--params", str(finished / "params.yaml"), "--image", IMAGE, "--gpu-image", IMAGE]
    assert main(["compile", *words, "--out", str(out)]) == 0
    spec, *_ = yaml.safe_load_all(out.read_text())  # what Kubernetes is told beside it means nothing here
    for task in spec["components"]["comp-exit-handler-1"]["dag"]["tasks"].values():
        task.pop("retryPolicy", None)  # this runner would wait out the minutes between tries
    out.write_text(yaml.safe_dump(spec))
    return out


@pytest.fixture(scope="module")
def raw(finished: Path) -> Path:
    """The raw text, made readable: pytest's folders are their owner's alone, and the image's user is another."""
    (finished / "data").chmod(0o755)
    return finished / "data"


@pytest.mark.timeout(1500)  # 3 minutes on two idle cores
def test_containers_make_the_digests_and_contents_of_dvc(finished: Path, raw: Path, compiled: Path, shared_folder: Path, capsys):
    tasks = run(compiled, shared_folder / "root", raw)
    places = made(shared_folder / "root")
    found, expected = hashes(places), contents(finished)
    folders = {path.parent.name: folder for folder, path in places.items()}
    with capsys.disabled():
        print(f"\n{'task':<24}{'seconds':>8}  digest        content       artifact")
        for task, seconds, _ in tasks:
            folder = folders.get(task, "")
            digest, content = found.get(folder, ("", ""))
            print(f"{task:<24}{seconds:>8.1f}  {digest[:12]:<12}  {content[:12]:<12}  {folder}")
        print(f"{len(tasks)} containers, {sum(s for _, s, _ in tasks):.0f} s")
    assert found == expected
    assert "report" in places
    assert [task for task, _, code in tasks if code] == []
    assert len(tasks) == len(expected) + 2  # the report, and the task that says how it ended


def test_a_task_that_fails_says_why_and_leaves_no_artifact(compiled: Path, shared_folder: Path, capfd):
    (empty := shared_folder / "empty").mkdir()
    tasks = run(compiled, shared_folder / "root", empty)
    assert [task for task, _, _ in tasks] == ["ingest", "end"]
    assert f"mmenc: {empty}: holds no files" in capfd.readouterr().out
    assert not list((shared_folder / "root").rglob("manifest.json"))


def test_nothing_is_left_running():
    left, end = "?", time.monotonic() + 60
    while left and time.monotonic() < end:  # the engine removes the last container after KFP has gone on
        left = docker("ps", "--all", "--quiet", "--filter", f"ancestor={IMAGE}").stdout
        time.sleep(1 if left else 0)
    assert left == ""
