"""How a signal ends a step: never inside an import, and never not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mmenc import heartbeat, stop
from mmenc.errors import Stopped

KILL = "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n"


@pytest.fixture
def module(tmp_path: Path, monkeypatch):
    """A module to import, by its text."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        names.append(name)

    yield write
    for name in names:
        sys.modules.pop(name, None)


def imports_and_waits() -> None:
    with stop.signals():
        import mmenc_outer  # noqa: F401

        assert stop.requested
        time.sleep(10)
        pytest.fail("the signal is lost")


def test_an_import_is_not_cut_in_half(module):
    module("mmenc_inner", KILL + "import time\ntime.sleep(0.3)\nwhole = True\n")
    module("mmenc_outer", "import mmenc_inner\nwhole = True\n")
    with pytest.raises(Stopped, match="run the same command again"):
        imports_and_waits()
    assert sys.modules["mmenc_inner"].whole
    assert sys.modules["mmenc_outer"].whole


def test_a_step_that_runs_inside_an_import_is_stopped_at_once(module):
    text = "import time\nfrom mmenc import stop\nfrom mmenc.errors import Stopped\ntry:\n    with stop.signals():\n"
    text += "        import os, signal\n        os.kill(os.getpid(), signal.SIGTERM)\n        time.sleep(10)\n"
    module("mmenc_program", text + "except Stopped:\n    ended = True\n")
    began = time.monotonic()
    import mmenc_program

    assert mmenc_program.ended
    assert time.monotonic() - began < 5


def test_a_signal_sent_again_does_not_come_after_the_end(module):
    module("mmenc_last", KILL)
    heard = []
    old = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        with stop.signals():
            import mmenc_last  # noqa: F401
        time.sleep(4 * stop.AGAIN)
    finally:
        signal.signal(signal.SIGTERM, old)
    assert not heard
    assert stop.requested


def ends(text: str) -> subprocess.CompletedProcess[str]:
    begin = "import os, signal, time\nfrom mmenc import stop\nstop.LIMIT = 0.5\n"
    begin += "def kill(): os.kill(os.getpid(), signal.SIGTERM); time.sleep(10)\n"
    return subprocess.run(
        [sys.executable, "-c", begin + text], env=dict(os.environ), capture_output=True, text=True, timeout=60, check=False
    )


def test_a_signal_that_a_library_swallows_ends_the_process_all_the_same():
    done = ends("with stop.signals():\n    try: kill()\n    except BaseException: pass\n    time.sleep(40)")
    assert done.returncode == 75
    assert (
        done.stderr
        == f"mmenc: stopped by a signal; the step had not ended {stop.LIMIT:.0f} s later, run the same command again\n"
    )


def test_what_saves_a_state_is_given_the_time_it_takes():
    saving = "    except stop.Interrupt:\n        with stop.unhurried(): time.sleep(2)\n        raise"
    done = ends("with stop.signals():\n    try: kill()\n" + saving)
    assert done.returncode == 1
    assert "mmenc.errors.Stopped: stopped by a signal; nothing half-written is left" in done.stderr


def test_while_unhurried_a_signal_is_only_noted():
    with stop.signals():
        with stop.unhurried():
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.requested
            with stop.unhurried():
                pass
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(stop.Interrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    with stop.signals():
        assert not stop.requested


def test_stopped_before_the_heartbeat_beats(tmp_path: Path, monkeypatch):
    def signal_comes(_self: threading.Thread) -> None:
        raise stop.Interrupt

    monkeypatch.setattr(threading.Thread, "start", signal_comes)
    with pytest.raises(stop.Interrupt), heartbeat.beating(tmp_path, "train", "x", "0" * 64, tmp_path / "out"):
        pytest.fail("the block must not begin")
    row = json.loads((tmp_path / heartbeat.FILE).read_text())
    assert row["stopped"] == "by a signal"
    assert not heartbeat.is_alive(row)
