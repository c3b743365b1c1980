"""A step's work in parts (a shard, a language), in several processes, restartable part by part.

Decision: a part is a module-level function that gets an empty folder and picklable arguments, writes its files there and
returns JSON. A finished part is one renamed folder under the step's resume state, so a killed step goes on with the parts
that are missing, and never sees half of one. Results come back in the order of the parts, whoever made them and when, so
the number of processes (`compute.threads`) changes nothing but time. A step with one process or one part stays in its own.
Where several workers share the step (share.py) a part is finished when it is in the store, whoever made it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmenc import executors
from mmenc.artifact import Json, atomic_directory, clear_stale, read_json, replace_json, write_json
from mmenc.job import Job, disk_errors
from mmenc.progress import bar
from mmenc.share import LISTED, RESULT, Meeting, files_of, listed

Function = Callable[..., Json]


class Parts:
    """The finished parts of one stage of a step; `folder(key)` holds a part's files until the step takes them.

    `last`: the step only puts together what comes after this stage, which a worker that helps does not.
    """

    def __init__(self, job: Job, stage: str, *, last: bool = False) -> None:
        self.job, self.stage, self.final = job, stage, last
        base = job.resume / "parts"
        parents = sorted((asdict(p) for p in job.request.parents), key=lambda p: str(p["role"]))
        if base.exists() and (not (base / "parents.json").exists() or read_json(base / "parents.json") != parents):
            shutil.rmtree(base)  # an input was made anew meanwhile, with other content under the same digest
        if not base.exists():
            replace_json(base / "parents.json", parents)
        self.root = base / stage

    def folder(self, key: str) -> Path:
        """Where the files of a finished part lie."""
        return self.root / key

    def size(self, path: Path) -> int:
        """Bytes of a file of a finished part, wherever it lies."""
        if path.exists():
            return path.stat().st_size
        folder = self.folder(path.relative_to(self.root).parts[0])
        return int(listed(folder)[path.relative_to(folder).as_posix()]["bytes"])

    def run(self, function: Function, parts: Mapping[str, tuple[Any, ...]]) -> dict[str, Json]:
        """Call `function(folder, *arguments)` for every part that is not finished; return all results in the order given."""
        meeting = self.job.meeting
        done = meeting.there(self.stage) if meeting else {k for k in parts if (self.folder(k) / RESULT).is_file()}
        order = meeting.share.order(list(parts)) if meeting else parts
        missing = {k: (self.folder(k), function, parts[k], meeting) for k in order if k not in done}
        if len(missing) < len(parts):
            self.job.say(f"{self.stage}: {len(parts) - len(missing)} of {len(parts)} parts are there from before")
        with bar(self.stage, len(parts), "parts") as shown, self._tidied(missing), closing(self._executed(missing)) as made:
            shown.advance(len(parts) - len(missing))
            for key in made:
                shown.advance(1, key)
        if meeting:
            self._meet(meeting, list(parts), list(missing))
        return {k: self._result(k) for k in parts}

    @contextmanager
    def _tidied(self, keys: Iterable[str]) -> Iterator[None]:
        """Remove half parts of a step that was killed before, and afterwards of workers that were ended because one failed."""
        folders = {self.folder(k).parent for k in keys}
        for folder in folders:
            clear_stale(folder)
        try:
            yield
        finally:
            for folder in folders:
                clear_stale(folder)

    def _result(self, key: str) -> Json:
        own, other = self.folder(key) / RESULT, self.folder(key) / LISTED
        found: Json = read_json(own) if own.is_file() else read_json(other)["result"]
        return found

    def _meet(self, meeting: Meeting, parts: list[str], missing: list[str]) -> None:
        """All parts are in the store now: learn what others returned; say and record how many were made here."""
        made = sum((self.folder(k) / RESULT).is_file() for k in missing)
        self.job.measured.setdefault("parts", {})[self.stage] = {"made": made, "of": len(parts)}
        self.job.say(f"{self.stage}: {made} of {len(parts)} parts made here")
        folders = [self.folder(k) for k in parts]
        meeting.collect(folders)
        if self.final:
            meeting.last(folders)

    def take(self, key: str, into: Path) -> None:
        """Give the files of a finished part to a folder of the artifact; the part keeps them until the step has succeeded."""
        for name in files_of(self.folder(key)):
            self.link(self.folder(key) / name, into / name)

    def link(self, path: Path, target: Path) -> None:
        """Give one file of a part to the artifact, as a hard link: a step that is killed now must find its parts whole again."""
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:  # another file system
            shutil.copyfile(path, target)

    def _executed(self, calls: executors.Calls) -> Generator[str]:
        """Run the calls by what `compute.executor` names; yield their keys as they are done."""
        step, compute = self.job.step.name, self.job.recipe.compute
        if compute.executor == "ray" and calls:
            return executors.ray_tasks(step, _make, calls, compute.threads, compute.ray_address)
        count = min(compute.threads, len(calls))
        return executors.here(_make, calls) if count < 2 else executors.processes(step, _make, calls, count)


def _make(folder: Path, function: Function, arguments: tuple[Any, ...], meeting: Meeting | None) -> None:
    with disk_errors(folder):
        if meeting and meeting.has(folder):
            return
        if not (folder / RESULT).is_file():  # it may be here already, from a worker that was killed before it gave it away
            if meeting:
                meeting.bring(arguments)
            with atomic_directory(folder, clear=False) as work:
                result = function(work, *arguments)
                write_json(work / RESULT, result)
        if meeting:
            meeting.give(folder)
