"""What a store holds, and what of it nothing names any more: orphaned objects, states of finished steps, results nobody uses.

Decision: a store may serve people whose artifacts this machine does not see, so every finished result in it counts as a reference
and its objects stay; results themselves are dropped only when asked (`--results`), and then those that no manifest of the
artifacts given names. An object is uploaded before the manifest that names it: what is younger than the limit stays, and
while a step has saved its state within the last hour nothing is dropped. Names other than ours below the store's address
are never looked at. Run records stay: they are small and are the only trace of what a result has cost.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmenc.artifact import Json
from mmenc.errors import Refused
from mmenc.form import check_manifest
from mmenc.store import Store, age_of
from mmenc.upkeep.inventory import DAY, Item, named

BUSY = 3600.0
"""Seconds since a step saved its state in which it is taken to be running."""


def _listing(store: Store, prefix: str) -> dict[str, tuple[int, float]]:
    """(bytes, age in seconds) of every object below a prefix, by its key."""

    def rows() -> dict[str, Any]:
        found: dict[str, Any] = store.fs.find(store.path(prefix), detail=True)
        return {path: info for path, info in found.items() if info["type"] == "file"}  # an empty prefix is listed itself

    try:
        found = store.attempt(rows)
    except FileNotFoundError:
        return {}
    return {path.removeprefix(f"{store.root}/"): (int(i["size"]), age_of(i)) for path, i in found.items()}


def store_items(store: Store, used: Iterable[Json], days: float, *, results: bool) -> list[Item]:
    """Everything in the store with the reason to keep it; `used`: manifests of the artifacts that are in use."""
    digests, hashes = named(used)
    finished, states = _folders(_listing(store, "finished")), _folders(_listing(store, "resume"))
    items: list[Item] = []
    parents: dict[str, Json] = {}
    for digest, (size, age) in sorted(finished.items()):
        manifest = _manifest(store, digest)
        if manifest:
            parents[digest] = {p["role"]: p["content"] for p in manifest["parents"]}
        keep = "named by an artifact in use" if digest in digests else "" if results and age > days * DAY else "a finished result"
        items.append(Item("finished results", f"finished/{digest}", size, keep))
        if keep and manifest:
            hashes |= named([manifest])[1]
        elif not manifest:  # it is being written, or was cut: the manifest comes last
            items[-1] = Item(
                "finished results", f"finished/{digest}", size, "" if age > days * DAY else f"younger than {days:g} days"
            )
    for digest, (size, age) in sorted(states.items()):
        done = age > BUSY and digest in parents and _read_the_same(store, digest, parents[digest])
        keep = "" if done else f"younger than {days:g} days" if age < days * DAY else "not finished"
        items.append(Item("resume states in the store", f"resume/{digest}", size, keep))
    for key, (size, age) in sorted(_listing(store, "objects").items()):
        keep = "named" if key.rpartition("/")[2] in hashes else "" if age > days * DAY else f"younger than {days:g} days"
        items.append(Item("objects in the store", key, size, keep))
    return items


def _manifest(store: Store, digest: str) -> Json | None:
    """The manifest of a finished result; None where it is missing: it is written last."""
    manifest: Json | None = store.read_json(f"finished/{digest}/manifest.json")[0]
    try:
        if manifest is not None:
            check_manifest(manifest)
    except ValueError as error:
        where = store.uri(f"finished/{digest}/manifest.json")
        raise Refused(f"{where}: is no manifest ({error}); what it names is not known, so nothing is dropped") from None
    return manifest


def _read_the_same(store: Store, digest: str, parents: Json) -> bool:
    """Whether a state is of what has finished: one digest may stand for other contents of its parents, and then counts apart."""
    state, _ = store.read_json(f"resume/{digest}/current.json")
    return state is None or state.get("parents") == parents


def _folders(listing: dict[str, tuple[int, float]]) -> dict[str, tuple[int, float]]:
    """Sums of size, and the age of the newest, by the folder below the prefix."""
    found: dict[str, tuple[int, float]] = {}
    for key, (size, age) in listing.items():
        digest = key.split("/")[1]
        total, youngest = found.get(digest, (0, age))
        found[digest] = total + size, min(youngest, age)
    return found


def refuse_if_busy(store: Store) -> None:
    """Nothing is dropped while somebody works with the store."""
    for digest, (_, age) in _folders(_listing(store, "resume")).items():
        if age < BUSY:
            where = store.uri(f"resume/{digest}")
            raise Refused(
                f"{where}: a step saved its state {age / 60:.0f} minutes ago and may be running; try again when it is done"
            )


def drop(store: Store, items: Iterable[Item]) -> None:
    """Delete; results before the objects that they name, so that nothing ever names what is gone."""
    order = {"finished results": 0, "resume states in the store": 1, "objects in the store": 2}
    for item in sorted(items, key=lambda i: (order[i.kind], i.place)):
        if item.kind == "finished results":  # without its manifest a result is none; recall looks at nothing else
            store.remove(f"{item.place}/manifest.json")
        store.remove(item.place)
