"""What the report tells, gathered once: manifests by step, score rows by key, records of the runs.

Decision: only the leaves (release and evaluations) are read; everything above comes out of their `lineage.json`. A page
that mixed two runs would mislead, so evaluations that descend from other artifacts than the release does are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mmenc.artifact import Artifact, Json, read_json
from mmenc.card import by_step
from mmenc.data.tokens import is_language
from mmenc.errors import Refused
from mmenc.page import Cell, Marked
from mmenc.recipe import Recipe
from mmenc.steps import TABLE

BASELINES = ("unigram", "unigram-language")


@dataclass(frozen=True)
class Story:
    """Everything that the sections of the report read."""

    recipe: Recipe
    release: Artifact
    steps: Mapping[str, Json]
    """Manifests of all steps under `step` or `step:name`, in the order of the pipeline."""
    rows: Mapping[tuple[str, str, str, str, str], Json]
    """Rows of all scores.json under (model, task, metric, tier, language); means have the language ""."""
    runs: Mapping[str, Json]
    """Run records under the same keys as `steps`; those that were not recorded are absent."""

    def facts(self, key: str) -> Json:
        """Facts of a step."""
        found: Json = self.steps[key]["facts"]
        return found

    @property
    def phases(self) -> list[str]:
        """Phases that were trained, in the order of the recipe."""
        return [p for p in self.recipe.phases if f"train:{p}" in self.steps]

    @property
    def branches(self) -> list[str]:
        """What was merged, the base itself left out."""
        return [b for b in self.recipe.merge.branches if b != self.recipe.merge.base]

    @property
    def models(self) -> list[str]:
        """Columns of the results: the merge, its branches, the base, the other phases latest first, the baselines."""
        first = ["merge", *self.branches, self.recipe.merge.base]
        others = [p for p in reversed(self.phases) if p not in first]
        seen = {key[0] for key in self.rows}
        return [m for m in [*first, *others, *BASELINES] if m in seen]

    @property
    def tiers(self) -> list[str]:
        """Tiers that have results, `all` last."""
        seen = {key[3] for key in self.rows}
        return [t for t in [*self.recipe.languages, "unseen", "all"] if t in seen]

    @cached_property  # asked for with every figure of a language: sorting all rows anew took 25 of the report's 27 s
    def languages(self) -> dict[str, str]:
        """Tag and tier of every language that the evaluation knows."""
        return {key[4]: key[3] for key in sorted(self.rows, key=lambda k: k[4]) if is_language(key[4])}

    def figure(self, model: str, metric: str, tier: str, language: str = "") -> tuple[float, float, float] | None:
        """(mean, low, high) of `task.metric`, None where there is none."""
        task, _, name = metric.partition(".")
        row = self.rows.get((model, task, name, tier, language))
        return (row["mean"], row["low"], row["high"]) if row and row["status"] == "ok" else None

    @property
    def chance(self) -> float:
        """Chance of retrieval; 0 where there are no parallel documents."""
        return float(self.facts("evaluate:merge")["retrieval"]["chance"])

    def read_by_language(self) -> dict[str, int]:
        """Tokens read per language over all phases of the tree, buckets counted to the language they read."""
        total: dict[str, int] = {}
        for phase in self.phases:
            facts, sources = self.facts(f"train:{phase}"), self.recipe.phases[phase].buckets
            for key, share in facts["observed"].items():
                folder = sources[key].source if key in sources else key
                total[folder] = total.get(folder, 0) + round(share * facts["tokens"])
        return total


def interval(figure: tuple[float, float, float] | None, kind: str = "", scale: float = 1.0, digits: int = 3) -> Cell:
    """Show (mean, low, high) as a cell, the interval below the mean; without an interval the figure alone."""
    if figure is None:
        return None
    mean, low, high = (scale * x for x in figure)
    return Marked(mean, kind, f"[{low:.{digits}f}, {high:.{digits}f}]" if high > low else "", digits)


def fixed(value: float | None, digits: int) -> Cell:
    """Show a figure with a fixed number of decimals, nothing for None."""
    return None if value is None else Marked(value, digits=digits)


def _ordered(steps: Mapping[str, Json], recipe: Recipe) -> dict[str, Json]:
    names = ["", "init", *recipe.phases, "merge"]
    kinds = list(TABLE)

    def place(key: str) -> tuple[int, int]:
        m = steps[key]
        return kinds.index(m["step"]), names.index(m["name"]) if m["name"] in names else len(names)

    return {key: steps[key] for key in sorted(steps, key=place)}


def _scores(artifact: Artifact) -> Iterator[Json]:
    yield from read_json(artifact.path / "scores.json")["rows"]


def _record(folder: Path, manifest: Json) -> Json | None:
    """Return the record of the run that made this very result, None where it was not kept."""
    try:
        record: Json = json.loads((folder / manifest["digest"] / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if record.get("content") == manifest["content"] else None


def gather(recipe: Recipe, inputs: Mapping[str, Artifact], runs: Path) -> Story:
    """Collect the story from the release, the evaluations and the folder `.runs`."""
    release = inputs["release"]
    steps = {**by_step(release.lineage), "release": release.manifest.json()}
    rows: dict[tuple[str, str, str, str, str], Json] = {}
    for role, artifact in inputs.items():
        if not role.startswith("evaluate:"):
            continue
        theirs = {**artifact.lineage, artifact.manifest.digest: artifact.manifest.json()}
        for key, manifest in by_step(theirs).items():
            if steps.setdefault(key, manifest)["digest"] != manifest["digest"]:
                raise Refused(
                    f"{artifact.path}: descends from another {key} than {release.path} does; run `make run` again, so that "
                    f"the report tells of one run"
                )
        for r in _scores(artifact):
            rows[r["model"], r["task"], r["metric"], r["tier"], r["language"]] = r
    steps = _ordered(steps, recipe)
    records = {key: record for key, m in steps.items() if (record := _record(runs, m)) is not None}
    return Story(recipe, release, steps, rows, records)
