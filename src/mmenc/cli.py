"""The command line: `mmenc --help` lists it. Heavy imports happen inside the commands, so that help is instant."""

from __future__ import annotations

import argparse
import errno
import sys
from pathlib import Path

from mmenc import cli_kubeflow, cli_retrain, cli_upkeep
from mmenc.errors import Refused

OF_THE_USER = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
)
"""Errors of the file system that whoever calls can mend; a file that is missing where it must be is a fault of ours."""


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
    from mmenc.share import Share, assist
    from mmenc.steps import find

    share = Share.parse(args.share) if args.share else None
    step, recipe, dirs = find(args.step), load(args.params), _dirs(args.roles)
    if share and share.helps:
        assist(step, args.name, recipe, args.out, dirs, share)
    else:
        execute(step, args.name, recipe, args.out, dirs, share=share)


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

    show(args.dir, verify=args.verify, as_json=args.json, html=args.html, against=args.against)


def _forget(args: argparse.Namespace) -> None:
    from mmenc.forget import show

    show(args.ids, args.source, args.url, args.artifacts, args.params, as_json=args.json)


def _push(args: argparse.Namespace) -> None:
    from mmenc.push import push

    options = {"replace": args.replace, "dry_run": args.dry_run, "private": not args.public}
    push(args.dir, args.target, runs=args.runs, **options)


def _evaluate(args: argparse.Namespace) -> None:
    from mmenc.downstream.options import Options
    from mmenc.evaluate.suite import evaluate

    options = Options.of(args)
    evaluate(args.models, args.params, args.data, args.out, args.suite, options)


def _plan(args: argparse.Namespace) -> None:
    from mmenc.plan_show import show

    options = {"as_json": args.json, "every_language": args.languages, "against": args.against}
    show(args.params, args.counts, args.counts_from, **options)


EVALUATE = """Score models side by side: on held-out text of every language (`intrinsic`), or fine-tuned on labelled data (sib200,
xnli, pawsx, glue, udpos, wikiann, masakhaner, conll, …: docs/downstream.md; a stopped evaluation goes on). A MODEL is a release
or checkpoint of ours, any encoder of Hugging Face, or a sentence-transformers model. Text of `intrinsic` is the test split of
the artifacts beside the recipe (artifacts/tokenize, artifacts/tokenizer), or of --data: such a folder, or one with a folder per
language (fao_Latn/*.jsonl with `text` and, for translations, `group`; *.txt with a document per paragraph), all of it test.
Settings are those of the recipe's section `evaluate`. Writes scores.json, scores.csv, comparison.html, retrieval/*.npz, or
tasks.html, runs.json and units/."""


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
    sub.add_argument(
        "--share", default="", metavar="I/N", help="make this share of the parts; others make theirs (docs/kubeflow.md)"
    )
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
    sub = command("evaluate", _evaluate, "score models side by side on held-out text of every language", recipe=True)
    sub.description = EVALUATE
    sub.add_argument("models", nargs="+", metavar="MODEL", help="a directory or a Hugging Face name; NAME=MODEL gives it a name")
    sub.add_argument(
        "--suite", default="intrinsic", metavar="NAME[,NAME]", help="intrinsic, sib200, glue, … (docs/downstream.md)"
    )
    sub.add_argument("--data", metavar="DIR", help="labelled data; for intrinsic: artifacts of a recipe, or text per language")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder, or that of an earlier evaluation")
    sub.add_argument("--limit", type=int, default=0, metavar="N", help="at most N documents, or examples, of a language")
    sub.add_argument("--seeds", type=int, metavar="N", help="fine-tuning runs of each kind (3)")
    sub.add_argument("--steps", type=int, metavar="N", help="cap on the steps of a fine-tuning run")
    sub.add_argument("--quick", action="store_true", help="the short protocol: 3 seeds, rates 2e-4 and 2e-3, 100 steps a run")
    sub.add_argument("--rates", default="", metavar="LR[,LR]", help="learning rates that dev chooses from")
    sub.add_argument("--modes", default="", metavar="language,zero-shot", help="train per language, or transfer from one")
    sub.add_argument("--languages", default="", metavar="TAG[,TAG]", help="of the data's languages only these")
    sub.add_argument("--hub", action="store_true", help="fetch data sets that DIR lacks from the Hugging Face hub")
    cli_kubeflow.add(command)
    cli_retrain.add(command)
    cli_upkeep.add(command)
    sub = command("lineage", _lineage, "from an artifact to every shard that it descends from")
    sub.add_argument("dir", type=Path, metavar="DIR")
    sub.add_argument("--verify", action="store_true", help="check every hash that can be reached")
    sub.add_argument("--json", action="store_true")
    sub.add_argument("--html", type=Path, metavar="FILE", help="write an interactive page that needs no network")
    sub.add_argument("--against", type=Path, metavar="OTHER", help="what differs from another artifact, and from which step on")
    sub = command("forget", _forget, "what holds a document, and what making everything without it costs", recipe=True)
    sub.add_argument("ids", nargs="*", metavar="ID", help="ids of documents")
    sub.add_argument("--source", default="", metavar="NAME", help="every document of this source, or of this raw file")
    sub.add_argument(
        "--url", default="", metavar="URL", help="every document whose id or source is this address or lies below it"
    )
    sub.add_argument("--artifacts", type=Path, default=Path("artifacts"), metavar="DIR")
    sub.add_argument("--json", action="store_true")
    sub = command("push", _push, "publish a release with its lineage: to a Hugging Face hub, a bucket or a folder")
    sub.add_argument("dir", type=Path, metavar="DIR")
    sub.add_argument("target", metavar="ORG/NAME|s3://BUCKET/PREFIX|./FOLDER")
    sub.add_argument("--runs", default="", metavar="FOLDER|s3://…/runs", help="run records (default: .runs beside the artifacts)")
    sub.add_argument("--replace", action="store_true", help="write over another release that lies there")
    sub.add_argument("--public", action="store_true", help="make a new repository of a hub public")
    sub.add_argument("--dry-run", action="store_true", help="verify and list, write nothing")
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
    except OSError as error:
        if args.debug or error.errno not in OF_THE_USER:
            raise
        where = error.filename or "the file system"
        print(f"mmenc: {where}: {error.strerror} (--debug shows where it was needed)", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mmenc: stopped; run the same command again", file=sys.stderr)
        return 75
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
