"""Launches the training of a phase: in this process, in several of this machine, or in pods of a TrainJob; one function for all.

Decision: torch's elastic agent (what `torchrun` runs) works inside the main process, so the workers are its children: it
passes signals on, ends all when one dies, and finds a free port. They meet in `worker.py`. On several nodes each pod has such a
main process (`node.py`), and the agents meet at node 0's address. The main process keeps the lock, the artifact and the
manifest; process 0 has the resume folder and therefore the store's mirror of it: whoever writes the state knows when it is
whole, so nothing has to be asked. What became of the processes is turned into facts or into one sentence.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmenc import stop
from mmenc.artifact import Json, read_json, write_json
from mmenc.errors import Refused, Stopped
from mmenc.job import Job
from mmenc.train.task import Task

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

FOLDER = ".processes"
"""In the unfinished artifact, so that it goes with it when this process is killed."""
TOGETHER = 900
"""Seconds that a node waits for the others: they pull an image, and fetch their shards from the store."""
GRACE = "120"
"""Seconds for the current step and for saving the state, after a signal; Kubernetes ends a pod after 30 unless told more."""


class Broken(Refused):
    """Processes died or lost each other: beginning anew from the last saved state may help."""


@dataclass(frozen=True)
class Meeting:
    """How the main processes of several nodes find each other; the default is one node."""

    nodes: int = 1
    node: int = 0
    """Which of them this is; processes of node 0 come first."""
    address: str = ""
    """Host and port where node 0 listens."""
    name: str = ""

    def config(self) -> dict[str, Any]:
        """Of torch's agent."""
        if self.nodes == 1:
            local = {"run_id": uuid.uuid4().hex, "rdzv_endpoint": "localhost:0", "local_addr": "localhost"}
            return {"min_nodes": 1, "max_nodes": 1, "rdzv_backend": "c10d", **local}
        found = {"min_nodes": self.nodes, "max_nodes": self.nodes, "rdzv_backend": "static", "run_id": self.name}
        return found | {"rdzv_endpoint": self.address, "rdzv_configs": {"rank": self.node, "timeout": TOGETHER}}


def launch(job: Job) -> tuple[Json, Json]:
    """Train a phase where the recipe says; return (facts, what was measured)."""
    from mmenc.train.group import Group, processes
    from mmenc.train.step import train

    compute = job.recipe.compute
    if compute.nodes > 1:
        from mmenc.trainer import launch as launch_nodes

        return launch_nodes(job)
    count = processes(compute)
    if count > 1:
        return launch_here(job, Task.of(job), count)
    return train(Task.of(job), Group(compute), job.saved)


def launch_here(job: Job, task: Task, count: int, meeting: Meeting = Meeting()) -> tuple[Json, Json]:
    """Train with several processes of this machine, and those of other nodes; facts are of node 0 alone."""
    folder = task.out / FOLDER
    folder.mkdir()
    write_json(folder / "spec.json", {"task": task.json(), "mirror": job.mirror.json() if job.mirror else None})
    try:
        _start(folder, count, task, meeting)
        outcome = _read(folder / "outcome.json")
        if "stopped" in outcome:
            raise Stopped(outcome["stopped"])
        if "facts" not in outcome:
            raise Broken(f"train {task.name}: its processes ended without a result; {_kept(task)}")
        return outcome["facts"], outcome["measured"]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, count: int, task: Task, meeting: Meeting) -> None:
    """Run the workers to their end; Refused with the reason of the first that failed."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, launch_agent

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", GRACE)
    config = LaunchConfig(
        **meeting.config(),
        nproc_per_node=count,
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / "logs")),
        signals_to_handle="SIGTERM,SIGINT",
    )
    with _quiet():
        try:
            launch_agent(config, sys.executable, ["-m", "mmenc.train.worker", str(folder / "spec.json")])
        except SignalException:
            if not (folder / "outcome.json").exists():
                raise stop.Interrupt from None
        except ChildFailedError as error:
            if "stopped" not in _read(folder / "outcome.json"):
                raise _reason(folder, error.failures, count, task) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """The agent's own reports are not for users, and its handlers of signals must not outlive it."""
    logger = logging.getLogger("torch.distributed.elastic")
    silent = logging.NullHandler()
    logger.addHandler(silent)
    before, logger.propagate = logger.propagate, False
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        logger.propagate = before
        logger.removeHandler(silent)


def _reason(folder: Path, failures: dict[int, ProcessFailure], count: int, task: Task) -> Refused:
    """Why the workers failed: a killed process before what the others say of its silence; a bug shows its traceback.

    When one has failed, the agent ends the others by SIGTERM and counts them too: that signal is a reason only if none is told.
    """
    told = _read(folder / "failure.json")
    killed = sorted(
        (f.exitcode != -signal.SIGKILL, rank)
        for rank, f in failures.items()
        if f.exitcode < 0 and not (told and f.exitcode == -signal.SIGTERM)
    )
    if killed:
        rank = killed[0][1]
        number = -failures[rank].exitcode
        hint = " (often because memory ran out)" if number == signal.SIGKILL else ""
        return Broken(f"train {task.name}: process {rank} of {count} was killed by signal {number}{hint}; {_kept(task)}")
    if "refused" in told:
        return Refused(told["refused"])
    if "bug" in told:
        print(told["bug"], file=sys.stderr, end="")
        return Broken(f"train {task.name}: process {told['rank']} of {count} failed as shown above; {_kept(task)}")
    rank, failure = next(iter(failures.items()))
    return Broken(f"train {task.name}: process {rank} of {count} ended with exit code {failure.exitcode}; {_kept(task)}")


def _kept(task: Task) -> str:
    steps = [int(p.name) for p in task.resume.glob("*") if p.name.isdigit()]
    return f"the state of step {max(steps)} is kept, run again to go on" if steps else "no state was saved yet, run again"


def _read(path: Path) -> Json:
    """What a worker left; {} if it did not, or was killed while it wrote."""
    try:
        found: Json = read_json(path)
    except (FileNotFoundError, ValueError):
        return {}
    return found
