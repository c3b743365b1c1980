"""OpenLineage: each step that runs says START, then COMPLETE, FAIL or ABORT, in the form of the specification (2-0-2).

Decisions: events are plain JSON, written line by line to `.runs/<digest>/openlineage.jsonl`, so the default needs no library, no
endpoint and no configuration. Where OpenLineage's own settings are there (OPENLINEAGE_URL, OPENLINEAGE_CONFIG,
OPENLINEAGE__…, openlineage.yml), its client (the extra `lineage`, 0.4 MB) sends them too, over whatever transport they name. That
runs in a thread beside the step: an endpoint that is dead or slow costs LIMIT seconds at the step's end at most and one warning
line, and never a result. Nothing of it reaches an artifact. A dataset is an artifact's place (`train/extend`), its version the
content; raw data is one dataset with the hash of all its inputs as version. What is up to date makes no event: nothing ran.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from queue import SimpleQueue

from mmenc.artifact import Artifact, Json, Manifest, Request
from mmenc.errors import Stopped
from mmenc.facets import counts, dataset, facet, file_uri, own, place_of, producer, raw_dataset
from mmenc.steps import Step

LIMIT = 3.0
"""Seconds that the end of a step waits for an endpoint."""
FILE = "openlineage.jsonl"
SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"


@contextmanager
def _harmless(kind: str) -> Iterator[None]:
    """Whatever is wrong with an event, the step goes on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        print(f"  warning: no OpenLineage event {kind} of this step ({type(error).__name__}: {error})", flush=True)


@dataclass
class Events:
    """The events of one run of a step."""

    step: Step
    request: Request
    inputs: Sequence[Artifact]
    path: Path
    """Where they are written: a line each."""
    sender: Sender | None = None
    run: str = field(default_factory=lambda: str(uuid.uuid4()))
    namespace: str = field(default_factory=lambda: os.environ.get("OPENLINEAGE_NAMESPACE") or "mmenc")

    def start(self) -> None:
        """Say that the step begins."""
        with _harmless("START"):
            self.sender = Sender() if configured() else None
            self._emit("START", {}, [])

    def complete(self, manifest: Manifest, out: Path) -> None:
        """Say what came out."""
        with _harmless("COMPLETE"):
            made = self._dataset(manifest, out)
            known = counts(manifest, out)
            statistics = {k: known[k] for k in ("rowCount", "fileCount") if k in known} | {"size": known.get("bytes", 0)}
            made["outputFacets"] = {"outputStatistics": facet("OutputStatisticsOutputDatasetFacet", **statistics)}
            self._emit("COMPLETE", {}, [made], manifest)
            self._end()

    def fail(self, error: BaseException) -> None:
        """Say that it did not end well: ABORT when a person or the cluster stopped it."""
        with _harmless("FAIL"):
            stopped = isinstance(error, Stopped | KeyboardInterrupt) or type(error).__name__ == "Interrupt"
            message = str(error) or type(error).__name__
            facets = {"errorMessage": facet("ErrorMessageRunFacet", message=message, programmingLanguage="Python")}
            self._emit("ABORT" if stopped else "FAIL", facets, [])
            self._end()

    def _emit(self, kind: str, facets: Json, outputs: list[Json], made: Manifest | None = None) -> None:
        event = {
            "eventType": kind,
            "eventTime": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "producer": producer(),
            "schemaURL": SPEC,
            "run": {"runId": self.run, "facets": self._run_facets() | facets},
            "job": {
                "namespace": self.namespace,
                "name": f"{self.step.name}.{self.request.name}".rstrip("."),
                "facets": self._job(),
            },
            "inputs": self._inputs(made),
            "outputs": outputs,
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(event, ensure_ascii=False, sort_keys=True) + "\n")
        except OSError as error:
            print(f"  warning: {self.path}: the event {kind} could not be written ({error.strerror})", flush=True)
        if self.sender:
            self.sender.events.put(event)

    def _end(self) -> None:
        if self.sender and (problem := self.sender.finish()):
            print(
                f"  warning: the OpenLineage endpoint did not take the step's events ({problem}); {self.path} has them",
                flush=True,
            )

    def _run_facets(self) -> Json:
        request = self.request
        parents = [{"role": p.role, "digest": p.digest, "content": p.content} for p in request.parents]
        values = {"digest": request.digest, "stepVersion": request.version, "config": request.config, "parents": parents}
        found = {
            "mmenc_step": own("step", step=request.step, name=request.name, **values, inputs=len(request.inputs)),
            "processing_engine": facet("ProcessingEngineRunFacet", version=package_version("mmenc"), name="mmenc"),
        }
        # As OpenLineage's other integrations take it from who starts them: NAMESPACE/JOB/RUN.
        namespace, _, rest = os.environ.get("OPENLINEAGE_PARENT_ID", "").partition("/")
        job, _, run = rest.rpartition("/")
        if namespace and job and _is_uuid(run):
            found["parent"] = facet("ParentRunFacet", run={"runId": run}, job={"namespace": namespace, "name": job})
        return found

    def _job(self) -> Json:
        return {
            "jobType": facet("JobTypeJobFacet", processingType="BATCH", integration="MMENC", jobType="STEP"),
            "documentation": facet(
                "DocumentationJobFacet", description=f"mmenc step {self.step.name}, version {self.step.version}"
            ),
        }

    def _dataset(self, manifest: Manifest, path: Path) -> Json:
        uri = manifest.external[0]["uri"].rpartition("/objects/")[0] if manifest.external else file_uri(path.as_posix())
        return dataset(manifest, place_of(manifest.step, manifest.name), self.namespace, uri)

    def _inputs(self, made: Manifest | None) -> list[Json]:
        found = []
        for artifact in self.inputs:
            row = self._dataset(artifact.manifest, artifact.path)
            quality = facet("DataQualityMetricsInputDatasetFacet", columnMetrics={}, **counts(artifact.manifest))
            row["inputFacets"] = {"dataQualityMetrics": quality}
            if made and made.step == "validate" and artifact.manifest.step == "clean":
                gate = [{"assertion": "gate", "success": bool(made.facts["ok"])}]
                row["inputFacets"]["dataQualityAssertions"] = facet("DataQualityAssertionsDatasetFacet", assertions=gate)
            found.append(row)
        return found + ([raw_dataset(self.request)] if self.request.inputs else [])


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def configured() -> bool:
    """Whether OpenLineage's client finds a transport in its usual places."""
    if os.environ.get("OPENLINEAGE_DISABLED", "").lower() == "true":
        return False
    named = any(os.environ.get(k) for k in ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG"))
    files = (Path("openlineage.yml"), Path.home() / ".openlineage" / "openlineage.yml")
    return named or any(k.startswith("OPENLINEAGE__TRANSPORT") for k in os.environ) or any(p.is_file() for p in files)


class Sender(threading.Thread):
    """Sends events through OpenLineage's client, beside the step."""

    def __init__(self) -> None:
        super().__init__(daemon=True, name="openlineage")
        self.events: SimpleQueue[Json | None] = SimpleQueue()
        self.problem = ""
        self.start()

    def run(self) -> None:
        """Send until the end is put into the queue; after the first failure only wait for it."""
        try:
            from openlineage.client import OpenLineageClient, event_v2

            for name in ("openlineage", "urllib3.connectionpool"):
                logging.getLogger(name).setLevel(logging.CRITICAL)  # what failed is said once, by us
            client = OpenLineageClient()
            while (event := self.events.get()) is not None:
                run = event_v2.Run(**event["run"])
                inputs = [event_v2.InputDataset(**row) for row in event["inputs"]]
                outputs = [event_v2.OutputDataset(**row) for row in event["outputs"]]
                kind, job = event_v2.RunState[event["eventType"]], event_v2.Job(**event["job"])
                common = {"eventTime": event["eventTime"], "producer": event["producer"]}
                client.emit(event_v2.RunEvent(eventType=kind, run=run, job=job, inputs=inputs, outputs=outputs, **common))
            client.close(LIMIT)
        except ModuleNotFoundError as error:
            self.problem = f"{error.name} is not installed: pip install 'mmenc[lineage]'"
        except Exception as error:  # noqa: BLE001 (whatever a transport raises, the step goes on)
            self.problem = f"{type(error).__name__}: {error}"[:200]

    def finish(self) -> str:
        """Wait a little for what is on its way; what went wrong, or an empty string."""
        self.events.put(None)
        self.join(LIMIT)
        return self.problem or (f"no answer in {LIMIT:g} seconds" if self.is_alive() else "")
