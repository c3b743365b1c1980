"""The pipeline of a recipe: its tree of phases, read at compile time, branches in parallel. Order comes from artifacts alone.

Every section of the recipe is a parameter, each phase one of its own. What is compiled in is the shape of the tree of
phases, images and resources; a changed `init`, `base` or `branches` is therefore refused by the step that notices it.
A recipe that starts from a released model gets it as an artifact (`source_uri`), so it needs no path inside of the pods.
"""

from pathlib import Path
from typing import Any

from components import images
from mmenc.errors import Refused
from mmenc.kubeflow import identifiers, send
from mmenc.recipe import Recipe
from mmenc.store import is_remote
from pipelines.common import MOST, Graph, Site, build, save, source_of


def tree(recipe: Recipe) -> list[str]:
    """Phases, parents first, otherwise in the recipe's order."""
    return sorted(recipe.phases, key=lambda name: len(recipe.ancestors(name)))


def steps(graph: Graph) -> None:
    """From text to a released model and its report."""
    recipe, run = graph.recipe, graph.run
    phase = {name: {"phase": graph.given[key]} for name, key in identifiers("phase", recipe.phases).items()}
    model: dict[str, Any] = {}
    if named := source_of(recipe):
        model = {"source": graph.released(graph.given["source_uri"], named, "released model")}

    clean = run("clean", raw=run("ingest", data=graph.raw()))
    gate = run("validate", clean=clean)
    words = run("tokenizer", clean=clean, validate=gate, **(model if recipe.tokenizer.source != "train" else {}))
    tokens = run("tokenize", clean=clean, validate=gate, tokenizer=words)

    models = {"init": run("init", tokenizer=words, **(model if recipe.model.source != "random" else {}))}
    for name in tree(recipe):
        quota = run("mixture", name, tokens=tokens, config=phase[name])
        start = models[recipe.phases[name].init]
        models[name] = run("train", name, tokens=tokens, mixture=quota, init=start, config=phase[name])
    branches = {f"branch_{i}": models[name] for i, name in enumerate(recipe.merge.branches, 1)}
    models["merge"] = run("merge", base=models[recipe.merge.base], tokens=tokens, **branches)

    judged = [*recipe.phases, "merge"]
    scores = {name: run("evaluate", name, model=models[name], tokenizer=words, tokens=tokens) for name in judged}
    best = {"model": models["merge"], "evaluate": scores["merge"]}
    release = run("release", tokenizer=words, validate=gate, tokens=tokens, **best)
    told = {f"scores_{i}": scores[name] for i, name in enumerate(judged, 1)}
    told |= {f"phase_{i}": graph.given[key] for i, key in enumerate(identifiers("phase", recipe.phases).values(), 1)}
    run("report", release=release, **told)


def pipeline(recipe: Recipe, site: Site, kind: str = "pretrain", verb: str = "Pretrain") -> Any:
    """Build the pipeline of a recipe."""
    if len(recipe.merge.branches) > MOST or len(recipe.phases) + 1 > MOST:
        raise Refused(f"phases: {len(recipe.phases)} phases; one pipeline reports at most {MOST - 1} and merges at most {MOST}")
    if recipe.release.previous and not is_remote(recipe.release.previous):
        raise Refused(
            f"release.previous: is the folder {recipe.release.previous!r}, which no pod has; expected s3://bucket/prefix"
        )
    defaults = {"data_uri": site.data_uri or recipe.ingest.root}
    if named := source_of(recipe):
        defaults["source_uri"] = named
    texts = {
        key: f"Phase `{name}`; its figures may be changed here, its name and `init` only by compiling again."
        for name, key in identifiers("phase", recipe.phases).items()
    }
    title = f"{verb} {recipe.release.name}"
    return build(kind, title, site, recipe, defaults | send(recipe), steps, **texts)


def write(
    recipe: Recipe, out: Path, image: str = images.CPU, gpu_image: str = images.GPU, data_hash: str = "", data_uri: str = ""
) -> None:
    """Compile a recipe into `out`."""
    save(pipeline(recipe, Site(image, gpu_image, data_hash, data_uri)), out, recipe.release.name)
