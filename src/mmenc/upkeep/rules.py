"""Keys of params.yaml that were renamed, moved or removed, oldest first: what `mmenc migrate` knows.

Decision: a key's end is written here in the change that ends it, with what takes its place, so that no recipe ever has to be
rewritten by reading the history. A rule touches one key; new keys need none (they have defaults), and a default that changed
is only told, because an old recipe that did not name it has no opinion on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """What becomes of one key."""

    path: str
    """Dotted path of the old key; `*` stands for any phase."""
    to: str = ""
    """Name of the key beside it that takes its place; empty: it is removed."""
    value: Callable[[Any], Any] = lambda old: old
    """From the old value to the new one."""
    when: Callable[[Any], bool] = lambda _: True
    """Whether the rule is about this value."""
    expectation: tuple[str, str] = ("", "")
    """Column and limit (`min_value`, `max_value`) in `expectations/all.yaml` that hold the figure now."""
    why: str = ""


GATE = "the gate's figures stand in expectations/ (docs/data.md)"
RULES = (
    Rule("validate.min_documents", expectation=("documents", "min_value"), why=GATE),
    Rule("validate.min_kept_share", expectation=("kept_share", "min_value"), why=GATE),
    Rule("validate.max_duplicate_share", expectation=("duplicate_share", "max_value"), why=GATE),
    Rule("validate.min_script_share", expectation=("script_share", "min_value"), why=GATE),
    Rule("validate.min_mean_chars", expectation=("mean_chars", "min_value"), why=GATE),
    Rule("validate.max_test_overlap", expectation=("test_overlap", "max_value"), why=GATE),
    Rule("merge.scale", to="scales", value=lambda old: [old], why="several factors are tried on dev"),
    Rule("tokenizer.compare", when=lambda old: old == "none", why="no comparison is the default, written as an empty string"),
)
TOLD = (
    ("ingest.document_bytes", "the default is 4000 bytes now, it was 20000"),
    ("merge.scales", "the default tries 1.0 and 1.3, it was 1.0 alone"),
    ("merge.alone", "a branch alone may come out where no merge is better on dev; false keeps to a merge"),
)
"""Defaults that changed: told where a recipe does not name the key."""
