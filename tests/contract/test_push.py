"""`mmenc push`: to a folder, a real S3 server, and a loopback server that speaks the hub's API; never a real hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmenc.artifact import read_json
from mmenc.cli import main
from mmenc.push import add_up, is_hub, used
from mmenc.store import Store
from tests import hub as hub_server
from tests import s3 as s3_server


@pytest.fixture
def release(finished: Path) -> Path:
    return finished / "artifacts" / "release"


def held(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def other_release(release: Path, place: Path) -> Path:
    """The same release under another name, its manifest made consistent by the step itself."""
    from mmenc.artifact import Artifact, Request, seal

    shutil.copytree(release, place)
    for path in place.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (place / "README.md").write_text("# other\n")
    m = Artifact.read(release).manifest
    config = json.loads(json.dumps(m.config))
    config["release"]["name"] = "other"
    lineage = read_json(release / "lineage.json")
    seal(place, Request(m.step, m.name, m.version, config, tuple(m.parents), tuple(m.inputs)), [], {**m.facts, "name": "other"})
    (place / "lineage.json").write_text(json.dumps(lineage))
    return place


def test_a_folder_gets_the_release_as_it_is_and_its_history(release, tmp_path, capsys):
    target = tmp_path / "published"
    assert main(["push", str(release), str(target)]) == 0
    found = held(target)
    assert {k: v for k, v in found.items() if not k.startswith("lineage/")} == held(release)
    record = json.loads(found["lineage/push.json"])
    lineage = read_json(release / "lineage.json")
    digests = {*lineage, record["digest"]}
    assert {k for k in found if k.startswith("lineage/runs/")} == {f"lineage/runs/{d}.json" for d in digests}
    assert record["runs_without_record"] == []
    assert record["used"]["hours"]["of_runs"] == len(digests)
    assert "kwh" not in record["used"]  # compute.watts is 0: unknown, not free
    assert record["checks"]["sentence-transformers"] == "loaded"
    assert record["git_revisions"] == sorted(
        {json.loads(found[f"lineage/runs/{d}.json"])["git_revision"] for d in digests} - {""}
    )
    # What was published verifies by itself, and loads.
    from mmenc.artifact import Artifact, sha256_file

    assert all(sha256_file(target / name) == value for name, value in record["files"].items())
    copied = shutil.copytree(target, tmp_path / "copied")
    shutil.rmtree(copied / "lineage")
    assert not list(Artifact.read(copied).broken())
    assert main(["push", str(release), str(target)]) == 0
    assert "already there" in capsys.readouterr().out
    assert held(target) == found


def test_another_release_is_refused_without_replace_and_leaves_nothing_of_the_old(release, tmp_path, capsys):
    target = tmp_path / "published"
    assert main(["push", str(release), str(target)]) == 0
    before = held(target)
    other = other_release(release, tmp_path / "other")
    assert main(["push", str(other), str(target)]) == 1
    assert "give --replace" in capsys.readouterr().err
    assert held(target) == before
    assert main(["push", str(other), str(target), "--replace", "--runs", str(release.parent / ".runs")]) == 0
    after = held(target)
    assert after["README.md"] == b"# other\n"
    assert json.loads(after["lineage/push.json"])["runs_without_record"] == [json.loads(after["manifest.json"])["digest"]]
    own = json.loads(before["manifest.json"])["digest"]
    assert f"lineage/runs/{own}.json" not in after


def test_a_broken_push_is_mended_by_the_next(release, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    assert main(["push", str(release), str(whole)]) == 0
    target, put = tmp_path / "published", Store.put

    def failing(self, path, key, patience=None):
        if key == "tokenizer.json":
            raise KeyboardInterrupt
        return put(self, path, key, patience)

    monkeypatch.setattr(Store, "put", failing)
    assert main(["push", str(release), str(target)]) == 75
    monkeypatch.undo()
    assert not (target / "manifest.json").exists()
    assert main(["push", str(release), str(target)]) == 0
    assert held(target) == held(whole)
    (target / "config.json").write_bytes(b"")
    assert main(["push", str(release), str(target)]) == 0
    assert held(target) == held(whole)


def test_what_is_no_release_or_no_place_for_one_is_one_sentence(finished, release, tmp_path, capsys):
    assert main(["push", str(finished / "artifacts" / "merge"), str(tmp_path / "x")]) == 1
    assert "is an artifact of the step merge" in capsys.readouterr().err
    damaged = shutil.copytree(release, tmp_path / "damaged")
    (damaged / "README.md").chmod(0o644)
    (damaged / "README.md").write_text("changed")
    assert main(["push", str(damaged), str(tmp_path / "x")]) == 1
    assert "README.md" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    assert main(["push", str(release), str(tmp_path / "full")]) == 1
    assert "is no release; choose an empty place" in capsys.readouterr().err
    assert held(tmp_path / "full") == {"thesis.txt": b"mine"}
    assert not (tmp_path / "x").exists()


def test_a_dry_run_writes_nothing(release, tmp_path, capsys):
    assert main(["push", str(release), "org/name", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "would write model.safetensors" in out
    assert "would write lineage/push.json" in out
    assert is_hub("org/name")
    assert not any(map(is_hub, ("./org", "s3://org/name", str(tmp_path), "a/b/c")))


def test_a_real_bucket(release, tmp_path, monkeypatch, capsys):
    with s3_server.running(tmp_path / "s3") as server:
        for key, value in server.env.items():
            monkeypatch.setenv(key, value)
        server.bucket("models")
        assert main(["push", str(release), "s3://models/laptop"]) == 0
        assert main(["push", str(release), "s3://models/laptop"]) == 0
        assert "already there" in capsys.readouterr().out
        store = Store("s3://models/laptop", 10)
        names = {p.removeprefix("models/laptop/") for p in store.fs.find("models/laptop")}
        record, _ = store.read_json("lineage/push.json")
        assert names == {*record["files"], "lineage/push.json"}
        assert all(store.sha256(name) == value for name, value in record["files"].items())
        other = other_release(release, tmp_path / "other")
        assert main(["push", str(other), "s3://models/laptop"]) == 1
        assert main(["push", str(other), "s3://models/laptop", "--replace"]) == 0
        manifest, _ = store.read_json("manifest.json")
        assert manifest["facts"]["name"] == "other"


def hub_push(
    release: Path, hub: hub_server.Hub, home: Path, *more: str, token: str = hub_server.TOKEN
) -> subprocess.CompletedProcess:
    env = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_TOKEN": token,
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }
    words = [sys.executable, "-m", "mmenc.cli", "push", str(release), "org/laptop", *more]
    return subprocess.run(words, env=env, cwd=home.parent, capture_output=True, text=True, check=False)


def test_the_hubs_api(release, tmp_path):
    home = tmp_path / "home"
    with hub_server.running() as hub:
        assert (refused := hub_push(release, hub, home, token="hf_wrong")).returncode == 1, refused.stderr
        assert "is the token set" in refused.stderr
        done = hub_push(release, hub, home)
        assert done.returncode == 0, done.stderr
        assert (hub.asked["visibility"] if "visibility" in hub.asked else hub.asked["private"]) in ("private", True)
        files = hub.repos["org/laptop"]
        record = json.loads(files["lineage/push.json"])
        assert set(files) == {*record["files"], "lineage/push.json"}
        assert {k: v for k, v in files.items() if not k.startswith("lineage/")} == held(release)
        assert len(hub.commits) == 1  # all of it or nothing
        assert "lfsFile" in hub.commits[0]["keys"]
        again = hub_push(release, hub, home)
        assert (again.returncode, len(hub.commits)) == (0, 1), again.stderr
        assert "already there" in again.stdout
        other = other_release(release, tmp_path / "other")
        assert hub_push(other, hub, home).returncode == 1
        replaced = hub_push(other, hub, home, "--replace")
        assert replaced.returncode == 0, replaced.stderr
        assert hub.repos["org/laptop"]["README.md"] == b"# other\n"
        assert "lfsFile" not in hub.commits[1]["keys"]  # the weights are the same and are not sent again
        assert not [k for k in hub.repos["org/laptop"] if k.startswith("lineage/runs/") and record["digest"] in k]


def run_of(step: str, seconds: float, **compute: object) -> dict:
    return {
        "step": step,
        "seconds": seconds,
        "compute": {"device": "cpu", "watts": 0.0, "price_per_hour": 0.0, "currency": "USD"} | compute,
    }


def test_energy_and_cost_by_hand():
    gpu = {"device": "cuda", "accelerators": 8, "watts": 700.0, "price_per_hour": 2.5}
    assert used(run_of("train", 7200, **gpu)) == {"hours": 2.0, "accelerator_hours": 16.0, "kwh": 11.2, "cost": 40.0}
    assert used(run_of("clean", 7200, **gpu)) == {"hours": 2.0}  # it ran on no accelerator
    assert used(run_of("train", 3600, watts=60.0)) == {"hours": 1.0, "accelerator_hours": 1.0, "kwh": 0.06}
    total = add_up({"a": run_of("train", 7200, **gpu), "b": run_of("clean", 3600, **gpu), "c": run_of("merge", 3600)})
    assert total["hours"] == {"sum": 4.0, "of_runs": 3}
    assert total["kwh"] == {"sum": 11.2, "of_runs": 1}
    assert total["cost"] == {"sum": 40.0, "of_runs": 1, "currency": "USD"}
