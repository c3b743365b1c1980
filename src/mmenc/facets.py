"""Facets of OpenLineage: what events.py says of artifacts, raw data and their figures.

Decision: plain JSON under the names and versions of the specification's facets (the test compares each with the classes of
OpenLineage's own client), and two of ours: `mmenc_step` on a run, `mmenc_artifact` on a dataset (docs/lineage.md). All is taken
from manifests, so it is as deterministic as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mmenc.artifact import Json, Manifest, Request, sha256_json
from mmenc.steps import TABLE

FACETS = "https://openlineage.io/spec/facets"
VERSIONS = {
    "DataQualityAssertionsDatasetFacet": "1-1-0",
    "DataQualityMetricsInputDatasetFacet": "1-0-3",
    "DatasetVersionDatasetFacet": "1-0-1",
    "DatasourceDatasetFacet": "1-0-1",
    "DocumentationJobFacet": "1-1-0",
    "ErrorMessageRunFacet": "1-0-1",
    "JobTypeJobFacet": "2-0-4",
    "OutputStatisticsOutputDatasetFacet": "1-0-2",
    "ParentRunFacet": "1-2-0",
    "ProcessingEngineRunFacet": "1-1-1",
    "SchemaDatasetFacet": "1-2-0",
}
DOCUMENT = {"id": "string", "text": "string", "source": "string", "license": "string", "group": "string"}
TOKENS = {"tokens": "uint16 or uint32", "offsets": "int64", "index": "json"}
WEIGHTS = {"model.safetensors": "tensors", "config.json": "json"}
SCHEMAS: dict[str, dict[str, str]] = {
    "ingest": DOCUMENT,
    "clean": DOCUMENT,
    "validate": {"verdict": "json", "statistics": "json"},
    "tokenizer": {"tokenizer.json": "json", "fertility": "json"},
    "tokenize": TOKENS,
    "init": WEIGHTS,
    "mixture": {"language": "string", "tokens": "int64", "share": "double", "epochs": "double", "available": "int64"},
    "train": WEIGHTS | {"optimizer.safetensors": "tensors", "state": "json"},
    "merge": WEIGHTS,
    "evaluate": dict.fromkeys(("model", "task", "split", "language", "tier", "metric"), "string")
    | {"mean": "double", "n": "int64"},
    "release": WEIGHTS | {"tokenizer.json": "json"},
    "report": {"report.html": "html"},
}
"""Fields of what a step writes."""


def producer() -> str:
    """Who made an event or facet, as a URI."""
    return f"urn:mmenc:{package_version('mmenc')}"


def file_uri(path: str) -> str:
    """A path of this machine as a URI: a folder's name may hold spaces and letters that a URI may not."""
    return f"file:{quote(path)}"


def facet(kind: str, **values: Any) -> Json:
    """A facet of the specification."""
    return {"_producer": producer(), "_schemaURL": f"{FACETS}/{VERSIONS[kind]}/{kind}.json#/$defs/{kind}", **values}


def own(kind: str, **values: Any) -> Json:
    """A facet of ours (docs/lineage.md)."""
    return {"_producer": producer(), "_schemaURL": f"urn:mmenc:facets:{kind}:1", **values}


def counts(manifest: Manifest, folder: Path | None = None) -> dict[str, int]:
    """Documents, bytes of text and files of an artifact, as far as its facts say."""
    total = manifest.facts.get("total", {})
    found = {"fileCount": len(manifest.files) + len(manifest.external)}
    if manifest.step in ("ingest", "clean"):
        found |= {"rowCount": total["kept" if manifest.step == "clean" else "documents"], "bytes": total["bytes"]}
    elif manifest.step == "tokenize":
        rows = [split for row in manifest.facts["folders"].values() for split in row.values()]
        found |= {"rowCount": sum(r["documents"] for r in rows), "bytes": sum(r["bytes"] for r in rows)}
    elif folder is not None:
        sizes = [(folder / name).stat().st_size for name in manifest.files if (folder / name).is_file()]
        found["bytes"] = sum(sizes) + sum(e["bytes"] for e in manifest.external)
    return found


def headline(facts: Mapping[str, Any], most: int = 32) -> dict[str, float]:
    """The first plain figures of a step's facts."""
    from mmenc.kubeflow import figures

    return dict(list(figures(facts).items())[:most])


def dataset(manifest: Manifest, place: str, namespace: str, uri: str) -> Json:
    """What is said of an artifact, as an input or an output."""
    fields = [{"name": name, "type": kind} for name, kind in SCHEMAS.get(manifest.step, {}).items()]
    names = {key: getattr(manifest, key) for key in ("step", "name", "digest", "content")}
    facets = {
        "version": facet("DatasetVersionDatasetFacet", datasetVersion=manifest.content),
        "dataSource": facet("DatasourceDatasetFacet", name=namespace, uri=uri),
        "schema": facet("SchemaDatasetFacet", fields=fields),
        "mmenc_artifact": own("artifact", **names, stepVersion=manifest.version, facts=headline(manifest.facts)),
    }
    return {"namespace": namespace, "name": place, "facets": facets}


def place_of(step: str, name: str) -> str:
    """Where an artifact lies below `artifacts/`, which is its dataset's name."""
    return TABLE[step].folder.format(name=name) if step in TABLE else f"{step}/{name}".strip("/")


def _root(request: Request) -> str:
    """What a step's raw inputs are called: the root of ingest, or its first parameter that names a file."""
    if request.step == "ingest":
        return str(request.config["ingest"]["root"])
    return request.inputs[0]["path"].split("/")[0] if request.inputs else ""


def raw_dataset(request: Request) -> Json:
    """All raw inputs of a step as one dataset; ten million files would be ten million datasets otherwise."""
    root = _root(request)
    scheme, _, rest = root.partition("://")
    bucket, _, name = rest.partition("/")
    facets = {
        "version": facet("DatasetVersionDatasetFacet", datasetVersion=sha256_json(list(request.inputs))),
        "dataSource": facet("DatasourceDatasetFacet", name=root, uri=quote(root, safe=":/%") if rest else file_uri(root)),
    }
    quality = facet("DataQualityMetricsInputDatasetFacet", fileCount=len(request.inputs), columnMetrics={})
    place = {"namespace": f"{scheme}://{bucket}", "name": name or "/"} if rest else {"namespace": "file", "name": root}
    return {**place, "facets": facets, "inputFacets": {"dataQualityMetrics": quality}}
