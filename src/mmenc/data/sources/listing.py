"""What ingest will read, known before it runs: every file, object and data set of the recipe, with language and version.

Decision: local files lie below `ingest.root`, the folder that DVC watches, and enter the manifest with their sha256; objects
enter with the version that the bucket gives them, a data set of the hub with the commit that the recipe names. So the digest
names the bytes, and what is read later in parts is compared with it. One file is read by one source only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mmenc.artifact import Json, sha256_file
from mmenc.data.sources import Item, kind_of, stem
from mmenc.data.tags import Resolved, resolve
from mmenc.errors import Refused, nearest
from mmenc.raw import objects_below, read_pointer
from mmenc.sections_data import Ingest
from mmenc.source import Source
from mmenc.store import is_remote


@dataclass(frozen=True)
class Found:
    """A file or an object, before it is known whose it is."""

    path: str
    bytes: int
    version: str = ""
    base: str = ""
    key: str = ""


@dataclass
class Listing:
    """All inputs of one ingest, in the order of languages and paths."""

    root: Path
    place: str
    items: list[Item] = field(default_factory=list)
    rows: list[Json] = field(default_factory=list)
    """Of the manifest: `[{path, sha256}]`, with `version` in place of the hash for what lies elsewhere."""
    aliases: dict[str, Resolved] = field(default_factory=dict)
    """Names of languages that were not tags, and what was made of them."""


def find(ingest: Ingest, place: str, patience: float, threads: int) -> Listing:
    """List the inputs: of a folder, of a pointer to a bucket's objects, and of sources that lie elsewhere."""
    local = not is_remote(place) and not Path(place).is_file()
    listing = Listing(Path(place), place)
    resolver = _Resolver(ingest, listing)
    needs_root = not ingest.sources or any(not is_remote(s.place) and not s.revision for s in ingest.sources)
    below = list(_files(Path(place), resolver) if local else _objects(place, patience)) if needs_root else []
    if not ingest.sources:
        listing.items = list(_by_folder(below, place, resolver))
    for index, source in enumerate(ingest.sources):
        listing.items += _of_source(index, source, below, place, resolver, patience)
    _check(ingest, listing, place)
    listing.items.sort(key=lambda i: (i.language, i.path, i.config))
    listing.rows = _rows(listing, below, threads)
    return listing


class _Resolver:
    """Turns names into tags, notes which were no tags, and knows which languages are wanted."""

    def __init__(self, ingest: Ingest, listing: Listing) -> None:
        self.ingest, self.noted = ingest, listing.aliases
        self.chosen = None if ingest.languages == "all" else {self(n, "ingest.languages") for n in ingest.languages}
        self.known: dict[str, str] = {}

    def __call__(self, name: str, where: str) -> str:
        try:
            found = resolve(name, self.ingest.aliases)
        except Refused as error:
            raise Refused(f"{where}: not a language tag: {error}") from None
        if found.how:
            self.noted[name] = found
        return found.name

    def wants(self, language: str) -> bool:
        return self.chosen is None or language in self.chosen

    def passes_over(self, folder: str) -> bool:
        """Whether a folder of the root is left alone, whatever its name may be."""
        if self.chosen is None or self.ingest.sources:
            return False
        try:
            return resolve(folder, self.ingest.aliases).name not in self.chosen
        except Refused:
            return True


def _files(root: Path, resolver: _Resolver) -> Iterator[Found]:
    """Every file below the root; links that lead out of it are refused, DVC's into its cache are not."""
    if not root.is_dir():
        raise Refused(f"{root}: no such directory; expected one folder per language, such as {root}/eng_Latn")
    if not os.access(root, os.R_OK | os.X_OK):
        raise Refused(f"{root}: cannot be read by this user (uid {os.getuid()}); make it readable")
    real = root.resolve()
    for folder, folders, files in os.walk(root):
        top = folder == str(root)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and not (top and resolver.passes_over(f)))
        for name in (*folders, *sorted(f for f in files if not f.startswith("."))):
            path = Path(folder) / name
            if path.is_symlink():
                _check_link(path, root, real)
            if name in files:
                yield Found(PurePosixPath(path.relative_to(root)).as_posix(), path.stat().st_size)
            elif top and not any(path.iterdir()):
                raise Refused(f"{path}: holds no documents; add text or remove the folder")


def _check_link(path: Path, root: Path, real: Path) -> None:
    target = path.resolve()
    if not target.is_relative_to(real) and ".dvc" not in target.parts:
        raise Refused(f"{path}: is a link that leaves the folder {root}")
    if target.is_dir():
        raise Refused(f"{path}: is a link to another folder, whose files would be read twice; remove it")


def _objects(place: str, patience: float) -> Iterator[Found]:
    pointer = read_pointer(place, patience)
    for row in pointer["objects"]:
        yield Found(row["path"], int(row["bytes"]), row["version"], pointer["base"], row["path"])


def _by_folder(below: Iterable[Found], place: str, resolver: _Resolver) -> Iterator[Item]:
    """The default: one folder per language or bucket, every file in it."""
    for found in below:
        folder, slash, rest = found.path.partition("/")
        if slash and resolver.passes_over(folder):
            continue
        if not slash:
            raise Refused(f"{place}/{found.path}: lies beside the language folders; expected {place}/<language>/{folder}")
        language = resolver(folder, f"{place}/{folder}")
        yield _item(found, language, kind_of(found.path, f"{place}/"), -1, stem(rest))


def _item(found: Found, language: str, kind: str, source: int, name: str) -> Item:
    return Item(found.path, language, kind, found.bytes, name, source, found.version, found.base, found.key)


def _of_source(
    index: int, source: Source, below: Sequence[Found], place: str, resolver: _Resolver, patience: float
) -> Iterator[Item]:
    """The inputs of one line of `ingest.sources`."""
    where = f"ingest.sources.{index}"
    wanted = {resolver(n, f"{where}.languages") for n in source.languages}
    if source.dataset:
        from mmenc.data.sources.dataset import items

        named = {n: resolver(n, f"{where}.languages") for n in source.languages} or {source.language or source.bucket: ""}
        for name, tag in named.items():
            language = tag or source.bucket or resolver(name, f"{where}.language")
            if resolver.wants(language):
                yield items(index, source, name, language, [f.path for f in below], place)
        return
    candidates = _below_prefix(source.place, patience) if is_remote(source.place) else below
    pattern = glob(source.place)
    seen = 0
    tags: set[str] = set()
    for found in candidates:
        if not (match := pattern.match(found.path)):
            continue
        seen += 1
        language = source.bucket or resolver(source.language or match["tag"], f"{where}: {found.path}")
        if (wanted and language not in wanted) or not resolver.wants(language):
            continue
        tags.add(language)
        kind = "wiki" if source.wiki else "moscar" if source.moscar else kind_of(found.path, f"{where}: ")
        yield _item(found, language, kind, index, stem(found.path.partition("://")[2] or found.path))
    if not seen:
        raise Refused(f"{where}: {source.place}: nothing is found there{'' if is_remote(source.place) else f' below {place}'}")
    if missing := sorted(wanted - tags):
        raise Refused(f"{where}: {source.place}: finds nothing of {missing[0]}{nearest(missing[0], tags)}")


def _below_prefix(address: str, patience: float) -> Iterator[Found]:
    """Objects of a bucket below the part of an address that has no pattern; their paths are whole addresses."""
    plain = re.split(r"[*?{\[]", address, maxsplit=1)[0]
    base = (plain if plain == address else plain.rpartition("/")[0]).rstrip("/")
    if plain == address:
        base = address.rpartition("/")[0]
    base, rows = objects_below(base, patience)
    for row in rows:
        yield Found(f"{base}/{row['path']}", int(row["bytes"]), row["version"], base, row["path"])


def glob(pattern: str) -> re.Pattern[str]:
    """A shell's pattern as a regular expression: `*` and `?` stay in one folder, `**` does not, `{tag}` is a group."""
    parts: list[str] = []
    for piece in re.split(r"(\{tag\}|\*\*/|\*\*|\*|\?)", pattern):
        if piece == "{tag}":
            parts.append("(?P=tag)" if any("?P<tag>" in p for p in parts) else "(?P<tag>[A-Za-z0-9_-]+?)")
        else:
            parts.append({"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(piece, re.escape(piece)))
    return re.compile("".join(parts) + r"\Z")


def _check(ingest: Ingest, listing: Listing, place: str) -> None:
    readers: dict[str, Item] = {}
    for item in listing.items:
        other = readers.setdefault(f"{item.path} {item.config} {item.name if item.kind == 'dataset' else ''}", item)
        if other is not item:
            raise Refused(f"ingest.sources.{item.source}: {item.path} is read by ingest.sources.{other.source} already")
    present = {i.language for i in listing.items}
    for name in [] if ingest.languages == "all" else ingest.languages:
        language = listing.aliases[name].name if name in listing.aliases else resolve(name, ingest.aliases).name
        if language not in present:
            raise Refused(f"{place}: has nothing of {name}, which ingest.languages names{nearest(name, present)}")
    if not listing.items:
        raise Refused(f"{place}: holds no files; expected one folder per language, such as {place}/eng_Latn")


def _rows(listing: Listing, below: Sequence[Found], threads: int) -> list[Json]:
    """The manifest's inputs, each once."""
    elsewhere = {i.path: i.version for i in listing.items if i.version}
    local: set[str] = set()
    for item in listing.items:
        if item.kind == "dataset" and not item.version:
            local |= {f.path for f in below if f.path.startswith(f"{item.path}/")}
        elif not item.version:
            local.add(item.path)
    names = sorted(local)
    with ThreadPoolExecutor(threads) as pool:  # hashlib lets other threads run meanwhile
        hashes = list(pool.map(lambda n: sha256_file(listing.root / n), names))
    rows: list[Json] = [{"path": n, "sha256": h} for n, h in zip(names, hashes, strict=True)]
    rows += [{"path": path, "version": version} for path, version in elsewhere.items()]
    return sorted(rows, key=lambda r: str(r["path"]))
