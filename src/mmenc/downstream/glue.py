"""GLUE as its tab-separated files are distributed (`glue/CoLA/{train,dev}.tsv` …), with each task's own metrics.

Decisions: the labels of GLUE's test sets are not public, so its dev sets are tested on, as everybody does; learning rate and
epoch are chosen on a tenth of train (2,000 at most) that a fixed draw holds out, where mmBERT took the best of a sweep on
what it reported. RTE, MRPC and STS-B start from the encoder tuned on MNLI where MNLI is there (nlu-evals, which mmBERT's code
forked). Two averages: `average` is the mean of the eight columns of mmBERT's table, a figure each; `glue_average` is GLUE's
definition, tasks with two metrics (MNLI: two sets) averaged first. The paper's printed averages lie 0.4 to 1.1 below the
mean of its own columns by a rule that it does not state, so no figure here reproduces them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from mmenc import rng
from mmenc.downstream import metrics as counting
from mmenc.downstream.classify import Classification
from mmenc.downstream.classify_suites import NLI, folder_of, nli
from mmenc.downstream.sources import Data
from mmenc.downstream.tables import labelled, tsv
from mmenc.downstream.task import Metric, Missing, Parts, Recipe, Suite, Task

ENGLISH = "eng_Latn"
HELD_OUT, MOST_HELD = 10, 2000


class Table(NamedTuple):
    """How the files of one task look."""

    folder: str
    text: str
    pair: str
    label: str
    header: tuple[str, ...] = ()
    """Columns of files without a header."""
    dev: str = "dev"
    hub: tuple[str, str, str] = ("", "", "")
    """Configuration and columns on the hub, where they differ; its split is `validation`."""


def _binary(value: Any) -> str:
    """Labels in words of QNLI and RTE as the numbers of the hub."""
    return {"entailment": "0", "not_entailment": "1"}.get(str(value), str(value))


def _fetch(data: Data, table: Table, split: str) -> list[dict[str, Any]]:
    config, text, pair = table.hub
    rows = data.fetch("nyu-mll/glue", config, split)
    return [{table.text: r[text], table.label: r["label"]} | ({table.pair: r[pair]} if pair else {}) for r in rows]


def _languages(data: Data, table: Table) -> list[str]:
    folder = folder_of(data, "glue", "GLUE", "glue_data")
    if folder is not None and not data.find(folder / table.folder / table.dev, ".tsv"):
        raise Missing(f"no {table.folder}/{table.dev}.tsv in the folder {folder.name} of --data")
    return [ENGLISH]


def _read(data: Data, language: str, table: Table, name: Callable[[Any], str | float]) -> Parts:
    del language
    folder = folder_of(data, "glue", "GLUE", "glue_data")
    columns = table.header or tuple(filter(None, (table.text, table.pair, table.label)))
    found: dict[str, list[Any]] = {}
    for part, file in (("train", "train"), ("test", table.dev)):
        if folder is None:
            rows = _fetch(data, table, file if part == "train" else file.replace("dev", "validation"))
        else:
            path = data.find(folder / table.folder / file, ".tsv")
            rows = tsv(data, path, columns, header=not table.header, short=table.folder in ("QQP", "MRPC"))
        found[part] = labelled(rows, table.text, table.pair, table.label, name)
    train = found["train"]
    order = rng.permutation(len(train), "glue", table.folder).tolist()
    held = {*order[: min(MOST_HELD, len(train) // HELD_OUT)]}
    found["dev"] = [train[i] for i in sorted(held)]
    found["train"] = [e for i, e in enumerate(train) if i not in held]
    return found


ACCURACY, F1 = {"accuracy": counting.ACCURACY}, {"f1": counting.F1}
YES = ("0", "1")


def _task(
    name: str, table: Table, labels: tuple[str, ...], metrics: dict[str, Metric], before: Task | None = None, training: str = ""
) -> Classification:
    label: Callable[[Any], str | float] = nli if labels == NLI else _binary if labels else float
    lister, reader = partial(_languages, table=table), partial(_read, table=table, name=label)
    recipe = Recipe(epochs=3, modes=("language",))
    return Classification(name, labels, lister, reader, metrics, recipe, training, before)


PAIR = ("sentence1", "sentence2")
MNLI_TABLE = Table("MNLI", *PAIR, "gold_label", dev="dev_matched", hub=("mnli", "premise", "hypothesis"))
COLA = _task(
    "cola",
    Table("CoLA", "sentence", "", "label", ("source", "label", "mark", "sentence"), hub=("cola", "sentence", "")),
    YES,
    {"matthews": counting.MATTHEWS},
)
SST2 = _task("sst2", Table("SST-2", "sentence", "", "label", hub=("sst2", "sentence", "")), YES, ACCURACY)
MNLI = _task("mnli", MNLI_TABLE, NLI, ACCURACY)
MNLI_MM = _task("mnli-mm", MNLI_TABLE._replace(dev="dev_mismatched"), NLI, ACCURACY, training="mnli")
MRPC = _task("mrpc", Table("MRPC", "#1 String", "#2 String", "Quality", hub=("mrpc", *PAIR)), YES, {**F1, **ACCURACY}, MNLI)
STSB = _task(
    "stsb",
    Table("STS-B", *PAIR, "score", hub=("stsb", *PAIR)),
    (),
    {"pearson": counting.PEARSON, "spearman": counting.PEARSON},
    MNLI,
)
QQP_TABLE = Table("QQP", "question1", "question2", "is_duplicate", hub=("qqp", "question1", "question2"))
QQP = _task("qqp", QQP_TABLE, YES, {**F1, **ACCURACY})
QNLI = _task("qnli", Table("QNLI", "question", "sentence", "label", hub=("qnli", "question", "sentence")), YES, ACCURACY)
RTE = _task("rte", Table("RTE", *PAIR, "label", hub=("rte", *PAIR)), YES, ACCURACY, MNLI)
TASKS = (COLA, SST2, MRPC, STSB, QQP, MNLI, MNLI_MM, QNLI, RTE)
COLUMNS = [[(t.name, next(iter(t.metrics)))] for t in TASKS if t.name != "mnli-mm"]
DEFINED = [[(t.name, m) for m in t.metrics] for t in TASKS if not t.name.startswith("mnli")]
GLUE = Suite(
    "glue",
    TASKS,
    {"average": COLUMNS, "glue_average": [*DEFINED, [("mnli", "accuracy"), ("mnli-mm", "accuracy")]]},
)
