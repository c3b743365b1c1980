"""`mmenc gc`: lists first; nothing that is in use goes, on this machine and in a real S3 store."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from mmenc.artifact import Artifact, Manifest, write_json
from mmenc.cli import main
from mmenc.external import Cache
from mmenc.lineage.verify import find_broken
from mmenc.store import Store
from mmenc.upkeep import gc
from tests.pipeline import commands, run_stage, tiny_recipe, workplace, write_recipe
from tests.s3 import S3, running

DAY = 86_400
pytest.importorskip("s3fs")


def age(path: Path, days: float) -> None:
    when = time.time() - days * DAY
    for p in [*path.rglob("*"), path]:
        os.utime(p, (when, when))


def put(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_what_is_in_use_on_this_machine_stays(finished: Path, tmp_path: Path, monkeypatch, capsys):
    copy = shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(copy)
    artifacts = copy / "artifacts"
    digest = Manifest.read(artifacts / "train" / "extend").digest
    old = {name: put(artifacts / name).parent for name in (".runs/gone/run.json", ".resume/gone/000/state.json")}
    done = put(artifacts / ".resume" / digest / "000" / "state.json")
    stopped = put(artifacts / ".resume" / "stopped" / "000" / "state.json")
    row = {
        "step": "train",
        "name": "new",
        "digest": "stopped",
        "host": "h",
        "process_start": "",
        "pid": 1,
        "beat": 0,
        "started": 1,
    }
    write_json(artifacts / ".runs" / "stopped" / "running.json", {**row, "ended": 2})
    dead = put(artifacts / "train" / f".tmp.extend.{platform.node()}.4194305" / "model.safetensors")
    other = put(artifacts / "train" / ".tmp.extend.elsewhere.17" / "model.safetensors")
    fetched = put(artifacts / ".cache" / "objects" / "ab" / "abc")
    age(artifacts / ".resume", 3)
    age(artifacts / ".runs", 3)
    age(artifacts / ".cache", 3)
    young = put(artifacts / ".resume" / "young" / "000" / "state.json")
    before = sorted(p for p in copy.rglob("*") if p.name != ".lock")
    assert main(["gc"]) == 0
    assert "--yes drops" in capsys.readouterr().out
    assert sorted(p for p in copy.rglob("*") if p.name != ".lock" and p.suffix != ".lock") == before
    assert main(["gc", "--yes"]) == 0
    unfinished = old.pop(".resume/gone/000/state.json")
    assert not any(p.exists() for p in (*old.values(), done, dead, fetched))
    assert all(p.exists() for p in (stopped, other, young, unfinished))
    assert main(["gc", "--yes", "--unfinished"]) == 0
    assert not unfinished.exists()
    assert all(p.exists() for p in (stopped, young))
    assert (artifacts / ".runs" / digest / "run.json").exists()
    assert not find_broken(Artifact.read(artifacts / "release"))[0]
    (artifacts / "merge" / "manifest.json").write_text("{")
    put(artifacts / ".resume" / digest / "000" / "state.json")
    assert main(["gc", "--yes"]) == 1
    assert "nothing is dropped" in capsys.readouterr().err
    assert done.exists()


@pytest.fixture
def copy(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run that we stand in; its artifacts."""
    folder = shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(folder)
    return folder / "artifacts"


def test_a_phase_that_is_made_again_keeps_its_state_though_the_release_names_it(copy: Path):
    digest = Manifest.read(copy / "train" / "extend").digest
    shutil.rmtree(copy / "train" / "extend")  # as `dvc repro -f` does before it runs the stage; then it was killed
    state = put(copy / ".resume" / digest / "000" / "state.json")
    age(copy / ".resume", 30)
    assert main(["gc", "--yes"]) == 0
    assert state.exists()


def test_a_step_that_begins_after_it_was_judged_keeps_its_state_and_lock(copy: Path, monkeypatch, capsys):
    state = put(copy / ".resume" / Manifest.read(copy / "train" / "extend").digest / "000" / "state.json")
    lock = put(state.parents[1].with_suffix(".lock"), "17")
    held: list[IO[str]] = []

    def begins(*args: object, **options: object) -> None:
        held.append(lock.open("a"))
        fcntl.flock(held[0], fcntl.LOCK_EX | fcntl.LOCK_NB)

    monkeypatch.setattr(gc, "_show", begins)
    assert main(["gc", "--yes"]) == 0
    assert "its step has just begun" in capsys.readouterr().out
    assert state.exists()
    assert lock.exists()
    held[0].close()
    monkeypatch.undo()
    monkeypatch.chdir(copy.parent)
    assert main(["gc", "--yes"]) == 0
    assert not state.exists()
    assert not lock.exists()


def test_what_other_branches_have_in_dvcs_cache_keeps_its_records(copy: Path):
    other = Manifest.read(copy / "train" / "extend").json() | {"digest": "d" * 64}
    record = put(copy / ".runs" / other["digest"] / "run.json", "{}")
    age(copy / ".runs", 30)
    objects = copy.parent / "dvc-cache" / "files" / "md5"
    put(objects / "ab" / "cd", json.dumps(other))
    put(objects / "12" / "34.dir", json.dumps([{"relpath": "manifest.json", "md5": "abcd"}]))
    put(objects / "12" / "35.dir", '[{"relpath": "manifest.json", "md5": "ffff"}]')
    put(copy.parent / ".dvc" / "config", "[cache]\n    dir = ../dvc-cache\n['remote \"a\"']\n    url = s3://a/%b\n")
    assert main(["gc", "--yes"]) == 0
    assert record.exists()
    shutil.rmtree(objects)
    assert main(["gc", "--yes"]) == 0
    assert not record.exists()


def test_phases_on_another_disk_and_what_processes_read_are_in_use(copy: Path):
    away = copy.parent.parent / "disk"
    (copy / "train").rename(away)
    (copy / "train").symlink_to(away)
    (away / "circle").symlink_to(copy)
    digest = Manifest.read(away / "extend").digest
    record = put(copy / ".runs" / digest / "run.json", "{}")
    read = put(copy / ".cache" / "objects" / "ab" / "abc")
    for name in ("release", "merge", "evaluate", "report"):  # whose lineage names it too
        shutil.rmtree(copy / name)
    shutil.rmtree(away / "decay-all")
    age(copy / ".runs", 30)
    age(copy / ".cache", 30)
    view = copy / ".cache" / "view.x" / "content" / "shard"
    view.parent.mkdir(parents=True)
    view.symlink_to(read)
    assert main(["gc", "--yes"]) == 0
    assert record.exists()
    assert view.exists()


def test_a_manifest_of_another_form_ends_it_with_a_sentence(copy: Path, capsys):
    state = put(copy / ".resume" / Manifest.read(copy / "train" / "extend").digest / "000" / "state.json")
    for text in ("{}", "[]", json.dumps(Manifest.read(copy / "merge").json() | {"files": None})):
        (copy / "merge" / "manifest.json").write_text(text)
        assert main(["gc", "--yes"]) == 1
        assert "so nothing is dropped" in capsys.readouterr().err
    assert state.exists()
    assert main(["gc", "--days", "nan"]) == 1


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with running(tmp_path_factory.mktemp("s3") / "weed") as found:
        found.bucket("shared")
        yield found


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_what_the_store_has_in_use_stays(corpus: Path, tmp_path: Path, monkeypatch, capsys, kind, request):
    url = str(tmp_path / "store")
    if kind == "s3":
        server = request.getfixturevalue("server")
        for key, value in server.env.items():
            monkeypatch.setenv(key, value)
        url = "s3://shared/project"
    recipe = tiny_recipe()
    recipe["compute"] |= {"store": url, "store_patience": 60}
    folder = workplace(tmp_path / "run", corpus, recipe)
    words = commands(folder)["ingest"]
    assert run_stage(folder, words, monkeypatch) == 0
    before = Manifest.read(folder / "artifacts" / "ingest")
    recipe["ingest"]["languages"] = ["deu_Latn"]
    write_recipe(folder, recipe)
    assert run_stage(folder, words, monkeypatch) == 0
    now = Manifest.read(folder / "artifacts" / "ingest")
    assert now.digest != before.digest
    store = Store(url, 30)
    orphan = put(tmp_path / "orphan", "nobody names this")
    store.put(orphan, "objects/aa/aa00")
    store.put(orphan, f"resume/{now.digest}/objects/x")

    def keys() -> set[str]:
        found = {p: i for p, i in store.fs.find(store.root, detail=True).items() if i["type"] == "file"}
        return {p.removeprefix(f"{store.root}/") for p in found if not p.endswith(".lock")}

    everything = keys()
    assert main(["gc", "--store"]) == 0
    assert keys() == everything
    assert main(["gc", "--store", "--days", "0", "--yes"]) == 1
    assert "may be running" in capsys.readouterr().err
    store.remove(f"resume/{now.digest}")
    if kind == "folder":  # what nobody has named for long is given again in this moment
        path = Path(store.path("objects/aa/aa00"))
        os.utime(path, (1, 1))
        store.put_object(orphan, "aa00")
    assert main(["gc", "--store", "--yes"]) == 0  # too young
    assert "objects/aa/aa00" in keys()
    assert main(["gc", "--store", "--days", "0", "--yes"]) == 0
    assert everything - keys() == {"objects/aa/aa00", f"resume/{now.digest}/objects/x"}
    used = tmp_path / "other" / "artifacts" / "ingest"
    used.mkdir(parents=True)
    write_json(used / "manifest.json", before.json())
    write_json(used / "lineage.json", {})
    assert main(["gc", "--results", "--used", str(used.parent), "--days", "0", "--yes"]) == 0
    assert f"finished/{before.digest}/manifest.json" in keys()
    assert main(["gc", "--results", "--days", "0", "--yes"]) == 0
    assert not [k for k in keys() if before.digest in k and k.startswith("finished")]
    left = {k.rpartition("/")[2] for k in keys() if k.startswith("objects")}
    assert left == {*now.files.values(), *(row["sha256"] for row in now.external)}
    artifact = Artifact.read(folder / "artifacts" / "ingest", cache=Cache(tmp_path / "cache"))
    assert all(p.exists() for p in artifact.local().rglob("*.zst"))
    assert json.loads((folder / "artifacts" / "ingest" / "lineage.json").read_text()) == {}


def test_words_that_are_wrong_are_named(tmp_path: Path, monkeypatch, capsys, finished: Path):
    monkeypatch.chdir(tmp_path)
    assert main(["gc"]) == 1
    assert "there is no such folder" in capsys.readouterr().err
    (tmp_path / "file").touch()
    (tmp_path / "artifacts").mkdir()
    assert main(["gc", "--used", "file/x", "--results"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.chdir(finished)
    assert main(["board", "--out", str(tmp_path / "file" / "board")]) == 1
    assert capsys.readouterr().err.startswith(f"mmenc: {tmp_path / 'file' / 'board'}: Not a directory")
    assert main(["board", "--out", str(tmp_path / "file")]) == 1
    assert "is a file or a link" in capsys.readouterr().err
    assert main(["gc", "--store"]) == 1
    assert "names no store" in capsys.readouterr().err
    assert main(["gc", "--days", "-1"]) == 1
