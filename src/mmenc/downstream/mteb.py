"""MTEB v2 (English, multilingual) and CoIR, through the `mteb` library: its tasks, its metrics, our vectors.

Decisions: with `triplets/*.jsonl` in --data the encoder is first trained as the paper does it (contrastive.py), without them it
is measured as it is, and every row then is called `…/as-is`. A task's data set comes from a folder `mteb/NAME` of --data (a
copy of its repository, NAME without the organisation), else from the local cache of `datasets`, else, with --hub, from the
hub; what cannot be had is a skipped row, and after one failure of the network the rest is not asked for again (five
retries of each of 172 tasks would take an hour). The averages are the paper's: the mean over types of task of the mean over
tasks; CoIR's that over tasks. They are made only of whole types. Nothing is trained on these sets, and mteb gives no
scores per example: the interval of a task is that over its languages, where it has several.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmenc.artifact import Json, sha256_json
from mmenc.downstream.contrastive import RATE, Triplet, read_triplets, save, train
from mmenc.downstream.registry import Context
from mmenc.downstream.sources import Data
from mmenc.evaluate.rows import mean_interval, row, skipped

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
Prepare = Callable[[], Embed]
"""Asked for when the first task has no finished unit: with all of them done nothing is trained."""
MTEB = {"mteb-eng": "MTEB(eng, v2)", "mteb-multilingual": "MTEB(Multilingual, v2)"}
COIR = {"coir": "CoIR"}
TYPED = tuple(MTEB)
"""Benchmarks whose average is over types of task."""
NETWORK = ("Couldn't reach", "Name or service", "ConnectionError", "Max retries", "Offline", "timed out")
INSTALL = "the library mteb is not installed: pip install 'mmenc[mteb]'"


def encoder(name: str, digest: str, embed: Embed) -> Any:
    """A model as mteb wants it; similarity is the cosine."""
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    class Encoder(AbsEncoder):  # type: ignore[misc]
        """Texts to vectors; prompts are for models that were trained with them, ours are not."""

        def __init__(self) -> None:
            about: Json = {"name": f"mmenc/{name.replace('/', '--')}", "revision": digest[:16]}
            about["similarity_fn_name"] = ScoringFunction.COSINE
            self.model, self.mteb_model_meta = None, ModelMeta.create_empty(overwrites=about)

        def encode(self, inputs: Any, **_more: Any) -> NDArray[np.float32]:
            """Vectors of all batches of a loader."""
            return embed([text for batch in inputs for text in batch["text"]])

    return Encoder()


@contextmanager
def network(wanted: bool) -> Iterator[Callable[[], None]]:
    """Let the hub be asked or not; yields what shuts it off."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE

    def off() -> None:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True

    if not wanted:
        off()
    try:
        yield off
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def localised(task: Any, data: Data) -> Any:
    """The task, with its data set taken from `mteb/NAME` of --data where that is there."""
    source = dict(task.metadata.dataset)
    folder = data.root / "mteb" / str(source["path"]).rsplit("/", 1)[-1]
    if folder.is_dir():
        task.metadata = task.metadata.model_copy(update={"dataset": {"path": str(folder), "revision": "local"}})
    return task


def run_task(model: Any, task: Any) -> Json:
    """Its figure and those of its languages, or `error`, the reason why there is none."""
    import mteb

    try:
        done = mteb.evaluate(
            model, task, cache=None, raise_error=False, show_progress_bar=False, co2_tracker=False,
            encode_kwargs={"batch_size": 256, "show_progress_bar": False},
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001 (anybody's task on anybody's data)
        return {"error": " ".join(str(error).split())[:200] or type(error).__name__}
    if not done.task_results:
        told = str(done.exceptions[0].exception) if done.exceptions else "no result"
        return {"error": " ".join(told.split())[:200]}
    found = done.task_results[0]
    parts = [float(s["main_score"]) for rows in found.scores.values() for s in rows]
    return {"score": float(found.get_score()), "parts": parts}


def task_row(context: Context, label: str, task: Any, found: Json) -> Json:
    """The row of a task."""
    subject, settings, name = context.subject, context.settings, f"{label}/{task.metadata.name}"
    if "error" in found:
        return skipped(subject.name, subject.digest, name, "", task.metadata.type, found["error"])
    mean, low, high = mean_interval(found["parts"], settings.bootstrap, settings.seed, name)
    figures = (found["score"], found["score"] + low - mean, found["score"] + high - mean)
    return row(subject.name, subject.digest, name, "", task.metadata.type, task.metadata.main_score, figures, len(found["parts"]))


def _mean(context: Context, label: str, metric: str, rows: Sequence[Json], what: str) -> Json:
    """The mean of rows, or a skipped row if one of them has no figure."""
    subject, settings = context.subject, context.settings
    values = [r["mean"] for r in rows if r["status"] == "ok"]
    if len(values) < len(rows):
        told = f"{metric}: {len(values)} of {len(rows)} {what} have figures; first reason: "
        told += next(str(r["reason"]) for r in rows if r["status"] != "ok")
        return skipped(subject.name, subject.digest, label, "", "all", told)
    figures = mean_interval(values, settings.bootstrap, settings.seed, label, metric)
    return row(subject.name, subject.digest, label, "", "all", metric, figures, len(values))


def totals(context: Context, label: str, rows: Sequence[Json], typed: bool) -> list[Json]:
    """The average of a benchmark, and the means of its types of task."""
    if not typed:
        return [_mean(context, label, "average", rows, "tasks")]
    kinds = sorted({r["tier"] for r in rows})
    means = [_mean(context, label, k, [r for r in rows if r["tier"] == k], "tasks") for k in kinds]
    return [_mean(context, label, "average", means, "types"), *means]


def score(
    context: Context, label: str, tasks: Sequence[Any], prepare: Prepare, names: Json, off: Callable[[], None], share: float = 1.0
) -> list[Json]:
    """A row per task; finished ones are taken from an earlier run. `share` of the progress is this."""
    subject, rows, model = context.subject, list[Json](), None
    for task in tasks:
        unit = {**names, "suite": label, "task": task.metadata.name}
        known = context.units.get(unit)
        if known is None:
            model = model or encoder(subject.name, subject.digest, prepare())
            found = run_task(model, localised(task, context.data))
            if "error" not in found:
                context.units.put(unit, {"found": found}, {})
        else:
            found = known[0]["found"]
        if any(sign in found.get("error", "") for sign in NETWORK):
            off()
        rows.append(task_row(context, label, task, found))
        context.tick(share / len(tasks), f"{label} {task.metadata.name}")
    return rows


def trained(context: Context, triplets: Sequence[Triplet]) -> Embed:
    """What embeds after training on the triplets; MTEB and CoIR share it."""
    if "contrastive" not in context.memo:
        made = train(context.backbone, triplets, context.settings.seed, lambda _amount, note: context.tick(0, note))
        if context.keep:
            save(made, context.subject, context.keep / context.subject.name.replace("/", "--"))
        context.memo["contrastive"] = made.embed
    found: Embed = context.memo["contrastive"]
    return found


def measure(context: Context, benchmarks: dict[str, str]) -> list[Json]:
    """All rows of some benchmarks."""
    subject, settings = context.subject, context.settings
    if importlib.util.find_spec("mteb") is None:
        return [skipped(subject.name, subject.digest, label, "", "all", INSTALL) for label in benchmarks]
    import mteb

    logging.getLogger("mteb").setLevel(logging.CRITICAL)  # each failed task would be a traceback beside its row
    triplets = read_triplets(context.data, context.options.limit)
    names: Json = {"model": subject.digest, "seed": settings.seed, "triplets": sha256_json([list(t) for t in triplets])}
    told = f"trained on {len(triplets)} triplets, learning rate {RATE:g}" if triplets else ""
    rows: list[Json] = []
    with network(context.data.hub) as off:
        for label, name in benchmarks.items():
            called = label if triplets else f"{label}/as-is"
            prepare: Prepare = partial(trained, context, triplets) if triplets else lambda: subject.embed
            tasks = list(mteb.get_benchmark(name).tasks)
            found = score(context, called, tasks, prepare, names, off, 1 / len(benchmarks))
            rows += [r | {"reason": r["reason"] or told} for r in [*totals(context, called, found, label in TYPED), *found]]
    return rows


def mteb_rows(context: Context) -> list[Json]:
    """MTEB v2, English and multilingual."""
    return measure(context, MTEB)


def coir_rows(context: Context) -> list[Json]:
    """CoIR."""
    return measure(context, COIR)
