"""The repository keeps its own rules: import direction, sizes, the graph equals the table, nothing machine-bound."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from mmenc.steps import TABLE
from mmenc.upkeep.bump import bump
from tests.pipeline import REPO

SOURCES = sorted((REPO / "src").rglob("*.py"))


def tracked() -> list[Path]:
    out = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    return [REPO / line for line in out.splitlines() if (REPO / line).is_file()]


def imported_by(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {a.name.split(".")[0] for a in node.names}
    return {node.module.split(".")[0]} if isinstance(node, ast.ImportFrom) and node.module else set()


def imported(path: Path) -> set[str]:
    return {name for node in ast.walk(ast.parse(path.read_text())) for name in imported_by(node)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(REPO)))
def test_the_library_imports_neither_kfp_nor_dvc_and_stays_small(path: Path):
    assert not imported(path) & {"kfp", "dvc", "components"}
    assert "pipelines" not in imported(path) or path.name == "cli.py"
    assert len(path.read_text().splitlines()) <= 340


def test_faces_import_only_kfp_and_pipelines_stay_small():
    for path in sorted((REPO / "components").glob("*.py")):
        top = {n for node in ast.parse(path.read_text()).body for n in imported_by(node)}
        assert top <= {"kfp", "components", "os", "typing"}, path
    assert len((REPO / "pipelines" / "pretrain.py").read_text().splitlines()) < 110


def test_dvc_yaml_is_the_step_table():
    stages = yaml.safe_load((REPO / "dvc.yaml").read_text())["stages"]
    seen = set()
    for stage_name, stage in stages.items():
        each = stage.get("do", stage)
        words = each["cmd"].split()
        name, version = words[2].split("@")
        step = TABLE[name]
        seen.add(name)
        assert int(version) == step.version, stage_name
        instance = "merge" if stage_name == "evaluate-merge" else "${key}"
        out = "artifacts/" + step.folder.format(name=instance)
        assert each["outs"] == [{out: {"persist": True}}], stage_name
        assert each["params"] == step.param_paths("${key}"), stage_name
        roles = dict(word.split("=") for word in words if "=" in word)
        assert sorted(roles) == sorted([*(r.rstrip("*") for r in step.reads), *step.raw]), stage_name
        assert sorted([*roles.values(), *step.folders]) == sorted(each["deps"]), stage_name
        assert words[words.index("--out") + 1] == out, stage_name
        assert ("--name" in words) == step.instances, stage_name
    assert seen == set(TABLE)


def test_no_absolute_path_and_no_registry_host():
    hosts = re.compile(
        "pypi" + r"\.org|registry\." + "npmjs|file" + r"s\.pythonhosted|deb\.debian" + r"\.org|hugging" + r"face\.co/"
    )
    for path in tracked():
        if (
            path.suffix in {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".sh", ".Dockerfile", ""}
            and path.name != "test_layout.py"
        ):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"(?<![\w.])/(work|root|home)/", text), path
            assert not hosts.search(text), path


def test_the_product_does_not_depend_on_shared():
    for path in [*SOURCES, REPO / "Makefile", REPO / "dvc.yaml", REPO / "params.yaml"]:
        assert "../shared" not in path.read_text(), path


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(REPO)))
def test_every_module_says_what_it_decides(path: Path):
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = text.partition("\n\n")[0]
    assert len(first.split()) >= 5, f"{path}: the docstring opens with {first!r}"
    assert re.search(r"[.:;]", first), path


@pytest.mark.parametrize("step", TABLE)
def test_a_version_is_raised_everywhere_at_once(step: str):
    for path, text in bump(step, REPO).items():
        assert text != path.read_text(encoding="utf-8")
        assert len(text) == len(path.read_text(encoding="utf-8"))
