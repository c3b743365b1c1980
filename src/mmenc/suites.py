"""Suites of expectations: Great Expectations' own format in files that a person edits, read with the recipe.

Decision: `expectations/*.yaml` (or .json, as Great Expectations exports them) become part of the recipe's section `validate` when
it is loaded. So they travel to a cluster with the recipe, stand in the manifest of what they judged, and a changed figure is
a changed digest; `dvc.yaml` names the folder as a dependency. A suite says itself which languages it judges (patterns,
least bytes): a tier of data. Waves of training are no tiers here, or each change of a wave would tokenise all text again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, StringConstraints

from mmenc.errors import Refused
from mmenc.fields import Count, Section
from mmenc.strict import Loader


def _whole(value: Any) -> Any:
    """Kubeflow turns whole numbers into floats: back, or the digest would differ; it keeps no order of keys, knows no nulls."""
    if isinstance(value, dict):
        return {k: _whole(v) for k, v in sorted(value.items())}
    if isinstance(value, list):
        return [_whole(v) for v in value]
    if value is None:
        raise ValueError("holds a null; write text with a comma or a colon in quotes")
    return int(value) if isinstance(value, float) and value.is_integer() else value


Plain = Annotated[dict[str, Any], AfterValidator(_whole)]


class Expectation(Section):
    """One expectation about one column of the table of languages."""

    type: Annotated[str, StringConstraints(pattern=r"^expect_column_values?_[a-z_]+$")]
    kwargs: Plain
    meta: Plain = {}
    """`why` is shown beside a failure."""
    severity: Literal["critical", "warning"] = "critical"
    """A warning is shown and stops nothing."""

    @property
    def column(self) -> str:
        """The column that it judges."""
        return str(self.kwargs.get("column", ""))


class Judged(Section):
    """Which rows a suite judges."""

    languages: Annotated[list[str], Field(min_length=1)] = ["*"]
    min_bytes: Count = 0
    """Of kept text."""


class Suite(Section):
    """One file of `expectations/`."""

    name: str = ""
    meta: Judged = Judged()
    expectations: Annotated[list[Expectation], Field(min_length=1)]


def read_suites(folder: Path) -> dict[str, Any]:
    """Return the suites of a folder by file name, as plain data; none if there is no such folder."""
    found: dict[str, Any] = {}
    # By name without ending, as the recipe keeps them.
    files = sorted((p for p in folder.glob("*") if p.suffix in (".yaml", ".yml", ".json")), key=lambda p: (p.stem, p.suffix))
    for path in files:
        if path.stem in found:
            other = next(p.name for p in files if p.stem == path.stem)
            raise Refused(f"{path}: the suite {path.stem!r} stands in {other} too; rename or remove one of them")
        try:
            text = path.read_text(encoding="utf-8")
            found[path.stem] = json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=Loader)  # noqa: S506 (safe)
        except Refused as error:
            raise Refused(f"{path}: {error}") from None
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise Refused(
                f"{path}: cannot be read ({' '.join(str(error).split())}); expected a suite of Great Expectations"
            ) from None
        if not isinstance(found[path.stem], dict):
            raise Refused(f"{path}: found {type(found[path.stem]).__name__}, expected a suite with the key expectations")
    return found
