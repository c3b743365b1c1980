# ruff: noqa: N999 (the name is what a user types: `mmenc compile --pipeline continue`)
"""Continue a released model, in new languages or with new text: pretrain's graph from a checkpoint that is imported.

The same graph as `pretrain.py` compiles for such a recipe, under a name of its own; a recipe that starts from random
weights is refused. Retraining by CI compiles this one, so that it cannot start from scratch by mistake.
"""

from pathlib import Path

from components import images
from mmenc.errors import Refused
from mmenc.recipe import Recipe
from pipelines.common import Site, save
from pipelines.pretrain import pipeline


def write(
    recipe: Recipe, out: Path, image: str = images.CPU, gpu_image: str = images.GPU, data_hash: str = "", data_uri: str = ""
) -> None:
    """Compile a recipe that starts from a released model into `out`."""
    if recipe.model.source == "random":
        raise Refused(
            "model.source: is 'random'; to continue, expected a released model (recipes/continue.yaml), else use pretrain"
        )
    save(pipeline(recipe, Site(image, gpu_image, data_hash, data_uri), "continue", "Continue"), out, recipe.release.name)
