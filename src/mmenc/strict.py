"""How every YAML file that a person writes is read: recipes, suites, what `--set` is given.

Decision: PyYAML's safe loader reads YAML 1.1, where `8e-4` is a string and the later of two equal keys wins in silence. Here it
is a number, as in YAML 1.2, and a key that stands there twice is refused with its line.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from mmenc.errors import Refused


class Loader(yaml.SafeLoader):
    """YAML 1.2 numbers (`8e-4` is a float) and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that stands there twice."""
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise Refused(f"line {key_node.start_mark.line + 1}: key {key!r} stands there twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9][0-9_]*)$"),
    list("-+0123456789."),
)
