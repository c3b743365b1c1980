"""The stages of a recipe and whether each artifact is what the recipe asks for: read from dvc.yaml, params.yaml and manifests.

Decision: a stage counts as done when its manifest has the step's version, the recipe's values and parents that lie in place now,
as the digest would say; hashing the files, or the raw data, is left to `mmenc run` and DVC, because a screen is drawn every
second (25 manifests of the default run: 12 ms). So a changed raw file, or a file tampered with, is not noticed here.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmenc.artifact import Json, Manifest
from mmenc.errors import Refused
from mmenc.job import expand
from mmenc.recipe import Recipe
from mmenc.steps import TABLE, Step


@dataclass(frozen=True)
class Stage:
    """One command of dvc.yaml, `foreach` unfolded."""

    step: Step
    name: str
    out: Path
    reads: Mapping[str, Path]
    """Artifacts by role, instances unfolded as `mmenc run` does."""

    @property
    def key(self) -> str:
        """`step` or `step:name`."""
        return f"{self.step.name}:{self.name}" if self.name else self.step.name

    @property
    def title(self) -> str:
        """As people write it."""
        return f"{self.step.name} {self.name}".strip()


def stages(recipe: Recipe, root: Path) -> list[Stage]:
    """The stages of `root/dvc.yaml` for a recipe, parents before children; Refused where it is not the graph of such a recipe."""
    import yaml

    file = root / "dvc.yaml"
    try:
        listed: Any = yaml.safe_load(file.read_text(encoding="utf-8"))["stages"]
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())
        raise Refused(f"{file}: cannot be read ({told}); this command runs in a checkout, beside params.yaml") from None
    if not isinstance(listed, dict) or not listed:
        raise Refused(f"{file}: stages: expected a mapping of stages, as in the repository's own dvc.yaml")
    found: list[Stage] = []
    for name, row in listed.items():
        try:
            found += _unfolded(row, recipe, root)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            told = f"{type(error).__name__}: {error}"
            raise Refused(f"{file}: stages.{name}: is no `mmenc run STEP@VERSION … --out DIR` ({told})") from None
    trained = {stage.name for stage in found if stage.step.name == "train"}
    if lost := next((phase for phase in recipe.phases if phase not in trained), ""):
        raise Refused(f"{file}: no stage trains the phase {lost}; expected a stage `train` with `foreach: ${{phases}}`")
    return _ordered(found)


def _unfolded(row: Json, recipe: Recipe, root: Path) -> list[Stage]:
    if "foreach" not in row:
        return [_stage(row["cmd"], recipe, root)]
    text = row["do"]["cmd"]
    filled = [text.replace("${key}", phase).replace("${item.init}", found.init) for phase, found in recipe.phases.items()]
    return [_stage(command, recipe, root) for command in filled]


def _stage(command: str, recipe: Recipe, root: Path) -> Stage:
    words = shlex.split(command)
    given = dict(word.split("=", 1) for word in words if "=" in word and "${" not in word)
    name = words[words.index("--name") + 1] if "--name" in words else ""
    step = TABLE[words[2].partition("@")[0]]
    roles = {role.rstrip("*") for role in step.reads}
    reads = expand(step, recipe, {role: root / place for role, place in given.items() if role in roles})
    return Stage(step, name, root / words[words.index("--out") + 1], reads)


def _ordered(found: list[Stage]) -> list[Stage]:
    ordered: list[Stage] = []
    made: set[Path] = set()
    outs = {stage.out for stage in found}
    while len(ordered) < len(found):
        ready = [s for s in found if s.out not in made and not (set(s.reads.values()) & outs) - made]
        if not ready:
            raise Refused("dvc.yaml: the stages wait for one another in a circle")
        ordered += ready
        made |= {s.out for s in ready}
    return ordered


@dataclass(frozen=True)
class Standing:
    """Whether a stage's artifact may stay: `why` is empty if so, else one clause."""

    manifest: Manifest | None
    why: str
    own: bool = True
    """Whether the reason is the stage's own, and not that of one before it."""


def standings(recipe: Recipe, found: list[Stage]) -> dict[Path, Standing]:
    """By place of the artifact: what lies there, and why it would be made anew."""
    known: dict[Path, Standing] = {}
    for stage in found:
        try:
            manifest = Manifest.read(stage.out)
        except Refused as error:
            there = (stage.out / "manifest.json").exists()
            known[stage.out] = Standing(None, str(error) if there else "not made yet")
            continue
        why = _own_reason(stage, recipe, manifest, known)
        waits = next((place for place in stage.reads.values() if place in known and known[place].why), None)
        if why or not waits:
            known[stage.out] = Standing(manifest, why)
        else:
            known[stage.out] = Standing(manifest, f"{waits.parent.name}/{waits.name} will be made anew", own=False)
    return known


def _own_reason(stage: Stage, recipe: Recipe, manifest: Manifest, known: Mapping[Path, Standing]) -> str:
    step = stage.step
    if (manifest.step, manifest.name) != (step.name, stage.name):
        return f"holds {manifest.step} {manifest.name}".strip()
    if manifest.version != step.version:
        return f"made by version {manifest.version} of the step, now {step.version}"
    wanted = {path: recipe.value(path) for path in step.param_paths(stage.name)}
    if change := difference(manifest.config, wanted):
        return change
    parents = {p.role: (p.digest, p.content) for p in manifest.parents}
    if set(parents) != set(stage.reads):
        return "it was made from other artifacts"
    for role, place in stage.reads.items():
        other = known[place].manifest if place in known else None
        if other is not None and (other.digest, other.content) != parents[role]:
            return f"{role} was made anew since"
    return ""


def difference(old: Json, new: Json, path: str = "") -> str:
    """The first value that differs between two configurations, as a clause; "" if none does."""
    for key in sorted({*old, *new}):
        at = f"{path}.{key}" if path else key
        if key not in new:
            return f"{at} is gone from the recipe"
        if key not in old:
            return f"{at} is new"
        if old[key] == new[key]:
            continue
        if isinstance(old[key], dict) and isinstance(new[key], dict):
            return difference(old[key], new[key], at)
        return f"{at} was {_short(old[key])}, is {_short(new[key])}"
    return ""


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
