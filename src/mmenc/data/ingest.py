"""Ingest: every source of the recipe becomes documents of one form, in shards per language.

Decision: the inputs, known before (`sources/listing.py`), are cut into parts by their sizes alone: small files together up to
one shard of text, a large one by itself, a large Parquet file by its row groups. Each part is read by one process in memory
that does not grow with it, is kept when the step is killed, and leaves shards that the step only has to number; so the number
of processes changes nothing. An object of a bucket is fetched by the part that reads it and deleted again. An empty language
is refused, because it would silently drop out of the recipe.
"""

from __future__ import annotations

import shutil
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from mmenc.artifact import Json, sha256_file
from mmenc.data.ids import Run, first_twice, hashed, run_bytes
from mmenc.data.shards import SHARD_BYTES, ShardWriter
from mmenc.data.sources import COMPRESSED, Item, Rejected, readers
from mmenc.data.sources.listing import Listing
from mmenc.errors import Refused
from mmenc.job import Job
from mmenc.parts import Parts
from mmenc.raw import fetch_object
from mmenc.sections_data import Ingest
from mmenc.store import Store

DENSE = 4
"""Bytes of text that a compressed byte stands for, about: what makes parts equally long."""
AT_MOST = 256
"""Inputs of one part: what is lost at most when a step is killed among many small files."""
NAMED = 20
"""Sources and licences that are listed per input."""
IDS, REJECTED = "ids.bin", "rejected"


def plan(items: list[Item], root: Path) -> list[list[Item]]:
    """Cut the inputs into parts; a function of their sizes, never of the machine."""
    parts: list[list[Item]] = [[]]
    size = 0
    for item in items:
        weight = item.bytes * (DENSE if item.path.endswith((*COMPRESSED, ".parquet")) else 1)
        if item.kind == "parquet" and not item.version and weight > 2 * SHARD_BYTES:
            parts += [[replace(item, groups=groups)] for groups in _row_groups(root / item.path)]
            parts.append([])
            size = 0
            continue
        if parts[-1] and (size + weight > SHARD_BYTES or len(parts[-1]) >= AT_MOST or item.kind == "dataset"):
            parts.append([])
            size = 0
        parts[-1].append(item)
        size += weight if item.kind != "dataset" else SHARD_BYTES
    return [part for part in parts if part]


def _row_groups(file: Path) -> Iterator[tuple[int, int]]:
    """Row groups of a Parquet file, together up to about one shard of bytes."""
    from mmenc.data.sources.parquet import opened

    meta = opened(file).metadata
    first = size = 0
    for group in range(meta.num_row_groups):
        size += meta.row_group(group).total_byte_size
        if size >= SHARD_BYTES or group == meta.num_row_groups - 1:
            yield first, group + 1
            first, size = group + 1, 0


class _Language:
    """The shards, rejected documents and id hashes of one language in one part."""

    def __init__(self, folder: Path, name: str, shard_bytes: int) -> None:
        self.name = name
        self.shards, self.rejected = ShardWriter(folder / name, shard_bytes), ShardWriter(folder / REJECTED / name, shard_bytes)
        self.hashes: array[int] = array("Q")
        self.ids = folder / IDS
        self.runs: list[tuple[int, int]] = []
        self.chars = 0

    def write(self, document: Any, size: int) -> None:
        self.hashes.append(hashed(document["id"]))
        self.chars += len(document["text"])
        if self.shards.write(document, size):
            self.end_run()

    def end_run(self) -> None:
        """Append the hashes of the shard that is finished to the part's file."""
        with self.ids.open("ab") as stream:
            self.runs.append((stream.tell() // 8, len(self.hashes)))
            stream.write(run_bytes(self.hashes))
        del self.hashes[:]

    def end(self) -> Json:
        if self.shards.raw is not None:
            self.shards.end()
            self.end_run()
        self.rejected.end()
        return {"language": self.name, "chars": self.chars, "runs": self.runs, "rejected": self.rejected.shards}


def read_part(
    folder: Path, items: list[Item], settings: Ingest, root: Path, scratch: Path, patience: float, shard_bytes: int
) -> Json:
    """Read the inputs of one part into `folder/<language>/NNNNN.jsonl.zst`; return its rows."""
    languages: list[Json] = []
    sources: list[Json] = []
    stores: dict[str, Store] = {}
    for name, group in groupby(items, key=lambda item: item.language):
        language = _Language(folder, name, shard_bytes)
        for item in group:
            with _local(item, root, scratch, patience, stores) as file:
                sources.append(_read(file, item, settings, language))
        languages.append(language.end())
    return {"languages": languages, "sources": sources}


@contextmanager
def _local(item: Item, root: Path, scratch: Path, patience: float, stores: dict[str, Store]) -> Iterator[Path]:
    """The file of an input; an object is here only as long as it is read."""
    if not item.base:
        yield root / item.path
        return
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        file = Path(place) / Path(item.key).name
        if item.base not in stores:
            stores[item.base] = Store(item.base, patience, versions=True)
        fetch_object(stores[item.base], {"path": item.key, "version": item.version, "bytes": item.bytes}, file)
        yield file


def _read(file: Path, item: Item, settings: Ingest, language: _Language) -> Json:
    count = size = 0
    kinds: tuple[set[str], set[str]] = (set(), set())
    rejected: Counter[str] = Counter()
    forget = frozenset(settings.forget)
    try:
        for made in readers(item.kind)(file, item, settings):
            if isinstance(made, Rejected):
                rejected[made.reason] += 1
                row = {"id": f"{item.path}: {made.where}", "text": made.head, "reason": made.reason, "bytes": made.bytes}
                language.rejected.write(row, len(made.head))
                continue
            if made["id"] in forget:
                rejected["forgotten"] += 1
                continue
            length = len(made["text"].encode())
            language.write(made, length)
            count, size = count + 1, size + length
            for seen, value in zip(kinds, (made["source"], made["license"]), strict=True):
                if len(seen) < NAMED:
                    seen.add(value)
    except Refused as error:
        if not item.base:
            raise
        raise Refused(str(error).replace(str(file), f"{item.base}/{item.key}")) from None
    row = {"path": item.path, "language": item.language, "bytes": size, "documents": count}
    row |= {"source": ", ".join(sorted(kinds[0])), "license": ", ".join(sorted(kinds[1]))}
    # Of an object the manifest's input has the version; what its bytes were is known only now.
    return row | ({"sha256": sha256_file(file)} if item.base else {}) | ({"rejected": dict(rejected)} if rejected else {})


def run(job: Job) -> Json:
    """Read the sources, write `shards/<language>/NNNNN.jsonl.zst` and what was rejected."""
    listing, settings = job.listing, job.recipe.ingest
    if listing is None:
        raise AssertionError("ingest runs on a listing of its inputs")
    for found, resolved in sorted(listing.aliases.items()):
        job.say(f"{found} is read as {resolved.name}: {resolved.how}")
    scratch = job.cache / "raw" / job.resume.name
    shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed; the step's lock is ours
    common = (settings, listing.root, scratch, job.recipe.compute.store_patience, SHARD_BYTES)
    parts = Parts(job, "read", last=True)
    keys = {f"{number:06d}": (part, *common) for number, part in enumerate(plan(listing.items, listing.root))}
    results = parts.run(read_part, keys)
    shutil.rmtree(scratch, ignore_errors=True)
    facts = _collect(job, parts, results, listing)
    total = facts["total"]
    rejected = f", {total['rejected']:,} rejected" if "rejected" in total else ""
    buckets = [name for name in facts["languages"] if "_" not in name]
    also = f" (and the buckets {', '.join(buckets)})" if buckets else ""
    counted = len(facts["languages"]) - len(buckets)
    job.say(f"{counted} languages{also}, {total['documents']:,} documents, {total['bytes'] / 1e6:.1f} MB{rejected}")
    return facts


def _collect(job: Job, parts: Parts, results: dict[str, Json], listing: Listing) -> Json:
    """Number the shards of all parts by language, check the ids, add up the figures."""
    runs: dict[str, list[Run]] = {}
    chars: Counter[str] = Counter()
    outs: Counter[str] = Counter()
    for key, result in results.items():
        folder = parts.folder(key)
        for row in result["languages"]:
            name = row["language"]
            chars[name] += row["chars"]
            found = runs.setdefault(name, [])
            for number, (start, count) in enumerate(row["runs"]):
                shard = job.out / "shards" / name / f"{len(found):05d}.jsonl.zst"
                parts.link(folder / name / f"{number:05d}.jsonl.zst", shard)
                found.append(Run(folder / IDS, start, count, shard))
            for number in range(row["rejected"]):
                target = job.out / REJECTED / name / f"{outs[name]:05d}.jsonl.zst"
                parts.link(folder / REJECTED / name / f"{number:05d}.jsonl.zst", target)
                outs[name] += 1
    sources = _sources([row for result in results.values() for row in result["sources"]])
    languages: Json = {}
    for name, mine in groupby(sources, key=lambda row: row["language"]):
        rows = list(mine)
        if not runs[name]:
            first = Path(rows[0]["path"])
            raise Refused(f"{listing.root / first.parent}: holds no documents; add text or remove the folder")
        if twice := first_twice(runs[name]):
            _refuse_twice(twice[0], name, listing, settings=job.recipe.ingest)
        languages[name] = {"documents": sum(r["documents"] for r in rows), "bytes": sum(r["bytes"] for r in rows)}
        languages[name]["chars"] = chars[name]
        if rejected := _added(rows):
            languages[name]["rejected"] = rejected
    total = {key: sum(row[key] for row in languages.values()) for key in ("documents", "bytes", "chars")}
    if lost := sum(sum(row.get("rejected", {}).values()) for row in languages.values()):
        total["rejected"] = lost
    aliases = [{"found": f, "language": r.name, "reason": r.how} for f, r in sorted(listing.aliases.items())]
    return {"total": total, "languages": languages, "sources": sources, "aliases": aliases}


def _added(rows: list[Json]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row.get("rejected", {}))
    return dict(sorted(total.items()))


def _sources(rows: list[Json]) -> list[Json]:
    """One row per input: parts of one Parquet file are added up."""
    found: list[Json] = []
    for row in rows:
        if (
            found
            and (found[-1]["path"], found[-1]["language"]) == (row["path"], row["language"])
            and row["path"].endswith(".parquet")
        ):
            last = found[-1]
            for key in ("bytes", "documents"):
                last[key] += row[key]
            for key in ("source", "license"):
                last[key] = ", ".join(sorted({*last[key].split(", "), *row[key].split(", ")} - {""})[:NAMED])
            if rejected := _added([last, row]):
                last["rejected"] = rejected
        else:
            found.append(dict(row))
    return found


def _refuse_twice(name: str, language: str, listing: Listing, settings: Ingest) -> None:
    """Say which file has an id for the second time: the inputs are read again, up to that place."""
    seen = 0
    for item in (i for i in listing.items if i.language == language and not i.base):
        for made in readers(item.kind)(listing.root / item.path, item, settings):
            seen += not isinstance(made, Rejected) and made["id"] == name
            if seen == 2:
                where = listing.root / item.path if not item.version else item.path
                raise Refused(f"{where}: the id {name!r} is used twice in {language}; ids must be unique")
    raise Refused(f"{listing.place}: the id {name!r} is used twice in {language}; ids must be unique")
