"""Compare released models on one held-out text: each is taken over by the very steps that would continue it, then scored.

Text is read, cleaned and validated once; each model cuts it with its own tokenizer. Sizes of a model are a parameter,
read from its config.json where that is at hand when compiling, because a recipe describes one model only.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components import images
from mmenc.errors import Refused
from mmenc.kubeflow import identifiers, send
from mmenc.recipe import Recipe
from pipelines.common import FACES, MOST, Graph, Site, build, save

SECTIONS = ("seed", "languages", "ingest", "clean", "validate", "tokenize", "evaluate", "compute", "store")
SIZES = ("hidden", "layers", "heads", "intermediate", "window", "global_every", "norm_eps")
NAME = "merge"
"""The evaluate step scores phases or the merged model of a recipe; a released model stands in that place."""


def sizes(recipe: Recipe, uri: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sections `model` and `tokenizer` of a released model: the recipe's, and what config.json says if it is at hand."""
    model = recipe.model.model_dump(mode="json") | {"source": uri, "resize": "none"}
    tokenizer = recipe.tokenizer.model_dump(mode="json") | {"source": uri}
    path = Path(uri) / "config.json"
    if path.is_file():
        from mmenc.model.hf import config_from_hf

        found = config_from_hf(json.loads(path.read_text(encoding="utf-8")))
        model |= {key: getattr(found, key) for key in SIZES}
        tokenizer["vocab_size"] = found.vocab_size
    return model, tokenizer


def pipeline(recipe: Recipe, site: Site, models: Mapping[str, str]) -> Any:
    """Build the pipeline that compares `models`, from names to addresses."""
    if not 1 <= len(models) <= MOST:
        raise Refused(f"models: {len(models)} given; expected 1 to {MOST}, each as NAME=URI of a released model")
    sent = send(recipe)
    defaults: dict[str, Any] = {"data_uri": site.data_uri or recipe.ingest.root, **{key: sent[key] for key in SECTIONS}}
    keys = {kind: identifiers(kind, models) for kind in ("uri", "model", "tokenizer")}
    texts: dict[str, str] = {}
    for name, uri in models.items():
        parts = dict(zip(keys, (uri, *sizes(recipe, uri)), strict=True))
        defaults |= {keys[kind][name]: value for kind, value in parts.items()}
        texts[keys["uri"][name]] = f"Address of {name}."
        texts |= {keys[k][name]: f"Section `{k}` for {name}; sizes are those of its config.json." for k in ("model", "tokenizer")}

    def steps(graph: Graph) -> None:
        run = graph.run
        clean = run("clean", raw=run("ingest", data=graph.raw()))
        gate = run("validate", clean=clean)
        scores = []
        for name, uri in models.items():
            own = {kind: graph.given[keys[kind][name]] for kind in ("model", "tokenizer")}
            source = graph.released(graph.given[keys["uri"][name]], uri, name)
            words = run("tokenizer", label=f"tokenizer {name}", config=own, clean=clean, validate=gate, source=source)
            tokens = run("tokenize", label=f"tokenize {name}", clean=clean, validate=gate, tokenizer=words)
            model = run("init", label=f"init {name}", config=own, tokenizer=words, source=source)
            given = {"model": model, "tokenizer": words, "tokens": tokens}
            scores.append(run("evaluate", NAME, label=f"evaluate {name}", config=own, **given))
        side = {f"scores_{i}": found for i, found in enumerate(scores, 1)}
        task = FACES["compare"](names=list(models), evaluate_config=graph.given["evaluate"], **side)
        graph.place(task, "compare", label="side by side")

    return build("evaluate", f"Compare {', '.join(models)}", site, recipe, defaults, steps, **texts)


def write(
    recipe: Recipe,
    out: Path,
    image: str = images.CPU,
    gpu_image: str = images.GPU,
    data_hash: str = "",
    data_uri: str = "",
    models: Mapping[str, str] | None = None,
) -> None:
    """Compile the comparison of `models` into `out`."""
    save(pipeline(recipe, Site(image, gpu_image, data_hash, data_uri), models or {}), out, recipe.release.name)
