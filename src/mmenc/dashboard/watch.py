"""`mmenc watch`: the screen, drawn anew while a run goes on elsewhere; plain lines where no terminal is.

Decision: it only reads files, in a process of its own, so Ctrl-C, a closed window or a crash of the screen leaves the run alone,
and any number may watch. Elsewhere than on a terminal it prints a line when a stage changes its state, and every 20 s what
the running one does; it ends when all is done, or when nothing has run for a minute (DVC needs seconds between two stages).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from mmenc.dashboard.screen import duration, headline, render
from mmenc.dashboard.state import Look, Seen, look, step_left
from mmenc.errors import Refused
from mmenc.progress import LINE_EVERY, console
from mmenc.recipe import Recipe, load

EVERY = 1.0
"""Seconds between two looks."""
QUIET = 60.0
"""Seconds without a running step after which a log without a terminal ends."""


def watch(params: Path | None, artifacts: Path, *, once: bool = False) -> None:
    """Show the run whose artifacts lie in a folder, until it ends or Ctrl-C; `once`: one screen."""
    root = artifacts.absolute().parent
    if artifacts.name != "artifacts":
        raise Refused(f"{artifacts}: expected the folder called artifacts, beside the dvc.yaml of its run")
    recipe_file = params or root / "params.yaml"
    recipe = load(recipe_file)
    first = look(recipe, root)
    if once:
        shown = console()
        shown.print(render(first, shown.width))
    elif sys.stdout.isatty():
        _live(recipe_file, root, first)
    else:
        _lines(recipe, root, first)


def _live(recipe_file: Path, root: Path, first: Look) -> None:
    from rich.live import Live

    now, at = first, console()
    try:
        with Live(render(now, at.width), console=at, screen=False, auto_refresh=False, transient=False) as live:
            while not now.finished or now.running:
                time.sleep(EVERY)
                now = look(_reloaded(recipe_file, now.recipe), root)
                live.update(render(now, at.width), refresh=True)
    except KeyboardInterrupt:
        pass
    if now.running:
        print("the run goes on; `mmenc watch` shows it again", flush=True)


def _reloaded(path: Path, before: Recipe) -> Recipe:
    """The recipe as it stands now; while somebody edits it, as it was."""
    try:
        return load(path)
    except Refused:
        return before


def _lines(recipe: Recipe, root: Path, now: Look) -> None:
    """A log: what changed since the last look, and now and then what the running step does."""
    states: dict[str, str] = {}
    quiet = told = time.monotonic()
    print(headline(now), flush=True)
    while True:
        for key, one in now.seen.items():
            if states.get(key, "waiting") != one.state and (states or one.state not in ("done", "cached")):
                print(_changed(one), flush=True)
                told = time.monotonic()
            states[key] = one.state
        if now.running or now.dvc:
            quiet = time.monotonic()
        if now.running and time.monotonic() - told >= LINE_EVERY:
            told = time.monotonic()
            for one in now.running:
                print(f"  {_doing(one)}", flush=True)
        if (now.finished and not now.running) or time.monotonic() - quiet > QUIET:
            print(headline(now), flush=True)
            return
        time.sleep(EVERY)
        now = look(recipe, root)


def _changed(one: Seen) -> str:
    seconds = f" in {duration(one.record['seconds'])}" if one.state == "done" and one.record else ""
    pid = f" (process {one.running['pid']})" if one.state == "running" else ""
    return f"{one.stage.title}: {one.state}{seconds}{pid}{': ' + one.note if one.note else ''}"


def _doing(one: Seen) -> str:
    log, said = one.log, one.running.get("progress", {})
    if one.stage.step.name == "train" and one.fresh:
        loss = f"loss {log['loss']:.3f}, " if "loss" in log else ""
        speed = f"{log['tokens_per_second']:,.0f} tok/s, waits for data {100 * log['data_wait_share']:.1f} %"
        return f"{one.stage.title}: {log['tokens']:,} tokens, {loss}{speed}, {duration(step_left(one))} left"
    if said:
        share = f"{100 * said['done'] / said['total']:.0f} %" if said["total"] else ""
        return f"{one.stage.title}: {said['title']} {share} {said.get('note', '')}".rstrip()
    return f"{one.stage.title}: at work for {duration(time.time() - one.running['started'])}"
