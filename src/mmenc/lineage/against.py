"""What changed between two artifacts: their two chains of ancestors are walked in step, role by role.

Decision: a pair of artifacts with one digest and one content ends the walk, so the answer is where two models part, not all that
follows from it. Values of `phases.NAME` are compared under `phases.*`: two branches of one recipe are compared by their
settings, not by their names. The page (script.py) does the same with what a person picks there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmenc.artifact import Artifact, Json
from mmenc.lineage import label, manifests_of

NAMED = 5
LONG = 60


@dataclass
class Pair:
    """Two artifacts in the same place of two chains, and what differs between them."""

    left: str
    right: str
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    """(what, left, right)."""


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of a config with their dotted paths; lists are leaves."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def config_of(manifest: Json) -> dict[str, Any]:
    """Leaves of a manifest's config; its own phase is called `*`."""
    own = f"phases.{manifest['name']}"
    return dict(flat({"phases.*" if key == own else key: value for key, value in manifest["config"].items()}))


def _short(value: Any) -> str:
    text = "–" if value is None else str(value) or '""'
    return text if len(text) <= LONG else f"{text[: LONG - 1]}…"


def differences(left: Json, right: Json) -> list[tuple[str, str, str]]:
    """What two manifests were asked for differently, and whether one request gave two results."""
    rows: list[tuple[str, str, str]] = []
    if left["version"] != right["version"]:
        rows.append(("version of the step", str(left["version"]), str(right["version"])))
    a, b = config_of(left), config_of(right)
    changed = [key for key in sorted({*a, *b}) if a.get(key) != b.get(key) or (key in a) != (key in b)]
    rows += [(key, _short(a.get(key)), _short(b.get(key))) for key in changed]
    rows += _inputs(left, right)
    if left["digest"] == right["digest"] and left["content"] != right["content"]:
        rows.append(("content, of one and the same request", left["content"][:12], right["content"][:12]))
    return rows


def _inputs(left: Json, right: Json) -> list[tuple[str, str, str]]:
    a, b = ({i["path"]: i.get("sha256") or i.get("version") for i in m["inputs"]} for m in (left, right))
    rows = []
    for what, paths in (
        ("inputs only on the left", sorted(a.keys() - b.keys())),
        ("inputs only on the right", sorted(b.keys() - a.keys())),
        ("inputs changed", sorted(p for p in a.keys() & b.keys() if a[p] != b[p])),
    ):
        if paths:
            more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
            some = f"{len(paths)}: {', '.join(paths[:NAMED])}{more}"
            rows.append((what, "" if "right" in what else some, "" if "left" in what else some))
    return rows


def compare(left: Artifact, right: Artifact) -> list[Pair]:
    """Every pair of the two chains that differs by itself, ancestors first."""
    mine, theirs = manifests_of(left), manifests_of(right)
    seen: set[tuple[str, str]] = set()
    said: set[tuple[str, ...]] = set()
    found: list[Pair] = []

    def walk(a: str, b: str) -> None:
        if a not in mine or b not in theirs:  # a history with a hole, which --verify names
            return
        one, other = mine[a], theirs[b]
        if (a, b) in seen or (a == b and one["content"] == other["content"]):
            return
        seen.add((a, b))
        pair = Pair(label(one), label(other))
        if one["step"] != other["step"]:
            pair.rows.append(("step", one["step"], other["step"]))
            found.append(pair)
            return
        roles = [{p["role"]: p["digest"] for p in m["parents"]} for m in (one, other)]
        for role in sorted({*roles[0], *roles[1]}):
            if role in roles[0] and role in roles[1]:
                walk(roles[0][role], roles[1][role])
            else:
                a_, b_ = ("–" if r.get(role) not in m else label(m[r[role]]) for r, m in zip(roles, (mine, theirs), strict=True))
                pair.rows.append((f"parent {role}", a_, b_))
        for row in differences(one, other):
            # The steps below declare the same settings again: each is said once, where it acts first.
            key = (pair.left.partition(" ")[2] if row[0].startswith("phases.") else pair.left if " " in row[0] else "", *row)
            if key not in said:
                said.add(key)
                pair.rows.append(row)
        if pair.rows:
            found.append(pair)

    walk(left.manifest.digest, right.manifest.digest)
    return found


def lines(left: Artifact, right: Artifact) -> list[str]:
    """The comparison as text."""
    pairs = compare(left, right)
    if not pairs:
        same = left.manifest.content == right.manifest.content
        return ["the two are the same artifact" if same else "nothing that was asked for differs, the contents do"]
    out = [f"{left.path} against {right.path}: {len(pairs)} steps differ by themselves, what is below them follows"]
    for pair in pairs:
        out.append(pair.left if pair.left == pair.right else f"{pair.left} / {pair.right}")
        wide = max(len(what) for what, _, _ in pair.rows)
        out += [f"   {what:{wide}}  {a} -> {b}" for what, a, b in pair.rows]
    return out
