"""Runs a phase as a TrainJob: makes it or joins the one that is there, follows it, begins anew after a loss, collects the result.

Decisions: the launcher alone begins anew, and always with all nodes: a pod that Kubernetes replaced by itself would wait for
processes that are past the meeting. State lies in the store, so a new beginning costs what `compute.checkpoint_seconds` says. A
job's name is its digest's, so a launcher that was itself moved finds the job and goes on watching it; SIGTERM deletes the job,
whose pods then save their state. `kubeflow`'s SDK brings the connection and knows the runtimes; its `train` has no secrets in
the pods' environment and its `delete_job` does not wait, so these calls are Kubernetes' own (trainer_api.py).
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass, field

from mmenc import stop
from mmenc.artifact import Json
from mmenc.cluster import ACCOUNT, TRAINJOB
from mmenc.errors import Refused, Stopped
from mmenc.job import Job
from mmenc.store import Store
from mmenc.train.exchange import Exchange
from mmenc.trainer_api import Conflict, Jobs, Pod, Silent
from mmenc.trainjob import DIGEST, RESTARTS, TEMPLATE, finish, validated

POLL = 5.0
"""Seconds between two looks."""
LAST_LINES = 20.0
"""Seconds that the rest of a log is waited for."""


class Lost(Exception):
    """The job cannot end well any more; all nodes begin anew."""


def launch(job: Job) -> tuple[Json, Json]:
    """Train a phase on several nodes; return (facts, what was measured), with the checkpoint in `job.out`."""
    nodes, store = job.recipe.compute.nodes, job.recipe.compute.store
    made = os.environ.get(TRAINJOB, "")
    if not made:
        raise Refused(
            f"compute.nodes: is {nodes}, which only a cluster has; `mmenc submit`, give {TRAINJOB} what `mmenc trainjob --json` "
            "prints, or set it to 1"
        )
    exchange = Exchange(Store(store, job.recipe.compute.store_patience), job.request.digest)
    body = validated(finish(json.loads(made), job.name, job.request.digest, store, os.environ.get(ACCOUNT, "")))
    run = Run(job, exchange, Jobs(), body)
    if found := exchange.collect(job):
        job.say("the checkpoint of an earlier launcher's job is taken from the store")
        run.jobs.delete(run.name)
        return found
    exchange.publish(job)
    try:
        return run.to_the_end(int(body["metadata"]["annotations"][RESTARTS]))
    except stop.Interrupt:
        with stop.unhurried():
            run.jobs.delete(run.name)  # where the signal came before or after it was followed
            step = exchange.saved()
        kept = f"the state of step {step} is in the store" if step >= 0 else "no state was saved yet"
        raise Stopped(f"train {job.name}: TrainJob {run.name} is deleted, {kept}; run again to go on") from None


@dataclass
class Run:
    """One TrainJob and all its new beginnings."""

    job: Job
    exchange: Exchange
    jobs: Jobs
    body: Json
    told: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Of the TrainJob."""
        return str(self.body["metadata"]["name"])

    def say(self, text: str) -> None:
        """One line, once until the next beginning."""
        if text not in self.told:
            self.told.add(text)
            self.job.say(text)

    def to_the_end(self, restarts: int) -> tuple[Json, Json]:
        """Begin, and begin anew as long as steps are gained, until there is a result or a refusal."""
        self.jobs.runtime(self.body["spec"]["runtimeRef"])
        newest, fruitless = self.exchange.saved(), 0
        while True:
            why = self._once()
            if refused := self.exchange.refused():
                raise Refused(refused)
            if found := self.exchange.collect(self.job):
                return found
            now = self.exchange.saved()
            fruitless = 0 if now > newest else fruitless + 1
            newest = now
            if fruitless > restarts:
                raise Refused(f"train {self.job.name}: {why}; {fruitless} times without a step gained, the log above says more")
            self.told.clear()
            self.job.say(f"{why}; all nodes begin anew " + (f"at step {now}" if now >= 0 else "at the beginning"))

    def _once(self) -> str:
        """One life of the job; return why it ended, with the job deleted and its log shown."""
        self._attach()
        log = Log(self.jobs, self.name)
        try:
            try:
                why = self._follow(log)
                log.rest()
            except Lost as lost:
                why = str(lost)
            except stop.Interrupt:
                self.say(f"stopping: TrainJob {self.name} is being deleted, its pods save their state")
                with stop.unhurried():
                    self.jobs.delete(self.name)
                raise
            self.jobs.delete(self.name)
            return why
        finally:
            log.rest()

    def _attach(self) -> None:
        """Join the job that is there if it is the one that we would make, else make ours."""
        own = self.body["metadata"]["annotations"]
        while True:
            found = self.jobs.get(self.name)
            if found is None:
                try:
                    self.jobs.create(self.body)
                except Conflict:
                    continue
                self.say(f"TrainJob {self.name} created: {self.body['spec']['trainer']['numNodes']} nodes")
                return
            told = found["metadata"].get("annotations", {})
            if told.get(DIGEST) != own[DIGEST]:
                raise Refused(f"TrainJob {self.name}: is there and not ours (its {DIGEST} is {told.get(DIGEST)!r}); delete it")
            if found["metadata"].get("deletionTimestamp"):
                self.say(f"TrainJob {self.name} of an earlier launcher is ending; waiting for it")
                time.sleep(POLL)
            elif told.get(TEMPLATE) != own[TEMPLATE] or _condition(found, "Failed"):
                self.say(f"TrainJob {self.name} of an earlier launcher is replaced: it has failed, or is of other resources")
                self.jobs.delete(self.name)
            else:
                self.say(f"TrainJob {self.name} is running already; following it")
                return

    def _follow(self, log: Log) -> str:
        """Look until the job has ended; Lost when a pod failed or is gone."""
        seen: dict[str, Pod] = {}
        while True:
            found = self.jobs.get(self.name)
            if found is None or found["metadata"].get("deletionTimestamp"):
                if found is None and self.exchange.finished():
                    raise Refused(f"train {self.job.name}: another run has finished it meanwhile; run again to take its result")
                raise Lost(f"TrainJob {self.name} was deleted by somebody")
            pods = {pod.name: pod for pod in self.jobs.pods(self.name)}
            if done := _condition(found, "Complete"):
                return f"TrainJob {self.name} is complete but left no checkpoint ({done})"
            failed = _condition(found, "Failed")
            if "DeadlineExceeded" in failed:
                self.jobs.delete(self.name)
                raise Refused(f"train {self.job.name}: {failed}; compute.cluster.resources.train says for how long it may run")
            log.follow(next((p.name for p in pods.values() if p.index == 0 and p.begun), ""))
            self._tell(found, list(pods.values()))
            gone = [p for p in seen.values() if p.name not in pods and p.state != "Succeeded"]
            lost = [p for p in pods.values() if p.state == "Failed"]
            for pod in lost[:1] if not failed else lost:
                if pod.index:  # node 0's is shown as it comes
                    self.job.say("\n    ".join([f"the last lines of {pod.name}:", *self.jobs.tail(pod.name)]))
            if failed or lost or gone:
                raise Lost(failed or (f"pod {lost[0].name} failed ({lost[0].reason})" if lost else f"pod {gone[0].name} is gone"))
            seen = pods
            time.sleep(POLL)

    def _tell(self, found: Json, pods: list[Pod]) -> None:
        if suspended := _condition(found, "Suspended"):
            self.say(f"waiting to be admitted ({suspended})")
            return
        running = sum(p.state in ("Running", "Succeeded") for p in pods)
        for pod in pods:
            if pod.state == "Pending" and pod.reason:
                self.say(f"{pod.name} is waiting: {pod.reason}")
        if pods and running == self.body["spec"]["trainer"]["numNodes"]:
            self.say(f"all {running} nodes are running")


def _condition(found: Json, kind: str) -> str:
    """Reason and message of a condition that is true; empty if it is not."""
    for row in found.get("status", {}).get("conditions", ()):
        if row["type"] == kind and row["status"] == "True":
            return f"{row.get('reason') or kind}: {row.get('message', '')}".rstrip(": ")
    return ""


class Log:
    """Prints what node 0 prints, in a thread of its own; a broken connection is taken up after the last line."""

    def __init__(self, jobs: Jobs, name: str) -> None:
        self.jobs, self.name = jobs, name
        self.thread: threading.Thread | None = None
        self.ended = threading.Event()

    def rest(self) -> None:
        """Wait for the last lines, but not for long, and end."""
        if self.thread and not self.ended.is_set():
            self.thread.join(LAST_LINES)
        self.ended.set()

    def follow(self, pod: str) -> None:
        """Begin with this pod, unless one is followed."""
        if pod and self.thread is None:
            self.thread = threading.Thread(target=self._read, args=(pod,), daemon=True)
            self.thread.start()

    def _read(self, pod: str) -> None:
        printed = 0
        while not self.ended.is_set():
            try:
                for number, line in enumerate(self.jobs.lines(pod)):
                    if number >= printed and not self.ended.is_set():
                        print(line, flush=True)
                        printed = number + 1
                if not self.jobs.running(pod):
                    return
            except Silent:
                pass
            except Refused as error:
                print(f"  warning: the log of {pod} cannot be read: {error}", flush=True)
                return
            self.ended.wait(POLL)
