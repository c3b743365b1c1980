"""The command line: `mmenc --help` lists it. Heavy imports happen inside the commands, so that help is instant."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmenc import cli_kubeflow
from mmenc.errors import Refused


def _dirs(pairs: list[str]) -> dict[str, Path | str]:
    found: dict[str, Path | str] = {}
    for pair in pairs:
        role, eq, folder = pair.partition("=")
        if not eq or not role or not folder:
            raise Refused(f"{pair!r}: expected ROLE=DIR, such as clean=artifacts/clean")
        if role in found:
            raise Refused(f"role {role} is given twice")
        found[role] = folder if "://" in folder else Path(folder)
    return found


def _run(args: argparse.Namespace) -> None:
    from mmenc.job import execute
    from mmenc.recipe import load
    from mmenc.steps import find

    execute(find(args.step), args.name, load(args.params), args.out, _dirs(args.roles))


def _sample(args: argparse.Namespace) -> None:
    from mmenc.data.sample import write_sample

    write_sample(args.out)


def _point(args: argparse.Namespace) -> None:
    from mmenc.raw import write_pointer

    address, objects = write_pointer(args.source, args.to)
    print(f"{address}: {objects} objects", flush=True)


def _prepare(args: argparse.Namespace) -> None:
    from mmenc.prepare import prepare

    prepare(args.params)


def _show(args: argparse.Namespace) -> None:
    from mmenc.prepare import closing_screen

    closing_screen(args.params)


def _doctor(args: argparse.Namespace) -> None:
    from mmenc.doctor import show

    show(args.params, as_json=args.json)


def _lineage(args: argparse.Namespace) -> None:
    from mmenc.lineage import show

    show(args.dir, verify=args.verify, as_json=args.json)


def _plan(args: argparse.Namespace) -> None:
    from mmenc.plan_show import show

    options = {"as_json": args.json, "every_language": args.languages, "against": args.against}
    show(args.params, args.counts, args.counts_from, **options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mmenc", description="Pretraining modern multilingual encoders as a pipeline.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, function: object, text: str, recipe: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(function=function)
        if recipe:
            sub.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="the recipe")
        return sub

    sub = command("run", _run, "run one step of the pipeline", recipe=True)
    sub.add_argument("step", metavar="STEP[@VERSION]")
    sub.add_argument("roles", nargs="*", metavar="ROLE=DIR")
    sub.add_argument("--name", default="", help="the phase, for a step that runs once per phase")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR")
    sub = command("sample", _sample, "write the default corpus (fetched from the package indexes)")
    sub.add_argument("--out", type=Path, default=Path("data"), metavar="DIR")
    sub = command("point", _point, "write the pointer to raw data in a bucket: its objects and their versions, never the bytes")
    sub.add_argument("source", metavar="s3://BUCKET/FOLDER|data.dvc")
    sub.add_argument("--to", required=True, metavar="FOLDER/|POINTER.json", help="in a folder its name is its hash")
    command("prepare", _prepare, "check the recipe, fetch the default corpus if it is missing, tidy up", recipe=True)
    command("show", _show, "say where the report and the model are", recipe=True)
    sub = command("doctor", _doctor, "preflight: what will be used here, what is missing, what mends it", recipe=True)
    sub.add_argument("--json", action="store_true")
    sub = command("plan", _plan, "what a recipe reads, costs and needs, before anything is spent", recipe=True)
    sub.add_argument("--counts", type=Path, metavar="F.csv", help="tokens available per language (columns language, tokens)")
    sub.add_argument("--counts-from", default="", metavar="COLUMN", help="a phase: the column holds tokens sampled in it")
    sub.add_argument("--against", type=Path, metavar="OTHER.yaml", help="show what differs from another recipe")
    sub.add_argument("--languages", action="store_true", help="show every language of every phase")
    sub.add_argument("--json", action="store_true")
    cli_kubeflow.add(command)
    sub = command("lineage", _lineage, "from an artifact to every shard that it descends from")
    sub.add_argument("dir", type=Path, metavar="DIR")
    sub.add_argument("--verify", action="store_true", help="check every hash that can be reached")
    sub.add_argument("--json", action="store_true")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = _parser()
    # argparse does not take positionals again after an option, so ROLE=DIR behind --out arrives as a rest.
    args, rest = parser.parse_known_args(argv)
    if rest and (args.command != "run" or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.roles += rest
    try:
        args.function(args)
    except Refused as error:
        if args.debug:
            raise
        print(f"mmenc: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("mmenc: stopped; run the same command again", file=sys.stderr)
        return 75
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
