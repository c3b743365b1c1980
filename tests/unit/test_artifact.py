"""Manifests: digest names what was asked for, content what came out; whole or not at all."""

from __future__ import annotations

import errno
import json
import platform
import subprocess
from pathlib import Path

import pytest
import rfc8785

from mmenc.artifact import Artifact, Parent, Request, atomic_directory, clear_stale, content_of, merge_lineage, seal, sha256_json
from mmenc.errors import Refused
from mmenc.job import disk_errors


def make(path: Path, text: str = "x", step: str = "clean", parents: tuple[Artifact, ...] = (), **config) -> Artifact:
    request = Request(step, "", 1, config, tuple(p.parent(f"r{i}") for i, p in enumerate(parents)))
    with atomic_directory(path) as work:
        (work / "sub").mkdir()
        (work / "sub" / "a.txt").write_text(text)
        seal(work, request, list(parents), {"n": 1})
    return Artifact.read(path)


def test_digest_follows_the_contract_to_the_letter():
    request = Request(
        "train",
        "extend",
        3,
        {"seed": 1, "x": 8e-4},
        (Parent("b", "d2", "c2"), Parent("a", "d1", "c1")),
        ({"path": "p", "sha256": "s"},),
    )
    expected = {
        "step": "train",
        "name": "extend",
        "version": 3,
        "config": {"seed": 1, "x": 0.0008},
        "parents": [{"role": "a", "digest": "d1"}, {"role": "b", "digest": "d2"}],
        "inputs": [{"path": "p", "sha256": "s"}],
    }
    assert request.digest == sha256_json(expected)
    assert rfc8785.dumps({"b": 1.0, "a": "é"}) == '{"a":"é","b":1}'.encode()


def test_an_artifact_round_trips(tmp_path: Path):
    artifact = make(tmp_path / "one", mask=0.3)
    raw = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert set(raw) == {
        "schema", "step", "name", "version", "config", "parents", "inputs", "facts", "files", "external", "digest", "content",
    }  # fmt: skip
    assert raw["files"].keys() == {"sub/a.txt"}
    assert raw["content"] == content_of(raw["files"], [])
    child = make(tmp_path / "two", parents=(artifact,))
    assert list(child.lineage) == [artifact.manifest.digest]
    assert not list(tmp_path.glob(".tmp*"))


def test_equal_requests_and_results_give_equal_bytes(tmp_path: Path):
    a, b = make(tmp_path / "a"), make(tmp_path / "b")
    assert (a.path / "manifest.json").read_bytes() == (b.path / "manifest.json").read_bytes()


def edit(path: Path, **keys: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def in_circle(path: Path) -> None:
    """A lineage of two manifests that descend from each other."""
    one = json.loads(path.read_text())
    nodes = {
        d: one | {"digest": d, "parents": [{"role": "r", "digest": up, "content": "c"}]} for d, up in (("aa", "ab"), ("ab", "aa"))
    }
    (path.parent / "lineage.json").write_text(json.dumps(nodes))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda p: (p / "sub/a.txt").write_text("y"), "sub/a.txt: sha256 is .* the file was changed or cut"),
        (lambda p: (p / "sub/a.txt").unlink(), "sub/a.txt: is missing"),
        (lambda p: (p / "new").write_text("y"), "new: is not listed"),
        (lambda p: (p / "manifest.json").unlink(), "no manifest.json in it"),
        (lambda p: (p / "manifest.json").write_text("{}"), "not a manifest of schema 1"),
        (lambda p: edit(p / "manifest.json", files=None), r"not a manifest of schema 1 \(files is null, expected a mapping\)"),
        (lambda p: edit(p / "manifest.json", parents=[{"role": "x"}]), r"schema 1 \(parents\[0\] has no digest\)"),
        (lambda p: edit(p / "manifest.json", digest=7), "digest is a whole number, expected text"),
        (lambda p: edit(p / "manifest.json", version=True), "version is bool, expected a whole number"),
        (lambda p: (p / "lineage.json").unlink(), "lineage.json: cannot be read"),
        (lambda p: (p / "lineage.json").write_text("[]"), r"lineage.json: cannot be read \(it is a list"),
        (lambda p: (p / "lineage.json").write_text('{"ab": {}}'), r"lineage.json: cannot be read \(ab: it has no step\)"),
        (lambda p: in_circle(p / "manifest.json"), "in a circle, aa among them"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage, expected):
    path = make(tmp_path / "one").path
    damage(path)
    with pytest.raises(Refused, match=expected):
        Artifact.read(path)


def test_a_manifest_that_lies_is_named(tmp_path: Path):
    path = make(tmp_path / "one", mask=0.3).path
    raw = json.loads((path / "manifest.json").read_text())
    raw["config"]["mask"] = 0.2
    (path / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(Refused, match="digest does not follow"):
        Artifact.read(path)


def test_one_digest_with_two_contents_is_refused(tmp_path: Path):
    a, b = make(tmp_path / "a", "x"), make(tmp_path / "b", "y")
    with pytest.raises(Refused, match="two different results of clean"):
        merge_lineage([a, b])


def test_a_failure_leaves_what_was_there(tmp_path: Path):
    path = make(tmp_path / "one").path
    with pytest.raises(FileNotFoundError), atomic_directory(path) as work:
        (work / "half").write_text((work / "missing").read_text())
    assert Artifact.read(path).facts == {"n": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one"]


def test_leftovers_of_killed_processes_are_removed_and_of_living_ones_kept(tmp_path: Path):
    here = platform.node()
    with subprocess.Popen(["sleep", "60"]) as other:
        alive, elsewhere = f".tmp.clean.{here}.{other.pid}", ".tmp.clean.another-node.999999999"
        for name in (f".tmp.clean.{here}.999999999", alive, elsewhere):
            (tmp_path / name).mkdir()
        clear_stale(tmp_path)
        other.kill()
    assert {p.name for p in tmp_path.iterdir()} == {alive, elsewhere}


def test_a_full_disk_is_a_sentence(tmp_path: Path):
    with pytest.raises(Refused, match="no space left on the device; nothing was changed"), disk_errors(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
