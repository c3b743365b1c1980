"""The plan for people: a table per phase, the most repeated languages, memory, money; and two recipes side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmenc.artifact import Json
from mmenc.plan import MANY_EPOCHS, counts_for, make_plan
from mmenc.progress import console
from mmenc.recipe import Recipe, load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.table import Table

WORST = 8
"""Languages named under a phase table."""


def show(
    params: Path, counts: Path | None, counts_from: str, *, as_json: bool, every_language: bool, against: Path | None = None
) -> None:
    """What `mmenc plan` prints."""
    recipe = load(params)
    plan = make_plan(recipe, counts_for(recipe, params, counts, counts_from))
    if against is not None:
        other = load(against)
        theirs = make_plan(other, counts_for(other, against, counts, counts_from))
        plan["against"] = {"recipe": str(against), **differences(recipe, plan, other, theirs)}
    if as_json:
        print(json.dumps(plan, indent=1, ensure_ascii=False))
        return
    out = console()
    if against is not None:
        show_differences(out, plan["against"], str(params), str(against))
    else:
        show_plan(out, plan, str(params), every_language)


def big(number: float) -> str:
    """A count in three figures: 1.99T, 600B, 24.0k."""
    for size, unit in ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            value = number / size
            return f"{value:.0f}{unit}" if value >= 99.95 else f"{value:.3g}{unit}"
    return f"{number:.3g}"


def _gigabytes(number: float) -> str:
    return f"{number / 1e9:,.2f} GB" if number < 1e11 else f"{number / 1e9:,.0f} GB"


def _duration(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.1f} min"
    return f"{hours:,.1f} h" if hours < 72 else f"{hours / 24:,.1f} days"


def _table(title: str, *columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", overflow="fold")
    return table


def show_plan(console: Console, plan: Json, name: str, every_language: bool) -> None:
    """Print the whole plan."""
    model, compute = plan["model"], plan["compute"]
    console.print(
        f"[bold]{name}[/bold]: {model['parameters']:,} parameters ({model['backbone']:,} without the head, "
        f"{model['non_embedding']:,} of them not embeddings); counts of {plan['counts']['languages']:,} languages from "
        f"{plan['counts']['source']}",
        soft_wrap=True,
    )
    console.print(_reading(plan))
    console.print(_spending(plan))
    devices = compute["accelerators"] * compute["nodes"]
    console.print(
        f"{devices} × {compute['accelerator']}, {compute['peak_tflops']:g} TFLOP/s at most, at "
        f"{100 * compute['utilisation']:g} % ({compute['utilisation_source']}); "
        f"{_gigabytes(plan['totals']['disk_bytes'])} of disk",
        soft_wrap=True,
    )
    for phase, row in plan["phases"].items():
        if every_language:
            console.print(_languages(phase, row))
        else:
            console.print(f"[bold]{phase}[/bold]: {_worst(row)}", soft_wrap=True)
    for warning in plan["warnings"]:
        console.print(f"[yellow]warning[/yellow] {warning['path']}: {warning['message']}", soft_wrap=True)


def _reading(plan: Json) -> Table:
    table = _table(
        "What each phase reads",
        "phase",
        "from",
        "tokens",
        "steps",
        "batch",
        "context",
        "mask",
        "τ",
        "languages + buckets",
        "new",
        "most epochs",
    )
    for name, row in plan["phases"].items():
        languages = row["languages"]
        table.add_row(
            name,
            row["init"],
            big(row["tokens"]),
            f"{row['steps']:,}",
            big(row["batch_tokens"]),
            f"{row['context']:,}",
            " → ".join(f"{100 * mask:g} %" for mask in [row["mask"], *(c["mask"] for c in row["changes"] if "mask" in c)]),
            f"{row['temperature']:g}",
            f"{len(languages):,}" + (f" + {len(row['buckets'])}" if row["buckets"] else ""),
            f"{sum(1 for v in languages.values() if v['first_phase'] == name):,}",
            f"{max(v['epochs'] for v in languages.values()):.2f}",
        )
    table.add_section()
    table.add_row("all", "", big(plan["totals"]["tokens"]), f"{plan['totals']['steps']:,}", *[""] * 7)
    return table


def _spending(plan: Json) -> Table:
    currency = plan["totals"]["currency"]
    columns = ("phase", "FLOP", "of it attention", "head", "GPU-hours", "time", currency, "kWh", "memory", "with recomputation")
    table = _table("What each phase costs", *columns)
    for name, row in plan["phases"].items():
        parts, memory = row["flops_parts"], row["memory"]
        table.add_row(
            name,
            big(row["flops"]),
            f"{100 * parts['attention'] / row['flops']:.0f} %",
            f"{100 * parts['head'] / row['flops']:.0f} %",
            f"{row['gpu_hours']:,.2f}",
            _duration(row["hours"]),
            f"{row['cost']:,.2f}",
            f"{row['kwh']:,.2f}",
            _gigabytes(memory["without_checkpointing"]["total"]) + ("" if row["fits"] else " !"),
            _gigabytes(memory["with_checkpointing"]["total"]),
        )
    total = plan["totals"]
    spent = (f"{total['gpu_hours']:,.2f}", _duration(total["hours"]), f"{total['cost']:,.2f}", f"{total['kwh']:,.2f}")
    table.add_section()
    fits = all(row["fits"] for row in plan["phases"].values())
    room = f"{'fits' if fits else 'does not fit'} into {plan['compute']['memory_gb']:g} GB"
    table.add_row("all", big(total["flops"]), "", "", *spent, room, "")
    return table


def _worst(row: Json) -> str:
    """The most repeated languages of a phase, and its buckets, in one line."""
    ranked = sorted(row["languages"].items(), key=lambda item: -item[1]["total_epochs"])[:WORST]
    worst = ", ".join(f"{t} {v['total_epochs']:.2f}" for t, v in ranked)
    over = sum(1 for v in row["languages"].values() if v["total_epochs"] > MANY_EPOCHS)
    text = f"epochs since the root, most first: {worst}"
    text += f"; {over} above {MANY_EPOCHS:g}" if over else ""
    if row["buckets"]:
        text += "; buckets: " + ", ".join(f"{b} {100 * v['share']:.2f} % ({v['epochs']:.2f})" for b, v in row["buckets"].items())
    return text


def _languages(name: str, row: Json) -> Table:
    table = _table(f"phases.{name}", "language", "share", "tokens", "epochs", "since the root", "available", "first read in")
    everything: list[tuple[str, Json]] = [
        *row["languages"].items(),
        *((f"[{b}] {v['source']}", v) for b, v in row["buckets"].items()),
    ]
    for key, v in sorted(everything, key=lambda item: -item[1]["tokens"]):
        share, epochs = f"{100 * v['share']:.3f} %", (f"{v['epochs']:.2f}", f"{v['total_epochs']:.2f}")
        label = key.replace("[", r"\[")
        table.add_row(label, share, big(v["tokens"]), *epochs, big(v["available"]), v.get("first_phase", ""))
    return table


# ---- two recipes


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def differences(recipe: Recipe, plan: Json, other: Recipe, theirs: Json) -> Json:
    """What differs between two recipes (`path: [this, other]`, null where one lacks it) and between their plans."""
    mine, yours = (dict(_leaves(r.model_dump(mode="json", by_alias=True))) for r in (recipe, other))
    paths = [*mine, *(p for p in yours if p not in mine)]
    keys = ("tokens", "steps", "flops", "gpu_hours", "cost", "memory_bytes")
    names = [*plan["phases"], *(p for p in theirs["phases"] if p not in plan["phases"])]

    def pair(name: str, key: str) -> list[Any]:
        return [p["phases"][name][key] if name in p["phases"] else None for p in (plan, theirs)]

    return {
        "differs": {p: [mine.get(p), yours.get(p)] for p in paths if mine.get(p) != yours.get(p)},
        "model": {key: [plan["model"][key], theirs["model"][key]] for key in plan["model"]},
        "phases": {name: {key: pair(name, key) for key in keys} for name in names},
        "totals": {key: [plan["totals"][key], theirs["totals"][key]] for key in plan["totals"] if key != "currency"},
    }


def _brief(value: Any, other: Any) -> str:
    """A value in few words; of two long lists, what this one has and the other has not."""
    if value is None:
        return "-"
    if isinstance(value, list) and len(value) > 6:
        extra = [v for v in value if v not in other] if isinstance(other, list) else value
        return f"{len(value)} entries" + (
            f", alone {', '.join(map(str, extra[:6]))}" if extra and len(extra) < len(value) else ""
        )
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def show_differences(console: Console, found: Json, mine: str, yours: str) -> None:
    """Print two recipes side by side."""
    table = _table("What differs in the recipes", "path", mine, yours)
    alone = {name: row["tokens"] for name, row in found["phases"].items() if None in row["tokens"]}
    for name, (a, _) in alone.items():
        table.add_row(f"phases.{name}", *(("the whole phase", "-") if a is not None else ("-", "the whole phase")))
    for path, (a, b) in found["differs"].items():
        if not (path.startswith("phases.") and path.split(".")[1] in alone):
            table.add_row(path, _brief(a, b), _brief(b, a))
    console.print(table)
    table = _table("What differs in the plans", "figure", mine, yours, "ratio")

    def add(label: str, a: float | None, b: float | None) -> None:
        ratio = f"{a / b:.3g}" if a is not None and b else ""
        shown = _gigabytes if label.endswith("_bytes") else big
        table.add_row(label, *("-" if x is None else shown(x) for x in (a, b)), ratio)

    for key, (a, b) in found["model"].items():
        add(f"model {key}", a, b)
    for name, row in found["phases"].items():
        table.add_section()
        for key, (a, b) in row.items():
            add(f"{name} {key}", a, b)
    table.add_section()
    for key, (a, b) in found["totals"].items():
        add(f"all {key}", a, b)
    console.print(table)
