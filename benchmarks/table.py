"""Rows of a benchmark: ours against a peer in the same run, with the limit worked out beside them (contract: JSON)."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmenc.errors import Refused


@dataclass(frozen=True)
class Row:
    """One comparison; `limit` is what the machine could reach (0: not worked out), `of_limit` our share of it."""

    name: str
    setting: str
    unit: str
    ours: float
    peer: float
    peer_name: str
    peer_version: str
    limit: float = 0.0

    def json(self) -> dict[str, object]:
        """With the ratios."""
        of_limit = self.ours / self.limit if self.limit else None
        return {**asdict(self), "ratio": self.ours / self.peer if self.peer else None, "of_limit": of_limit}


def in_turn(
    sides: dict[str, Iterator[int]], seconds: float, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Units per second of each side, the median of `rounds` turns of `seconds` each: the machine's moods meet all alike."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for steps in sides.values():
        next(steps)  # warm-up: allocations, first use of kernels
    for _ in range(rounds):
        for name, steps in sides.items():
            done, start = 0, clock()
            while (spent := clock() - start) < seconds:
                done += next(steps)
            found[name].append(done / spent)
    return {name: statistics.median(values) for name, values in found.items()}


def main(
    doc: str | None,
    run: Callable[[argparse.Namespace], list[Row]],
    choices: Callable[[argparse.ArgumentParser], None] = lambda _: None,
    seconds: float = 6.0,
) -> None:
    """Parse the options that all benchmarks share and its own, run, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="F", help="write the rows there too")
    parser.add_argument("--seconds", type=float, default=seconds, help="of each side in each round")
    parser.add_argument("--rounds", type=int, default=3)
    choices(parser)
    options = parser.parse_args()
    try:
        rows = run(options)
    except Refused as error:
        sys.exit(str(error))
    table = Table(
        "what", "setting", "ours", "peer", "", "ratio", "of the limit", box=None, title=platform.processor() or platform.machine()
    )
    for row in rows:
        found = row.json()
        share = f"{100 * row.ours / row.limit:.0f} %" if row.limit else "–"
        ratio = f"{found['ratio']:.2f} ×" if row.peer else "–"
        table.add_row(
            row.name,
            row.setting,
            f"{row.ours:,.0f} {row.unit}",
            f"{row.peer:,.0f}",
            f"{row.peer_name} {row.peer_version}",
            ratio,
            share,
        )
    Console(width=160).print(table)
    write(options.json, rows)


def write(path: Path | None, rows: list[Row]) -> None:
    """Write the rows, if somebody wants them."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([row.json() for row in rows], indent=1) + "\n", encoding="utf-8")
