"""The command that CI calls, `mmenc retrain …`; docs/retraining.md says where each part stands in a workflow."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path


def _plan(args: argparse.Namespace) -> None:
    from mmenc.retrain.report import write_plan

    write_plan(args.base, args.head, str(args.params), args.out, last=args.release, counts=args.counts, status=args.dvc_status)


def _metrics(args: argparse.Namespace) -> None:
    from mmenc.retrain.metrics import write_metrics

    write_metrics(args.dir, args.release, args.out)


def _post(args: argparse.Namespace) -> None:
    from mmenc.retrain.post import post

    print(post(args.file, args.kind, os.environ, args.number), flush=True)


def _has(args: argparse.Namespace) -> None:
    from mmenc.retrain.released import Missing, read

    try:
        read(args.dir)
    except Missing:
        print("no", flush=True)
    else:
        print("yes", flush=True)


def _collect(args: argparse.Namespace) -> None:
    from mmenc.retrain.promote import collect

    print(f"{collect(args.params, args.data)}: collected", flush=True)


def _promote(args: argparse.Namespace) -> None:
    from mmenc.retrain.promote import promote

    promote(args.source, args.target, args.also)


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the command; `command` is that of mmenc.cli."""
    kinds = command(
        "retrain", lambda _: None, "for CI: what a change retrains, what it costs, what became better"
    ).add_subparsers(required=True, metavar="plan|metrics|post|collect|has|promote")

    def kind(name: str, function: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = kinds.add_parser(name, help=text, description=text)
        sub.set_defaults(function=function)
        return sub

    sub = kind("plan", _plan, "between two git revisions: what gets a new digest, and what that costs (plan.md, plan.json)")
    sub.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="the recipe, as git knows it")
    sub.add_argument("--base", default="", metavar="REVISION", help="compared is the common ancestor; empty: everything is new")
    sub.add_argument("--head", default="HEAD", metavar="REVISION")
    sub.add_argument("--release", default="", metavar="DIR|s3://…", help="the last release (default: release.previous)")
    sub.add_argument("--counts", type=Path, metavar="F.csv", help="tokens available per language, as for `mmenc plan`")
    sub.add_argument("--dvc-status", type=Path, metavar="FILE", help="what `dvc status --json` printed: said beside ours")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR")
    sub = kind("metrics", _metrics, "a release against the last one: tiers, worst languages, lineage (metrics.md, metrics.json)")
    sub.add_argument("dir", metavar="DIR|s3://…", help="the new release")
    sub.add_argument("--release", default="", metavar="DIR|s3://…", help="the last release; empty: this is the first")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR")
    sub = kind("post", _post, "a Markdown file as the comment of its kind on the pull or merge request of this CI job")
    sub.add_argument("file", type=Path, metavar="FILE.md")
    sub.add_argument("--kind", required=True, metavar="WORD", help="one comment per kind: it is updated, never repeated")
    sub.add_argument("--number", default="", metavar="N", help="of the request (default: that of the CI job)")
    sub = kind("collect", _collect, "bring the release that a cluster has made from the recipe's store; computes nothing")
    sub.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE")
    sub.add_argument("--data", default="", metavar="POINTER", help="the pointer that the run was given (default: ingest.root)")
    sub = kind("has", _has, "say yes or no: whether a release lies there")
    sub.add_argument("dir", metavar="DIR|s3://…")
    sub = kind("promote", _promote, "copy a release that was pushed to where others take it from")
    sub.add_argument("source", metavar="DIR|s3://…")
    sub.add_argument("target", metavar="ORG/NAME|s3://…|./FOLDER")
    sub.add_argument("--also", action="append", default=[], metavar="TARGET", help="a place that always has the newest")
