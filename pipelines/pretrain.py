"""The pipeline of a recipe: its tree of phases, read at compile time, branches in parallel. Order comes from artifacts alone.

Every section of the recipe is a parameter, to be seen and changed in the UI. What is compiled in is the shape of the tree
of phases, images and resources; a changed `init`, `base` or `branches` is therefore refused by the step that notices it.
"""

import inspect
import itertools
from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from components import data, end, images, results, training
from mmenc.errors import Refused
from mmenc.kubeflow import send
from mmenc.recipe import Recipe
from mmenc.steps import TABLE

FACES = {name: getattr(module, name) for module in (data, training, results) for name in TABLE if hasattr(module, name)}
FACES["end"] = end.end
MOST = 8
"""Optional inputs that the faces of merge and report have; more branches or phases are refused when compiling."""
RETRIES = {"num_retries": 2, "backoff_duration": "60s", "backoff_factor": 2.0}
TEXTS = {
    "data_uri": "Folder with the raw text, one sub-folder per language, as the pods see it.",
    "seed": "Seed of everything random.",
    "phases": "The tree of phases; figures may be changed here, its shape (init, names) only by compiling again.",
}


def tree(recipe: Recipe) -> list[str]:
    """Phases, parents first, otherwise in the recipe's order."""
    return sorted(recipe.phases, key=lambda name: len(recipe.ancestors(name)))


def pipeline(recipe: Recipe, image: str, gpu_image: str, data_hash: str = "") -> Any:
    """Build the pipeline of a recipe; `data_hash` is DVC's hash of the raw data and enters Kubeflow's cache key."""
    if len(recipe.merge.branches) > MOST or len(recipe.phases) + 1 > MOST:
        raise Refused(f"phases: {len(recipe.phases)} phases; one pipeline reports at most {MOST - 1} and merges at most {MOST}")
    for used in (image, gpu_image):
        if "@" not in used and (":" not in used.rsplit("/", 1)[-1] or used.endswith(":latest")):
            raise Refused(f"image {used}: has no fixed tag; tag it by git revision, Kubeflow's cache goes by the tag")
    defaults = {"data_uri": recipe.ingest.root, **send(recipe)}
    compute = recipe.compute

    def place(task: dsl.PipelineTask, step: str, label: str) -> dsl.PipelineTask:
        gpu = step in TABLE and TABLE[step].image == "gpu" and compute.device == "cuda"
        task.set_display_name(label).set_container_image(gpu_image if gpu else image)
        task.set_cpu_limit(str(compute.threads)).set_memory_limit(f"{compute.memory_gb:g}G")
        if gpu:
            task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(compute.accelerators)
        return task if step == "end" else task.set_retry(**RETRIES)

    def graph(*values: Any) -> None:
        given = dict(zip(defaults, values, strict=True))

        def run(step: str, name: str = "", **artifacts: Any) -> Any:
            asked = FACES[step].component_spec.inputs
            arguments = {k: given[k.removesuffix("_config")] for k in asked if k == "seed" or k.endswith("_config")}
            if TABLE[step].instances:
                arguments["name"] = name
            return place(FACES[step](**arguments, **artifacts), step, f"{step} {name}".strip()).outputs["out"]

        with dsl.ExitHandler(place(FACES["end"](), "end", "how it ended"), name="pretrain"):
            raw = dsl.importer(
                artifact_uri=given["data_uri"],
                artifact_class=dsl.Dataset,
                metadata={"dvc": data_hash or "unknown", "root": recipe.ingest.root},
            )
            ingested = run("ingest", data=raw.set_display_name("data").output)
            clean = run("clean", raw=ingested)
            gate = run("validate", clean=clean)
            words = run("tokenizer", clean=clean, validate=gate)
            tokens = run("tokenize", clean=clean, validate=gate, tokenizer=words)
            models = {"init": run("init", tokenizer=words)}
            for name in tree(recipe):
                quota = run("mixture", name, tokens=tokens)
                models[name] = run("train", name, tokens=tokens, mixture=quota, init=models[recipe.phases[name].init])
            branches = {f"branch_{i}": models[name] for i, name in enumerate(recipe.merge.branches, 1)}
            models["merge"] = run("merge", base=models[recipe.merge.base], tokens=tokens, **branches)
            judged = [*recipe.phases, "merge"]
            scores = {name: run("evaluate", name, model=models[name], tokenizer=words, tokens=tokens) for name in judged}
            best = {"model": models["merge"], "evaluate": scores["merge"]}
            release = run("release", tokenizer=words, validate=gate, tokens=tokens, **best)
            run("report", release=release, **{f"scores_{i}": scores[name] for i, name in enumerate(judged, 1)})

    kinds = {"data_uri": str, "seed": int}
    graph.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(k, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=v, annotation=kinds.get(k, dict))
            for k, v in defaults.items()
        ]
    )
    lines = [f"    {key}: {TEXTS.get(key, f'Section `{key}` of the recipe.')}" for key in defaults]
    graph.__doc__ = "\n".join([f"Pretrain {recipe.release.name}, from text to a released encoder.", "", "Args:", *lines])
    return dsl.pipeline(name="mmenc-pretrain", display_name=f"Pretrain {recipe.release.name}")(graph)


def write(recipe: Recipe, out: Path, image: str = images.CPU, gpu_image: str = images.GPU, data_hash: str = "") -> None:
    """Write the pipeline; equal bytes each time, so without KFP's header, whose dicts change order from process to process."""
    if out.suffix != ".yaml":
        raise Refused(f"{out}: expected a name that ends in .yaml")
    out.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(pipeline(recipe, image, gpu_image, data_hash), str(out))
    body = itertools.dropwhile(lambda line: line.startswith("#"), out.read_text(encoding="utf-8").splitlines(keepends=True))
    out.write_text(f"# Compiled by `mmenc compile` from the recipe of {recipe.release.name}.\n" + "".join(body), encoding="utf-8")
