"""OpenLineage: what a run wrote is valid, hangs together, reaches an endpoint, and a dead endpoint hurts nobody."""

from __future__ import annotations

import json
import re
import shutil
import socket
import threading
import time
import uuid
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import attr
import pytest

from mmenc.artifact import Manifest, read_json
from mmenc.cli import main
from mmenc.events import LIMIT
from mmenc.facets import file_uri
from mmenc.kubeflow import describe

FACETS = {
    "version": "dataset_version_dataset.DatasetVersionDatasetFacet",
    "dataSource": "datasource_dataset.DatasourceDatasetFacet",
    "schema": "schema_dataset.SchemaDatasetFacet",
    "dataQualityMetrics": "data_quality_metrics_input_dataset.DataQualityMetricsInputDatasetFacet",
    "dataQualityAssertions": "data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet",
    "outputStatistics": "output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet",
    "processing_engine": "processing_engine_run.ProcessingEngineRunFacet",
    "errorMessage": "error_message_run.ErrorMessageRunFacet",
    "parent": "parent_run.ParentRunFacet",
    "jobType": "job_type_job.JobTypeJobFacet",
    "documentation": "documentation_job.DocumentationJobFacet",
}
URI = re.compile(r"^[a-z][a-z0-9+.-]*:\S+$")


def events_of(folder: Path) -> list[dict]:
    rows = [json.loads(x) for p in sorted(folder.glob("artifacts/.runs/*/openlineage.jsonl")) for x in p.read_text().splitlines()]
    return sorted(rows, key=lambda e: e["eventTime"])


def check_facet(name: str, facet: dict) -> None:
    """As the specification has it: the classes of OpenLineage's client are generated from it, field by field."""
    assert URI.match(facet["_producer"])
    assert URI.match(facet["_schemaURL"])
    if name.startswith("mmenc_"):
        return
    module, kind = FACETS[name].split(".")
    cls = getattr(pytest.importorskip(f"openlineage.client.generated.{module}"), kind)
    body = {k: v for k, v in facet.items() if not k.startswith("_")}
    assert facet["_schemaURL"] == cls(**body)._get_schema(), f"{name}: another version than the client's"
    kinds = {"str": str, "int": int, "float": int | float, "bool": bool}
    for field in attr.fields(cls):
        wanted = kinds.get(str(field.type).split(" | ")[0])
        assert field.name not in body or wanted is None or isinstance(body[field.name], wanted), f"{name}.{field.name}"


def check_event(event: dict) -> None:
    from openlineage.client import event_v2

    assert set(event) == {"eventType", "eventTime", "producer", "schemaURL", "run", "job", "inputs", "outputs"}
    assert event["eventType"] in event_v2.RunState.__members__
    assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
    assert event["schemaURL"] == event_v2.RunEvent._get_schema()
    assert URI.match(event["producer"])
    assert str(uuid.UUID(event["run"]["runId"])) == event["run"]["runId"]
    for part, key in ((event["run"], "facets"), (event["job"], "facets")):
        for name, facet in part[key].items():
            check_facet(name, facet)
    for side, kind in (("inputs", event_v2.InputDataset), ("outputs", event_v2.OutputDataset)):
        for row in event[side]:
            kind(**row)
            assert row["namespace"]
            assert row["name"]
            if source := row["facets"].get("dataSource"):
                assert URI.match(source["uri"])
            for name, facet in {**row["facets"], **row.get("inputFacets", {}), **row.get("outputFacets", {})}.items():
                check_facet(name, facet)


def test_every_step_says_start_and_complete_and_all_is_valid(finished: Path):
    events = events_of(finished)
    manifests = [json.loads(p.read_text()) for p in sorted((finished / "artifacts").rglob("manifest.json"))]
    for event in events:
        check_event(event)
    by_run: dict[str, list[str]] = {}
    for event in events:
        by_run.setdefault(event["run"]["runId"], []).append(event["eventType"])
    assert list(by_run.values()) == [["START", "COMPLETE"]] * len(manifests)
    done = [e for e in events if e["eventType"] == "COMPLETE"]
    made = {(e["outputs"][0]["name"], e["outputs"][0]["facets"]["version"]["datasetVersion"]) for e in done}
    assert {content for _, content in made} == {m["content"] for m in manifests}
    # A consumer joins runs by name and version of the data sets between them.
    read = {(i["name"], i["facets"]["version"]["datasetVersion"]) for e in done for i in e["inputs"] if i["namespace"] == "mmenc"}
    assert read <= made
    assert {e["run"]["facets"]["mmenc_step"]["digest"] for e in done} == {m["digest"] for m in manifests}
    validate = next(e for e in done if e["job"]["name"] == "validate")
    assert validate["inputs"][0]["inputFacets"]["dataQualityAssertions"]["assertions"] == [{"assertion": "gate", "success": True}]
    ingest = next(e for e in done if e["job"]["name"] == "ingest")
    assert [(i["namespace"], i["name"]) for i in ingest["inputs"]] == [("file", "data")]
    assert (
        ingest["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"]
        == manifests_of(manifests, "ingest")["total"]["documents"]
    )


def manifests_of(manifests: list[dict], step: str) -> dict:
    return next(m["facts"] for m in manifests if m["step"] == step)


def test_a_failure_is_an_event_too(finished: Path, tmp_path: Path, monkeypatch, capsys):
    folder = shutil.copytree(finished, tmp_path / "w", ignore=shutil.ignore_patterns(".runs", "mixture"))
    recipe = read_json(folder / "params.yaml")
    recipe["phases"]["extend"]["tokens"] = 10**9
    (folder / "params.yaml").write_text(json.dumps(recipe))
    monkeypatch.chdir(folder)
    run, parent = str(uuid.uuid4()), "airflow/nightly/pretrain"
    monkeypatch.setenv("OPENLINEAGE_PARENT_ID", f"{parent}/{run}")
    assert main(["run", "mixture", "--name", "extend", "--out", "artifacts/mixture/extend", "tokens=artifacts/tokenize"]) == 1
    start, fail = events_of(folder)
    for event in (start, fail):
        check_event(event)
        assert event["run"]["facets"]["parent"]["job"] == {"namespace": "airflow", "name": "nightly/pretrain"}
        assert event["run"]["facets"]["parent"]["run"] == {"runId": run}
    assert (start["eventType"], fail["eventType"], fail["outputs"]) == ("START", "FAIL", [])
    message = fail["run"]["facets"]["errorMessage"]["message"]
    assert message.startswith("phases.extend.tokens")
    assert message in capsys.readouterr().err


class Endpoint(BaseHTTPRequestHandler):
    """Takes events as a server of OpenLineage does."""

    got: list[dict] = []  # noqa: RUF012

    def do_POST(self) -> None:
        self.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(201)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def rerun_mixture(folder: Path, monkeypatch) -> int:
    shutil.rmtree(folder / "artifacts/mixture/extend", ignore_errors=True)
    monkeypatch.chdir(folder)
    return main(["run", "mixture", "--name", "extend", "--out", "artifacts/mixture/extend", "tokens=artifacts/tokenize"])


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "w", ignore=shutil.ignore_patterns(".runs", "evaluate"))


def test_an_endpoint_gets_what_the_file_has(folder: Path, monkeypatch, capsys):
    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{server.server_port}")
        assert rerun_mixture(folder, monkeypatch) == 0
        server.shutdown()
    # The client adds a facet or two of its own (tags).
    sent = [{k: e[k] for k in ("eventType", "eventTime", "inputs", "outputs", "producer", "schemaURL")} for e in Endpoint.got]
    kept = [{k: e[k] for k in sent[0]} for e in events_of(folder)]
    assert len(kept) == 2
    assert [drop_empty(e) for e in sent] == [drop_empty(e) for e in kept]
    assert all(
        e["run"]["facets"]["mmenc_step"] == kept_["run"]["facets"]["mmenc_step"]
        for e, kept_ in zip(Endpoint.got, events_of(folder), strict=True)
    )
    assert "warning" not in capsys.readouterr().out


def drop_empty(value):
    """The client leaves out empty facets."""
    if isinstance(value, dict):
        return {k: v for k, inner in value.items() if (v := drop_empty(inner)) not in ({}, None)}
    return [drop_empty(v) for v in value] if isinstance(value, list) else value


def test_a_dead_endpoint_costs_a_line_and_seconds(folder: Path, finished: Path, monkeypatch, capsys):
    with socket.socket() as silent:  # takes connections, answers nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        assert rerun_mixture(folder, monkeypatch) == 0
        assert time.monotonic() - started < LIMIT + 5
    captured = capsys.readouterr()
    warnings = [line for line in captured.out.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "no answer in 3 seconds" in warnings[0]
    assert captured.err == ""
    assert len(events_of(folder)) == 2
    made = [Manifest.read(f / "artifacts/mixture/extend") for f in (folder, finished)]
    assert made[0] == made[1]


def test_kubeflow_shows_the_same(finished: Path):
    manifest = Manifest.read(finished / "artifacts/train/extend")
    event = next(e for e in events_of(finished) if e["eventType"] == "COMPLETE" and e["job"]["name"] == "train.extend")
    shown, said = describe(manifest), event["outputs"][0]["facets"]["mmenc_artifact"]
    assert (shown["digest"], shown["content"], shown["figures"]) == (said["digest"], said["content"], said["facts"])
    parents = {p["role"]: (p["digest"], p["content"]) for p in event["run"]["facets"]["mmenc_step"]["parents"]}
    assert {k[7:]: (v["digest"], v["content"]) for k, v in shown.items() if k.startswith("parent.")} == parents
    assert len(json.dumps(shown)) < 8_000, "all metadata travels on a command line"


def test_places_with_spaces_and_letters_beyond_ascii_are_uris_too():
    assert file_uri("/data/my corpus/føroyskt#1") == "file:/data/my%20corpus/f%C3%B8royskt%231"
