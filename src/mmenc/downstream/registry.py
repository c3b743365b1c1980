"""The suites by name. An entry is `module:object`: a `Suite` of tasks to be tuned, or a function that measures without tuning.

A function gets a `Context` and returns rows of `scores.json`; it says what is missing by `skipped` rows.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmenc.artifact import Json
from mmenc.downstream.backbone import Backbone
from mmenc.downstream.options import Options
from mmenc.downstream.sources import Data
from mmenc.downstream.task import Suite
from mmenc.downstream.units import Units
from mmenc.evaluate.models import Subject
from mmenc.sections import Evaluate

SUITES: dict[str, str] = {
    "sib200": "mmenc.downstream.classify_suites:SIB200",
    "xtreme": "mmenc.downstream.answer_suites:XTREME",
    "qa": "mmenc.downstream.answer_suites:QA",
    "xquad-split": "mmenc.downstream.answer_suites:XQUAD_SPLIT",
    "choice": "mmenc.downstream.answer_suites:CHOICE",
    "bitext": "mmenc.downstream.bitext:measure",
    "mteb": "mmenc.downstream.mteb:mteb_rows",
    "coir": "mmenc.downstream.mteb:coir_rows",
    "speed": "mmenc.downstream.speed:measure",
    "xnli": "mmenc.downstream.classify_suites:XNLI_SUITE",
    "pawsx": "mmenc.downstream.classify_suites:PAWSX_SUITE",
    "glue": "mmenc.downstream.glue:GLUE",
    "udpos": "mmenc.downstream.token_suites:UDPOS",
    "wikiann": "mmenc.downstream.token_suites:WIKIANN_SUITE",
    "masakhaner": "mmenc.downstream.token_suites:MASAKHANER",
    "conll": "mmenc.downstream.token_suites:CONLL_SUITE",
}
DOING = {"bitext": "mine bitext with", "mteb": "embed for MTEB with", "coir": "embed for CoIR with", "speed": "time"}
"""What a progress bar says of the suites that are functions, before the model's name; the others fine-tune."""
TIMED = ("speed",)
"""Their rows hold times: for `mmenc evaluate` only, refused in a recipe, since nothing of the clock goes into artifacts."""


@dataclass(frozen=True)
class Context:
    """What a suite that is no fine-tuning may use."""

    subject: Subject
    backbone: Backbone
    data: Data
    units: Units
    options: Options
    settings: Evaluate
    tier: Callable[[str], str]
    tick: Callable[[float, str], None]
    """Gets shares of the suite."""
    keep: Path | None = None
    """Folder for models that are worth keeping; None: they are not kept."""
    memo: dict[str, Any] = field(default_factory=dict)
    """What suites of one model share."""


Measure = Callable[[Context], list[Json]]


def find(name: str) -> Suite | Measure:
    """What is behind a name."""
    module, _, attribute = SUITES[name].partition(":")
    found: Any = getattr(importlib.import_module(module), attribute)
    return found  # type: ignore[no-any-return]
