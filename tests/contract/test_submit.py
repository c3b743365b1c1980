"""`mmenc submit` against a loopback server that speaks KFP's API: real client, real sockets, a real git repository."""

from __future__ import annotations

import importlib
import json
import logging
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml

pytest.importorskip("kfp")

from mmenc import access
from mmenc.cli import main
from mmenc.errors import Refused
from mmenc.kubeflow import send
from mmenc.overrides import override
from mmenc.recipe import load, parse
from tests.kfp_server import kfp_server
from tests.pipeline import REPO, tiny_recipe

sys.path.insert(0, str(REPO))
from pipelines import api as api_module
from pipelines import job as job_module
from pipelines import pretrain, schedule, watch
from pipelines import submit as submit_module

IMAGES = ["--image", "registry/mmenc-cpu:abc", "--gpu-image", "registry/mmenc-gpu:abc"]
SECRET = "s3cr3t-t0ken-of-nobody"


def git(folder: Path, *words: str) -> str:
    names = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    return subprocess.run(["git", *names, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


COMPILE, COMPILED = pretrain.write, {}


def write_once(recipe, out: Path, **options: str) -> None:
    """The compiler, which gives equal bytes each time (test_kubeflow.py), asked once per graph to save the tests' time."""
    key = (recipe.model_dump_json(), *sorted(options.items()))
    if key not in COMPILED:
        COMPILE(recipe, out, **options)
        COMPILED[key] = out.read_text(encoding="utf-8")
    out.write_text(COMPILED[key], encoding="utf-8")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout") / "repo"
    folder.mkdir()
    for part in ("pipelines", "components"):
        shutil.copytree(REPO / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "params.yaml").write_text(json.dumps(small_recipe(), indent=1))
    (folder / "data.dvc").write_text("outs:\n- md5: 0123.dir\n  hash: md5\n  path: data\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


@pytest.fixture
def place(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "repo"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [n for n in os.environ if n.startswith(("KF_PIPELINES", "KUBERNETES_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(api_module, "PAUSES", (0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(pretrain, "write", write_once)
    return folder


@pytest.fixture
def server():
    with kfp_server() as running:
        running.stride = 6
        yield running


def submit(server, *words: str) -> int:
    host = ["--host", server.url] if server else []
    return main(["submit", *IMAGES, *host, "--poll", "0", *words])


def small_recipe() -> dict:
    """The tiny recipe with two decays in place of three."""
    recipe = tiny_recipe()
    del recipe["phases"]["decay-continued"]
    recipe["merge"]["branches"].remove("decay-continued")
    return recipe


def only(table: dict):
    assert len(table) == 1
    return next(iter(table.values()))


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence on standard error."""
    error = capsys.readouterr().err
    assert error.startswith("mmenc: ")
    assert error.count("\n") == 1
    return error


# The server itself: it refuses what the API does not know.


def raw(server, method: str, path: str, body: object = None) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data=data, method=method, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "word"),
    [
        ("GET", "/apis/v2beta1/healthz", None, 200, "multi_user"),
        ("GET", "/apis/v2beta1/health", None, 404, "Not Found"),
        ("DELETE", "/apis/v2beta1/healthz", None, 405, ""),
        ("POST", "/apis/v2beta1/experiments", {"display_name": "a"}, 200, "experiment_id"),
        ("POST", "/apis/v2beta1/experiments", {"displayname": "a"}, 400, "unknown field"),
        ("POST", "/apis/v2beta1/experiments", {"display_name": 1}, 400, "expected str"),
        ("POST", "/apis/v2beta1/experiments", {"display_name": "a", "storage_state": "GONE"}, 400, "is none of"),
        ("POST", "/apis/v2beta1/runs", {"experiment_id": "none"}, 404, "not found"),
        ("GET", "/apis/v2beta1/runs?page=1", None, 400, "unknown query word"),
        ("GET", "/apis/v2beta1/experiments?namespace=a", None, 400, "single-user"),
    ],
)
def test_the_server_keeps_to_the_api(server, method, path, body, status, word):
    found, text = raw(server, method, path, body)
    assert found == status
    assert word in text


def upload(server, text: str, tmp_path: Path):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    client = api_module.Api(access.Access(server.url))
    pipeline = json.loads(raw(server, "POST", "/apis/v2beta1/pipelines", {"name": "p", "display_name": "p"})[1])
    call = client.of.pipeline_uploads.upload_pipeline_version
    return client, client.make(call, str(path), name="v", pipelineid=pipeline["pipeline_id"])


def test_the_server_parses_an_upload_strictly(server, place, tmp_path):
    assert main(["compile", *IMAGES, "--out", str(tmp_path / "fine.yaml")]) == 0
    text = (tmp_path / "fine.yaml").read_text()
    broken = [
        (text.replace("cachingOptions:", "cacheOptions:", 1), "cacheOptions"),
        (text.replace("producerTask: clean", "producerTask: cleen", 1), "cleen"),
        (text.replace("schemaVersion: 2.1.0", "schemaVersion: 2.0.0"), "schema version"),
    ]
    for changed, word in broken:
        assert changed != text
        with kfp_server() as one:
            _, make = upload(one, changed, tmp_path)
            with pytest.raises(Refused, match=word):
                make()
    _, make = upload(server, text, tmp_path)
    assert make().name == "v"
    with pytest.raises(api_module.Conflict):
        make()


def test_kfps_own_client_gets_along_with_the_server(server, place, tmp_path, capsys):
    """The server is no mirror of our habits: the client's own methods, with their own ways of asking, work as well."""
    import kfp

    assert main(["compile", *IMAGES, "--out", str(tmp_path / "fine.yaml")]) == 0
    server.stride = 30
    with pytest.warns(FutureWarning):
        client = kfp.Client(host=server.url)
    experiment = client.create_experiment("mine").experiment_id
    assert client.create_experiment("mine").experiment_id == experiment
    pipeline, _ = (client.pipelines.pipeline_service_create_pipeline({"name": n, "display_name": n}) for n in ("p", "q"))
    assert client.get_pipeline_id("p") == pipeline.pipeline_id
    version = client.upload_pipeline_version(str(tmp_path / "fine.yaml"), "v", pipeline_id=pipeline.pipeline_id)
    run = client.run_pipeline(experiment, "r", pipeline_id=pipeline.pipeline_id, version_id=version.pipeline_version_id)
    assert client.wait_for_run_completion(run.run_id, 20, sleep_duration=0).state == "SUCCEEDED"


# What is sent.


def test_a_first_submission_makes_everything_and_waits(server, place, capsys):
    server.stride = 1
    assert submit(server) == 0
    out = capsys.readouterr().out
    version, run = only(server.versions), only(server.runs)
    assert version.name == f"{git(place, 'rev-parse', 'HEAD')[:12]}-{version.name[-8:]}"
    assert only(server.pipelines).name == "mmenc-pretrain"
    assert only(server.experiments).display_name == "mmenc-laptop"
    assert run["runtime_config"]["parameters"] == {}
    assert only(server.walks).state == "SUCCEEDED"
    address = f"{server.url}/#/runs/details/{run['run_id']}"
    assert out.rstrip().endswith(f"SUCCEEDED   {address}")
    assert f"version     {version.name}, uploaded" in out
    # Every task of the graph has one line per change of state, parents before children.
    spec, _ = server.graph()
    labels = [t.label for t in watch.tasks(spec)]
    assert len(labels) == len(set(labels)) == 12 + 3 * 4
    lines = [line.split(maxsplit=2)[2] for line in out.splitlines() if re.match(r" *\d+ s  ", line)]
    changes = [tuple(line.rsplit(maxsplit=1)) for line in lines]
    assert len(changes) == len(set(changes))
    for label in labels:
        assert changes.index((label, "RUNNING")) < changes.index((label, "SUCCEEDED")), label
    assert changes.index(("clean", "SUCCEEDED")) < changes.index(("tokenizer", "RUNNING"))
    assert [state for label, state in changes if label == "run"] == ["PENDING", "RUNNING", "SUCCEEDED"]
    images = {e["container"]["image"] for e in spec["deploymentSpec"]["executors"].values() if "container" in e}
    assert images == {"registry/mmenc-cpu:abc"}


def test_a_second_submission_uses_again_what_is_there(server, place, capsys):
    assert submit(server, "--no-wait") == submit(server, "--no-wait", "--run-name", "again") == 0
    assert "is there already" in capsys.readouterr().out
    assert server.calls["upload_pipeline_version"] == 1
    assert len(server.pipelines) == len(server.versions) == len(server.experiments) == 1
    assert [r["display_name"] for r in server.runs.values()][1] == "again"


def test_another_graph_of_the_same_revision_is_another_version(server, place):
    assert submit(server, "--no-wait") == 0
    assert submit(server, "--no-wait", "--image", "registry/mmenc-cpu:def") == 0
    one, two = (v.name for v in server.versions.values())
    assert one[:13] == two[:13]
    assert one != two
    assert len(server.pipelines) == 1


@pytest.mark.parametrize("path", ["params.yaml", "pipelines/pretrain.py", "components/new.py", "data.dvc"])
def test_what_is_not_committed_is_refused_or_called_dirty(server, place, capsys, path):
    before = (place / path).read_text() if (place / path).exists() else ""
    (place / path).write_text(before + "\n# changed\n" if path != "params.yaml" else before.replace('"seed": 21', '"seed": 22'))
    assert submit(server) == 1
    assert f"{path}: not committed" in refused(capsys)
    assert not server.requests
    assert submit(server, "--no-wait", "--allow-dirty") == 0
    assert only(server.versions).name.endswith("-dirty")


def test_other_files_do_not_make_it_dirty_and_a_commit_makes_another_version(server, place):
    (place / "notes.txt").write_text("nothing that a run depends on")
    assert submit(server, "--no-wait") == 0
    (place / "params.yaml").write_text((place / "params.yaml").read_text().replace('"seed": 21', '"seed": 22'))
    git(place, "commit", "--quiet", "--all", "--message", "second")
    assert submit(server, "--no-wait") == 0
    assert len(server.versions) == 2
    assert not [v for v in server.versions.values() if "dirty" in v.name]


def test_a_recipe_from_elsewhere_and_a_folder_without_git_are_refused(server, place, tmp_path, capsys):
    shutil.copy("params.yaml", tmp_path / "mine.yaml")
    assert submit(server, "--params", str(tmp_path / "mine.yaml")) == 1
    assert "mine.yaml: not committed" in refused(capsys)
    shutil.rmtree(place / ".git")
    assert submit(server) == 1
    assert "git" in refused(capsys)
    assert not server.requests


def test_overrides_send_the_changed_parameters_and_nothing_else(server, place):
    words = ["phases.extend.mask=0.2", "phases.pretrain.lr.peak=8e-4", "evaluate.seed=7"]
    assert submit(server, "--no-wait", *[w for word in words for w in ("-S", word)]) == 0
    sent = only(server.runs)["runtime_config"]["parameters"]
    recipe = load(Path("params.yaml"))
    changed = override(recipe, words)
    assert (changed.phases["extend"].mask, changed.phases["pretrain"].lr.peak, changed.evaluate.seed) == (0.2, 8e-4, 7)
    before, after = send(recipe), send(changed)
    assert sent == {k: v for k, v in after.items() if before[k] != v}
    assert sent
    assert "-S phases.extend.mask=0.2 -S" in only(server.runs)["description"]
    assert not only(server.versions).name.endswith("dirty")


def test_an_override_that_changes_nothing_sends_nothing(server, place):
    assert submit(server, "--no-wait", "-S", "seed=21") == 0
    assert only(server.runs)["runtime_config"]["parameters"] == {}


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("phases.extnd.mask=0.2", "there is no phases.extnd; did you mean 'extend'"),
        ("phases.extend.mask=2", "phases.extend.mask is 2; input should be less than 1"),
        ("phases.extend.maks=0.2", "did you mean 'mask'"),
        ("phases.extend.mask=", "no nulls"),
        ("phases.extend.mask", "expected PATH=VALUE"),
        ("seed.x=1", "seed is 21 and has no keys"),
        ("seed=[", "no YAML value"),
        ("merge.base=nothing", "nothing"),
        ("compute.threads=1", "changes the compiled graph (deploymentSpec.executors."),
        ("ingest.root=elsewhere", "change the recipe and submit again"),
    ],
)
def test_a_wrong_override_is_one_sentence_before_anybody_is_asked(server, place, capsys, word, sentence):
    assert submit(server, "-S", word) == 1
    assert sentence in refused(capsys)
    assert not server.requests


def test_caching_is_compiled_in_for_every_task(server, place):
    assert submit(server, "--no-wait") == 0
    assert submit(server, "--no-wait", "--no-cache") == 0
    assert len({v.name for v in server.versions.values()}) == 2
    spec, _ = server.graph()
    found = [
        t["cachingOptions"]
        for c in [spec["root"], *spec["components"].values()]
        for t in c.get("dag", {}).get("tasks", {}).values()
    ]
    assert found == [{"enableCache": False}] * len(found)
    assert len(found) == len(watch.tasks(spec)) + 1  # and the sub-graph below the exit handler


SMALL = """
from kfp import dsl, kubernetes

@dsl.component(base_image="registry/a:1", install_kfp_package=False)
def step(number: int) -> None:
    print(number)

@dsl.pipeline(name="small")
def small(number: int = 1) -> None:
    kubernetes.use_secret_as_env(step(number=number), secret_name="store", secret_key_to_env={"key": "KEY"})
"""


def test_what_kubernetes_needs_travels_in_the_second_document(server, place, tmp_path, monkeypatch):
    from kfp import compiler

    (tmp_path / "small_pipeline.py").write_text(SMALL)
    monkeypatch.syspath_prepend(tmp_path)
    small = importlib.import_module("small_pipeline").small

    def write(recipe, out):
        compiler.Compiler().compile(small, str(out))

    options = job_module.Options(params=Path("params.yaml"), overrides=[], host=server.url, poll=0)
    for caching in (None, False):
        submit_module.submit(job_module.Options(**{**vars(options), "caching": caching}), write, place)
        _, platform = server.graph()
        config = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-step"]
        assert config["secretAsEnv"][0]["secretName"] == "store"
    assert len(server.versions) == 2


def test_account_experiment_and_name_are_passed_on(server, place):
    assert submit(server, "--no-wait", "--service-account", "trainer", "--experiment", "wide", "--run-name", "first") == 0
    run = only(server.runs)
    assert (run["service_account"], run["display_name"]) == ("trainer", "first")
    assert only(server.experiments).display_name == "wide"


def test_names_with_all_kinds_of_characters_are_found_again(server, place):
    for name in ("a+b 100% „ä“ & c", "100 %41", 'quote " \\'):
        assert submit(server, "--no-wait", "--experiment", name) == submit(server, "--no-wait", "--experiment", name) == 0
    assert len(server.experiments) == 3


def test_placeholder_images_are_refused(server, place, capsys):
    assert main(["submit", "--host", server.url, "--image", "mmenc-cpu:REVISION"]) == 1
    assert "placeholder" in refused(capsys)
    assert not server.requests


def test_a_dry_run_contacts_nobody(server, place, capsys):
    assert submit(server, "--dry-run", "-S", "phases.extend.mask=0.2", "--every", "24h") == 0
    out = capsys.readouterr().out
    assert not server.requests
    for word in ("mmenc-pretrain", "mmenc-laptop", "registry/mmenc-cpu:abc", "every 86400 s", "phases.extend.mask=0.2"):
        assert word in out
    assert re.search(r"^tasks +24$", out, re.MULTILINE)
    assert re.search(r"^at most +a task: cpu 2, memory 8G; no accelerator$", out, re.MULTILINE)
    assert re.search(r"^version +[0-9a-f]{12}-[0-9a-f]{8}$", out, re.MULTILINE)
    assert submit(None, "--dry-run") == 0


def test_quantities_of_kubernetes_are_compared_by_size():
    sizes = ["500m", "0.6", "2", "900M", "1G", "1Gi", "8G", "0.1T"]
    assert sorted(sizes, key=job_module._amount) == sizes


def test_pipelines_are_chosen_and_models_handed_on(place, tmp_path, monkeypatch, capsys):
    seen = {}
    fake = ModuleType("pipelines.evaluate")
    fake.write = lambda recipe, out, **options: (seen.update(options), out.write_text("x"))
    monkeypatch.setitem(sys.modules, "pipelines.evaluate", fake)
    words = ["compile", "--out", str(tmp_path / "e.yaml"), *IMAGES]
    assert main([*words, "--pipeline", "evaluate", "--model", "a=s3://b/a", "--model", "b=s3://b/b"]) == 0
    assert seen == {
        "image": IMAGES[1],
        "gpu_image": IMAGES[3],
        "data_hash": "md5:0123.dir",
        "models": {"a": "s3://b/a", "b": "s3://b/b"},
    }
    capsys.readouterr()
    assert main([*words, "--model", "a=b"]) == 1
    assert "only `--pipeline evaluate`" in refused(capsys)
    for bad in (["--model", "a"], ["--model", "a=b", "--model", "a=c"]):
        assert main([*words, "--pipeline", "evaluate", *bad]) == 1
        assert "--model a" in refused(capsys)


def test_the_data_has_a_hash_in_each_of_its_forms(place):
    from mmenc.cli_kubeflow import _data_hash

    assert _data_hash("data") == "md5:0123.dir"
    Path("cloud.dvc").write_text(
        "outs:\n- hash: md5\n  path: cloud\n  files:\n  - {relpath: a, cloud: {s3: {version_id: '1'}}}\n"
    )
    one = _data_hash("cloud")
    Path("cloud.dvc").write_text(Path("cloud.dvc").read_text().replace("'1'", "'2'"))
    assert re.fullmatch("md5:[0-9a-f]{32}", one)
    assert _data_hash("cloud") != one
    Path("pointer.json").write_text("{}")
    assert _data_hash("pointer.json").startswith("sha256:44136fa3")
    assert _data_hash("s3://bucket/pointer.json") == ""


# Waiting.


@pytest.mark.parametrize("tells", [True, False])
def test_a_failing_task_is_named_with_its_reason(server, place, capsys, tells):
    server.fail, server.tells = {"train extend": "CUDA out of memory:\n  tried 80 GiB"}, tells
    assert submit(server) == 1
    captured = capsys.readouterr()
    assert "train extend FAILED: " in captured.err
    expected = "CUDA out of memory: tried 80 GiB" if tells else "the server gives no reason, see `kubectl logs mmenc-"
    assert expected in captured.err
    assert captured.err.count("\n") == 1
    assert f"{server.url}/#/runs/details/{only(server.runs)['run_id']}" in captured.err
    assert re.search(r"train extend +FAILED", captured.out)
    assert not re.search(r"train decay-all +RUNNING", captured.out)
    assert re.search(r"how it ended +SUCCEEDED", captured.out)


def test_two_failing_tasks_and_the_first_in_the_graph_speaks(server, place, capsys):
    server.fail = {"train decay-english": "one", "train decay-all": "two"}
    assert submit(server) == 1
    spec, _ = server.graph()
    first = next(t.label for t in watch.tasks(spec) if t.label in server.fail)
    assert f"{first} FAILED (and 1 more): {server.fail[first]}; http" in capsys.readouterr().err


def test_a_driver_that_fails_is_its_task_and_strange_entries_are_passed_over():
    known = [watch.Task("train-2", "train extend", {})]

    def entry(name, state, **more):
        empty = {"task_id": name, "error": None, "child_tasks": None, "state_history": None, "pod_name": None}
        return SimpleNamespace(display_name=name, state=state, start_time=None, create_time=None, end_time=None, **(empty | more))

    def state(*entries):
        return watch.look(SimpleNamespace(run_details=SimpleNamespace(task_details=list(entries))), known)["train-2"]

    why = SimpleNamespace(message="no such secret")
    assert state(entry("train-2-driver", "FAILED", error=why), entry("train-2", None)).reason == "no such secret"
    assert state(entry("train-2-driver", "FAILED"), entry("train-2", None)).state == "FAILED"
    assert state(entry("train-2-driver", "SUCCEEDED")).state == "RUNNING"
    assert state(entry("train-2-driver", "PENDING"), entry("train-2", "SUCCEEDED")).state == "SUCCEEDED"
    assert state(entry("executor", "FAILED"), entry("train", "FAILED")).state == watch.WAITING
    history = [SimpleNamespace(error=None), SimpleNamespace(error=why)]
    assert state(entry("train extend", "FAILED", state_history=history)).reason == "no such secret"
    child = SimpleNamespace(task_id="x", pod_name="pod-1")
    below = state(entry("train-2", "FAILED", child_tasks=[child]), entry("executor", "FAILED", task_id="x", error=why))
    assert (below.reason, below.pod) == ("no such secret", "pod-1")


def test_no_wait_returns_at_once(server, place):
    assert submit(server, "--no-wait") == 0
    assert server.calls["run_service_get_run"] == 0
    assert only(server.walks).state == "PENDING"


def test_a_timeout_leaves_the_run_going(server, place, capsys, monkeypatch):
    server.hold = True
    monkeypatch.setattr(schedule, "duration", lambda text, option: 0.05)
    assert submit(server, "--timeout", "1s") == 75
    assert "the run goes on: http" in capsys.readouterr().err
    assert len(server.runs) == 1


def process(server, place, *words: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "mmenc.cli", "submit", *IMAGES, "--host", server.url, "--poll", "0.05", *words]
    return subprocess.Popen(command, cwd=place, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, **options)


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_the_run_going_and_says_so(server, place, which):
    server.hold = True
    with process(server, place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        until = time.monotonic() + 60
        while server.calls["run_service_get_run"] < 2 and time.monotonic() < until:
            time.sleep(0.02)
        child.send_signal(which)
        _, error = child.communicate(timeout=30)
    assert child.returncode == 75
    assert "the run goes on" in error
    assert only(server.runs)["run_id"] in error
    assert error.count("\n") == 1
    assert server.calls["run_service_terminate_run"] == 0


@pytest.mark.parametrize("height", [60, 20])
def test_a_terminal_gets_a_table_that_is_redrawn(server, place, monkeypatch, height):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", str(height))
    server.stride = 1
    ours, theirs = pty.openpty()
    found = []

    def read() -> None:
        while True:
            try:
                found.append(os.read(ours, 65536))
            except OSError:
                return

    reader = threading.Thread(target=read)
    reader.start()
    with process(server, place, stdin=theirs, stdout=theirs, stderr=theirs) as child:
        os.close(theirs)
        assert child.wait(60) == 0
    reader.join(10)
    os.close(ours)
    text = b"".join(found).decode()
    assert "\x1b[1A\x1b[2K" in text  # it moves up and writes over itself
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    frames = plain.split("tasks done")
    assert all(frame.count("\n") < height for frame in frames)
    assert len(frames) > 3
    assert bool(re.search(r"train decay-all +SUCCEEDED +\d", plain)) == ("waiting" in plain) == (height == 60)
    assert re.search(r"(train|evaluate) \S+ +RUNNING", plain)
    assert "SUCCEEDED, 24 of 24 " in plain
    assert "SUCCEEDED   http" in plain


# Faults.


def test_a_busy_server_is_asked_again(server, place):
    server.busy = 4
    assert submit(server, "--no-wait") == 0
    assert server.calls["healthz_service_get_healthz"] == 5


def test_a_busy_server_in_the_middle_of_a_run_is_waited_for(server, place, monkeypatch):
    look = watch.look
    monkeypatch.setattr(
        watch,
        "look",
        lambda *a: (setattr(server, "busy", 12), look(*a))[1] if server.calls["run_service_get_run"] == 3 else look(*a),
    )
    assert submit(server) == 0
    assert server.calls["run_service_get_run"] > 15
    assert server.busy == 0


def test_a_server_that_stays_busy_is_one_sentence(server, place, capsys):
    server.busy = 1000
    assert submit(server) == 1
    assert "503: upstream connect error" in refused(capsys)
    assert len(server.requests) == 5


def test_lost_contact_ends_the_waiting_after_a_while(server, place, capsys, monkeypatch):
    monkeypatch.setattr(watch, "LOST", 0.0)
    look = watch.look
    monkeypatch.setattr(watch, "look", lambda *a: (setattr(server, "busy", 1000), look(*a))[1])
    assert submit(server) == 1
    error = capsys.readouterr().err
    assert "the run goes on" in error
    assert only(server.runs)["run_id"] in error


@pytest.mark.parametrize(
    "operation",
    [
        "healthz_service_get_healthz",
        "pipeline_service_create_pipeline",
        "upload_pipeline_version",
        "experiment_service_create_experiment",
        "run_service_create_run",
        "run_service_get_run",
    ],
)
def test_a_lost_answer_makes_nothing_twice(server, place, operation):
    server.drop = {operation: 2}
    assert submit(server, *([] if operation == "run_service_get_run" else ["--no-wait"])) == 0
    assert server.drop[operation] < 2
    assert len(server.pipelines) == len(server.versions) == len(server.experiments) == len(server.runs) == 1


def test_a_lost_answer_makes_no_second_schedule(server, place):
    server.drop = {"recurring_run_service_create_recurring_run": 1, "recurring_run_service_delete_recurring_run": 1}
    assert submit(server, "--every", "24h") == submit(server, "--every", "12h") == 0
    assert only(server.recurring)["trigger"]["periodic_schedule"]["interval_second"] == str(12 * 3600)
    assert set(server.drop.values()) == {0}


def test_nobody_there(place, capsys, monkeypatch):
    monkeypatch.setattr(api_module, "PAUSES", (30.0,))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begun = time.monotonic()
    assert submit(SimpleNamespace(url=f"http://127.0.0.1:{port}")) == 1
    assert "cannot be reached (Connection refused)" in refused(capsys)
    assert submit(SimpleNamespace(url="http://no-such-host.invalid")) == 1
    assert "no such host as no-such-host.invalid" in refused(capsys)
    assert time.monotonic() - begun < 20
    assert submit(None) == 1
    assert "no cluster is named" in refused(capsys)
    for bad, word in (("localhost:8080", "expected http://"), ("http://me:pw@host", "--token-file")):
        assert submit(SimpleNamespace(url=bad)) == 1
        sentence = refused(capsys)
        assert word in sentence
        assert "pw" not in sentence


def test_a_silent_server_is_one_sentence(server, place, capsys, monkeypatch):
    server.slow = 0.6
    monkeypatch.setattr(api_module, "PATIENCE", (1, 0.1))
    monkeypatch.setattr(api_module, "PAUSES", ())
    assert submit(server) == 1
    assert "sent nothing for 0.1 s" in refused(capsys)


def test_a_wrong_address_and_a_login_page(server, place, capsys):
    assert submit(SimpleNamespace(url=f"{server.url}/nowhere")) == 1
    assert "is no Kubeflow Pipelines address (404)" in refused(capsys)
    server.login = True
    assert submit(server) == 1
    assert "answers with a web page" in refused(capsys)


def test_an_address_pasted_from_the_browser_works(server, place):
    assert submit(SimpleNamespace(url=f"{server.url}/#/pipelines"), "--no-wait") == 0


def test_what_the_server_refuses_is_said_in_its_words(server, place, capsys, monkeypatch):
    monkeypatch.setattr(job_module, "_arguments", lambda *_: {"phasen": {}})
    assert submit(server, "-S", "phases.extend.mask=0.2") == 1
    assert "answers 400: parameter(s) provided are not required by pipeline: phasen" in refused(capsys)


# Who may.


@pytest.fixture
def secrets(tmp_path) -> Path:
    path = tmp_path / "token"
    path.write_text(SECRET + "\n")
    return path


def test_tokens_from_a_file_the_environment_and_the_pod(server, place, secrets, capsys, monkeypatch):
    server.token = SECRET
    assert submit(server) == 1
    assert "refuses a request without credentials (401); give --token-file" in refused(capsys)
    assert submit(server, "--no-wait", "--token-file", str(secrets)) == 0
    monkeypatch.setenv("KF_PIPELINES_TOKEN", SECRET)
    assert submit(server, "--no-wait") == 0
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "another")
    assert submit(server) == 1
    assert "refuses the token in $KF_PIPELINES_TOKEN (401); it is wrong or has expired" in refused(capsys)
    monkeypatch.delenv("KF_PIPELINES_TOKEN")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(secrets))
    assert submit(server, "--no-wait") == 0
    assert submit(server, "--token-file", "missing") == 1
    assert "missing: the credential cannot be read" in refused(capsys)


def test_in_a_pod_the_address_is_known(monkeypatch, tmp_path, secrets):
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KF_PIPELINES_SA_TOKEN_PATH": str(secrets)}
    assert access.resolve(env=pod) == access.Access(access.IN_CLUSTER, token_file=secrets)
    assert access.resolve(env={}) is None
    with pytest.raises(Refused, match="not both"):
        access.resolve("http://a", secrets, secrets, env={})


def test_a_renewed_token_is_taken_up(server, secrets):
    server.token = SECRET
    client = api_module.Api(access.resolve(server.url, secrets, env={}))
    assert client.greet() is False
    server.token = "renewed"
    secrets.write_text("renewed")
    assert client.greet() is False
    secrets.unlink()
    with pytest.raises(Refused, match="token: the credential cannot be read"):
        client.greet()


def test_cookies_of_a_login(server, place, tmp_path, capsys, monkeypatch):
    server.cookie = f"authservice_session={SECRET}"
    assert submit(server) == 1
    assert "--cookies-file FILE" in refused(capsys)
    plain, jar = tmp_path / "cookies", tmp_path / "cookies.txt"
    plain.write_text(f"authservice_session={SECRET}\n")
    jar.write_text(f"# Netscape HTTP Cookie File\n\n#HttpOnly_h\tFALSE\t/\tFALSE\t0\tauthservice_session\t{SECRET}\n")
    for path in (plain, jar):
        assert submit(server, "--no-wait", "--cookies-file", str(path)) == 0
    monkeypatch.setenv("KF_PIPELINES_COOKIES", f"authservice_session={SECRET}")
    assert submit(server, "--no-wait") == 0
    plain.write_text("authservice_session=old")
    assert submit(server, "--cookies-file", str(plain)) == 1
    assert "refuses the cookies (401)" in refused(capsys)
    jar.write_text("nothing")
    assert submit(server, "--cookies-file", str(jar)) == 1
    assert "expected one line NAME=VALUE" in refused(capsys)


def certify(path: Path) -> Path:
    """A certificate of nobody's authority for 127.0.0.1, with its key."""
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
def test_a_certificate_of_an_own_authority(place, tmp_path, capsys, monkeypatch):
    with kfp_server(certify(tmp_path / "own.pem")) as server:
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        assert submit(server) == 1
        assert "TLS failed" in refused(capsys)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "own.pem.crt"))
        assert submit(server, "--no-wait") == 0


def test_several_users(server, place, capsys, monkeypatch):
    server.namespaces = {"alice"}
    assert submit(server) == 1
    assert "say whose it is with --namespace" in refused(capsys)
    assert submit(server, "--namespace", "bob") == 1
    assert "in namespace bob (403)" in refused(capsys)
    assert submit(server, "--namespace", "alice", "--no-wait") == 0
    assert only(server.pipelines).namespace == only(server.experiments).namespace == "alice"
    monkeypatch.setenv("KF_PIPELINES_NAMESPACE", "alice")
    assert submit(server, "--every", "24h") == 0
    assert only(server.recurring)["namespace"] == "alice"


def test_one_user_gets_no_namespace(server, place):
    assert submit(server, "--namespace", "alice", "--no-wait") == 0
    assert only(server.experiments).namespace is None


def test_secrets_are_in_no_body_no_address_no_output_and_no_log(server, place, secrets, capsys, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    server.token, server.fail = SECRET, {"clean": "broken"}
    assert submit(server, "--token-file", str(secrets), "-S", "seed=3") == 1
    assert submit(server, "--token-file", str(secrets), "--every", "24h") == 0
    server.token = "other"
    assert main(["--debug", "submit", *IMAGES, "--host", server.url, "--token-file", str(secrets), "--dry-run"]) == 0
    assert submit(server, "--token-file", str(secrets)) == 1
    captured = capsys.readouterr()
    assert len(server.requests) > 10
    for method, path, headers, body in server.requests:
        assert SECRET.encode() not in body, path
        assert SECRET not in method + path
        assert [k for k, v in headers.items() if SECRET in v] in (["authorization"], [])
    assert any(SECRET in headers.get("authorization", "") for _, _, headers, _ in server.requests)
    assert SECRET not in captured.out + captured.err + caplog.text
    assert SECRET not in repr(access.resolve(server.url, env={"KF_PIPELINES_TOKEN": SECRET}))


# Schedules.


def test_a_recurring_run_is_made_and_replaced(server, place, capsys):
    assert submit(server, "--cron", "0 3 * * 1", "--max-concurrency", "2", "--no-catchup", "-S", "seed=3") == 0
    first = only(server.recurring)
    assert first["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * 1"}}
    assert (first["max_concurrency"], first["no_catchup"], first["mode"]) == ("2", True, "ENABLE")
    assert first["runtime_config"]["parameters"] == {"seed": 3}
    assert first["display_name"] == "mmenc-laptop pretrain"
    assert not server.runs
    assert f"{server.url}/#/recurringrun/details/{first['recurring_run_id']}" in capsys.readouterr().out
    assert submit(server, "--every", "24h") == 0
    second = only(server.recurring)
    assert second["trigger"] == {"periodic_schedule": {"interval_second": "86400"}}
    old, new = first["recurring_run_id"], second["recurring_run_id"]
    assert server.log[1:] == [f"DISABLED {old}", f"create {new}", f"delete {old}"]


def test_two_triggers_are_two_recurring_runs(server, place):
    for _ in range(2):
        assert submit(server, "--cron", "0 3 * * 1", "--every", "7d", "--run-name", "weekly") == 0
    assert sorted(r["display_name"] for r in server.recurring.values()) == ["weekly (cron)", "weekly (every)"]


def test_the_old_schedule_comes_back_when_the_new_one_is_refused(server, place, capsys, monkeypatch):
    assert submit(server, "--every", "24h") == 0
    old = only(server.recurring)["recurring_run_id"]
    from tests import kfp_server as module

    def refuse(**_):
        raise module.Bad(400, "no more schedules")

    monkeypatch.setattr(server, "recurring_run_service_create_recurring_run", refuse)
    assert submit(server, "--every", "12h") == 1
    assert "no more schedules" in refused(capsys)
    assert only(server.recurring)["status"] == "ENABLED"
    assert server.log[-2:] == [f"DISABLED {old}", f"ENABLED {old}"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 3 * * 1", "0 0 3 * * 1"),
        ("*/15 * * * *", "0 */15 * * * *"),
        ("30 0 9 ? * mon-fri", "30 0 9 ? * mon-fri"),
        ("0 0 1,15 JAN *", "0 0 0 1,15 jan *"),
    ],
)
def test_cron_gets_the_field_of_seconds_that_kubeflow_wants(text, expected):
    assert schedule.cron(text) == expected


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--cron", "60 3 * * 1"], "'60' is no minute"),
        (["--cron", "0 3 * * 7"], "'7' is no weekday; expected 0 to 6"),
        (["--cron", "0 3 * *"], "has 4 fields"),
        (["--cron", "0 3 5-2 * *"], "'5-2' is no day"),
        (["--cron", "0 3 */0 * *"], "'*/0' is no day"),
        (["--every", "24"], "--every 24: expected a number and s, m, h or d"),
        (["--every", "1h", "--max-concurrency", "11"], "expected 1 to 10"),
        (["--timeout", "soon"], "--timeout soon"),
    ],
)
def test_a_wrong_schedule_is_one_sentence_before_anybody_is_asked(server, place, capsys, words, sentence):
    assert submit(server, *words) == 1
    assert sentence in refused(capsys)
    assert not server.requests


def test_overrides_leave_the_recipe_alone_and_are_checked_as_a_whole():
    recipe = parse(tiny_recipe())
    assert override(recipe, []) is recipe
    changed = override(recipe, ["phases.pretrain.batch_warmup={start: 128, tokens: 1e3}", "release.name=other"])
    assert changed.phases["pretrain"].batch_warmup.tokens == 1000
    assert recipe.phases["pretrain"].batch_warmup is None
    assert yaml.safe_load(json.dumps(send(changed)))["release"]["name"] == "other"
