"""What training one phase needs, in plain values: a worker process is given it as a small JSON file.

Decision: what only the main process can do (fetching from the store, verifying inputs, choosing the state to resume from)
is done before; a worker opens local files and needs no lineage, no cache, no manifest. The recipe in it holds only the
sections that the step declares, so reading another one fails in a worker as it does in the main process.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from mmenc.artifact import Json
from mmenc.job import Job
from mmenc.recipe import Recipe
from mmenc.sections import Compute, Model, Phase, Tokenizer
from mmenc.train.state import newest_resume


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
    parents: dict[str, str]
    """Content of the inputs by role: resume state counts only under the same."""

    @classmethod
    def of(cls, job: Job) -> Task:
        """The task of a job, its inputs made local."""
        parents = {p.role: p.content for p in job.request.parents}
        init = job.inputs["init"]
        tokens = job.inputs["tokens"].local("train/*", "dev/*")
        resumed = newest_resume(job.resume, parents)
        source = resumed or init.local("model.safetensors", "optimizer.safetensors")
        mixture = job.inputs["mixture"].path
        return cls(job.name, job.recipe, tokens, mixture, init.path, source, bool(resumed), job.resume, job.out, parents)

    @property
    def phase(self) -> Phase:
        """The phase's section of the recipe."""
        return self.recipe.phases[self.name]

    def json(self) -> Json:
        """The task as plain JSON types, paths absolute."""
        recipe = self.recipe
        sections = {
            "seed": recipe.seed,
            "model": recipe.model.model_dump(mode="json"),
            "tokenizer": recipe.tokenizer.model_dump(mode="json"),
            "phase": self.phase.model_dump(mode="json"),
            "compute": recipe.compute.model_dump(mode="json"),
        }
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "recipe"}
        return {k: str(v.absolute()) if isinstance(v, Path) else v for k, v in plain.items()} | {"recipe": sections}

    @classmethod
    def read(cls, plain: Json) -> Task:
        """The inverse of `json`."""
        given = plain["recipe"]
        recipe = Recipe.model_construct(
            seed=given["seed"],
            model=Model.model_validate(given["model"]),
            tokenizer=Tokenizer.model_validate(given["tokenizer"]),
            phases={plain["name"]: Phase.model_validate(given["phase"])},
            compute=Compute.model_validate(given["compute"]),
        )
        paths = {k: Path(plain[k]) for k in ("tokens", "mixture", "init", "source", "resume", "out")}
        return cls(**{**plain, **paths, "recipe": recipe})
