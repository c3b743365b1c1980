"""Waits for a run: a live table on a terminal, one plain line per change of state in a pod or in CI.

What the server says of a run (read in its source, 2.17): one entry per node of the workflow, called by the task's *key* in
the graph (`train-2`), with `train-2-driver` before it and `executor` below it; tasks that have not begun are absent, and the
reason of a failure is often missing (kubeflow/pipelines#14007). Entries of no task of the graph are passed over.
"""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from mmenc.errors import Refused, Stopped
from pipelines.api import Api, Unsure

ENDED = {"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"}
COLOURS = {"SUCCEEDED": "green", "FAILED": "red", "RUNNING": "cyan", "CANCELED": "yellow"}
RANK = ["FAILED", "CANCELED", "CANCELING", "RUNNING", "PAUSED", "PENDING", "SUCCEEDED", "SKIPPED"]
"""Where several entries have a task's name (a loop), the first of these stands for all."""
WAITING = "waiting"
LOST = 900.0
"""Seconds without any answer after which waiting ends; the API server of a cluster is restarted now and then."""


@dataclass(frozen=True)
class Task:
    """A task of the graph: its key there, what people call it, its container (none for an importer)."""

    key: str
    label: str
    container: dict[str, Any]


def tasks(spec: dict[str, Any]) -> list[Task]:
    """Every task of a compiled pipeline that runs something, sub-graphs included, in the graph's order."""
    executors = spec.get("deploymentSpec", {}).get("executors", {})

    def inside(component: dict[str, Any]) -> Iterator[Task]:
        found = component["dag"]["tasks"]
        for key in _sorted(found):
            below = spec["components"][found[key]["componentRef"]["name"]]
            if "dag" in below:
                yield from inside(below)
            else:
                executor = executors.get(below.get("executorLabel"), {})
                yield Task(key, found[key].get("taskInfo", {}).get("name", key), executor.get("container", {}))

    return list(inside(spec["root"]))


def _sorted(found: dict[str, Any]) -> list[str]:
    """Parents first, otherwise by name."""
    depth: dict[str, int] = {}

    def deep(key: str) -> int:
        if key not in depth:
            depth[key] = 1 + max((deep(d) for d in found[key].get("dependentTasks", [])), default=0)
        return depth[key]

    return sorted(found, key=lambda k: (deep(k), k))


@dataclass(frozen=True)
class Seen:
    """A task as the server sees it."""

    state: str = WAITING
    seconds: float = 0.0
    reason: str = ""
    pod: str = ""


def look(run: Any, known: list[Task]) -> dict[str, Seen]:
    """The state of each task by its key."""
    details = (run.run_details and run.run_details.task_details) or []
    by_id = {d.task_id: d for d in details}
    found: dict[str, Seen] = {}
    for task in known:
        own = [d for d in details if d.display_name in (task.key, task.label)]
        drivers = [d for d in details if d.display_name == f"{task.key}-driver"]
        judged = own + [d for d in drivers if d.state == "FAILED" or not own]
        states = {("RUNNING" if d in drivers and d.state in ENDED - {"FAILED"} else d.state) for d in judged}
        state = next((s for s in RANK if s in states), WAITING)
        nodes = [*judged, *_below(judged, by_id)]
        bad = [d for d in nodes if d.state == "FAILED"] if state == "FAILED" else []
        reason = next(filter(None, (_reason(d) for d in bad)), "")
        pods = [c.pod_name for d in nodes for c in d.child_tasks or [] if c.pod_name]
        pod = next(itertools.chain((d.pod_name for d in bad if d.pod_name), pods), "")
        found[task.key] = Seen(state, max((_seconds(d) for d in judged), default=0.0), reason, pod)
    return found


def _below(details: list[Any], by_id: dict[str, Any]) -> list[Any]:
    ids = [c.task_id for d in details for c in d.child_tasks or [] if c.task_id in by_id]
    children = [by_id[i] for i in ids]
    return [*children, *_below(children, by_id)] if children else []


def _reason(detail: Any) -> str:
    errors = [detail.error, *(s.error for s in reversed(detail.state_history or []))]
    return next((" ".join(e.message.split()) for e in errors if e and e.message), "")


def _seconds(detail: Any) -> float:
    begun, ended = detail.start_time or detail.create_time, detail.end_time
    return max(0.0, (ended - begun).total_seconds()) if begun and ended and ended > begun else 0.0


def span(seconds: float) -> str:
    """`42 s`, `3:20 min`, `27:05 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02d} min" if whole < 3600 else f"{whole // 3600}:{whole % 3600 // 60:02d} h"


class Screen:
    """Where the states appear; `rich` decides whether this is a terminal."""

    def __init__(self, known: list[Task]) -> None:
        self.known, self.begun = known, time.monotonic()
        self.shown: dict[str, str] = {}
        self.running: dict[str, float] = {}
        self.console = Console(soft_wrap=True, highlight=False)
        self.width = max((len(t.label) for t in known), default=0)

    @contextmanager
    def open(self) -> Iterator[Callable[[str, dict[str, Seen]], None]]:
        """What to call with the run's state and its tasks' after each look."""
        if not self.console.is_terminal:
            yield self._lines
            return
        with Live(console=self.console, auto_refresh=False, vertical_overflow="visible") as live:
            yield lambda state, seen: live.update(self._table(state, seen), refresh=True)

    def _table(self, state: str, seen: dict[str, Seen]) -> Table:
        """All tasks, or where the screen is too low only those that run or failed."""
        now = time.monotonic()
        table = Table("task", "state", "time", box=None)
        fits = len(self.known) + 3 < self.console.height
        for task in self.known:
            at = seen[task.key]
            if at.state == "RUNNING":
                self.running.setdefault(task.key, now)
            if fits or at.state in ("RUNNING", "FAILED"):
                seconds = now - self.running[task.key] if at.state == "RUNNING" else at.seconds
                table.add_row(
                    escape(task.label), f"[{COLOURS.get(at.state, 'dim')}]{at.state}[/]", span(seconds) if seconds else ""
                )
        done = sum(at.state in ENDED for at in seen.values())
        table.caption = f"{state}, {done} of {len(self.known)} tasks done, {span(now - self.begun)}"
        return table

    def _lines(self, state: str, seen: dict[str, Seen]) -> None:
        rows = [(t.key, t.label, seen[t.key].state) for t in self.known]
        for key, label, now in [("", "run", state), *rows]:
            if self.shown.get(key, WAITING) != now:
                self.shown[key] = now
                print(f"{span(time.monotonic() - self.begun):>9}  {label:<{self.width}}  {now}", flush=True)


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM (a pod that is moved) ends the waiting as Ctrl-C does."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def wait(api: Api, run_id: str, known: list[Task], address: str, poll: float, timeout: float = 0.0) -> None:
    """Return when the run has succeeded; Refused with the failing task and its reason; Stopped when the waiting ends before."""
    begun = heard = time.monotonic()
    try:
        with _terminated(), Screen(known).open() as show:
            while True:
                try:
                    run = api.ask(api.of.runs.run_service_get_run, run_id)
                    heard = time.monotonic()
                    seen = look(run, known)
                    show(run.state or "PENDING", seen)
                    if run.state in ENDED:
                        break
                except Unsure as error:
                    if time.monotonic() - heard > LOST:
                        raise Refused(f"{error}; the run goes on if the cluster does: {address}") from None
                if timeout and time.monotonic() - begun > timeout:
                    raise Stopped(f"not finished after {span(timeout)}; the run goes on: {address}")
                time.sleep(poll)
    except KeyboardInterrupt:
        raise Stopped(f"stopped waiting; the run goes on: {address}") from None
    if run.state != "SUCCEEDED":
        raise Refused(f"{_verdict(run, known, seen, api.namespace)}; {address}")


def _verdict(run: Any, known: list[Task], seen: dict[str, Seen], namespace: str) -> str:
    failed = [t for t in known if seen[t.key].state == "FAILED"]
    whole = " ".join(run.error.message.split()) if run.error and run.error.message else ""
    if not failed:
        return f"the run ended {run.state}" + (f": {whole}" if whole else "")
    first = seen[failed[0].key]
    log = f"`kubectl logs {f'-n {namespace} ' if namespace else ''}{first.pod} -c main`" if first.pod else "its log in the UI"
    reason = first.reason or whole or f"the server gives no reason, see {log}"
    more = f" (and {len(failed) - 1} more)" if failed[1:] else ""
    return f"{failed[0].label} FAILED{more}: {reason}"
