"""The commands around a run: watch it, lay its curves side by side, drop what is not needed, bring old files up to date."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

ARTIFACTS = Path("artifacts")


def _watch(args: argparse.Namespace) -> None:
    from mmenc.dashboard.watch import watch

    watch(args.params, args.artifacts, once=args.once)


def _board(args: argparse.Namespace) -> None:
    from mmenc.dashboard.board import board

    board(args.artifacts, args.out)


def _gc(args: argparse.Namespace) -> None:
    from mmenc.upkeep.gc import collect

    options = {"store": args.store, "results": args.results, "delete": args.yes, "unfinished": args.unfinished}
    collect(args.artifacts, args.params, used=args.used, days=args.days, **options)


def _migrate(args: argparse.Namespace) -> None:
    from mmenc.upkeep.migrate import migrate

    migrate(args.params, args.artifacts, dry_run=args.dry_run)


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the commands; `command` is that of mmenc.cli."""

    def artifacts(sub: argparse.ArgumentParser, text: str = "the run's artifacts") -> None:
        sub.add_argument("--artifacts", type=Path, default=ARTIFACTS, metavar="DIR", help=f"{text} (default: artifacts)")

    sub = command("watch", _watch, "show a local run while it goes on: stages, loss, speed, time left")
    artifacts(sub)
    sub.add_argument("--params", type=Path, metavar="FILE", help="the recipe (default: params.yaml beside the artifacts)")
    sub.add_argument("--once", action="store_true", help="print one screen and end")
    sub = command("board", _board, "gather the TensorBoard files of a model's phases in one folder, as one run")
    artifacts(sub)
    sub.add_argument("--out", type=Path, default=Path("board"), metavar="DIR", help="a folder of links (default: board)")
    sub = command("gc", _gc, "list what may be dropped, by kind and size; with --yes drop it", recipe=True)
    artifacts(sub)
    sub.add_argument("--store", action="store_true", help="also what nothing names in the recipe's store")
    sub.add_argument("--results", action="store_true", help="also finished results in the store that no artifact here has used")
    sub.add_argument("--unfinished", action="store_true", help="also states of steps that were never finished")
    sub.add_argument(
        "--used", type=Path, action="append", default=[], metavar="DIR", help="other artifacts in use; several allowed"
    )
    sub.add_argument("--days", type=float, default=1.0, metavar="N", help="leave what is younger (default: 1 day)")
    sub.add_argument("--yes", action="store_true", help="delete; without it nothing is changed")
    sub = command("migrate", _migrate, "bring an older recipe up to date, and say which artifacts may stay", recipe=True)
    artifacts(sub)
    sub.add_argument("--dry-run", action="store_true", help="show the changes, write nothing")
