"""What a launcher and the pods of its TrainJob hand each other: files in the store, below `resume/<digest>/nodes`.

Decision: pods see no artifacts of Kubeflow, only the store. The launcher writes what is asked for and the manifests of the
inputs, whose files lie in the store as objects anyway; each pod brings what it needs. Node 0 writes the checkpoint back the same
way, as objects under their hash, so that the launcher's artifact finds its large files there already and uploads none. All of
it goes with the resume state when the step is finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from mmenc.artifact import Artifact, Json, Manifest, Parent, payload, sha256_file, write_json
from mmenc.errors import Refused
from mmenc.external import Cache
from mmenc.job import Job
from mmenc.resume import Mirror, request_of
from mmenc.steps import find
from mmenc.store import Changed, Store, object_key
from mmenc.train.launch import FOLDER
from mmenc.train.task import recipe_of, sections

SPEC, RESULT, REFUSAL = "spec.json", "result.json", "refusal.json"


@dataclass(frozen=True)
class Exchange:
    """The place in the store where everybody who works on one digest looks."""

    store: Store
    digest: str

    def key(self, name: str) -> str:
        """Key of one of its files."""
        return f"resume/{self.digest}/nodes/{name}"

    def read(self, name: str) -> Any:
        """One of its JSON files; None if there is none."""
        return self.store.read_json(self.key(name))[0]

    def publish(self, job: Job) -> None:
        """Write what is asked for, and see that every input can be brought from the store."""
        for artifact in job.inputs.values():
            self._give(artifact.path, artifact.manifest.files)
        spec = {
            "request": asdict(job.request),
            "recipe": sections(job.recipe, job.name),
            "inputs": {role: artifact.manifest.json() for role, artifact in job.inputs.items()},
        }
        self.store.remove(self.key(REFUSAL))
        self.store.put_json(self.key(SPEC), spec)

    def _give(self, folder: Path, files: Mapping[str, str]) -> None:
        self.store.each(lambda item: self.store.put_object(folder / item[0], item[1]), files.items())

    def _bring(self, path: Path, sha256: str) -> None:
        self.store.fetch(object_key(sha256), path)
        if sha256_file(path) != sha256:
            raise Refused(f"{self.store.uri(object_key(sha256))}: is damaged; delete this object and the artifact that lists it")

    def bring(self, folder: Path, cache: Path) -> Job:
        """The job, in a pod: inputs in `folder`, what they leave to the store fetched into `cache` when it is opened."""
        spec = self.read(SPEC)
        if spec is None:
            raise Refused(f"{self.store.uri(self.key(SPEC))}: is not there; expected what the launcher of this TrainJob wrote")
        request = request_of(spec["request"])
        recipe, step = recipe_of(spec["recipe"], request.name), find(f"train@{request.version}")
        fetched = Cache(cache, recipe.compute.store_patience)
        inputs = {role: self._input(folder / "inputs" / role, plain, fetched) for role, plain in spec["inputs"].items()}
        (out := folder / "out").mkdir(parents=True, exist_ok=True)
        job = Job(step, request.name, recipe, inputs, {}, [], out, folder / ".resume" / self.digest, request, cache=cache)
        job.mirror = Mirror(self.store, request, job.resume)
        return job

    def _input(self, folder: Path, plain: Json, cache: Cache) -> Artifact:
        manifest = Manifest(**{**plain, "parents": [Parent(**p) for p in plain["parents"]]})
        self.store.each(lambda item: self._bring(folder / item[0], item[1]), manifest.files.items())
        write_json(folder / "manifest.json", plain)
        write_json(folder / "lineage.json", {})  # training asks for no ancestors
        return Artifact.read(folder, cache=cache)

    def deliver(self, job: Job, facts: Json, measured: Json) -> None:
        """Give the finished checkpoint and the log of its training to the store, its list last."""
        files = {n: sha256_file(job.out / n) for n in payload(job.out) if not n.startswith(f"{FOLDER}/")}
        self._give(job.out, files)
        log = payload(job.log) if job.log.is_dir() else []
        for name in log:
            self.store.put(job.log / name, self.key(f"log/{name}"))
        told = {"facts": facts, "measured": measured, "files": files, "log": log, "parents": _contents(job)}
        self.store.put_json(self.key(RESULT), told)

    def collect(self, job: Job) -> tuple[Json, Json] | None:
        """Fill `job.out` with the checkpoint and return (facts, what was measured); None if none of these inputs is there."""
        told = self.read(RESULT)
        if told is None or told["parents"] != _contents(job):
            return None
        self.store.each(lambda item: self._bring(job.out / item[0], item[1]), told["files"].items())
        for name in told["log"]:
            self.store.fetch(self.key(f"log/{name}"), job.log / name)
        return told["facts"], told["measured"]

    def refuse(self, sentence: str) -> None:
        """Tell the launcher that trying again will not help; the first to say so is heard."""
        try:
            self.store.put_json(self.key(REFUSAL), {"refused": sentence}, version="")
        except Changed:
            return

    def refused(self) -> str:
        """Why trying again will not help; empty if nobody said so."""
        return str((self.read(REFUSAL) or {}).get("refused", ""))

    def finished(self) -> bool:
        """Whether the artifact is in the store; another launcher's then, as ours would be here."""
        return self.store.size(f"finished/{self.digest}/manifest.json") is not None

    def saved(self) -> int:
        """The newest step whose state lies in the store; -1 if there is none."""
        found = self.store.read_json(f"resume/{self.digest}/current.json")[0]
        names = cast("Json", found or {"files": {}})["files"]
        return max((int(n.partition("/")[0]) for n in names if n.partition("/")[0].isdigit()), default=-1)


def _contents(job: Job) -> dict[str, str]:
    return {p.role: p.content for p in job.request.parents}
