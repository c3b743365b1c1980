"""A push that is broken off while it replaces a release: what is mended, and what is removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmenc.artifact import sha256_file, write_json
from mmenc.errors import Refused
from mmenc.push import Bundle, push_to_store
from mmenc.store import Store


def made(folder: Path, name: str, **files: str) -> Bundle:
    (folder / name).mkdir()
    for file, text in files.items():
        (folder / name / file).write_text(text)
    paths = {file: folder / name / file for file in files}
    manifest, push = folder / name / "manifest.json", folder / name / "push.json"
    write_json(manifest, {"digest": name, "content": name, "facts": {"name": name}})
    hashes = {file: sha256_file(path) for file, path in {**paths, "manifest.json": manifest}.items()}
    write_json(push, record := {"name": name, "files": hashes})
    return Bundle(name, name, name, {**paths, "lineage/push.json": push}, manifest, record)


def held(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("at", ["lineage/push.json", "a", "b", "manifest.json"])
def test_a_broken_replacement_of_equal_sizes_is_mended(tmp_path, monkeypatch, at):
    old, new = made(tmp_path, "old", a="aaaa", b="bbbb", gone="gggg"), made(tmp_path, "new", a="AAAA", b="BBBB")
    whole, target, put = str(tmp_path / "whole"), str(tmp_path / "target"), Store.put
    push_to_store(new, whole, False)
    push_to_store(old, target, False)

    def failing(self: Store, path: Path, key: str, patience: float | None = None) -> None:
        if key == at:
            raise KeyboardInterrupt
        put(self, path, key, patience)

    monkeypatch.setattr(Store, "put", failing)
    with pytest.raises(KeyboardInterrupt):
        push_to_store(new, target, True)
    monkeypatch.undo()
    assert not Path(target, "manifest.json").exists()
    assert push_to_store(new, target, True) > 0
    assert held(Path(target)) == held(Path(whole))
    assert push_to_store(new, target, False) == 0


def test_the_same_digest_with_other_content_is_another_release(tmp_path):
    one, other = made(tmp_path, "one", a="aaaa"), made(tmp_path, "other", a="AAAA")
    push_to_store(one, str(tmp_path / "target"), False)
    other = Bundle("one", "one", "changed", other.files, other.manifest, other.record)
    with pytest.raises(Refused, match="with other content"):
        push_to_store(other, str(tmp_path / "target"), False)
