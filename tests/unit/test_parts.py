"""Work in parts: order, restart, failures, several processes."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmenc.artifact import Parent
from mmenc.errors import Refused
from mmenc.parts import Parts

DIGEST = "0" * 64


@dataclass
class OneJob:
    """As much of a job as parts need."""

    resume: Path
    threads: int = 1
    executor: str = "processes"
    content: str = "a"
    lines: list = field(default_factory=list)
    meeting: object = None

    @property
    def recipe(self):
        return SimpleNamespace(compute=SimpleNamespace(threads=self.threads, executor=self.executor, ray_address=""))

    @property
    def request(self):
        return SimpleNamespace(parents=[Parent("raw", DIGEST, self.content)])

    step = SimpleNamespace(name="clean")

    def say(self, text):
        self.lines.append(text)


def square(folder, number, log):
    with Path(log).open("a") as stream:
        stream.write(f"{number}\n")
    if number < 0:
        raise Refused(f"{number} is below 0")
    if number == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "square.txt").write_text(str(number**2))
    return {"square": number**2}


def sleep(folder, number):
    time.sleep(0 if number < 2 else 60)
    return {"number": number}


@pytest.mark.parametrize("threads", [1, 3])
def test_order_files_and_restart(tmp_path, threads):
    log = tmp_path / "log"
    parts = {f"p{i}": (i, log) for i in (5, 3, 4, 1)}
    made = Parts(OneJob(tmp_path / "r", threads), "stage")
    assert list(made.run(square, parts).items()) == [(f"p{i}", {"square": i**2}) for i in (5, 3, 4, 1)]
    again = OneJob(tmp_path / "r", threads)
    parts["p7"] = (7, log)
    assert Parts(again, "stage").run(square, parts)["p7"] == {"square": 49}
    assert sorted(log.read_text().split()) == ["1", "3", "4", "5", "7"], "a finished part is not made again"
    assert again.lines == ["stage: 4 of 5 parts are there from before"]
    made.take("p3", tmp_path / "out" / "p3")
    assert [p.name for p in (tmp_path / "out" / "p3").iterdir()] == ["square.txt"]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_refusal_is_passed_on_and_leaves_no_half_part(tmp_path, threads):
    made = Parts(OneJob(tmp_path / "r", threads), "stage")
    with pytest.raises(Refused, match="-2 is below 0"):
        made.run(square, {"a": (1, tmp_path / "log"), "b": (-2, tmp_path / "log")})
    assert not made.folder("b").exists()
    assert not list(made.root.glob(".tmp.*"))


def half_or_refused(folder, number):
    if number < 0:
        while not list(folder.parent.glob(".tmp.half.*/begun")):
            time.sleep(0.01)
        raise Refused(f"{number} is below 0")
    (folder / "begun").touch()
    time.sleep(60)


def test_a_part_that_is_half_made_when_another_one_refuses_is_gone(tmp_path):
    made = Parts(OneJob(tmp_path / "r", 2), "stage")
    with pytest.raises(Refused, match="-2 is below 0"):
        made.run(half_or_refused, {"half": (1,), "b": (-2,)})
    assert list(made.root.iterdir()) == []


def test_a_killed_worker_is_a_sentence_and_other_parts_stay(tmp_path):
    job = OneJob(tmp_path / "r", 2)
    with pytest.raises(Refused, match=r"one of its 2 processes was killed .*finished parts are kept"):
        Parts(job, "stage").run(square, {f"p{i}": (i, tmp_path / "log") for i in (1, 2, 13)})
    made = Parts(job, "stage").run(square, {f"p{i}": (i, tmp_path / "log") for i in (1, 2)})
    assert made == {"p1": {"square": 1}, "p2": {"square": 4}}


def test_other_content_of_an_input_begins_anew(tmp_path):
    log = tmp_path / "log"
    for content in ("a", "b", "b"):
        Parts(OneJob(tmp_path / "r", content=content), "stage").run(square, {"p": (2, log)})
    assert log.read_text().split() == ["2", "2"]


def test_workers_end_with_their_parent(tmp_path):
    program = (
        "from tests.unit.test_parts import OneJob, sleep\nfrom mmenc.parts import Parts\nfrom pathlib import Path\n"
        "if __name__ == '__main__':\n"
        f"    Parts(OneJob(Path({str(tmp_path)!r}), 2), 's').run(sleep, {{str(i): (i,) for i in range(4)}})\n"
    )
    (tmp_path / "main.py").write_text(program)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])}
    main = subprocess.Popen([sys.executable, tmp_path / "main.py"], env=env)
    try:
        until = time.monotonic() + 60
        while not ((tmp_path / "parts/s/0").exists() and (tmp_path / "parts/s/1").exists()) and time.monotonic() < until:
            time.sleep(0.05)
        children = [int(p) for p in Path(f"/proc/{main.pid}/task/{main.pid}/children").read_text().split()]
        assert len(children) >= 2
    finally:
        main.kill()
        main.wait()
    until = time.monotonic() + 20
    while any(_alive(c) for c in children) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(_alive(c) for c in children)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
