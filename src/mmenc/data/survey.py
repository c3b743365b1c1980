"""What must be known of all documents before any can be used: their groups (the splits follow), and their sizes.

Decision: one pass per question, bundle by bundle in several processes (`mmenc.parts`); only names of groups and four bytes
per train document are kept, so the corpus never has to fit into memory. The sample that a tokenizer is trained on is drawn by
keys: a language's train documents are ordered by random words keyed by (seed, "tokenizer", language) and taken until its
quota is full. The words are drawn again in blocks where they are needed, never all at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmenc import rng
from mmenc.artifact import Json, read_json, replace_json
from mmenc.data.split import Splitter, by_prefix
from mmenc.data.stream import Bundle, bundles, documents, lines
from mmenc.job import Job
from mmenc.parts import Parts

BLOCK = 1 << 20
"""Documents whose keys are in memory at a time."""
BUCKETS = 1 << 16
QuotaOf = Callable[[dict[str, int]], dict[str, int]]
"""From bytes per language to bytes to take."""


def groups_part(_folder: Path, bundle: Bundle) -> Json:
    """Names of the groups in a bundle; only lines that hold the word "group" are parsed."""
    found: set[str] = set()
    for _, paths in bundle:
        for path in paths:
            rows = (json.loads(line) for line in lines(path) if b'"group"' in line)
            found.update(str(row["group"]) for row in rows if row.get("group"))
    return {"groups": sorted(found)}


def save_splitter(job: Job, clean: Path) -> Path:
    """Find the sides of all groups; keep them in a file that processes can read."""
    results = Parts(job, "groups").run(groups_part, {key: (bundle,) for key, bundle in bundles(clean).items()})
    splitter = Splitter(by_prefix(g for row in results.values() for g in row["groups"]))
    path = job.resume / "sides.json"
    replace_json(path, splitter.sides)
    return path


def read_splitter(path: Path) -> Splitter:
    """Open what `save_splitter` kept."""
    splitter = Splitter({})
    splitter.sides = read_json(path)
    return splitter


def of_side(bundle: Bundle, splitter: Splitter, train: bool) -> Iterator[tuple[str, Path, str]]:
    """(language, shard, text) of the train documents of a bundle, or of all others."""
    for language, paths in bundle:
        for path in paths:
            for d in documents([path]):
                if (splitter.of(d["id"], d.get("group")) == "train") == train:
                    yield language, path, d["text"]


def sizes_part(folder: Path, bundle: Bundle, splits: Path) -> Json:
    """UTF-8 bytes of every train document, a file per language: `LANGUAGE.sizes`."""
    splitter = read_splitter(splits)
    total: dict[str, int] = {}
    for language, paths in bundle:
        sizes = [len(text.encode()) for _, _, text in of_side([(language, paths)], splitter, train=True)]
        np.array(sizes, dtype="<u4").tofile(folder / f"{language}.sizes")
        total[language] = sum(sizes)
    return {"bytes": total}


def sample_part(folder: Path, bundle: Bundle, splits: Path, chosen: Mapping[str, Path], skip: Mapping[str, int]) -> Json:
    """Texts of a bundle that are in the sample, as JSON lines `[language, text]`; `skip`: train documents before the bundle."""
    splitter = read_splitter(splits)
    with (folder / "sample.jsonl").open("wb") as stream:
        for language, paths in bundle:
            if language not in chosen:
                continue
            wanted = np.load(chosen[language], mmap_mode="r")
            number, at = skip[language], int(np.searchsorted(wanted, skip[language]))
            for _, _, text in of_side([(language, paths)], splitter, train=True):
                if at < len(wanted) and wanted[at] == number:
                    stream.write(json.dumps([language, text], ensure_ascii=False).encode() + b"\n")
                    at += 1
                number += 1
    return {}


def choose(sizes: Iterable[NDArray[np.uint32]], limit: int, *names: object) -> tuple[NDArray[np.int64], int]:
    """Sorted numbers of the documents that come first in the order of keys until they have `limit` bytes; and their bytes.

    Two runs over the keys in blocks: bytes by the keys' upper 16 bits, then an exact sort of the documents up to the bucket in
    which the limit falls. Equal to sorting all of them (`rng.permutation`), in memory of the result and one block.
    """
    blocks = [block for file in sizes for block in np.array_split(file, max(1, -(-len(file) // BLOCK)))]
    by_key = np.zeros(BUCKETS, dtype=np.int64)
    stream = rng.stream(*names)
    for block in blocks:
        by_key += np.bincount((stream(len(block)) >> np.uint64(48)).astype(np.int64), block, BUCKETS).astype(np.int64)
    last = int(np.searchsorted(np.cumsum(by_key), limit))
    stream, first = rng.stream(*names), 0
    keys, numbers, nbytes = [], [], []
    for block in blocks:
        words = stream(len(block))
        near = np.flatnonzero((words >> np.uint64(48)) <= last)
        keys.append(words[near])
        numbers.append(near + first)
        nbytes.append(block[near].astype(np.int64))
        first += len(block)
    order = np.argsort(np.concatenate(keys), kind="stable")
    ordered = np.concatenate(nbytes)[order]
    taken = order[np.cumsum(ordered) - ordered < limit]
    return np.sort(np.concatenate(numbers)[taken]), int(np.concatenate(nbytes)[taken].sum())


def draw(job: Job, clean: Path, splits: Path, quota_of: QuotaOf, only: Iterable[str] | None = None) -> tuple[list[Path], Json]:
    """Files of a keyed sample of train text (`[language, text]` per line), and its bytes per language."""
    parts = bundles(clean)
    if only is not None:
        wanted = set(only)
        parts = {key: kept for key, b in parts.items() if (kept := [(t, paths) for t, paths in b if t in wanted])}
    measured = Parts(job, "sizes")
    found = measured.run(sizes_part, {key: (bundle, splits) for key, bundle in parts.items()})
    total: dict[str, int] = {}
    for row in found.values():
        for language, n in row["bytes"].items():
            total[language] = total.get(language, 0) + n
    chosen, nbytes, skip = {}, {}, {key: dict[str, int]() for key in parts}
    for language, limit in sorted(quota_of({t: n for t, n in total.items() if n}).items()):
        files = {key: measured.folder(key) / f"{language}.sizes" for key, b in parts.items() if any(t == language for t, _ in b)}
        first = 0
        for key, path in files.items():
            skip[key][language] = first
            first += path.stat().st_size // 4
        sizes = [np.memmap(p, "<u4", "r") if p.stat().st_size else np.empty(0, "<u4") for p in files.values()]
        taken, nbytes[language] = choose(sizes, limit, job.recipe.seed, "tokenizer", language)
        chosen[language] = job.resume / "chosen" / f"{language}.npy"
        chosen[language].parent.mkdir(exist_ok=True)
        np.save(chosen[language], taken)
    sampled = Parts(job, "sample")
    sampled.run(sample_part, {key: (bundle, splits, chosen, skip[key]) for key, bundle in parts.items()})
    return [sampled.folder(key) / "sample.jsonl" for key in parts], nbytes


def texts(files: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """(language, text) of a sample."""
    for path in files:
        with path.open("rb") as stream:
            for line in stream:
                language, text = json.loads(line)
                yield language, text
