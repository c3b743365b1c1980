"""Courses of training: what is trained on what, chosen by which dev, tested on which languages.

Decisions: `language` trains and tests per language; `zero-shot` trains and chooses on the source language and tests all. Tasks
that train the same (XQuAD and MLQA on SQuAD, both sets of MNLI) share runs, which is why `--limit` draws examples of train
and dev by the training's name and those of test by the task's. A language that was asked for and is not in the data is a
skipped row, as is everything else that cannot be measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mmenc import rng
from mmenc.artifact import sha256_json
from mmenc.downstream.options import Options
from mmenc.downstream.sources import Data
from mmenc.downstream.task import Missing, Parts, Task

ZERO = "/zero-shot"


@dataclass
class Test:
    """Test examples of a task in a language, and the name of their row."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    task: Task
    label: str
    language: str
    examples: list[Any]

    @property
    def key(self) -> str:
        """Begins the names of its counts in a unit."""
        return f"{self.label}|{self.language}"


@dataclass
class Course:
    """One training and everything that is tested with it."""

    task: Task
    mode: str
    language: str
    train: list[Any]
    dev: list[Any]
    tests: list[Test] = field(default_factory=list)

    @cached_property
    def learned(self) -> str:
        """Digest of what is trained on and chosen by."""
        return sha256_json([repr(self.train), repr(self.dev)])

    @cached_property
    def tested(self) -> str:
        """Digest of what is tested."""
        return sha256_json([(t.key, repr(t.examples)) for t in self.tests])


@dataclass
class Skip:
    """A row that will have no figure."""

    label: str
    language: str
    reason: str


def limited(examples: Sequence[Any], limit: int, *names: object) -> list[Any]:
    """Some of the examples, drawn, in their order."""
    if not limit or len(examples) <= limit:
        return list(examples)
    return [examples[i] for i in sorted(rng.permutation(len(examples), "limit", *names)[:limit].tolist())]


def _parts(task: Task, data: Data, language: str, limit: int) -> Parts:
    """Examples of a language; the same training draws the same ones."""
    return {
        part: limited(examples, limit, task.name if part == "test" else task.training, language, part)
        for part, examples in task.read(data, language).items()
    }


def _read(task: Task, data: Data, options: Options) -> dict[str, Parts]:
    """Parts of every wanted language; the source language of zero-shot transfer always."""
    wanted = {*options.languages, task.recipe.source} if options.languages else None
    tags = [t for t in task.languages(data) if wanted is None or t in wanted]
    return {t: _parts(task, data, t, options.limit) for t in tags}


def courses_of(task: Task, data: Data, options: Options) -> tuple[list[Course], list[Skip]]:
    """Courses of a task in all its modes, and what cannot be measured with the reason."""
    modes = options.modes or task.recipe.modes
    try:
        if not (parts := _read(task, data, options)) and not options.languages:
            raise Missing("no language of it in --data")
    except Missing as why:
        return [], [Skip(task.name + (ZERO if m == "zero-shot" else ""), "", str(why)) for m in modes]
    asked = list(options.languages or parts)
    found, skips = list[Course](), list[Skip]()
    for mode in modes:
        label = task.name + (ZERO if mode == "zero-shot" else "")
        tests = {t: Test(task, label, t, parts[t]["test"]) for t in asked if t in parts and parts[t]["test"]}
        skips += [Skip(label, t, "no test examples" if t in parts else "not in --data") for t in asked if t not in tests]
        for source in [task.recipe.source] if mode == "zero-shot" else list(tests):
            lack = next((p for p in ("train", "dev") if not parts.get(source, {}).get(p)), "")
            aims = list(tests.values()) if mode == "zero-shot" else [tests[source]]
            if lack:
                reason = f"no {lack} examples" + (f" in {source}, where transfer starts" if mode == "zero-shot" else "")
                skips += [Skip(label, t.language, reason) for t in aims]
            elif aims:
                found.append(Course(task, mode, source, parts[source]["train"], parts[source]["dev"], aims))
    return found, skips


def first_course(task: Task, data: Data, limit: int) -> Course:
    """The training of a task that comes before another one: in the source language, nothing of it is tested."""
    source = task.recipe.source
    try:
        task.languages(data)
        parts = _parts(task, data, source, limit)
    except Missing as why:
        raise Missing(f"{task.name} is trained first: {why}") from None
    if lack := next((p for p in ("train", "dev") if not parts[p]), ""):
        raise Missing(f"{task.name} is trained first: no {lack} examples in {source}")
    return Course(task, task.recipe.modes[0], source, parts["train"], parts["dev"])


def shared(courses: Sequence[Course]) -> list[Course]:
    """Join courses that train the same: their tests are taken with one run."""
    found: dict[tuple[str, str, str, str], Course] = {}
    for c in courses:
        key = (c.task.training, c.mode, c.language, c.learned)
        if key in found:
            found[key].tests += c.tests
        else:
            found[key] = Course(c.task, c.mode, c.language, c.train, c.dev, list(c.tests))
    return list(found.values())
