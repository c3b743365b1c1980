"""`mmenc watch` and `mmenc board` on real runs: states, a killed and a stopped process, a terminal of their own."""

from __future__ import annotations

import io
import json
import os
import platform
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from mmenc import heartbeat
from mmenc.artifact import Manifest
from mmenc.cli import main
from mmenc.dashboard.graph import difference
from mmenc.dashboard.screen import duration, render
from mmenc.dashboard.state import Look, look
from mmenc.errors import Refused
from mmenc.recipe import load
from tests.pipeline import REPO, commands, tiny_recipe, write_recipe

PHASE = "decay-english"
MMENC = [sys.executable, "-c", "import sys; from mmenc.cli import main; sys.exit(main())"]


def seen(folder: Path) -> Look:
    return look(load(folder / "params.yaml"), folder)


def screen(at: Look, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render(at, width))
    return console.export_text()


def halt(folder: Path, process: subprocess.Popen, *, trained: bool) -> Look:
    """Hold a process once it is at work (and has trained a step): the phase lasts seconds and must not end while we look."""
    end = time.monotonic() + 120
    while not at_work(folder, process.pid, trained=trained):
        assert time.monotonic() < end, screen(seen(folder))
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGSTOP)
    return seen(folder)


def at_work(folder: Path, pid: int, *, trained: bool) -> bool:
    for row in heartbeat.read_all(folder / "artifacts"):
        if row["pid"] == pid:
            log = folder / "artifacts" / ".runs" / row["digest"] / "train.jsonl"
            return not trained or (log.is_file() and log.stat().st_mtime > row["started"] and log.stat().st_size > 0)
    return False


@pytest.fixture
def copy(finished: Path, tmp_path: Path, monkeypatch) -> Path:
    folder = shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(folder)
    return folder


def start(folder: Path, words: list[str], **options: object) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": f"{REPO / 'src'}"}
    return subprocess.Popen([*MMENC, *words], cwd=folder, env=environment, start_new_session=True, **options)


def test_a_finished_run_is_done_and_the_log_ends(finished: Path, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    at = seen(finished)
    assert at.finished
    assert {s.state for s in at.seen.values()} <= {"done", "cached"}
    assert main(["watch"]) == 0
    assert "all 25 stages done" in capsys.readouterr().out
    assert main(["watch", "--once"]) == 0
    text = capsys.readouterr().out
    for phase in tiny_recipe()["phases"]:
        heldout = Manifest.read(finished / "artifacts" / "train" / phase).facts["heldout"][-1][1]
        row = next(line for line in text.splitlines() if line.strip(" └").startswith(phase))
        assert f"{heldout:.3f}" in row
    assert all(len(line) <= 80 for line in screen(at, 80).splitlines())
    assert "…" not in screen(at, 80)


def test_damaged_files_beside_a_run_do_not_end_the_screen(copy: Path, monkeypatch, capsys):
    monkeypatch.chdir(copy)
    artifacts = copy / "artifacts"
    runs = artifacts / ".runs" / Manifest.read(artifacts / "train" / PHASE).digest
    for text in ("[]", "null", "{", '{"step": "train"}', '{"step": 1, "name": 2, "digest": 3, "started": "x", "seconds": "y"}'):
        for name in ("run.json", "running.json", "train.jsonl", "languages.json"):
            (runs / name).write_text(text + "\n")
        assert main(["watch", "--once"]) == 0
        assert main(["gc"]) == 0
    (runs / "running.json").unlink()
    (copy / ".dvc" / "tmp").mkdir(parents=True)
    for text in (
        "[1]",
        '{"a": {"write": [1], "read": 7}}',
        f'{{"a": {{"write": {{"pid": {os.getpid()}, "cmd": ""}}, "read": []}}}}',
    ):
        (copy / ".dvc" / "tmp" / "rwlock").write_text(text)
        assert main(["watch", "--once"]) == 0
    capsys.readouterr()
    for text in ("{}", "7", "{a: {cmd: ls}}", "{a: {cmd: mmenc run zzz@1 --out x}}", "{a: 1}"):
        (copy / "dvc.yaml").write_text(f"stages: {text}")
        assert main(["watch", "--once"]) == 1
        assert capsys.readouterr().err.startswith(f"mmenc: {copy / 'dvc.yaml'}: stages")


def test_a_change_shows_what_will_be_made_anew_and_why(copy: Path):
    recipe = tiny_recipe()
    recipe["phases"]["decay-all"]["mask"] = 0.1
    write_recipe(copy, recipe)
    at = seen(copy)
    waiting = {key for key, s in at.seen.items() if s.state == "waiting"}
    phase = {f"{step}:decay-all" for step in ("mixture", "train", "evaluate")}
    assert waiting == phase | {"merge", "evaluate:merge", "release", "report"}
    assert at.seen["train:decay-all"].note == "phases.decay-all.mask was 0.05, is 0.1"
    assert at.seen["merge"].note == "train/decay-all will be made anew"
    assert "train decay-all will be made anew: phases.decay-all.mask was 0.05, is 0.1" in " ".join(screen(at, 130).split())
    shutil.rmtree(copy / "artifacts" / "clean")
    assert seen(copy).seen["clean"].state == "waiting"
    assert seen(copy).seen["tokenize"].note == "artifacts/clean will be made anew"


def test_running_watched_in_a_terminal_killed_stopped_and_done(copy: Path):
    shutil.rmtree(copy / "artifacts" / "train" / PHASE)
    recipe = json.loads((copy / "params.yaml").read_text())
    recipe["compute"] |= {"log_seconds": 0.01}
    write_recipe(copy, recipe)
    words = commands(copy)[f"train@{PHASE}"][1:]
    process = start(copy, words, stdout=subprocess.DEVNULL)
    one = (at := halt(copy, process, trained=True)).running[0]
    assert one.fresh
    assert one.stage.title == f"train {PHASE}"
    assert one.running["pid"] == process.pid
    assert one.running["group"] == os.getpgid(process.pid)
    assert one.log["phase"] == PHASE
    assert set(one.languages) <= set(at.planned)
    assert sum(at.planned.values()) == pytest.approx(1)
    text = " ".join(screen(at).split())
    assert f"process {process.pid}" in text
    assert f"writes artifacts/train/{PHASE}" in text
    assert "languages seen:" in text
    process.kill()
    process.wait()
    assert seen(copy).seen[f"train:{PHASE}"].state == "failed"
    assert "gone without a word" in screen(seen(copy), 130)

    process = start(copy, words, stdout=subprocess.DEVNULL)
    halt(copy, process, trained=False)
    assert PHASE in in_a_terminal(copy)
    assert process.poll() is None, "watching and Ctrl-C have ended the run"
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    assert process.wait() == 75
    assert seen(copy).seen[f"train:{PHASE}"].state == "stopped"

    assert start(copy, words, stdout=subprocess.DEVNULL).wait() == 0
    at = seen(copy)
    assert at.seen[f"train:{PHASE}"].state == "done"
    assert at.seen["train:extend"].state == "cached"
    assert not list((copy / "artifacts" / ".runs").glob("*/running.json"))


def in_a_terminal(folder: Path) -> str:
    """Watch in a terminal of its own until the screen is there, then Ctrl-C; return what it showed."""
    ours, theirs = pty.openpty()
    watching = start(folder, ["watch"], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown, end = b"", time.monotonic() + 60
    while b"bits per byte" not in shown and time.monotonic() < end:
        if select.select([ours], [], [], 0.5)[0]:
            shown += os.read(ours, 65536)
    os.killpg(watching.pid, signal.SIGINT)  # what a terminal does at Ctrl-C
    try:
        while True:
            shown += os.read(ours, 65536)
    except OSError:  # closed
        pass
    assert watching.wait() == 0, shown
    os.close(ours)
    assert b"the run goes on" in shown
    return shown.decode()


def test_a_failure_leaves_its_sentence_and_success_leaves_nothing(tmp_path: Path):
    folder = tmp_path / "artifacts" / ".runs" / "d"

    def beating():
        return heartbeat.beating(folder, "clean", "", "d", tmp_path / "artifacts" / "clean")

    alive = []

    def fail(error: BaseException):
        with beating():
            alive.append([r["alive"] for r in heartbeat.read_all(tmp_path / "artifacts")])
            raise error

    with pytest.raises(Refused):
        fail(Refused("a sentence"))
    assert alive == [[True]]
    (row,) = heartbeat.read_all(tmp_path / "artifacts")
    assert (row["failed"], row["alive"]) == ("a sentence", False)
    with pytest.raises(KeyboardInterrupt):
        fail(KeyboardInterrupt())
    assert "stopped" in heartbeat.read_all(tmp_path / "artifacts")[0]
    with beating():
        pass
    assert not heartbeat.read_all(tmp_path / "artifacts")


def test_a_container_with_this_machines_name_is_judged_by_its_signs():
    row = {"host": platform.node(), "pid": os.getpid(), "process_start": "of a process there", "beat": time.time()}
    assert not heartbeat.is_alive(row)
    assert heartbeat.is_alive(row | {"namespace": "pid:[1]"})
    assert not heartbeat.is_alive(row | {"namespace": "pid:[1]", "beat": time.time() - 100})


def test_a_process_elsewhere_is_alive_while_it_gives_signs():
    row = {"host": "another", "pid": 1, "process_start": "1", "beat": time.time()}
    assert heartbeat.is_alive(row)
    assert not heartbeat.is_alive(row | {"beat": time.time() - 2 * heartbeat.LOST})
    reused = {"host": os.uname().nodename, "pid": os.getpid(), "process_start": "1", "beat": time.time()}
    assert not heartbeat.is_alive(reused)


def test_what_differs_is_one_clause():
    assert difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "a.b was 1, is 2"
    assert difference({"a": 1}, {"a": 1, "b": 2}) == "b is new"
    assert difference({"a": 1, "b": 2}, {"a": 1}) == "b is gone from the recipe"
    assert not difference({"a": {"b": [1]}}, {"a": {"b": [1]}})


@pytest.mark.parametrize(("seconds", "expected"), [(42, "0:42"), (423, "7:03"), (7800, "2:10:00"), (None, "?"), (-3, "0:00")])
def test_durations_are_clocks(seconds: float | None, expected: str):
    assert duration(seconds) == expected


def test_the_board_is_one_run_per_leaf_along_all_tokens(copy: Path, tmp_path: Path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "board"
    for _ in range(2):  # it may be made again
        assert main(["board", "--out", str(out)]) == 0
    assert "--logdir" in capsys.readouterr().out
    assert {p.name for p in out.iterdir()} - {".mmenc-board"} == {"decay-english", "decay-continued", "decay-all"}
    board = EventAccumulator(str(out / "decay-all"))
    board.Reload()
    for tag, log in (("train/loss", "curve"), ("heldout/loss", "heldout")):
        steps = [e.step for e in board.Scalars(tag)]
        assert steps == sorted(steps), tag
        for phase in ("pretrain", "extend", "decay-all"):
            facts = Manifest.read(copy / "artifacts" / "train" / phase).facts
            assert facts["total_tokens"] - facts["tokens"] + facts[log][-1][0] in steps, (tag, phase)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert main(["board", "--out", str(tmp_path / "mine")]) == 1
    assert "was not made by `mmenc board`" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").exists()
