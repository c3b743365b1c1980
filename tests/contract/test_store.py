"""The store, against a real S3 server: results as without it, outages, wrong keys, two writers, another machine."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmenc.artifact import Artifact, Manifest, Parent, Request, read_json, sha256_file
from mmenc.cli import main
from mmenc.errors import Refused
from mmenc.kubeflow import complete, surroundings
from mmenc.raw import named_input, write_pointer
from mmenc.recipe import parse
from mmenc.resume import Mirror
from mmenc.steps import TABLE
from mmenc.store import Changed, Store, Unreachable, object_key
from tests.pipeline import commands, contents, run_all, run_stage, tiny_recipe, workplace
from tests.s3 import S3, running

pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with running(tmp_path_factory.mktemp("s3") / "weed") as found:
        found.bucket("shared")
        found.bucket("versioned", versions=True)
        yield found


@pytest.fixture
def s3(server: S3, monkeypatch) -> S3:
    for key, value in server.env.items():
        monkeypatch.setenv(key, value)
    return server


@pytest.fixture(params=["folder", "s3"])
def store(request, tmp_path: Path) -> Store:
    if request.param == "folder":
        return Store(str(tmp_path / "store"), 5)
    request.getfixturevalue("s3")
    return Store(f"s3://shared/{tmp_path.name}", 5)


def recipe_with(store: str, **compute: object) -> dict:
    recipe = tiny_recipe()
    recipe["compute"] |= {"store": store, "store_patience": 60, **compute}
    return recipe


def test_objects_are_named_by_hash_and_come_back_whole(store: Store, tmp_path: Path):
    path = tmp_path / "file.bin"
    path.write_bytes(os.urandom(6_000_000))
    sha256 = sha256_file(path)
    assert store.put_object(path, sha256) == f"{store.url}/objects/{sha256[:2]}/{sha256}"
    assert store.size(object_key(sha256)) == 6_000_000
    assert store.sha256(object_key(sha256)) == sha256
    store.fetch(object_key(sha256), tmp_path / "deep" / "back.bin")
    assert sha256_file(tmp_path / "deep" / "back.bin") == sha256
    assert store.size("objects/none") is None
    with pytest.raises(FileNotFoundError):
        store.fetch("objects/none", tmp_path / "none.bin")
    assert not list(tmp_path.rglob(".tmp.*"))
    store.remove("objects")
    assert store.size(object_key(sha256)) is None
    store.remove("objects")


def test_json_is_replaced_only_if_nobody_else_did(store: Store):
    assert store.read_json("a/state.json") == (None, "")
    first = store.put_json("a/state.json", {"n": 1}, "")
    assert store.read_json("a/state.json") == ({"n": 1}, first)
    second = store.put_json("a/state.json", {"n": 2}, first)
    for stale in ("", first):
        with pytest.raises(Changed):
            store.put_json("a/state.json", {"n": 3}, stale)
    assert store.read_json("a/state.json") == ({"n": 2}, second)
    store.put_json("a/state.json", {"n": 4})
    assert store.read_json("a/state.json")[0] == {"n": 4}


def test_a_parameter_may_name_one_object_a_folder_or_a_pointer(s3: S3, tmp_path: Path):
    base = f"s3://shared/{tmp_path.name}"
    store = Store(base, 5)
    for name in ("tokenizer.json", "model.safetensors", "model.bin"):
        (tmp_path / name).write_text('{"model": {}}')
        store.put(tmp_path / name, f"model/{name}")
    pointer, _ = write_pointer(f"{base}/model", f"{base}/pointers/", 5)
    for parameter, place, expected in [
        ("tokenizer.compare", f"{base}/model/tokenizer.json", "tokenizer.json"),
        ("tokenizer.compare", f"{base}/model", "tokenizer.json"),
        ("tokenizer.compare", pointer, "tokenizer.json"),
        ("clean.language_model", f"{base}/model/model.bin", "model.bin"),
    ]:
        path, rows = named_input(parameter, place, tmp_path / "cache", 5)
        assert path.name == expected
        assert path.read_text() == '{"model": {}}'
        assert [r["path"] for r in rows] == [f"{parameter}/{expected}"]
    assert len(named_input("clean.evaluation_texts", f"{base}/model", tmp_path / "cache", 5)[1]) == 3
    for parameter, place in [("clean.language_model", f"{base}/none.bin"), ("tokenizer.compare", f"{base}/pointers")]:
        with pytest.raises(Refused, match=r"holds no objects|has no tokenizer\.json"):
            named_input(parameter, place, tmp_path / "cache", 5)


def test_the_answer_to_a_write_may_be_lost(s3: S3):
    """The write arrived, the answer did not, the retry finds its own bytes: that is success, not somebody else."""
    store = Store("s3://shared/lost", 5)
    version = store.put_json("state.json", {"n": 1}, "")
    assert store.put_json("state.json", {"n": 1}, "") == version


@pytest.mark.parametrize(
    ("url", "sentence"),
    [("gs://bucket/x", "expected a folder or s3://bucket/prefix"), ("s3://", "names no bucket")],
)
def test_other_addresses_are_refused(url: str, sentence: str):
    with pytest.raises(Refused, match=sentence):
        Store(url)


def test_a_wrong_key_is_a_sentence_at_once(s3: S3, corpus, tmp_path, monkeypatch, capsys):
    folder = workplace(tmp_path / "w", corpus, recipe_with("s3://shared/wrong"))
    for key, value, expected in (
        ("AWS_SECRET_ACCESS_KEY", "wrong", "the store refuses the key"),
        ("AWS_ACCESS_KEY_ID", "nobody", "the store refuses the key"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(key, value)
            started = time.monotonic()
            assert run_stage(folder, commands(folder)["ingest"], monkeypatch) == 1
            assert time.monotonic() - started < 20
        err = capsys.readouterr().err
        assert err.startswith("mmenc: s3://shared/wrong: ")
        assert expected in err
        assert err.count("\n") == 1
        assert s3.secret not in err
    for key in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_stage(folder, commands(folder)["ingest"], monkeypatch) == 1
    assert "no credentials; set AWS_ACCESS_KEY_ID" in capsys.readouterr().err
    assert not (folder / "artifacts" / "ingest").exists()


@pytest.fixture(scope="module")
def stored(server: S3, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run with everything large in the bucket."""
    folder = workplace(tmp_path_factory.mktemp("stored"), corpus, recipe_with("s3://shared/run"))
    with pytest.MonkeyPatch.context() as patch:
        for key, value in server.env.items():
            patch.setenv(key, value)
        run_all(folder, patch)
    return folder


def test_results_are_those_without_a_store_and_large_files_are_only_there(stored: Path, finished: Path, s3: S3):
    assert contents(stored) == contents(finished)
    for name, step in TABLE.items():
        for path in (stored / "artifacts").glob(step.folder.format(name="*") + "/manifest.json"):
            manifest = read_json(path)
            here = {p.relative_to(path.parent).as_posix() for p in path.parent.rglob("*") if p.is_file()}
            assert not {row["path"] for row in manifest["external"]} & here
            assert bool(manifest["external"]) == bool(step.large), name
    row = read_json(stored / "artifacts/train/pretrain/manifest.json")["external"][0]
    assert row["uri"].startswith("s3://shared/run/objects/")
    assert {*row} == {"path", "uri", "bytes", "sha256"}
    store = Store("s3://shared/run")
    assert not keys(store, "resume")
    # A model is taken home as it is: the release holds its weights.
    assert (stored / "artifacts/release/model.safetensors").is_file()


def test_another_machine_takes_the_finished_results(stored: Path, finished: Path, s3: S3, corpus, tmp_path, monkeypatch, capsys):
    folder = workplace(tmp_path / "w", corpus, recipe_with("s3://shared/run"))
    started = time.monotonic()
    run_all(folder, monkeypatch, upto="train@pretrain")
    out = capsys.readouterr().out
    assert out.count("where it was finished before") == out.count(" -> ") > 5
    assert time.monotonic() - started < 60
    expected = contents(finished)
    assert {k: v for k, v in expected.items() if k in contents(folder)} == contents(folder)
    # Whose run it was stays known.
    digest = read_json(folder / "artifacts/train/pretrain/manifest.json")["digest"]
    records = [read_json(f / "artifacts/.runs" / digest / "run.json") for f in (folder, stored)]
    assert records[0] == records[1]


def test_verify_reads_the_store_and_names_what_is_broken(stored: Path, s3: S3, tmp_path, capsys):
    folder = tmp_path / "w"
    shutil.copytree(stored, folder, symlinks=True)
    assert main(["lineage", str(folder / "artifacts/train/pretrain"), "--verify"]) == 0
    manifest = read_json(folder / "artifacts/train/pretrain/manifest.json")
    row = next(r for r in manifest["external"] if r["path"] == "model.safetensors")
    store = Store("s3://shared/run")
    key = object_key(row["sha256"])
    store.fetch(key, tmp_path / "good")
    try:
        (tmp_path / "bad").write_bytes((tmp_path / "good").read_bytes()[:-1] + b"x")
        store.put(tmp_path / "bad", key)
        capsys.readouterr()
        assert main(["lineage", str(folder / "artifacts/train/pretrain"), "--verify"]) == 1
        assert "its sha256 differs" in capsys.readouterr().err
        shutil.rmtree(folder / "artifacts/.cache")
        with pytest.raises(Refused, match="damaged"):
            _read_all(folder / "artifacts/train/pretrain")
        store.remove(key)
        with pytest.raises(Refused, match="not in the store any more"):
            _read_all(folder / "artifacts/train/pretrain")
    finally:
        store.put(tmp_path / "good", key)
    assert _read_all(folder / "artifacts/train/pretrain") == row["sha256"]


def _read_all(path: Path) -> str:
    from mmenc.external import Cache

    cache = Cache(path.parents[1] / ".cache")
    try:
        return sha256_file(Artifact.read(path, cache=cache).local() / "model.safetensors")
    finally:
        cache.close()


def keys(store: Store, prefix: str) -> list[str]:
    """What really lies below a prefix; `find` also shows folders that the server keeps for a while when they are empty."""
    bucket, _, root = store.root.partition("/")
    found = store.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{root}/{prefix}/".replace("//", "/"))
    return [row["Key"] for row in found.get("Contents", []) if not row["Key"].endswith("/")]


def start_training(folder: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "mmenc.cli", *commands(folder)["train@extend"][1:]]
    return subprocess.Popen(words, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_for_state(store: Store, process: subprocess.Popen[str], *, other_than: str = "") -> str:
    """Until a resume state (other than that version) is in the store; its version."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        for path in store.fs.glob(f"{store.root}/resume/*/current.json"):
            _, version = store.read_json(str(path).removeprefix(f"{store.root}/"))
            if version != other_than:
                return version
        time.sleep(0.05)
    raise AssertionError(
        f"no state came; the process says {process.communicate()[0] if process.poll() is not None else 'nothing'}"
    )


@pytest.fixture
def before_extend(stored: Path, s3: S3, tmp_path: Path) -> Path:
    """A machine on which the phase `extend` is next, and a store of its own."""
    folder = tmp_path / "one"
    shutil.copytree(stored, folder, symlinks=True)
    for name in ("extend", "decay-english", "decay-continued", "decay-all"):
        shutil.rmtree(folder / "artifacts/train" / name)
    recipe = recipe_with(f"s3://shared/{tmp_path.name}", checkpoint_seconds=0)
    (folder / "params.yaml").write_text(json.dumps(recipe))
    return folder


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lost_pod_goes_on_elsewhere_from_the_stores_state(before_extend, finished, s3, tmp_path, number):
    store = Store(f"s3://shared/{tmp_path.name}", 10)
    process = start_training(before_extend)
    wait_for_state(store, process)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == (-9 if number == signal.SIGKILL else 75)
    shutil.rmtree(before_extend / "artifacts/.resume")
    shutil.rmtree(before_extend / "artifacts/.cache")
    again = start_training(before_extend)
    out = again.communicate()[0]
    assert again.returncode == 0, out
    assert "resume state taken from s3://" in out
    assert "resumed at step" in out
    assert contents(before_extend)["train/extend"] == contents(finished)["train/extend"]
    assert not keys(store, "resume")


def test_an_outage_in_the_middle_changes_nothing(before_extend, finished, s3, tmp_path):
    store = Store(f"s3://shared/{tmp_path.name}", 10)
    process = start_training(before_extend)
    wait_for_state(store, process)
    s3.down()
    timer = threading.Timer(8, s3.up)
    timer.start()
    try:
        out = process.communicate(timeout=300)[0]
    finally:
        timer.join()
    assert process.returncode == 0, out
    assert "not reachable" in out
    assert "trying again" in out
    assert contents(before_extend)["train/extend"] == contents(finished)["train/extend"]


def test_an_outage_without_end_is_a_sentence_and_keeps_the_state_here(before_extend, finished, s3, tmp_path):
    recipe = recipe_with(f"s3://shared/{tmp_path.name}", checkpoint_seconds=0, store_patience=3)
    (before_extend / "params.yaml").write_text(json.dumps(recipe))
    process = start_training(before_extend)
    wait_for_state(Store(f"s3://shared/{tmp_path.name}", 10), process)
    s3.down()
    try:
        out = process.communicate(timeout=300)[0]
    finally:
        s3.up()
    assert process.returncode == 1, out
    last = out.splitlines()[-1]
    assert last.startswith(f"mmenc: s3://shared/{tmp_path.name}: not reachable")
    assert not (before_extend / "artifacts/train/extend").exists()
    assert list((before_extend / "artifacts/.resume").glob("*/0*"))
    again = start_training(before_extend)
    out = again.communicate()[0]
    assert again.returncode == 0, out
    assert contents(before_extend)["train/extend"] == contents(finished)["train/extend"]


def test_of_two_writers_the_later_stops(s3: S3, tmp_path: Path):
    store = Store(f"s3://shared/{tmp_path.name}", 10)
    request = Request("train", "extend", 1, {}, (Parent("init", "d" * 64, "c" * 64),))
    mirrors = [Mirror(store, request, tmp_path / name) for name in ("one", "two")]
    for mirror in mirrors:
        mirror.restore()
        (mirror.folder / "000000001").mkdir(parents=True)
        (mirror.folder / "000000001" / "state.json").write_text(mirror.folder.name)
    mirrors[0].save()
    with pytest.raises(Refused, match="another process is running this step"):
        mirrors[1].save()
    (mirrors[0].folder / "000000002").mkdir()
    (mirrors[0].folder / "000000002" / "state.json").write_text("next")
    mirrors[0].save()
    third = Mirror(store, request, tmp_path / "three")
    third.restore()
    assert (third.folder / "000000002" / "state.json").read_text() == "next"
    # Other parents: the state is somebody else's.
    other = Request("train", "extend", 1, {}, (Parent("init", "d" * 64, "e" * 64),))
    fourth = Mirror(store, other, tmp_path / "four")
    fourth.restore()
    assert not fourth.folder.exists()
    mirrors[0].remove()
    assert not keys(store, "resume")


def upload(corpus: Path, store: Store) -> None:
    for path in sorted(corpus.rglob("*.jsonl")):
        store.put(path, path.relative_to(corpus).as_posix())


def test_raw_data_comes_by_pointer_in_the_version_that_it_names(s3, corpus, finished, tmp_path, monkeypatch, capsys):
    base = f"s3://versioned/{tmp_path.name}"
    bucket = Store(base, 10)
    upload(corpus, bucket)
    pointer = f"s3://shared/{tmp_path.name}/data.json"
    assert main(["point", base, "--to", pointer]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{pointer}: ")
    assert out.endswith(" objects\n")
    assert main(["point", base, "--to", f"s3://shared/{tmp_path.name}/"]) == 0
    named = capsys.readouterr().out.split(": ")[0]
    assert Store(f"s3://shared/{tmp_path.name}").read_json("data.json") == Store(named.rpartition("/")[0]).read_json(
        named.rpartition("/")[2]
    )
    # Somebody overwrites a file later: the pointer still means what it meant.
    (tmp_path / "new").write_text('{"text": "other"}\n')
    bucket.put(tmp_path / "new", "fao_Latn/udhr.jsonl")
    folder = workplace(tmp_path / "w", corpus)
    shutil.rmtree(folder / "data")
    monkeypatch.chdir(folder)
    words = ["run", "ingest", "--out", "artifacts/ingest"]
    assert main([*words, f"data={pointer}"]) == 0
    made = read_json(folder / "artifacts/ingest/manifest.json")
    assert made["content"] == contents(finished)["ingest"][1]
    assert all({*row} == {"path", "version"} for row in made["inputs"])
    assert all(len(s["sha256"]) == 64 for s in made["facts"]["sources"])
    before = time.monotonic()
    assert main([*words, f"data={pointer}"]) == 0
    assert "up to date" in capsys.readouterr().out
    assert time.monotonic() - before < 10
    # The bucket's folder itself means its newest versions.
    assert main([*words, f"data={base}"]) == 0
    assert read_json(folder / "artifacts/ingest/manifest.json")["content"] != made["content"]
    # The same pointer as a file, as Kubeflow's launcher brings it.
    bucket_pointer, _ = Store(f"s3://shared/{tmp_path.name}").read_json("data.json")
    (folder / "data.json").write_text(json.dumps(bucket_pointer))
    assert main([*words, "data=data.json"]) == 0
    assert read_json(folder / "artifacts/ingest/manifest.json")["digest"] == made["digest"]
    (folder / "data.json").write_text("{}")
    assert main([*words, "data=data.json"]) == 1
    assert "not a pointer to raw data" in capsys.readouterr().err


def test_without_versions_a_changed_object_is_noticed(s3, corpus, tmp_path, monkeypatch, capsys):
    base = f"s3://shared/{tmp_path.name}/plain"
    upload(corpus, Store(base, 10))
    folder = workplace(tmp_path / "w", corpus)
    monkeypatch.chdir(folder)
    assert main(["point", base, "--to", "data.json"]) == 0
    (tmp_path / "new").write_text('{"text": "other"}\n')
    Store(base, 10).put(tmp_path / "new", "fao_Latn/udhr.jsonl")
    assert main(["run", "ingest", "--out", "artifacts/ingest", "data=data.json"]) == 1
    assert "was changed since the pointer was written" in capsys.readouterr().err
    assert main(["point", f"{base}/nothing", "--to", "data.json"]) == 1
    assert "holds no objects" in capsys.readouterr().err


def test_a_pushed_dvc_file_is_a_pointer(s3, corpus, finished, tmp_path, monkeypatch, capsys):
    folder = workplace(tmp_path / "w", corpus)
    monkeypatch.chdir(folder)
    dvc = [sys.executable, "-m", "dvc"]
    remote = f"s3://versioned/{tmp_path.name}-dvc"
    for words in (
        ["git", "init", "-q"],
        [*dvc, "init", "-q"],
        [*dvc, "add", "-q", "data"],
        [*dvc, "remote", "add", "-q", "-d", "bucket", remote],
        [*dvc, "remote", "modify", "bucket", "endpointurl", s3.url],
    ):
        subprocess.run(words, check=True)
    assert main(["point", "data.dvc", "--to", "pointer.json"]) == 1
    assert "make the remote version-aware" in capsys.readouterr().err
    subprocess.run([*dvc, "remote", "modify", "bucket", "version_aware", "true"], check=True)
    subprocess.run([*dvc, "push", "-q"], check=True)
    assert main(["point", "data.dvc", "--to", "pointer.json"]) == 0
    shutil.rmtree("data")
    assert main(["run", "ingest", "--out", "artifacts/ingest", "data=pointer.json"]) == 0
    assert read_json(folder / "artifacts/ingest/manifest.json")["content"] == contents(finished)["ingest"][1]


def test_a_dead_store_is_a_sentence_after_the_recipes_patience(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(Unreachable, match="not reachable"):
        Store("s3://shared/x", 1).size("a")


def doctor(folder: Path, capsys, *names: str) -> dict[str, dict]:
    capsys.readouterr()
    main(["doctor", "--params", str(folder / "params.yaml"), "--json"])
    checks = json.loads(capsys.readouterr().out)["checks"]
    return {c["name"]: c for c in checks if c["name"] in names}


def test_doctor_tries_the_store_and_says_what_is_wrong(s3, corpus, tmp_path, monkeypatch, capsys):
    folder = workplace(tmp_path / "w", corpus, recipe_with(f"s3://shared/{tmp_path.name}"))
    monkeypatch.chdir(folder)
    found = doctor(folder, capsys, "store")["store"]
    assert found["ok"], found
    assert "can be written" in found["found"]
    assert not keys(Store(f"s3://shared/{tmp_path.name}"), "")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    found = doctor(folder, capsys, "store")["store"]
    assert not found["ok"]
    assert "refuses the key" in found["found"]
    assert "AWS_SECRET_ACCESS_KEY" in found["remedy"]


def test_doctor_asks_for_secrets_by_name_and_key_only(corpus, tmp_path, monkeypatch, capsys):
    recipe = tiny_recipe()
    recipe["compute"]["cluster"] = {"secrets": {"store-keys": {"access": "AWS_ACCESS_KEY_ID", "secret": "AWS_SECRET_ACCESS_KEY"}}}
    folder = workplace(tmp_path / "w", corpus, recipe)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", "/nowhere")
    assert "no kubectl" in doctor(folder, capsys, "secrets")["secrets"]["found"]
    (tmp_path / "bin").mkdir()
    kubectl = tmp_path / "bin" / "kubectl"
    for answer, ok, text in (
        ("echo 'access secret '", True, "every key"),
        ("echo 'access '", False, "has no secret"),
        ("echo 'Error from server (NotFound)' >&2; exit 1", False, "NotFound"),
    ):
        kubectl.write_text(f"#!/bin/sh\n{answer}\n")
        kubectl.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
        found = doctor(folder, capsys, "secrets")["secrets"]
        assert found["ok"] is ok, found
        assert text in found["found"]
        assert ok or found["remedy"].startswith("kubectl create secret generic store-keys --from-literal=access=")


REQUEST = Request("train", "extend", 1, {}, (Parent("init", "d" * 64, "c" * 64),))


def saved_step(mirror: Mirror, step: int) -> None:
    """One resume checkpoint of two files, given to the store."""
    folder = mirror.folder / f"{step:09d}"
    folder.mkdir(parents=True)
    for name in ("model", "state.json"):
        (folder / name).write_text(f"{name} of {step}")
    mirror.save(last=True)


def test_an_interrupted_restore_does_not_pass_for_the_state(store: Store, tmp_path: Path, monkeypatch):
    first = Mirror(store, REQUEST, tmp_path / "one")
    first.restore()
    saved_step(first, 12)
    with monkeypatch.context() as patch:
        real = Store.fetch

        def cut(self: Store, key: str, target: Path) -> None:
            if target.name == "state.json":
                raise Unreachable("out of reach")
            real(self, key, target)

        patch.setattr(Store, "fetch", cut)
        with pytest.raises(Unreachable):
            Mirror(store, REQUEST, tmp_path / "two").restore()
    Mirror(store, REQUEST, tmp_path / "two").restore()
    assert {p.name for p in (tmp_path / "two" / "000000012").iterdir()} == {"model", "state.json"}
    assert not list(tmp_path.glob(".tmp.*"))


def test_an_outage_that_swallows_an_answer_does_not_look_like_another_writer(store: Store, tmp_path: Path, monkeypatch):
    mirror = Mirror(store, REQUEST, tmp_path / "one")
    mirror.restore()
    saved_step(mirror, 1)
    with monkeypatch.context() as patch:
        real = Store.put_json

        def lost(self: Store, *args: object) -> str:
            real(self, *args)
            raise Unreachable("the answer did not come")

        patch.setattr(Store, "put_json", lost)
        saved_step(mirror, 2)
    saved_step(mirror, 3)
    found, _ = store.read_json(f"{mirror.root}/current.json")
    assert "000000003/model" in found["files"]


def test_what_was_saved_is_hashed_once_and_an_outage_at_the_end_undoes_nothing(tmp_path: Path, monkeypatch, capsys):
    mirror = Mirror(Store(str(tmp_path / "store"), 1), REQUEST, tmp_path / "one")
    hashed: list[str] = []
    monkeypatch.setattr("mmenc.resume.sha256_file", lambda p: hashed.append(p.parent.name) or sha256_file(p))
    mirror.restore()
    saved_step(mirror, 1)
    saved_step(mirror, 2)
    assert hashed == ["000000001"] * 2 + ["000000002"] * 2

    def out(*_: object) -> None:
        raise Unreachable("out of reach")

    monkeypatch.setattr(Store, "remove", out)
    mirror.remove()
    assert "the resume state stays in the store" in capsys.readouterr().out


def test_the_first_error_ends_the_waiting_of_the_others(tmp_path: Path):
    store = Store(str(tmp_path / "store"), 60)

    def action(name: str) -> None:
        def fail() -> None:
            raise OSError(errno.EIO, "out of reach")

        if name == "refused":
            time.sleep(0.3)
            raise Refused(name)
        store.attempt(fail)

    started = time.monotonic()
    with pytest.raises(Refused, match="refused"):
        store.each(action, ["refused", "waits", "waits too"])
    assert time.monotonic() - started < 10
    assert not store.ending.is_set()


def test_a_wrong_bucket_or_folder_is_a_sentence_at_once(s3: S3, tmp_path: Path):
    with pytest.raises(Refused, match="there is no such bucket"):
        Store("s3://nosuchbucket/x", 60).read_json("a.json")
    (tmp_path / "file").touch()
    store = Store(str(tmp_path / "file" / "store"), 60)
    for action in (lambda: store.put(tmp_path / "file", "a"), lambda: store.put_json("a", {}), lambda: store.read_json("a")):
        with pytest.raises(Refused, match="check the folder's permissions"):
            action()


def test_the_cache_may_lie_on_another_file_system(store: Store, tmp_path: Path, monkeypatch):
    from mmenc import external

    (tmp_path / "work").mkdir()
    path = tmp_path / "work" / "model.bin"
    path.write_bytes(b"weights")
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if self == path:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    cache = external.Cache(tmp_path / "cache")
    (row,) = external.give(tmp_path / "work", ["*.bin"], store, cache)
    assert not path.exists()
    assert cache.object(row).read_bytes() == b"weights"
    assert not list((tmp_path / "cache").rglob(".tmp.*"))


def test_a_finished_result_needs_no_raw_data_and_markers_of_folders_are_none(s3, corpus, tmp_path, monkeypatch, capsys):
    base = f"s3://versioned/{tmp_path.name}-lazy"
    bucket = Store(base, 10)
    upload(corpus, bucket)
    name, _, rest = bucket.path("fao_Latn/").partition("/")
    bucket.fs.call_s3("put_object", Bucket=name, Key=rest, Body=b"")
    for place in ("one", "two"):
        folder = workplace(tmp_path / place, corpus, recipe_with(f"s3://shared/{tmp_path.name}"))
        monkeypatch.chdir(folder)
        assert main(["run", "ingest", "--out", "artifacts/ingest", f"data={base}"]) == 0
    assert "where it was finished before" in capsys.readouterr().out
    assert not list((tmp_path / "one" / "artifacts/.cache/raw").iterdir())  # an object is here only while it is read
    assert not (tmp_path / "two" / "artifacts/.cache/raw").exists()
    assert main(["point", "nothing.json", "--to", "pointer.json"]) == 1
    assert "nothing.json: cannot be read" in capsys.readouterr().err


def test_a_view_is_built_once_and_reads_each_object_once(store: Store, tmp_path: Path, monkeypatch):
    from mmenc import external

    work = tmp_path / "work"
    for name in ("a", "b"):
        (work / name).mkdir(parents=True)
        (work / name / "x.bin").write_text(name)
    rows = external.give(work, ["*.bin"], store, external.Cache(tmp_path / "giver"))
    manifest = Manifest("clean", "", 1, {}, [], [], {}, {}, rows, "d" * 64, "c" * 64)
    cache = external.Cache(tmp_path / "cache")
    opened: list[str] = []
    real = external.open_store
    monkeypatch.setattr(external, "open_store", lambda uri, patience: opened.append(uri) or real(uri, patience))
    view = cache.view(work, manifest, ["a/*"])
    assert (view / "a/x.bin").read_text() == "a"
    assert (view / "b/x.bin").is_symlink()
    assert not (view / "b/x.bin").exists()
    with monkeypatch.context() as patch:
        patch.setattr(external.Cache, "object", lambda _, row: pytest.fail(f"{row['path']} is read again"))
        assert cache.view(work, manifest, ["a/*"]) == view
    cache.view(work, manifest, [])
    assert (view / "b/x.bin").read_text() == "b"
    assert len(opened) == 1
    # The cache may be deleted at any time; what is asked for again comes again.
    shutil.rmtree(tmp_path / "cache" / "objects")
    assert (cache.view(work, manifest, ["a/*"]) / "a/x.bin").read_text() == "a"
    cache.close()


def test_every_pod_waits_as_long_as_the_recipe_says(monkeypatch):
    recipe = parse(recipe_with("s3://shared/x", store_patience=7), "recipe")
    monkeypatch.setenv("MMENC_COMPUTE", surroundings(recipe))
    assert complete({"store": "s3://shared/x"}).compute.store_patience == 7


def test_keys_in_an_address_are_refused_and_not_repeated():
    with pytest.raises(Refused) as refused:
        Store("s3://AKIA:hunter2@bucket/x")
    assert "hunter2" not in str(refused.value)


def test_a_pointer_that_leads_out_of_its_folder_is_refused(tmp_path: Path, capsys):
    objects = [{"path": "../../etc/passwd", "version": "1", "bytes": 1}]
    (tmp_path / "p.json").write_text(json.dumps({"schema": 1, "base": "s3://b/x", "dvc": "", "objects": objects}))
    assert main(["point", str(tmp_path / "p.json"), "--to", str(tmp_path / "q.json")]) == 1
    assert "leads out of the data" in capsys.readouterr().err
    assert main(["point", str(tmp_path / "no.dvc"), "--to", str(tmp_path / "q.json")]) == 1
    assert "there is no such file" in capsys.readouterr().err


def test_a_store_that_would_end_with_its_pod_is_not_compiled(corpus, tmp_path, capsys):
    pytest.importorskip("kfp")
    folder = workplace(tmp_path / "w", corpus, recipe_with("store"))
    assert main(["compile", "--params", str(folder / "params.yaml"), "--out", str(tmp_path / "p.yaml")]) == 1
    assert "would lie in each pod and end with it" in capsys.readouterr().err
