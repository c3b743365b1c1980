"""One recipe file, `params.yaml`, is the only configuration: this module is its schema and its loader.

Decisions: pydantic, frozen, unknown keys refused with the nearest known name; no nulls (Kubeflow refuses None), whole
numbers may arrive as floats (Kubeflow turns ints inside a dict into floats) and `8e-4` is a number (PyYAML alone reads
a string, DVC a float). What one section must know of another is in `checks.py`.
Defaults are mmBERT's where it published one (arXiv 2509.06888; its six training YAMLs).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from mmenc.errors import Refused
from mmenc.fields import Count, Name, Section
from mmenc.sections import Compute, Evaluate, LanguageSet, Merge, Model, Phase, Release
from mmenc.sections_data import Clean, Ingest, Tokenize, Tokenizer, Validate
from mmenc.strict import Loader
from mmenc.suites import read_suites


class Recipe(Section):
    """The whole of params.yaml; every section is present (DVC refuses a missing parameter)."""

    seed: Count
    languages: dict[Name, LanguageSet]
    ingest: Ingest
    clean: Clean
    validation: Validate = Field(alias="validate")
    tokenizer: Tokenizer
    tokenize: Tokenize
    model: Model
    phases: Annotated[dict[Name, Phase], Field(min_length=1)]
    merge: Merge
    evaluate: Evaluate
    release: Release
    compute: Compute

    def value(self, path: str) -> Any:
        """Return the resolved value at a dotted path (`phases.extend`), as plain JSON types."""
        node: Any = self.model_dump(mode="json", by_alias=True)
        for part in path.split("."):
            node = node[part]
        return node

    def ancestors(self, phase: str) -> list[str]:
        """Phases from the root down to the parent of `phase`."""
        chain: list[str] = []
        at = self.phases[phase].init
        while at != "init":
            chain.append(at)
            at = self.phases[at].init
        return chain[::-1]


def _sentence(error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    # Union branches add their type's name to the location; keys of params.yaml are what the user can look up.
    path = ".".join(str(p) for p in first["loc"] if not str(p).startswith(("list[", "constrained-", "literal[")))
    if first["type"] == "source":
        return f"{where}: {path}: {first['msg']}"
    if first["type"] == "unknown_key":
        return f"{where}: {path + ': ' if path else ''}{first['msg']}"
    if first["type"] == "missing":
        return f"{where}: {path} is missing"
    return f"{where}: {path} is {first['input']!r}; {first['msg'][0].lower()}{first['msg'][1:]}"


def parse(data: object, where: str = "params.yaml") -> Recipe:
    """Turn plain data into a checked Recipe or raise Refused with one sentence."""
    from mmenc.checks import check

    if not isinstance(data, Mapping):
        raise Refused(f"{where}: found {type(data).__name__}, expected a mapping of sections")
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise Refused(_sentence(error, where)) from None
    check(recipe, where)
    return recipe


def load(path: Path) -> Recipe:
    """Read and check a recipe file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Refused(f"{path}: no such recipe file; `cp recipes/monolingual.yaml params.yaml` gives one") from None
    except UnicodeDecodeError as error:
        raise Refused(f"{path}: not UTF-8 at byte {error.start}") from None
    try:
        data = yaml.load(text, Loader=Loader)  # noqa: S506 (a SafeLoader subclass)
    except Refused as error:
        raise Refused(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise Refused(f"{path}: not valid YAML{line}: {getattr(error, 'problem', None) or error}") from None
    from mmenc.data.tags import check_waves

    recipe = parse(_with_suites(data, path), str(path))
    check_waves(recipe, str(path))
    return recipe


def _with_suites(data: object, path: Path) -> object:
    """Add the suites of `validate.expectations`, a folder beside which the commands run (as `ingest.root`)."""
    section = data.get("validate") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(section, dict):
        return data
    if "suites" in section:
        raise Refused(f"{path}: validate.suites is read from files; write them into the folder that validate.expectations names")
    folder = Path(str(section.get("expectations", Validate().expectations)))
    return {**data, "validate": {**section, "suites": read_suites(folder)}}
