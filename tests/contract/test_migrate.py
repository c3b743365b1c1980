"""`mmenc migrate`: keys of earlier versions, comments kept, a backup, nothing half-done; artifacts told apart."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from mmenc.cli import main
from mmenc.recipe import load
from mmenc.upkeep import edit
from mmenc.upkeep.rules import RULES
from tests.pipeline import REPO

OLD = {
    "validate:\n": (
        "validate:   # the gate\n"
        "  min_documents: 7  # ours\n"
        "  min_kept_share: 0.5\n  max_duplicate_share: 0.5\n  min_script_share: 0.7\n"
        "  min_mean_chars: 20\n  max_test_overlap: 0.0\n"
    ),
    "  method: ties\n": "  method: ties\n  scale: 1.3      # measured\n",
    "tokenizer:\n": "tokenizer:\n  compare: none\n",
}
"""What stands in today's file, and what stood there."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    shutil.copytree(REPO / "expectations", tmp_path / "expectations")
    shutil.copy(REPO / "dvc.yaml", tmp_path)
    text = (REPO / "params.yaml").read_text()
    for now, then in OLD.items():
        assert text.count(now) == 1
        text = text.replace(now, then)
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_old_recipe_is_mended_with_its_comments(folder: Path, capsys):
    before = (folder / "params.yaml").read_text()
    assert main(["migrate", "--dry-run"]) == 0
    assert (folder / "params.yaml").read_text() == before
    assert main(["migrate"]) == 0
    told = capsys.readouterr().out
    assert "-  min_documents: 7  # ours" in told
    assert "+  scales: [1.3]      # measured" in told
    now = (REPO / "params.yaml").read_text().replace("validate:\n", "validate:   # the gate\n")
    now = now.replace("  method: ties\n", "  method: ties\n  scales: [1.3]      # measured\n")
    assert (folder / "params.yaml").read_text() == now
    assert (folder / "params.yaml.bak").read_text() == before
    suite = load(folder / "params.yaml").validation.suites["all"]
    assert next(e.kwargs["min_value"] for e in suite.expectations if e.column == "documents") == 7
    assert (folder / "expectations" / "all.yaml.bak").read_text() == (REPO / "expectations" / "all.yaml").read_text()
    assert main(["migrate"]) == 0
    assert "nothing in it is out of date" in capsys.readouterr().out
    assert not (folder / "params.yaml.bak1").exists()


def test_what_no_rule_knows_is_refused_and_nothing_is_written(folder: Path, capsys):
    path = folder / "params.yaml"
    path.write_text(path.read_text().replace("  min_chars: 20", "  min_karakters: 20"))
    before = path.read_text()
    assert main(["migrate"]) == 1
    assert "min_karakters" in (err := capsys.readouterr().err)
    assert "nothing was changed" in err
    assert path.read_text() == before
    assert sorted(p.name for p in folder.iterdir()) == ["dvc.yaml", "expectations", "params.yaml"]


def test_every_recipe_of_the_history_loads_after_it(folder: Path, capsys):
    log = subprocess.run(
        ["git", "log", "--format=%h", "--", "params.yaml"], cwd=REPO, capture_output=True, text=True, check=False
    )
    for revision in log.stdout.split()[-4:]:  # the oldest; in a shallow clone the newest alone
        show = subprocess.run(["git", "show", f"{revision}:params.yaml"], cwd=REPO, capture_output=True, text=True, check=False)
        if not show.returncode:
            (folder / "params.yaml").write_text(show.stdout)
            assert main(["migrate"]) == 0, (revision, capsys.readouterr().err)
            load(folder / "params.yaml")


def test_artifacts_are_told_apart(finished: Path, tmp_path: Path, monkeypatch, capsys):
    copy = shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(copy)
    assert main(["migrate"]) == 0
    assert "artifacts that may stay (25 of 25)" in capsys.readouterr().out
    path = copy / "artifacts" / "merge" / "manifest.json"
    path.write_text(path.read_text().replace('"version": 2', '"version": 1'))
    assert main(["migrate"]) == 0
    told = capsys.readouterr().out
    assert "made anew by the next run (4)" in told
    assert "  merge: made by version 1 of the step, now 2\n" in told
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 0'))
    assert main(["migrate"]) == 0
    assert "schema 0, this mmenc reads schema 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:\n  b: 1  # gone\n  c: 2\n", "a:\n  c: 2\n"),
        ("a: {b: 1, c: 2}\n", "a: {c: 2}\n"),
        ("a: {c: 2, b: 1}\n", "a: {c: 2}\n"),
        ("a:\n  b: 1\n\nd: 3\n", "a: {}\n\nd: 3\n"),
        ("a: {b: 1}\nd: 3\n", "a: {}\nd: 3\n"),
        ("a:\n  c: 2\n  b:\n    - 1\n    - 2\n# more\nd: 3\n", "a:\n  c: 2\n# more\nd: 3\n"),
    ],
)
def test_a_key_is_taken_out_and_all_else_stays(text: str, expected: str):
    place = edit.find(text, ["a", "b"])
    assert place
    found = edit.remove(text, place)
    assert yaml.safe_load(found) == yaml.safe_load(expected)
    if "- 1" not in text:
        assert found == expected
    assert edit.find(text, ["a", "x"]) is None


def test_a_rule_names_a_key_that_is_gone():
    schema = load(REPO / "params.yaml")
    for rule in RULES:
        section, _, key = rule.path.partition(".")
        model = schema.validation if section == "validate" else getattr(schema, section)
        assert key not in type(model).model_fields or rule.when(getattr(model, key)) is False, rule.path
        assert not rule.to or rule.to in type(model).model_fields
