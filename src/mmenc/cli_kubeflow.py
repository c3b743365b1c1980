"""The commands that meet Kubeflow: compile, submit, trainjob; the graphs in `pipelines/` are imported when one of them runs."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmenc.errors import Refused

if TYPE_CHECKING:  # help stays instant
    from mmenc.recipe import Recipe

PIPELINES = ("pretrain", "evaluate", "continue")


def _root() -> Path:
    """The checkout: here, or the one that this package is installed from."""
    roots = [root for root in (Path.cwd(), Path(__file__).parents[2]) if (root / "pipelines" / "pretrain.py").is_file()]
    if not roots:
        raise Refused("pipelines/pretrain.py: not found here; run this in a checkout of the repository")
    return roots[0]


def _module(name: str) -> Any:
    root = _root()
    sys.path.insert(0, str(root))
    try:
        return importlib.import_module(f"pipelines.{name}")
    except ModuleNotFoundError as error:
        if error.name == f"pipelines.{name}":
            raise Refused(f"{root}/pipelines/{name}.py: not found") from None
        raise Refused(f"{error.name} is not installed; `pip install 'mmenc[kfp]'` brings it") from None
    finally:
        sys.path.remove(str(root))


def _models(words: list[str], pipeline: str) -> dict[str, str]:
    if words and pipeline != "evaluate":
        raise Refused(f"--model {words[0]}: only `--pipeline evaluate` takes models")
    found: dict[str, str] = {}
    for word in words:
        name, eq, uri = word.partition("=")
        if not eq or not name or not uri:
            raise Refused(f"--model {word}: expected NAME=URI")
        if name in found:
            raise Refused(f"--model {word}: {name} is given twice")
        found[name] = uri
    return found


def _data_hash(root: str) -> str:
    """What tells one state of the raw data from another: DVC's hash of the folder, or that of a pointer file."""
    import yaml

    pointer, place = Path(f"{root}.dvc"), Path(root)
    if pointer.is_file():
        out = yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"][0]
        # A remote that keeps versions has them per file, and no hash of the whole.
        listed = hashlib.md5(json.dumps(out, sort_keys=True, default=str).encode(), usedforsecurity=False).hexdigest()
        return f"{out.get('hash', 'md5')}:{out.get('md5', listed)}"
    if re.fullmatch(r"[a-z0-9]+://.*/[0-9a-f]{16}\.json", root):  # `mmenc point` names a pointer by its hash
        return f"pointer:{place.stem}"
    return f"sha256:{hashlib.sha256(place.read_bytes()).hexdigest()}" if place.is_file() else ""


def _writer(args: argparse.Namespace) -> Callable[[Recipe, Path], None]:
    """What writes the chosen pipeline of a recipe; the data's DVC hash becomes part of Kubeflow's cache key."""
    module = _module(args.pipeline)
    given = {"image": args.image, "gpu_image": args.gpu_image, "data_uri": args.data}
    options: dict[str, Any] = {key: value for key, value in given.items() if value}
    if models := _models(args.model, args.pipeline):
        options["models"] = models

    def write(recipe: Recipe, out: Path) -> None:
        module.write(recipe, out, data_hash=_data_hash(args.data or recipe.ingest.root), **options)

    return write


def _compile(args: argparse.Namespace) -> None:
    from mmenc.recipe import load

    _writer(args)(load(args.params), args.out)
    print(f"{args.out}: {args.out.stat().st_size / 1e3:.0f} kB", flush=True)
    text = args.out.read_text(encoding="utf-8")
    for option, image in (("--image", "mmenc-cpu:REVISION"), ("--gpu-image", "mmenc-gpu:REVISION")):
        if image in text:  # also in a TrainJob's template
            print(f"image {image} is a placeholder that no cluster can pull; {option} puts in yours", flush=True)


def _submit(args: argparse.Namespace) -> None:
    if not args.poll >= 0:
        raise Refused(f"--poll {args.poll:g}: expected seconds, such as 5")
    write = _writer(args)
    options = _module("job").Options
    schedule = _module("schedule")
    args.timeout = schedule.duration(args.timeout, "--timeout") if args.timeout else 0
    given = {field.name: getattr(args, field.name) for field in fields(options)}
    _module("submit").submit(options(**given), write, _root())


def _trainjob(args: argparse.Namespace) -> None:
    import yaml

    from mmenc import trainjob
    from mmenc.recipe import load

    recipe = load(args.params)
    if args.runtime:
        objects = [trainjob.runtime(recipe)]
    else:
        if recipe.compute.nodes == 1:
            raise Refused("compute.nodes: is 1: each phase is trained in the pod of its task; expected 2 or more")
        if unknown := {args.name} - {"", *recipe.phases}:
            raise Refused(f"--name {unknown.pop()}: no phase is called so; the recipe has {', '.join(recipe.phases)}")
        names = [args.name] if args.name else list(recipe.phases)
        image = args.gpu_image if recipe.compute.device == "cuda" else args.image
        objects = [trainjob.template(recipe, name, image) for name in names]
    for made in objects:
        trainjob.validated(made)
    if args.json:
        print("\n".join(json.dumps(made, sort_keys=True) for made in objects))
    else:
        print(yaml.safe_dump_all(objects, sort_keys=False, width=120), end="")


def _graph(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--pipeline", choices=PIPELINES, default="pretrain", help="the graph (default: pretrain)")
    sub.add_argument("--model", action="append", default=[], metavar="NAME=URI", help="a model to evaluate; several allowed")
    sub.add_argument("--data", default="", metavar="URI", help="s3:// address of the raw data's pointer (default: ingest.root)")
    sub.add_argument("--image", default="", help="image of the steps, tagged by git revision")
    sub.add_argument("--gpu-image", default="", help="image of training where compute.device is cuda")


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the commands; `command` is that of mmenc.cli."""
    sub = command("trainjob", _trainjob, "print the TrainJobs of a recipe with compute.nodes; contacts nobody", recipe=True)
    sub.add_argument("--name", default="", help="one phase (default: all)")
    sub.add_argument("--image", default="mmenc-cpu:REVISION", help="image of the pods, tagged by git revision")
    sub.add_argument("--gpu-image", default="mmenc-gpu:REVISION", help="the same where compute.device is cuda")
    sub.add_argument("--runtime", action="store_true", help="print the runtime that compute.cluster.trainer.gang asks for")
    sub.add_argument("--json", action="store_true", help="one line each, as MMENC_TRAINJOB takes it")
    sub = command("compile", _compile, "write the recipe's pipeline for Kubeflow", recipe=True)
    sub.add_argument("--out", type=Path, required=True, metavar="pipeline.yaml")
    _graph(sub)
    sub = command("submit", _submit, "upload the recipe's pipeline to Kubeflow, run it and wait", recipe=True)
    _graph(sub)
    sub.add_argument(
        "-S",
        dest="overrides",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="change a value for this run; several allowed",
    )
    sub.add_argument("--dry-run", action="store_true", help="say what would be done and contact nobody")
    sub.add_argument("--allow-dirty", action="store_true", help="take uncommitted changes; the version's name says so")
    where = sub.add_argument_group("where (secrets come from files or the environment, never from the command line)")
    where.add_argument("--host", default="", metavar="URL", help="address of the UI (default: $KF_PIPELINES_ENDPOINT)")
    where.add_argument("--token-file", type=Path, metavar="FILE", help="bearer token, read anew each time ($KF_PIPELINES_TOKEN)")
    where.add_argument("--cookies-file", type=Path, metavar="FILE", help="cookies of a login through dex ($KF_PIPELINES_COOKIES)")
    where.add_argument("--namespace", default="", help="your profile, where there are several users ($KF_PIPELINES_NAMESPACE)")
    what = sub.add_argument_group("what")
    what.add_argument("--experiment", default="", help="made where missing (default: release.name)")
    what.add_argument("--run-name", default="")
    what.add_argument("--service-account", default="", help="Kubernetes service account of the pods")
    caching = what.add_mutually_exclusive_group()
    caching.add_argument("--enable-caching", dest="caching", action="store_const", const=True, help="for every task")
    caching.add_argument("--no-cache", dest="caching", action="store_const", const=False, help="for no task")
    waiting = sub.add_argument_group("waiting")
    waiting.add_argument("--no-wait", dest="wait", action="store_false", help="return once the run is made")
    waiting.add_argument("--timeout", default="", metavar="6h", help="stop waiting after this; the run goes on")
    waiting.add_argument("--poll", type=float, default=5.0, metavar="SECONDS", help="between two looks (default: 5)")
    often = sub.add_argument_group("recurring runs (one of the same name is replaced)")
    often.add_argument("--cron", default="", metavar="'0 3 * * 1'", help="minute hour day month weekday")
    often.add_argument("--every", default="", metavar="24h")
    often.add_argument("--max-concurrency", type=int, default=1, metavar="N", help="runs of one schedule at a time (default: 1)")
    often.add_argument("--no-catchup", action="store_true", help="leave out what was missed while the schedule rested")
