"""One of the processes that train a phase: `torchrun … -m mmenc.train.worker SPEC.json`, or the same by launch.py.

What it leaves beside SPEC.json: `outcome.json`, written by the node's first process, holds facts (those of process 0; the others
have none) or the sentence of a stop; `failure.json`,
written by whichever process fails first, the sentence of a refusal or the traceback of a bug. A process whose parent is gone
ends at once, so that nobody writes to a resume folder whose lock has died with the main process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from mmenc.train.group import Group
    from mmenc.train.task import Task


def _end_with_parent() -> None:
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _tell(path: Path, value: dict[str, Any]) -> None:
    """Write a file unless another process has."""
    try:
        with path.open("x", encoding="utf-8") as stream:
            json.dump(value, stream)
    except FileExistsError:
        return


def _work(spec_path: Path) -> dict[str, Any]:
    """Train; return what process 0 has to say."""
    from mmenc import stop
    from mmenc.errors import Stopped
    from mmenc.job import disk_errors
    from mmenc.train.group import Group
    from mmenc.train.step import train
    from mmenc.train.task import Task

    spec = json.loads(spec_path.read_text(encoding="utf-8"))
    task = Task.read(spec["task"])
    try:
        with stop.signals(), disk_errors(task.out):
            group = Group.join(task.recipe.compute)
            group.start_equal(task.source.name if task.resumed else "")
            facts, measured = train(task, group, _mirror(spec["mirror"], task, group))
            return {"facts": facts, "measured": measured}
    except Stopped as stopped:
        return {"stopped": str(stopped)}


def _mirror(plain: dict[str, Any] | None, task: Task, group: Group) -> Callable[[], None]:
    """What process 0 calls when it has saved the state: copies it to the store, if there is one."""
    if plain is None:
        return lambda: None
    from mmenc.resume import Mirror

    mirror = Mirror.taken_over(plain, task.resume)
    return lambda: mirror.save(last=group.stopping)


def main(spec: Path) -> NoReturn:
    """Work and tell; the process ends here, without taking down what others may still be waiting in."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback; training has its own handler
    _end_with_parent()
    from mmenc.errors import Refused, Stopped

    rank = int(os.environ["RANK"])
    code = 0
    try:
        if rank:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        outcome = _work(spec)
        if os.environ["LOCAL_RANK"] == "0":
            _tell(spec.with_name("outcome.json"), outcome)
            # Zero would make this node's agent wait minutes, deaf to signals, for that of the node which was taken away.
            code = Stopped.exit_code if "stopped" in outcome else 0
    except Exception as error:  # noqa: BLE001 (whatever it is, the main process says it)
        known = isinstance(error, Refused)
        told = {"refused": str(error)} if known else {"bug": traceback.format_exc()}
        _tell(spec.with_name("failure.json"), {"rank": rank, **told})
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
