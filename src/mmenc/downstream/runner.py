"""Runs courses for one model: learning rate, seeds, what was trained before, and what is taken from finished units.

Decisions: the learning rate of a (model, training, mode) is chosen on dev alone, with the first seed, by the mean over at most
three training languages, in runs of at most 250 steps; all seeds then run at that rate. A task that comes before another
(MNLI before RTE, MRPC, STS-B; SIQA before COPA) is trained once per seed at its own best rate, and its weights stay in memory
for all that need them, its own figures included. Only counts go to disk: after a kill such a task is trained again, to the same
weights. Seconds are kept per unit, so that the time of a task is right after a resumption too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmenc.artifact import Json
from mmenc.downstream.backbone import Backbone
from mmenc.downstream.course import Course, first_course
from mmenc.downstream.options import Options
from mmenc.downstream.sources import Data
from mmenc.downstream.task import Floats, Missing, Task
from mmenc.downstream.tuning import BATCH, WORST, Labelled, Tuned, measure, tune
from mmenc.downstream.units import Units

CHOOSERS = 3
CHOICE_STEPS = 250
"""Of a run that only chooses the learning rate, at most: all of SIB-200 (220), a fifth of a treebank of 12,500 sentences."""
KEPT = ("training", "mode", "language", "rate", "seed", "dev", "curve", "steps", "seconds")


@dataclass
class Outcome:
    """What came out of courses that share a learning rate."""

    rate: float = 0.0
    seconds: float = 0.0
    counts: dict[str, dict[str, list[Floats]]] = field(default_factory=dict)
    """{test: {metric: one matrix per seed}}"""
    diverged: dict[str, int] = field(default_factory=dict)
    """Seeds whose loss was no number before the first epoch's end, by test."""

    def add(self, facts: Json, counts: Mapping[str, Floats]) -> None:
        """One seed of one course."""
        for name, count_NK in counts.items():
            test, _, metric = name.rpartition("|")
            self.counts.setdefault(test, {}).setdefault(metric, []).append(count_NK)
        for test in {name.rpartition("|")[0] for name in counts}:
            self.diverged[test] = self.diverged.get(test, 0) + (facts["dev"] == WORST)


class Runner:
    """Runs the courses of one model; `firsts` are the trainings that come before others."""

    def __init__(
        self, backbone: Backbone, units: Units, options: Options, data: Data, advance: Callable[[float, str], None],
        firsts: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.backbone, self.units, self.options, self.data, self.firsts = backbone, units, options, data, firsts
        self.facts: list[Json] = []
        self._advance = advance
        self._tokens: dict[tuple[int, str, bool], tuple[Any, Labelled]] = {}
        self._courses: dict[str, Course] = {}
        self._trained: dict[tuple[object, ...], Tuned] = {}
        self._preparing = False

    def tick(self, amount: float, note: str) -> None:
        """Show progress; what comes before a task counts for nothing, only its note is seen."""
        self._advance(0 if self._preparing else amount, note)

    def labelled(self, task: Task, examples: list[Any], train: bool = False) -> Labelled:
        """Tokenised examples, made once."""
        key = id(examples), task.name, train
        if key not in self._tokens:
            self._tokens[key] = (examples, Labelled.of(task, examples, self.backbone.texts, train))
        return self._tokens[key][1]

    def first(self, task: Task) -> Course:
        """The course of a task that comes before another one."""
        if task.training not in self._courses:
            self._courses[task.training] = first_course(task, self.data, self.options.limit)
        return self._courses[task.training]

    def names(self, course: Course, rate: float, seed: int) -> Json:
        """What a unit depends on."""
        task, options = course.task, self.options
        before = self.names(self.first(task.before), 0.0, seed) | {"rates": list(options.rates)} if task.before else {}
        return {
            "model": self.backbone.digest,
            "bf16": self.backbone.bf16,
            "training": task.training,
            "mode": course.mode,
            "language": course.language,
            "rate": rate,
            "seed": seed,
            "steps": options.steps,
            "data": course.learned,
            "recipe": [task.recipe.epochs, task.recipe.patience, task.recipe.most],
            "before": before,
        }

    def train(self, course: Course, rate: float, seed: int, steps: int = 0) -> Tuned:
        """One run, of at most `steps` (0: as the options say)."""
        task = course.task
        start = self._start(task.before, seed) if task.before else None
        train, dev = self.labelled(task, course.train, train=True), self.labelled(task, course.dev)
        if not train.items:
            raise Missing(f"none of the {len(course.train)} train examples in {course.language} can be learnt from")
        names = (seed, task.training, course.language, rate)
        return tune(task, self.backbone, train, dev, rate, names, task.recipe, steps or self.options.steps, self.tick, start)

    def whole(self, course: Course, rate: float, seed: int, made: dict[int, Tuned]) -> Tuned:
        """A run to the end, taken from those that chose the rate or from those of tasks that come first."""
        key = course.task.training, course.learned, rate, seed
        run = self._trained.get(key) or (made.pop(id(course), None) if seed == 0 else None)
        if run is None:
            run = self.train(course, rate, seed)
        elif key in self._trained:
            self.tick(1, "")
        if course.task.training in self.firsts:
            self._trained[key] = run
        return run

    def _start(self, before: Task, seed: int) -> Tuned:
        """The encoder after an intermediate task, which is trained at its own best rate."""
        course, outer, self._preparing = self.first(before), self._preparing, True
        try:
            rate, made = self.rate([course])
            return self.whole(course, rate, seed, made)
        finally:
            self._preparing = outer

    def _length(self, course: Course) -> int:
        """Steps of a whole run."""
        items = len(self.labelled(course.task, course.train, train=True).items)
        whole = course.task.recipe.epochs * -(-items // BATCH)
        return min(whole, self.options.steps or whole)

    def rate(self, courses: Sequence[Course]) -> tuple[float, dict[int, Tuned]]:
        """The rate that is best on dev with the first seed, and the whole runs that were made at it on the way."""
        if len(self.options.rates) == 1:
            return self.options.rates[0], {}
        spread = np.linspace(0, len(courses) - 1, min(CHOOSERS, len(courses))).round().astype(int)
        chosen = [courses[i] for i in dict.fromkeys(spread.tolist())]
        best, kept = (-np.inf, 0.0), dict[int, Tuned]()
        for rate in self.options.rates:
            made, scores = dict[int, Tuned](), list[float]()
            for course in chosen:
                facts = self._choice(course, rate, made)
                scores.append(facts["dev"])
            if np.mean(scores) > best[0]:
                best, kept = (float(np.mean(scores)), rate), made
        return best[1], kept

    def _choice(self, course: Course, rate: float, made: dict[int, Tuned]) -> Json:
        """Facts of a run that chooses the rate; a whole one goes into `made`, it need not be made again."""
        names = {**self.names(course, rate, 0), "tests": ""}
        known = self.units.get(names)
        if known is not None:
            self.tick(1, "")
            return known[0]
        began = time.monotonic()
        run = self.train(course, rate, 0, min(self.options.steps or CHOICE_STEPS, CHOICE_STEPS))
        if self._length(course) <= CHOICE_STEPS:
            made[id(course)] = run
        facts = {"dev": run.dev, "curve": run.curve, "steps": run.steps, "seconds": time.monotonic() - began}
        self.units.put(names, facts, {})
        return facts

    def run(self, courses: Sequence[Course]) -> Outcome:
        """Counts of every seed of courses that share a learning rate."""
        rate, made = self.rate(courses)
        found = Outcome(rate)
        for course in courses:
            for seed in range(self.options.seeds):
                names = {**self.names(course, rate, seed), "tests": course.tested}
                known = self.units.get(names)
                if known is None:
                    known = self._finish(course, rate, seed, made, names)
                else:
                    self.tick(1, "")
                self.facts.append({k: known[0][k] for k in KEPT})
                found.seconds += known[0]["seconds"]
                found.add(*known)
            self._tokens.clear()
        found.seconds += self._choosing(courses)
        return found

    def _choosing(self, courses: Sequence[Course]) -> float:
        """Seconds of the runs that chose the rate."""
        if len(self.options.rates) == 1:
            return 0.0
        names = [{**self.names(c, rate, 0), "tests": ""} for c in courses for rate in self.options.rates]
        return sum(float(known[0]["seconds"]) for n in names if (known := self.units.get(n)))

    def _finish(
        self, course: Course, rate: float, seed: int, made: dict[int, Tuned], names: Json
    ) -> tuple[Json, Mapping[str, Floats]]:
        """Train, test, and keep what came out."""
        began, counts = time.monotonic(), dict[str, Floats]()
        run = self.whole(course, rate, seed, made)
        for test in course.tests:
            found = measure(test.task, run.body, run.head, self.labelled(test.task, test.examples))
            counts |= {f"{test.key}|{metric}": found[metric] for metric in test.task.metrics}
        facts = {"dev": run.dev, "curve": run.curve, "steps": run.steps, "seconds": time.monotonic() - began}
        self.units.put(names, facts, counts)
        return {**names, **facts}, counts
