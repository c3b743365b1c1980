"""The screen of `mmenc watch`: the graph above, the running step in the middle, results below; drawn from one `Look`.

Decision: the graph is drawn as people think of it, not as boxes and arrows: the steps before training in a line, then the tree
of phases (one row each: its mixture, its training, its evaluation), then the line that ends in the report. A state is a mark
and a colour, so that it reads without colours too. It fits 80 columns; what is least urgent stands last, where a low terminal
cuts it off.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mmenc.dashboard.state import Look, Seen, step_left

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

MARKS = {
    "done": ("●", "green"),
    "cached": ("○", "green"),
    "running": ("▶", "bold yellow"),
    "waiting": ("·", "bright_black"),
    "failed": ("✗", "bold red"),
    "stopped": ("‖", "magenta"),
}
MEANS = {"done": "made in this run", "cached": "from before", "running": "running", "waiting": "waiting"}
BEFORE = ("ingest", "clean", "validate", "tokenizer", "tokenize", "init")
AFTER = ("merge", "evaluate:merge", "release", "report")
TOP = 6
"""Languages shown of those that a phase has read."""
BAR, NARROW = 16, 6
WIDE = 96
"""Columns from which the long bar fits."""


def duration(seconds: float | None) -> str:
    """As a clock shows it: 0:42, 7:03, 2:10:00."""
    if seconds is None:
        return "?"
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def _mark(text: Text, one: Seen | None, label: str = "") -> None:
    mark, style = MARKS[one.state] if one else ("?", "")
    text.append(mark, style)
    text.append(f" {label}" if label else "", style if one and one.state in ("running", "failed", "stopped") else "")


def _line(look: Look, keys: tuple[str, ...]) -> Text:
    from rich.text import Text

    line = Text("  ")
    for number, key in enumerate(k for k in keys if k in look.seen):
        line.append(" → " if number else "", "bright_black")
        _mark(line, look.seen[key], look.seen[key].stage.title.replace("evaluate merge", "evaluate"))
    return line


def _depths(look: Look) -> list[tuple[str, int]]:
    """Phases as a tree, each with its depth."""
    phases = look.recipe.phases
    rows: list[tuple[str, int]] = []

    def walk(parent: str, depth: int) -> None:
        children = [name for name, phase in phases.items() if phase.init == parent]
        for name in children:
            rows.append((name, depth))
            walk(name, depth + 1)

    walk("init", 0)
    return rows


def _phases(look: Look, bar: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1) if bar == BAR else (0, 1, 0, 0), pad_edge=False)
    table.add_column("  phase", no_wrap=True)
    for title in ("mix", "train", "eval"):
        table.add_column(title, justify="center", no_wrap=True)
    table.add_column("tokens", no_wrap=True, min_width=bar + 5)
    for title in ("loss", "held-out", "tok/s"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for name, depth in _depths(look):
        train = look.seen[f"train:{name}"]
        cells = []
        for kind in ("mixture", "train", "evaluate"):
            cell = Text()
            _mark(cell, look.seen.get(f"{kind}:{name}"))
            cells.append(cell)
        label = Text("  " + "  " * depth + ("└ " if depth else "") + name, "bold yellow" if train.state == "running" else "")
        table.add_row(label, *cells, _tokens(look, train, bar), *_figures(train))
    return table


def _tokens(look: Look, train: Seen, bar: int) -> Text:
    from rich.text import Text

    total = look.recipe.phases[train.stage.name].tokens
    if train.state in ("done", "cached"):
        return Text(_short(total), "green")
    if train.state == "waiting":
        return Text(_short(total), "bright_black")
    read = int(train.log.get("tokens", 0)) if train.fresh else 0
    read = max(read, int(train.running.get("progress", {}).get("done", 0)) if train.state == "running" else 0)
    share = min(1.0, read / total)
    full = round(share * bar)
    return Text.assemble(("━" * full, "yellow"), ("━" * (bar - full), "bright_black"), f" {100 * share:3.0f}%")


def _figures(train: Seen) -> list[str]:
    if train.facts:
        measured = train.record.get("measured", {})
        speed, seconds = measured.get("tokens_per_second"), measured.get("train_seconds")
        curve, heldout = train.facts["curve"], train.facts["heldout"]
        losses = [f"{curve[-1][1]:.3f}" if curve else "", f"{heldout[-1][1]:.3f}" if heldout else ""]
        return [*losses, f"{speed:,.0f}" if speed else "", duration(seconds) if seconds else ""]
    if train.state == "waiting" or not train.fresh:
        return ["", "", "", ""]
    log = train.log
    losses = [f"{log[key]:.3f}" if key in log else "" for key in ("loss", "heldout_loss")]
    left = f"{duration(step_left(train))} left" if train.state == "running" else ""
    return [*losses, f"{log['tokens_per_second']:,.0f}", left]


def _short(count: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"


def running_lines(look: Look, one: Seen) -> list[str]:
    """What the running step says, and where it writes."""
    run = one.running
    place = one.stage.out.relative_to(look.root)
    lines = [
        f"{one.stage.title}: process {run['pid']} on {run['host']}, for {duration(time.time() - run['started'])}; writes {place}"
    ]
    said = run.get("progress", {})
    if said and one.stage.step.name != "train":
        share = f"{100 * said['done'] / said['total']:.0f} %" if said["total"] else ""
        lines.append(f"{said['title']} {share} {said.get('note', '')}".rstrip())
    if one.stage.step.name == "train" and one.fresh:
        log = one.log
        lines.append(
            f"step {log['step']:,}, learning rate {log.get('learning_rate', 0):.2g}, gradient {log.get('gradient_norm', 0):.2g}, "
            f"masked {100 * log.get('mask', 0):.0f} %, waits for data {100 * log['data_wait_share']:.1f} %, "
            f"MFU {100 * log['mfu']:.0f} %, {log['memory_bytes'] / 1e9:.1f} GB"
            + (f", {log['skipped']} steps skipped" if log["skipped"] else "")
        )
        lines += _languages(look, one)
        lines.append(f"log: artifacts/.runs/{run['digest'][:12]}*/train.jsonl")
    return lines


def _languages(look: Look, one: Seen) -> list[str]:
    read = {tag: n for tag, n in one.languages.items() if n}
    total = sum(read.values())
    if not total:
        return []
    top = sorted(read.items(), key=lambda item: (-item[1], item[0]))[:TOP]
    shown = ", ".join(f"{tag} {100 * n / total:.1f} %{_plan(look, tag)}" for tag, n in top)
    of = f" of {len(look.planned)}" if look.planned else ""
    seen = sum(1 for tag in look.planned if tag in read) if look.planned else len(read)
    return [f"languages seen: {seen}{of}; most read: {shown}"]


def _plan(look: Look, tag: str) -> str:
    return f" (plan {100 * look.planned[tag]:.1f})" if tag in look.planned else ""


def evaluations(look: Look) -> Table | None:
    """Bits per byte of the models that have been evaluated, by tier."""
    from rich.table import Table

    tiers = [*look.recipe.languages, "unseen", "all"]
    rows = {
        model: {tier: models[model].get("mlm.bits_per_byte") for tier, models in facts["tiers"].items() if model in models}
        for model, facts in look.evaluations.items()
    }
    shown = [tier for tier in tiers if any(row.get(tier) is not None for row in rows.values())]
    if not shown:
        return None
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("  bits per byte, test", no_wrap=True)
    for tier in shown:
        table.add_column(tier, justify="right")
    order = [*[name for name, _ in _depths(look)], "merge"]
    for model in sorted(rows, key=order.index):
        state = look.seen[f"evaluate:{model}"].state
        old = "" if state in ("done", "cached") else " (before)"
        figures = [rows[model].get(tier) for tier in shown]
        table.add_row(f"  {model}{old}", *(f"{f:.3f}" if f is not None else "-" for f in figures))
    return table


def headline(look: Look) -> str:
    """One line: what is going on."""
    states = [s.state for s in look.seen.values()]
    ready = states.count("done") + states.count("cached")
    count = f"{ready} of {len(states)} stages done"
    if look.finished:
        return f"all {len(states)} stages done: artifacts/report/report.html"
    broken = next((s for s in look.seen.values() if s.state in ("failed", "stopped")), None)
    if look.running:
        about = f"about {duration(look.left)} left" if look.left is not None else "time left unknown"
        more = f" + {look.unknown} steps never timed" if look.unknown and look.left is not None else ""
        return f"{count}, {about}{more}"
    if look.dvc:
        return f"{count}; {look.dvc} is between two stages"
    return f"{count}; nothing runs here" + (f" ({broken.stage.title} {broken.state})" if broken else "; `make run` goes on")


def render(look: Look, width: int = WIDE) -> RenderableType:
    """The whole screen, for so many columns."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.rule import Rule
    from rich.text import Text

    title = f"{look.recipe.release.name}: {headline(look)}"
    parts: list[RenderableType] = [Rule(Text(title, "bold"), align="left", style="bright_black")]
    parts += [_line(look, BEFORE), _phases(look, BAR if width >= WIDE else NARROW), _line(look, AFTER), _legend()]
    for one in look.running:
        parts.append(Rule(style="bright_black"))
        parts += [Padding(Text(line), (0, 0, 0, 2)) for line in running_lines(look, one)]
    for one in look.seen.values():
        if one.state in ("failed", "stopped"):
            parts.append(Padding(Text(f"{one.stage.title} {one.state}: {one.note}", MARKS[one.state][1]), (0, 0, 0, 2)))
    stale = [s for s in look.seen.values() if s.state == "waiting" and s.note]
    if stale and not look.running:
        parts += [Padding(Text(f"{s.stage.title} will be made anew: {s.note}", "bright_black"), (0, 0, 0, 2)) for s in stale[:3]]
    for place in look.elsewhere:
        told = f"an experiment runs in {place.relative_to(look.root)}; to watch it add --artifacts and that folder's artifacts"
        parts.append(Padding(Text(told), (0, 0, 0, 2)))
    if (table := evaluations(look)) is not None:
        parts += [Rule(style="bright_black"), table]
    return Group(*parts)


def _legend() -> Text:
    from rich.text import Text

    legend = Text("  ")
    for state, (mark, style) in MARKS.items():
        legend.append(f"{mark} ", style)
        legend.append(f"{MEANS.get(state, state)}  ", "bright_black")
    return legend
