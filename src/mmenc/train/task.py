"""What training one phase needs, in plain values: a worker process is given it as a small JSON file.

Decision: what only the main process can do (fetching from the store, verifying inputs, choosing the state to resume from)
is done before; a worker opens local files and needs no lineage, no cache, no manifest. The recipe in it holds only the
sections that the step declares, so reading another one fails in a worker as it does in the main process.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, fields
from pathlib import Path

from mmenc.artifact import Json
from mmenc.data.tokens import EDGES
from mmenc.job import Job
from mmenc.recipe import Recipe
from mmenc.sections import Compute, Model, Phase
from mmenc.sections_data import Tokenizer
from mmenc.train.state import newest_resume


def sections(recipe: Recipe, name: str) -> Json:
    """Of a recipe what training a phase reads, as plain JSON types."""
    read = ("model", "tokenizer", "compute")
    plain = {section: getattr(recipe, section).model_dump(mode="json") for section in read}
    return plain | {"seed": recipe.seed, "phase": recipe.phases[name].model_dump(mode="json")}


def recipe_of(plain: Json, name: str) -> Recipe:
    """The inverse of `sections`; a recipe that has nothing else."""
    return Recipe.model_construct(
        seed=plain["seed"],
        model=Model.model_validate(plain["model"]),
        tokenizer=Tokenizer.model_validate(plain["tokenizer"]),
        phases={name: Phase.model_validate(plain["phase"])},
        compute=Compute.model_validate(plain["compute"]),
    )


@dataclass(frozen=True)
class Task:
    """One phase to be trained; all paths are on this machine."""

    name: str
    recipe: Recipe
    tokens: Path
    mixture: Path
    init: Path
    """The parent phase's checkpoint: what it has read."""
    source: Path
    """Where model and optimizer are read: the parent's checkpoint, or the state to resume from."""
    resumed: bool
    resume: Path
    out: Path
    log: Path
    """Where times go: `.runs/<digest>`."""
    parents: dict[str, str]
    """Content of the inputs by role: resume state counts only under the same."""

    @classmethod
    def of(cls, job: Job) -> Task:
        """The task of a job, its inputs made local."""
        if job.mirror:
            job.mirror.restore()
        parents = {p.role: p.content for p in job.request.parents}
        init = job.inputs["init"]
        tokens = job.inputs["tokens"].local("train/*", "dev/*", EDGES)
        resumed = newest_resume(job.resume, parents)
        if not resumed:  # what lies there is of inputs that were made anew since, or damaged
            shutil.rmtree(job.resume, ignore_errors=True)
        source = resumed or init.local("model.safetensors", "optimizer.safetensors")
        mixture = job.inputs["mixture"].path
        return cls(job.name, job.recipe, tokens, mixture, init.path, source, bool(resumed), job.resume, job.out, job.log, parents)

    @property
    def phase(self) -> Phase:
        """The phase's section of the recipe."""
        return self.recipe.phases[self.name]

    def json(self) -> Json:
        """The task as plain JSON types, paths absolute."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "recipe"}
        paths = {k: str(v.absolute()) if isinstance(v, Path) else v for k, v in plain.items()}
        return paths | {"recipe": sections(self.recipe, self.name)}

    @classmethod
    def read(cls, plain: Json) -> Task:
        """The inverse of `json`."""
        recipe = recipe_of(plain["recipe"], plain["name"])
        paths = {k: Path(plain[k]) for k in ("tokens", "mixture", "init", "source", "resume", "out", "log")}
        return cls(**{**plain, **paths, "recipe": recipe})
