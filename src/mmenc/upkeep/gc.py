"""`mmenc gc`: a list of what is kept and what may go, by kind with sizes; with `--yes` what may go is deleted.

Decision: the list is the default and deleting must be asked for, because nobody misses disk space as much as a model. Everything
is judged before anything is deleted, and a manifest that cannot be read ends it: what it names is then unknown.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from mmenc.errors import Refused
from mmenc.lock import tidy
from mmenc.progress import console
from mmenc.recipe import load
from mmenc.store import Store
from mmenc.upkeep.inventory import Item, dvc_cache, local_items, manifests, size_of
from mmenc.upkeep.store import drop, refuse_if_busy, store_items

UNITS = ("B", "kB", "MB", "GB", "TB")


def human(size: float) -> str:
    """Bytes as people read them."""
    for unit in UNITS[:-1]:
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} {UNITS[-1]}"


def collect(
    artifacts: Path,
    params: Path,
    *,
    store: bool,
    results: bool,
    used: list[Path],
    days: float,
    delete: bool,
    unfinished: bool = False,
) -> list[Item]:
    """Show what is kept and what may go; with `delete` let it go. Returns what went, or would."""
    if not days >= 0:  # also what is no number
        raise Refused(f"--days {days:g}: expected 0 or more")
    if not artifacts.is_dir():
        raise Refused(f"{artifacts}: there is no such folder; expected the artifacts of a run")
    items = local_items(artifacts, days, unfinished=unfinished)
    at: Store | None = None
    if store or results:
        at = _store(params)
        if delete:
            refuse_if_busy(at)
        items += store_items(at, manifests([artifacts, *used]), days, results=results)
    _show(items, delete=delete)
    _tell_dvc(artifacts.absolute().parent)
    gone = [item for item in items if not item.keep]
    if not delete:
        if gone:
            print("nothing was changed; --yes drops what may go", flush=True)
        return gone
    remote = [i for i in gone if i.kind.endswith(("in the store", "results"))]
    dropped = [item for item in gone if item in remote or _remove(item)]
    if at and remote:
        drop(at, remote)
    print(f"dropped {len(dropped)} items, {human(sum(i.size for i in dropped))}", flush=True)
    return dropped


def _tell_dvc(root: Path) -> None:
    cache = dvc_cache(root)
    if cache.is_dir():
        size = human(size_of(cache))
        print(f"DVC's cache holds {size}; `dvc gc --workspace --dry` says what of it no file here uses (docs/retention.md)")


def _store(params: Path) -> Store:
    recipe = load(params)
    if not recipe.compute.store:
        raise Refused(f"{params}: compute.store names no store; --store and --results have nothing to look at")
    return Store(recipe.compute.store, min(30.0, recipe.compute.store_patience))


def _remove(item: Item) -> bool:
    """Delete an item unless somebody has begun to use it since it was judged; whether it is gone."""
    path = Path(item.place)
    try:
        if item.kind == "resume state":
            if not (gone := tidy(path)):  # a step that begins now waits for nothing and begins anew
                print(f"  {path}: stays, its step has just begun", flush=True)
            return gone
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        pass  # another gc, or the step that tidies up
    except OSError as error:
        print(f"  {path}: stays, it cannot be deleted ({error.strerror})", flush=True)
        return False
    return True


def _show(items: list[Item], *, delete: bool) -> None:
    from rich.table import Table

    table = Table("kind", box=None, pad_edge=False)
    for title in ("kept", "", "dropped" if delete else "may go", ""):
        table.add_column(title, justify="right")
    table.add_column("why it is kept")
    for kind in dict.fromkeys(i.kind for i in items):
        kept, gone = ([i for i in items if i.kind == kind and bool(i.keep) == side] for side in (True, False))
        reasons = ", ".join(sorted({i.keep for i in kept}))
        table.add_row(kind, *_sum(kept), *_sum(gone), reasons)
    if items:
        console().print(table)
    else:
        print("nothing lies beside the artifacts")


def _sum(items: list[Item]) -> tuple[str, str]:
    return (str(len(items)), human(sum(i.size for i in items))) if items else ("-", "")
