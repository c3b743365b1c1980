"""The last release as CI needs it: manifest, lineage and scores, from a folder or a bucket; never the weights.

Its lineage holds the manifests of all ancestors: the tokens of each language that it was trained on, and the digest of each step.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mmenc.artifact import Json
from mmenc.errors import Refused
from mmenc.store import Store

FILES = ("manifest.json", "lineage.json", "scores.json")


class Missing(Refused):
    """Nothing is released there yet."""


@dataclass(frozen=True)
class Released:
    """A release without its weights."""

    place: str
    manifest: Json
    lineage: dict[str, Json]
    scores: list[Json]

    @property
    def name(self) -> str:
        """What it is called, with its digest."""
        return f"{self.manifest['facts'].get('name', 'release')} {self.manifest['digest'][:12]}"

    @property
    def digests(self) -> set[str]:
        """Its digest and those of all its ancestors."""
        return {*self.lineage, str(self.manifest["digest"])}

    def ancestor(self, step: str) -> Json | None:
        """The manifest of an ancestor that there is once."""
        return next((m for m in self.lineage.values() if m["step"] == step), None)

    def tokens(self) -> dict[str, int]:
        """Training tokens by language or bucket."""
        found = self.ancestor("tokenize")
        return {f: int(row["train"]["tokens"]) for f, row in found["facts"]["folders"].items()} if found else {}


def read(place: str, patience: float = 30.0) -> Released:
    """Fetch and check a release."""
    store, found = Store(place, patience), dict[str, Json]()
    with tempfile.TemporaryDirectory() as folder:
        for name in FILES:
            target = Path(folder) / name
            try:
                store.fetch(name, target)
                found[name] = json.loads(target.read_text(encoding="utf-8"))
            except FileNotFoundError:
                kind = Missing if name == FILES[0] else Refused
                raise kind(f"{place}: has no {name}; expected a release, as `mmenc push` writes it") from None
            except ValueError as error:
                raise Refused(f"{place}/{name}: is not JSON ({error})") from None
    manifest = found["manifest.json"]
    if manifest.get("step") != "release":
        raise Refused(f"{place}: is an artifact of the step {manifest.get('step')}; expected a release")
    return Released(place, manifest, found["lineage.json"], found["scores.json"]["rows"])
