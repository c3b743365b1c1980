"""The documentation is true: its commands run or at least parse, what it names exists, its site builds without a warning.

Every block of commands in README.md and docs/*.md carries a marker (tests/documents.py). Blocks to run, run in the order of
their page, in one copy of the finished tiny run per page that has a git history, as a reader would type them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.documents import REASONS, SHELLS, Block, blocks, commands, pages, repository_paths, spans
from tests.pipeline import REPO

ALL = blocks()
TYPED = [block for block in ALL if block.language in SHELLS]
RUN = [block for block in ALL if block.marker == "run"]
KNOWN = {
    "cat",
    "cd",
    "cp",
    "docker",
    "du",
    "eval",
    "export",
    "git",
    "grep",
    "head",
    "kill",
    "kubectl",
    "ls",
    "mkdir",
    "mv",
    "pip",
}
KNOWN |= {".", "pre-commit", "printf", "rm", "sed", "source"}
"""Programs that are not ours: nothing but the paths in their arguments is checked."""


def test_every_block_of_commands_says_what_becomes_of_it():
    for block in TYPED:
        assert block.language, f"{block}: a fence without a language; `bash` for commands, `text` for anything else"
        assert block.marker, f"{block}: no marker above; <!-- run --> or <!-- not run: REASON -->"
    for block in ALL:
        if block.marker == "not run":
            assert block.detail in REASONS, f"{block}: {block.detail!r} is none of {REASONS}"
        elif block.marker:
            assert block.language in (*SHELLS, "python"), block
            assert re.fullmatch(r"|exit \d+", block.detail), f"{block}: {block.detail!r}"
    assert len(RUN) > 10


@pytest.fixture(scope="module")
def started(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run as a checkout: the files of the repository around it, under git and DVC."""
    folder = tmp_path_factory.mktemp("docs") / "mmenc"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if not name.startswith(("tests/", "data/")) and (REPO / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, folder / name)
    for name in ("artifacts", "data"):
        shutil.copytree(finished / name, folder / name)
    shutil.copy(finished / "params.yaml", folder / "params.yaml")
    for name in ("data.dvc", "dvc.lock"):  # of the default run, not of this one
        (folder / name).unlink()
    script = "git init -q && git add -A && git -c user.name=d -c user.email=d@d commit -qm start"
    subprocess.run(["bash", "-ec", script], cwd=folder, check=True, env=environment())
    return folder


def environment() -> dict[str, str]:
    """What a shell has after `. .venv/bin/activate`, in a checkout."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    private = {"HF_HUB_OFFLINE": "1", "GIT_CONFIG_GLOBAL": os.devnull, "COLUMNS": "130", "TERM": "dumb"}
    return {**os.environ, "PATH": path, "PYTHONPATH": f"{REPO / 'src'}:{REPO}", **private}


@pytest.mark.parametrize("page", sorted({block.page for block in RUN}))
def test_commands_run(page: str, started: Path, tmp_path: Path):
    folder = tmp_path / "mmenc"
    shutil.copytree(started, folder)
    for block in (b for b in RUN if b.page == page):
        words = (
            [sys.executable, "-c", block.script]
            if block.language == "python"
            else ["bash", "-eo", "pipefail", "-c", block.script]
        )
        done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120, check=False)
        wanted = int(block.detail.removeprefix("exit ") or 0)
        assert done.returncode == wanted, f"{block}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


def subparsers() -> dict[str, argparse.ArgumentParser]:
    from mmenc.cli import _parser

    return next(a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction)).choices


def check_mmenc(words: list[str]) -> None:
    from mmenc.cli import _parser
    from mmenc.steps import find

    args, rest = _parser().parse_known_args(words)
    assert not rest or (args.command == "run" and not any(word.startswith("-") for word in rest)), rest
    if args.command == "run":
        find(args.step)


def check_dvc(words: list[str]) -> None:
    from dvc.cli.parser import get_main_parser

    get_main_parser().parse_args(words)


def check_make(words: list[str]) -> None:
    targets = set(re.findall(r"^([\w-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    assert {word for word in words if "=" not in word} <= targets, words


def check_python(words: list[str]) -> None:
    assert "-m" not in words[:1] or importlib.util.find_spec(words[1]), words


def check_pytest(words: list[str]) -> None:
    for path, *rest in (word.split("::") for word in words if word.startswith("tests")):
        for name in rest:
            assert f"def {name.partition('[')[0]}(" in (REPO / path).read_text(), f"{path}: no {name}"


OURS = {"mmenc": check_mmenc, "dvc": check_dvc, "make": check_make, "python": check_python, "pytest": check_pytest}


def check_words(words: list[str], folder: Path) -> None:
    program = Path(words[0]).name if words[0].startswith(".venv/") else words[0]
    if "/" in program:
        assert (REPO / program).is_file(), f"{program}: no such file"
    else:
        assert program in KNOWN or program in OURS or shutil.which(program, path=environment()["PATH"]), f"{program}: unknown"
    OURS.get(program, lambda _: None)(words[1:])
    for word in words[1:]:
        for path in re.findall(r"(?<![\w/.])artifacts/[\w/-]+", word):
            assert (folder / path).exists(), f"{path}: no artifact of a run"


@pytest.mark.parametrize("block", [b for b in TYPED if b.marker == "not run"], ids=str)
def test_commands_that_do_not_run_are_spelt_right(block: Block, finished: Path):
    for words in commands(block.script):
        try:
            check_words(words, finished)
        except SystemExit:
            pytest.fail(f"{block}: {' '.join(words)}: the parser refuses it")


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.name)
def test_what_a_page_names_exists(page: Path):
    text = page.read_text(encoding="utf-8")
    if page.name != "log.md":  # the past may name what is gone
        for path in repository_paths(text):
            assert list(REPO.glob(path)) or list(REPO.glob(f"{path}*")), f"{page.name}: there is no {path}"
    known = subparsers()
    for code in spans(page):
        words = code.split()
        if words[:1] == ["mmenc"] and len(words) > 1 and re.fullmatch(r"[a-z][a-z-]*", words[1]):
            assert words[1] in known, f"{page.name}: {code}"
            options = {option for action in known[words[1]]._actions for option in action.option_strings}
            for word in words[2:]:
                assert not re.fullmatch(r"--[a-z-]+", word) or word in options, f"{page.name}: {code}"
        if words[:1] == ["make"] and len(words) > 1 and re.fullmatch(r"[a-z][a-z-]*", words[1]):
            check_make(words[1:2])


def sentences() -> str:
    """Every literal of the source, pieces of one sentence joined, what is filled in as `…`."""
    places = [p for folder in ("src", "pipelines") for p in sorted((REPO / folder).rglob("*.py"))]
    source = "\n".join(path.read_text(encoding="utf-8") for path in places)
    source = re.sub(r"\"\s*\n\s*f?\"", "", source)  # implicit concatenation
    return re.sub(r"\{[^{}\n]*(\{[^{}\n]*\}[^{}\n]*)*\}", "…", source) + (REPO / "Makefile").read_text()


FOREIGN = ("Unable to acquire lock", "is invalid", "validation failed")
"""Words of other programs."""


@pytest.mark.parametrize("page", ["troubleshooting.md", "kubeflow.md"])
def test_what_a_reader_would_search_for_is_what_the_code_says(page: str):
    said = sentences()
    text = (REPO / "docs" / page).read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \|", text if page == "troubleshooting.md" else text.partition("goes wrong\n")[2], re.MULTILINE)
    checked = 0
    for quoted in (code for row in rows for code in re.findall(r"`([^`]+)`", row)):
        for piece in re.split(r"…\W*|\b[A-Z]{2,}\b:?|\b[0-9]+\b|'[^']*'", quoted):
            words = piece.strip(" :;,()")
            if " " in words and words not in FOREIGN:
                checked += 1
                assert words in said, f"{page}: nothing says {words!r} (of {quoted!r})"
    assert checked > 3


def test_the_site_builds_without_a_warning_and_needs_no_network(tmp_path: Path):
    for name in ("docs", "mkdocs.yml", "CONTRIBUTING.md"):
        if (REPO / name).is_dir():
            shutil.copytree(REPO / name, tmp_path / name)
        elif (REPO / name).is_file():
            shutil.copy(REPO / name, tmp_path / name)
    words = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    index = (tmp_path / "site/search.js").read_text(encoding="utf-8")
    for page in (REPO / "docs").glob("*.md"):
        html = (tmp_path / "site" / f"{page.stem}.html").read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|img|iframe)[^>]*src=\"?([^\"> ]+)|<link[^>]*href=\"?([^\"> ]+)", html)
        away = [url for pair in fetched for url in pair if re.match(r"(https?:)?//", url)]
        assert not away, f"{page.name}: fetches {away}"
        assert f'"location":"{page.stem}.html"' in index, f"{page.name}: not in the search index"


def test_every_page_is_in_the_navigation():
    def leaves(node: object) -> list[str]:
        if isinstance(node, str):
            return [node]
        return [leaf for part in (node.values() if isinstance(node, dict) else node) for leaf in leaves(part)]

    nav = leaves(yaml.safe_load((REPO / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert sorted(nav) == sorted(path.name for path in (REPO / "docs").glob("*.md"))
