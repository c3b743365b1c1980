"""Lineage: from an artifact alone to every step, parent and raw file that it descends from; `--verify` checks the hashes.

`lineage.json` travels with an artifact, so the tree needs nothing else; verification looks at what lies beside it
(ancestors below the same `artifacts/`, raw files below the recipe's `ingest.root`) and names what is changed or lost.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mmenc.artifact import Artifact, Json, Manifest, sha256_file
from mmenc.errors import Refused
from mmenc.store import open_store


def describe(artifact: Artifact) -> Json:
    """`{root, nodes, sources, broken}` of the contract, nothing verified yet."""
    manifests = {**artifact.lineage, artifact.manifest.digest: artifact.manifest.json()}
    nodes = {
        digest: {"step": m["step"], "name": m["name"], "content": m["content"], "parents": [_parent(p) for p in m["parents"]]}
        for digest, m in sorted(manifests.items())
    }
    sources: list[Json] = []
    for m in manifests.values():
        if m["step"] == "ingest":
            hashes = {i["path"]: i.get("sha256", "") for i in m["inputs"]}
            sources += [{**s, "sha256": s.get("sha256") or hashes[s["path"]]} for s in m["facts"]["sources"]]
    return {"root": artifact.manifest.digest, "nodes": nodes, "sources": sources, "broken": []}


def _parent(parent: Json) -> Json:
    return {"role": parent["role"], "digest": parent["digest"]}


def _root_of(path: Path) -> Path:
    """The nearest folder called `artifacts` above an artifact, else its parent."""
    return next((p for p in path.absolute().parents if p.name == "artifacts"), path.absolute().parent)


def find_broken(artifact: Artifact) -> list[Json]:
    """Every broken file: of the artifact, of its ancestors that lie beside it, of the raw files."""
    broken = [{"path": str(artifact.path / name), "reason": reason} for name, reason in artifact.broken()]
    broken += _broken_objects(artifact.manifest)
    root = _root_of(artifact.path)
    manifests = {**artifact.lineage, artifact.manifest.digest: artifact.manifest.json()}
    for path in sorted(root.rglob("manifest.json")):
        if any(part.startswith(".") for part in path.relative_to(root).parts) or path.parent == artifact.path.absolute():
            continue
        found = Manifest.read(path.parent)
        if found.digest not in artifact.lineage:
            continue
        expected = artifact.lineage[found.digest]["content"]
        if found.content != expected:
            broken.append(
                {
                    "path": str(path.parent),
                    "reason": f"content is {found.content[:12]}…, the descendant was made from {expected[:12]}…",
                }
            )
        broken += [{"path": str(path.parent / n), "reason": r} for n, r in Artifact(path.parent, found, {}).broken()]
        broken += _broken_objects(found)
    for m in manifests.values():
        if m["step"] == "ingest":
            raw = root.parent / m["config"]["ingest"]["root"]
            broken += _broken_raw(raw, m["inputs"]) if raw.is_dir() else []
    return broken


def _broken_objects(manifest: Manifest) -> list[Json]:
    """What the store owns of an artifact, read through and compared."""
    broken: list[Json] = []
    for row in manifest.external:
        store, key = open_store(row["uri"])
        try:
            if store.sha256(key) != row["sha256"]:
                broken.append({"path": row["uri"], "reason": f"is not what {row['path']} was: its sha256 differs"})
        except FileNotFoundError:
            broken.append({"path": row["uri"], "reason": f"is missing from the store ({row['path']})"})
    return broken


def _broken_raw(raw: Path, inputs: list[Json]) -> list[Json]:
    broken: list[Json] = []
    for item in inputs:
        path = raw / item["path"]
        if not path.is_file():
            broken.append({"path": item["path"], "reason": "is missing"})
        elif "sha256" in item and sha256_file(path) != item["sha256"]:
            broken.append({"path": item["path"], "reason": "was changed since it was ingested"})
    return broken


def tree_lines(data: Json) -> list[str]:
    """Lines of the tree from the root artifact to the raw data; a node that was shown before is not unfolded again."""
    lines: list[str] = []
    seen: set[str] = set()

    def walk(digest: str, role: str, depth: int) -> None:
        node = data["nodes"][digest]
        label = f"{node['step']} {node['name']}".strip()
        again = digest in seen and node["parents"]
        lines.append(f"{'   ' * depth}{role + ': ' if role else ''}{label}  {digest[:12]}{'  (above)' if again else ''}")
        if digest not in seen:
            seen.add(digest)
            for parent in node["parents"]:
                walk(parent["digest"], parent["role"], depth + 1)

    walk(data["root"], "", 0)
    return lines


def show(path: Path, *, verify: bool, as_json: bool) -> None:
    """Print the lineage of an artifact; Refused (exit 1) when something is broken."""
    if path.is_file():
        raise Refused(f"{path}: is a file; expected the directory of a finished artifact")
    artifact = Artifact.read(path, verify=False)
    data = describe(artifact)
    if verify:
        data["broken"] = find_broken(artifact)
    if as_json:
        json.dump(data, sys.stdout, ensure_ascii=False, indent=1)
        print()
    else:
        print("\n".join(tree_lines(data)))
        print(f"\n{len(data['sources'])} raw files of {len({s['language'] for s in data['sources']})} languages:")
        for s in data["sources"]:
            print(f"  {s['path']:42} {s['sha256'][:16]} {s['documents']:6} documents {s['bytes']:10,} bytes  {s['license']}")
        if verify:
            print("every hash that can be reached is right" if not data["broken"] else "")
    if data["broken"]:
        first = data["broken"][0]
        raise Refused(f"{first['path']}: {first['reason']} ({len(data['broken'])} broken)")
