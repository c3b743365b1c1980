"""`-S phases.extend.mask=0.2`: a recipe with some values changed, in DVC's spelling, checked like any other recipe."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from mmenc.errors import Refused, nearest
from mmenc.recipe import Recipe, parse
from mmenc.strict import Loader


def _set(data: dict[str, Any], word: str) -> None:
    path, eq, text = word.partition("=")
    keys = path.split(".")
    if not eq or not all(keys):
        raise Refused(f"-S {word}: expected PATH=VALUE, such as phases.extend.mask=0.2")
    try:
        value = yaml.load(text, Loader=Loader)  # noqa: S506 (a SafeLoader subclass)
    except yaml.YAMLError:
        raise Refused(f"-S {word}: {text!r} is no YAML value") from None
    if value is None:
        raise Refused(f"-S {word}: the value is empty; recipes know no nulls")
    node = data
    for depth, key in enumerate(keys[:-1], 1):
        at = ".".join(keys[:depth])
        if key not in node:
            raise Refused(f"-S {word}: there is no {at}{nearest(key, node)}")
        if not isinstance(node[key], dict):
            raise Refused(f"-S {word}: {at} is {node[key]!r} and has no keys; give its whole value")
        node = node[key]
    node[keys[-1]] = value


def override(recipe: Recipe, words: Iterable[str]) -> Recipe:
    """The recipe with the words applied in their order, checked as a whole."""
    data: dict[str, Any] = recipe.model_dump(mode="json", by_alias=True)
    words = list(words)
    for word in words:
        _set(data, word)
    return parse(data, "-S") if words else recipe
