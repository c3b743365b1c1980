"""Lineage: from an artifact alone to every step, parent and raw file that it descends from, as a tree, JSON or a page.

Decision: `lineage.json` travels with an artifact, so the tree, the page (web.py) and the comparison of two models (against.py)
need nothing else; verification (verify.py) also looks at what lies beside it: ancestors below the same `artifacts/`, objects of
the store, raw files below the recipe's `ingest.root`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mmenc.artifact import Artifact, Json
from mmenc.errors import Refused

__all__ = ["describe", "label", "manifests_of", "show", "sources_of", "tree_lines"]
SHOWN = 40
"""Raw files in the text; `--json` has all."""


def manifests_of(artifact: Artifact) -> dict[str, Json]:
    """Manifests of all ancestors and of the artifact itself, by digest."""
    return {**artifact.lineage, artifact.manifest.digest: artifact.manifest.json()}


def label(manifest: Json) -> str:
    """What a person calls a node: `train extend`."""
    return f"{manifest['step']} {manifest['name']}".strip()


def describe(artifact: Artifact) -> Json:
    """`{root, nodes, sources, broken}` of the contract, nothing verified yet."""
    manifests = manifests_of(artifact)
    nodes = {
        digest: {"step": m["step"], "name": m["name"], "content": m["content"], "parents": [_parent(p) for p in m["parents"]]}
        for digest, m in sorted(manifests.items())
    }
    sources = [row for m in manifests.values() for row in sources_of(m)]
    return {"root": artifact.manifest.digest, "nodes": nodes, "sources": sources, "broken": []}


def sources_of(manifest: Json) -> list[Json]:
    """Raw files of an ingest with their hashes; nothing for any other step."""
    if manifest["step"] != "ingest":
        return []
    hashes = {i["path"]: i.get("sha256", "") for i in manifest["inputs"]}
    return [{**s, "sha256": s.get("sha256") or hashes.get(s["path"], "")} for s in manifest["facts"].get("sources", [])]


def _parent(parent: Json) -> Json:
    return {"role": parent["role"], "digest": parent["digest"]}


def tree_lines(data: Json) -> list[str]:
    """Lines of the tree from the root artifact to the raw data; a node that was shown before is not unfolded again."""
    lines: list[str] = []
    seen: set[str] = set()

    def walk(digest: str, role: str, depth: int) -> None:
        if digest not in data["nodes"]:
            lines.append(f"{'   ' * depth}{role}: {digest[:12]}  (its manifest is missing from lineage.json)")
            return
        node = data["nodes"][digest]
        again = digest in seen and node["parents"]
        shown = f"{label(node)}  {digest[:12]}{'  (above)' if again else ''}"
        lines.append(f"{'   ' * depth}{role + ': ' if role else ''}{shown}")
        if digest not in seen:
            seen.add(digest)
            for parent in node["parents"]:
                walk(parent["digest"], parent["role"], depth + 1)

    walk(data["root"], "", 0)
    return lines


def _read(path: Path) -> Artifact:
    if path.is_file():
        raise Refused(f"{path}: is a file; expected the directory of a finished artifact")
    return Artifact.read(path, verify=False)


def _print_tree(data: Json) -> None:
    print("\n".join(tree_lines(data)))
    print(f"\n{len(data['sources'])} raw files of {len({s['language'] for s in data['sources']})} languages:")
    for s in data["sources"][:SHOWN]:
        print(f"  {s['path']:42} {s['sha256'][:16]} {s['documents']:6} documents {s['bytes']:10,} bytes  {s['license']}")
    if len(data["sources"]) > SHOWN:
        print(f"  … and {len(data['sources']) - SHOWN} more; --json lists all")


def show(path: Path, *, verify: bool, as_json: bool, html: Path | None = None, against: Path | None = None) -> None:
    """Print (or write) the lineage of an artifact; Refused (exit 1) when something is broken."""
    artifact = _read(path)
    other = _read(against) if against else None
    data = describe(artifact)
    skipped: list[str] = []
    if verify:
        from mmenc.lineage.verify import find_broken

        data["broken"], skipped = find_broken(artifact)
    if html:
        from mmenc.lineage.web import write_page

        print(write_page(html, artifact, other, data["broken"] if verify else None))
    if as_json:
        json.dump(data, sys.stdout, ensure_ascii=False, indent=1)
        print()
    elif other and not html:
        from mmenc.lineage.against import lines

        print("\n".join(lines(artifact, other)))
    elif not html:
        _print_tree(data)
    if verify and not as_json:
        for row in data["broken"]:
            print(f"broken: {row['path']}: {row['reason']}")
        for line in skipped:
            print(f"not checked: {line}")
        if not data["broken"]:
            print("every hash that can be reached is right")
    if data["broken"]:
        first = data["broken"][0]
        raise Refused(f"{first['path']}: {first['reason']} ({len(data['broken'])} broken)")
