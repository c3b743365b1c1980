"""Edits of a YAML file's text at one key, everything else left as it is: comments, order, spaces, quotes.

Decision: the parser's marks say where a key and its value stand, and only those characters change. A round trip through a YAML
library would rewrite indents and lists all over the file, and the diff that a person is asked to trust would be long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from yaml import MappingNode, Node, ScalarNode, SequenceNode

Place = tuple[MappingNode, Node, Node]
"""A mapping, and the key and the value in it."""


def find(text: str, path: Sequence[str]) -> Place | None:
    """Where a key stands."""
    node: Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    place: Place | None = None
    for name in path:
        if not isinstance(node, MappingNode):
            return None
        place = next(((node, k, v) for k, v in node.value if isinstance(k, ScalarNode) and k.value == name), None)
        if place is None:
            return None
        node = place[2]
    return place


def find_limit(text: str, column: str, limit: str) -> Place | None:
    """Where a suite of expectations holds a limit of a column."""
    top = find(text, ["expectations"])
    for item in top[2].value if top and isinstance(top[2], SequenceNode) else ():
        kwargs = next((v for k, v in item.value if k.value == "kwargs"), None) if isinstance(item, MappingNode) else None
        pairs = kwargs.value if isinstance(kwargs, MappingNode) else []
        if any((k.value, v.value) == ("column", column) for k, v in pairs):
            assert isinstance(kwargs, MappingNode)
            return next(((kwargs, k, v) for k, v in pairs if k.value == limit), None)
    return None


def put(text: str, place: Place, value: Any) -> str:
    """Write another value."""
    _, _, old = place
    return text[: old.start_mark.index] + _inline(value) + text[_end(text, old) :]


def rename(text: str, place: Place, name: str, value: Any) -> str:
    """Write another key and value in the place of both."""
    _, key, old = place
    return f"{text[: key.start_mark.index]}{name}: {_inline(value)}{text[_end(text, old) :]}"


def remove(text: str, place: Place) -> str:
    """Take a key and its value out; a comment behind them on the line goes with them."""
    mapping, key, value = place
    if len(mapping.value) == 1:
        return text[: mapping.start_mark.index].rstrip() + " {}" + text[_end(text, mapping) :]
    start, end = key.start_mark.index, _end(text, value)
    if mapping.flow_style:
        if text[end:].lstrip().startswith(","):
            end = text.index(",", end) + 1
            return text[:start] + text[end:].lstrip(" ")
        return text[: text.rindex(",", 0, start)] + text[end:]
    newline = text.find("\n", end)
    line = text.rfind("\n", 0, start) + 1
    return text[:line] + (text[newline + 1 :] if newline >= 0 else "")


def _end(text: str, node: Node) -> int:
    """Where a node's own text ends; a block's mark stands at the next token, behind blank lines and comments."""
    if isinstance(node, ScalarNode) or getattr(node, "flow_style", False):
        return int(node.end_mark.index)
    last = node.value[-1]
    return _end(text, last[1] if isinstance(last, tuple) else last)


def _inline(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")
