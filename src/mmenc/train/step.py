"""Train one phase: from the parent's checkpoint to this phase's, in this process or in several (launch.py).

`train` is what each process does (loop.py has the steps); process 0 writes the checkpoint and returns the facts.
"""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable

import torch

from mmenc.artifact import Json, write_json
from mmenc.costs import phase_costs
from mmenc.data.tokens import is_language
from mmenc.job import Job
from mmenc.model.config import parameter_counts
from mmenc.train.group import Group
from mmenc.train.loop import HELDOUT_MASK, Trainer
from mmenc.train.schedule import learning_rate
from mmenc.train.task import Task

__all__ = ["HELDOUT_MASK", "Trainer", "run", "train"]


def _compare_with_plan(trainer: Trainer, measured: Json) -> Json:
    """What `mmenc plan` had predicted for this process, what was measured, and the relative error."""
    parameters = parameter_counts(trainer.model.cfg)["parameters"]
    planned = phase_costs(trainer.recipe, trainer.phase, parameters)
    cuda = trainer.group.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    expected = {
        "seconds": planned["hours"] * 3600 * measured["tokens"] / trainer.phase.tokens,
        "memory_bytes": planned["memory_bytes"],
    }
    found = {"seconds": measured["train_seconds"], "memory_bytes": peak - (0 if cuda else trainer.memory_before)}
    return {"expected": expected, "measured": found, "error": {k: found[k] / expected[k] - 1 for k in found if expected[k]}}


def _state(trainer: Trainer) -> Json:
    """state.json of the finished phase (contract)."""
    loop = trainer.loop
    sources = {b: row["source"] for b, row in trainer.mixture["buckets"].items()}
    buckets = {b: loop.folders.get(source, 0) for b, source in sources.items()}
    languages = {t: n for t, n in loop.folders.items() if t in trainer.mixture["languages"]}
    before = trainer.before["total"]

    def add(old: Json, new: Json) -> Json:
        return {k: old.get(k, 0) + new.get(k, 0) for k in sorted({*old, *new})}

    return {
        "tokens": loop.tokens,
        "steps": loop.step,
        "languages": dict(sorted(languages.items())),
        "buckets": buckets,
        "total": {
            "tokens": before["tokens"] + loop.tokens,
            "steps": before["steps"] + loop.step,
            "languages": add(before["languages"], languages),
            "buckets": add(before["buckets"], buckets),
        },
        "streams": add(trainer.before["streams"], loop.folders),
    }


def _facts(trainer: Trainer, state: Json) -> Json:
    loop, phase = trainer.loop, trainer.phase
    planned = {t: row["share"] for t, row in {**trainer.mixture["languages"], **trainer.mixture["buckets"]}.items()}
    observed = {k: n / loop.tokens for k, n in {**state["languages"], **state["buckets"]}.items()}
    distance = sum(abs(planned[k] - observed.get(k, 0.0)) for k in planned) / 2
    return {
        "tokens": loop.tokens,
        "steps": loop.step,
        "total_tokens": state["total"]["tokens"],
        "rows": loop.rows,
        "fill": round(loop.row_tokens / (loop.rows * phase.context), 6),
        "cut": {"documents": loop.cut_documents, "tokens": loop.cut_tokens},
        "learning_rate_end": learning_rate(phase, loop.tokens),
        "curve": loop.curve,
        "heldout": loop.heldout,
        "observed": observed,
        "mix_distance": round(distance, 6),
        "skipped": loop.skipped,
        "languages": sum(1 for t in state["languages"] if is_language(t)),
    }


def train(task: Task, group: Group, saved: Callable[[], None]) -> tuple[Json, Json]:
    """Train a phase as one process of a group; process 0 writes its checkpoint and returns (facts, what was measured)."""
    trainer = Trainer(task, group, saved)
    measured = trainer.run()
    if group.size > 1:
        measured["processes"] = {"count": group.size, "weights": group.prove_equal(trainer.model)}
    snapshot = trainer.snapshot()
    if not snapshot:
        return {}, {}
    measured["plan"] = _compare_with_plan(trainer, measured)
    state = _state(trainer)
    snapshot.write(task.out, state)
    if trainer.loop.kept:
        shutil.copytree(task.resume / "kept", task.out / "checkpoints", ignore=shutil.ignore_patterns(".tmp.*"))
    facts = _facts(trainer, state)
    write_json(task.out / "curve.json", {"curve": facts["curve"], "heldout": facts["heldout"]})
    first, last = facts["heldout"][0][1], facts["heldout"][-1][1]
    print(
        f"  {facts['tokens']:,} tokens, {facts['steps']} steps, held-out loss {first:.3f} -> {last:.3f}, "
        f"fill {100 * facts['fill']:.1f} %, {measured['tokens_per_second']:,.0f} tokens/s",
        flush=True,
    )
    return facts, measured


def run(job: Job) -> Json:
    """The step: one process, several of this machine, or several nodes, as the recipe says."""
    from mmenc.train.launch import launch

    facts, measured = launch(job)
    job.measured |= measured
    return facts
