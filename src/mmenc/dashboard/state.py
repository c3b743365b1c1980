"""One look at a run: every stage with its state, what the running one says, what it will still take, the last evaluations.

Decision: states are done (made in this run), cached (from an earlier one, still what the recipe asks), running, failed, stopped,
waiting. "This run" is the process group of the newest step: all steps of one `make run`, `dvc repro` or shell loop share it.
Time left is that of the running step by its own figures, plus what the waiting ones took when they last ran here (training:
its tokens at the speed of the phase that ran last); steps that never ran are counted, not guessed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmenc import heartbeat
from mmenc.artifact import Json, read_json
from mmenc.dashboard.graph import Stage, Standing, stages, standings
from mmenc.recipe import Recipe

TAIL = 65_536
"""Bytes read from the end of train.jsonl; a line has 500."""


@dataclass(frozen=True)
class Seen:
    """A stage, its state, and what is known of it."""

    stage: Stage
    state: str
    note: str = ""
    record: Json = field(default_factory=dict)
    """`.runs/<digest>/run.json` of its artifact, {} if there is none."""
    running: Json = field(default_factory=dict)
    """running.json, with `alive`."""
    log: Json = field(default_factory=dict)
    """The last line of train.jsonl."""
    facts: Json = field(default_factory=dict)
    """Of the artifact, where it is what the recipe asks for."""
    languages: Mapping[str, int] = field(default_factory=dict)
    """Tokens by folder that the phase has read so far."""

    @property
    def fresh(self) -> bool:
        """Whether the last line of the log is of the process that runs or ran last, and not of one before it."""
        return bool(self.log) and bool(self.log["time"] >= self.running.get("started", 0))


@dataclass(frozen=True)
class Look:
    """Everything that a screen shows."""

    recipe: Recipe
    root: Path
    seen: Mapping[str, Seen]
    planned: Mapping[str, float]
    """The mixture of the running phase: share by language."""
    evaluations: Mapping[str, Json]
    """Facts of the evaluations that are there, by model, oldest first."""
    dvc: str
    """`dvc repro (process 123)` while DVC is at work here."""
    elsewhere: list[Path]
    """Roots in which `dvc exp run --temp` or its queue is at work."""
    left: float | None
    unknown: int
    """Waiting steps of which nobody knows how long they take."""

    @property
    def running(self) -> list[Seen]:
        """Stages at work now."""
        return [s for s in self.seen.values() if s.state == "running"]

    @property
    def finished(self) -> bool:
        """Whether every stage is done."""
        return all(s.state in ("done", "cached") for s in self.seen.values())


def look(recipe: Recipe, root: Path) -> Look:
    """Read the state of the run whose artifacts lie in `root/artifacts`."""
    found = stages(recipe, root)
    standing = standings(recipe, found)
    artifacts = root / "artifacts"
    beats = heartbeat.read_all(artifacts)
    records = _records(artifacts)
    group = _newest_group(beats, records)
    seen = {s.key: _seen(s, standing[s.out], artifacts, beats, records, group) for s in found}
    phase = next((s.stage.name for s in seen.values() if s.state == "running" and s.stage.step.name == "train"), "")
    left, unknown = _left(recipe, seen, records)
    return Look(
        recipe, root, seen, _planned(artifacts, phase), _evaluations(found, standing), _dvc(root), _elsewhere(root), left, unknown
    )


def _seen(stage: Stage, at: Standing, artifacts: Path, beats: list[Json], records: list[Json], group: int) -> Seen:
    digest = at.manifest.digest if at.manifest else ""
    record = next((r for r in records if r["digest"] == digest), {})
    mine = [b for b in beats if (b["step"], b["name"]) == (stage.step.name, stage.name)]
    if alive := next((b for b in mine if b["alive"]), None):
        folder = artifacts / ".runs" / str(alive["digest"])
        return Seen(stage, "running", "", record, alive, _last_line(folder / "train.jsonl"), {}, _read(folder / "languages.json"))
    if not at.why:
        state = "done" if record and record.get("group") == group else "cached"
        log = _last_line(artifacts / ".runs" / digest / "train.jsonl")
        return Seen(stage, state, "", record, {}, log, at.manifest.facts if at.manifest else {})
    newest = max((r["started"] + r["seconds"] for r in records if _is_of(r, stage)), default=0.0)
    last = mine[-1] if mine and mine[-1]["started"] > newest else None
    if last is None:
        return Seen(stage, "waiting", "" if at.manifest is None and "not made" in at.why else at.why, record)
    if "stopped" in last:
        return Seen(stage, "stopped", "stopped by a signal; run again to go on", record, last)
    gone = f"process {last['pid']} on {last['host']} is gone without a word (killed?); run again to go on"
    return Seen(stage, "failed", str(last.get("failed", gone)), record, last)


def _is_of(record: Json, stage: Stage) -> bool:
    return (record["step"], record["name"]) == (stage.step.name, stage.name)


def _records(artifacts: Path) -> list[Json]:
    """All run records, oldest first."""
    rows = [_read(path) for path in (artifacts / ".runs").glob("*/run.json")]
    whole = [r for r in rows if {"step", "name", "digest"} <= r.keys() and _are_numbers(r, "started", "seconds")]
    return sorted(whole, key=lambda r: float(r["started"]))


def _are_numbers(row: Json, *keys: str) -> bool:
    return all(isinstance(row.get(key), int | float) for key in keys)


def _read(path: Path) -> Json:
    """A mapping from a JSON file, {} where it is missing or damaged: what is shown beside a run must not end the screen."""
    try:
        found: Json = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _last_line(path: Path) -> Json:
    """The last whole line of a log."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - TAIL))
            lines = stream.read().split(b"\n")
    except OSError:
        return {}
    for line in reversed(lines[:-1]):  # behind the last newline a line is still being written
        try:
            found: Json = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and _are_numbers(found, "time", "tokens", "tokens_per_second", "data_wait_share"):
            return found
    return {}


def _newest_group(beats: list[Json], records: list[Json]) -> int:
    rows = [*beats, *records]
    newest = max(rows, key=lambda r: (bool(r.get("alive")), float(r["started"])), default={})
    return int(newest.get("group", -1))


def _planned(artifacts: Path, phase: str) -> dict[str, float]:
    found = _read(artifacts / "mixture" / phase / "mixture.json") if phase else {}
    planned = {tag: float(row["share"]) for tag, row in found.get("languages", {}).items()}
    for bucket in found.get("buckets", {}).values():  # a bucket may read a language once more
        planned[bucket["source"]] = planned.get(bucket["source"], 0.0) + float(bucket["share"])
    return planned


def _evaluations(found: list[Stage], standing: Mapping[Path, Standing]) -> dict[str, Json]:
    return {
        s.name: standing[s.out].manifest.facts  # type: ignore[union-attr]
        for s in found
        if s.step.name == "evaluate" and (made := standing[s.out].manifest) and "tiers" in made.facts
    }


def _left(recipe: Recipe, seen: Mapping[str, Seen], records: list[Json]) -> tuple[float | None, int]:
    """Seconds until all is done, as far as anybody can know, and the number of steps that nobody knows of."""
    speeds = [s.log["tokens_per_second"] for s in seen.values() if s.log.get("tokens_per_second")]
    total, unknown = 0.0, 0
    for one in seen.values():
        if one.state in ("done", "cached"):
            continue
        before = next((float(r["seconds"]) for r in reversed(records) if _is_of(r, one.stage)), None)
        if one.state == "running" and (now := step_left(one)) is not None:
            total += now
        elif one.stage.step.name == "train" and speeds:
            total += recipe.phases[one.stage.name].tokens / speeds[-1]
        elif before is not None:
            total += max(0.0, before - (time.time() - one.running["started"] if one.state == "running" else 0.0))
        else:
            unknown += 1
    return (total if total or not unknown else None), unknown


def step_left(one: Seen) -> float | None:
    """Seconds that the running step will still take, by its own figures."""
    if one.fresh and "seconds_left" in one.log:
        return max(0.0, float(one.log["seconds_left"]) - (time.time() - float(one.log["time"])))
    said = one.running.get("progress", {})
    # A step has several bars: of the whole only a training phase's is known.
    return float(said["seconds_left"]) if one.stage.step.name == "train" and "seconds_left" in said else None


def _dvc(root: Path) -> str:
    """DVC's process, from the lock that it keeps while it works."""
    for entry in _read(root / ".dvc" / "tmp" / "rwlock").values():
        readers = entry.get("read") if isinstance(entry, dict) else None
        for row in [entry.get("write"), *readers] if isinstance(readers, list) else ():
            if isinstance(row, dict) and Path(f"/proc/{row.get('pid')}").exists():
                command, *words = str(row.get("cmd") or "dvc").split()
                return " ".join([Path(command).name, *words])
    return ""


def _elsewhere(root: Path) -> list[Path]:
    """DVC's temporary checkouts: one level deep from the queue, two with --temp."""
    exps = root / ".dvc" / "tmp" / "exps"
    places = [*exps.glob("*/artifacts/.runs"), *exps.glob("*/*/artifacts/.runs")]
    return [p.parents[1] for p in places if any(b["alive"] for b in heartbeat.read_all(p.parent))]
