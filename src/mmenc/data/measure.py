"""The figures that the gate judges: one row per shard and per language, from one pass over the clean shards.

Decision: `shard` reads a batch of shards in one process and leaves hashes, lengths and sides as arrays (17 bytes a document);
`language` merges the shards of a language in ranges of hashes, so memory grows with neither. The side of a document with a group
is known only when all groups of all languages are, so the shards leave those open.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmenc.artifact import Json, read_json, write_json
from mmenc.data import dedup
from mmenc.data.clean import fingerprint
from mmenc.data.scripts import density, share_of
from mmenc.data.shards import read_documents
from mmenc.data.split import Splitter
from mmenc.data.windows import points

SIDES = ("train", "dev", "test")
OPEN = 3
"""Side of a document with a group, until all groups are known."""
CHARS = 128
"""Buckets of the distribution of characters: enough to see another alphabet, orthography or kind of text, 1 kB a language."""
LONGEST = 1_000_000
COPIES = ("duplicate", "near duplicate")
NO_GROUPS = Splitter({})
COLUMNS = {
    "documents": "kept documents",
    "bytes": "bytes of kept text",
    "train": "documents to train on",
    "dev": "documents for choices",
    "test": "documents for figures",
    "kept_share": "share of the raw documents that cleaning kept",
    "duplicate_share": "share of the raw documents that were exact or near copies",
    "language_agreement": "share of the raw documents that were not taken for another language",
    "evaluation_share": "share of the raw documents that hold evaluation text",
    "mean_chars": "characters of a kept document, in Latin ones",
    "median_chars": "the same, median",
    "script_share": "share of the letters in the tag's script, mean over documents",
    "replacement_share": "share of U+FFFD among the characters",
    "duplicate_ids": "documents whose id another one has",
    "test_overlap": "share of held-out documents whose text is also in train",
    "documents_change": "kept documents against the previous data, 0: as many",
    "mean_chars_change": "mean length against the previous data, 0: equal",
    "script_share_change": "difference of the script share to the previous data",
    "chars_distance": "distance of the distributions of characters to the previous data, 0 to 1",
}
"""Columns of the table of languages, for people."""
DRIFT = ("documents_change", "mean_chars_change", "script_share_change", "chars_distance")
NEED_TEXT = ("script_share", "mean_chars", "median_chars", "replacement_share", "language_agreement", *DRIFT[1:])
"""Not asked of a language without a document: `documents` says it already."""


def shard(folder: Path, shards: list[tuple[str, Path, Path]]) -> Json:
    """Measure shards: `(language, kept, rejected)`; leave their arrays, return their rows and the groups in them."""
    rows: list[Json] = []
    groups: set[str] = set()
    for language, kept, rejected in shards:
        (folder / language).mkdir(exist_ok=True)
        row, mine = _shard(folder / language / kept.name.split(".")[0], language, kept, rejected)
        rows.append(row)
        groups |= mine
    return {"rows": rows, "groups": sorted(groups)}


def _shard(base: Path, language: str, kept: Path, rejected: Path) -> tuple[Json, set[str]]:
    ids, marks, sides, lengths, groups = list[int](), list[int](), list[int](), list[int](), list[str]()
    nbytes = replaced = 0
    script, chars = 0.0, np.zeros(CHARS, dtype=np.int64)
    for document in read_documents(kept):
        text, group = document["text"], document.get("group")
        ids.append(int.from_bytes(hashlib.sha256(document["id"].encode()).digest()[:8], "big"))
        marks.append(int.from_bytes(fingerprint(text)[:8], "big"))
        sides.append(OPEN if group else SIDES.index(NO_GROUPS.of(document["id"])))
        groups += [group] if group else []
        codes = points(text)
        lengths.append(len(codes))
        nbytes += len(text.encode())
        replaced += text.count("\ufffd")
        script += share_of(codes, language)
        chars += np.bincount((codes * np.uint32(2_654_435_761)) >> np.uint32(25), minlength=CHARS)
    np.savez(
        base,
        ids=np.array(ids, dtype=np.uint64),
        marks=np.array(marks, dtype=np.uint64),
        sides=np.array(sides, dtype=np.int8),
        lengths=np.array(lengths, dtype=np.uint32),
    )
    write_json(base.with_suffix(".groups.json"), groups)
    reasons = Counter(str(dict(d)["reason"]) for d in read_documents(rejected)) if rejected.is_file() else Counter[str]()
    count, total = len(ids), max(1, len(ids) + reasons.total())
    row = {
        "language": language,
        "shard": base.name,
        "documents": count,
        "bytes": nbytes,
        "mean_chars": density(language) * sum(lengths) / max(1, count),
        "script_share": script / max(1, count),
        "replacement_share": replaced / max(1, sum(lengths)),
        "kept_share": count / total,
        "duplicate_share": sum(reasons[r] for r in COPIES) / total,
        "chars": chars.tolist(),
        "replaced": replaced,
        "length": sum(lengths),
    }
    return row, set(groups)


def languages(folder: Path, given: Mapping[str, list[Path]], groups: Path) -> Json:
    """Merge the arrays of each language's shards (`given`, without endings); `groups`: the side of every group."""
    sides = read_json(groups)
    found: Json = {}
    for language, bases in given.items():
        resolved: list[Any] = []
        for base in bases:
            mine = np.load(base.with_suffix(".npz"))["sides"]
            mine[mine == OPEN] = [SIDES.index(sides[g]) for g in read_json(base.with_suffix(".groups.json"))]
            resolved.append(mine)
        found[language] = _merge([base.with_suffix(".npz") for base in bases], resolved, density(language))
    write_json(folder / "languages.json", sorted(found))
    return found


def _merge(files: list[Path], sides: list[Any], scale: float) -> Json:
    lengths = np.zeros(LONGEST + 1, dtype=np.int64)
    for path in files:
        lengths += np.bincount(np.minimum(np.load(path)["lengths"], LONGEST), minlength=LONGEST + 1)
    count = int(lengths.sum())
    distinct = overlap = 0
    for low, high in dedup.ranges(count):
        ids, held, train = [], [], []
        for path, side in zip(files, sides, strict=True):
            arrays = np.load(path)
            own, marks = arrays["ids"], arrays["marks"]
            ids.append(own[(own >= low) & (own <= high)])
            here = (marks >= low) & (marks <= high)
            held.append(marks[here & (side > 0)])
            train.append(marks[here & (side == 0)])
        distinct += len(np.unique(np.concatenate(ids)))
        overlap += int(np.isin(np.concatenate(held), np.concatenate(train)).sum())
    times = [sum(int((side == i).sum()) for side in sides) for i in range(len(SIDES))]
    middle = np.searchsorted(np.cumsum(lengths), [(count + 1) // 2, count // 2 + 1]) if count else np.zeros(1)
    return {
        **dict(zip(SIDES, times, strict=True)),
        "median_chars": scale * float(middle.mean()),
        "duplicate_ids": count - distinct,
        "test_overlap": overlap / max(1, times[1] + times[2]),
    }


def table_row(language: str, shards: list[Json], merged: Json, cleaned: Json, before: Json | None) -> tuple[Json, list[int]]:
    """Return the row of a language and its distribution of characters; `cleaned` is its row in the facts of clean."""
    count, raw = sum(r["documents"] for r in shards), max(1, cleaned["documents"])
    length, rejected = sum(r["length"] for r in shards), cleaned["rejected"]
    chars = np.sum([r["chars"] for r in shards], axis=0) if shards else np.zeros(CHARS)
    row = {
        "language": language,
        "documents": count,
        "bytes": sum(r["bytes"] for r in shards),
        **{side: merged[side] for side in SIDES},
        "kept_share": cleaned["kept"] / raw,
        "duplicate_share": sum(rejected.get(r, 0) for r in COPIES) / raw,
        "language_agreement": 1 - rejected.get("other language", 0) / raw,
        "evaluation_share": rejected.get("in an evaluation set", 0) / raw,
        "mean_chars": density(language) * length / max(1, count),
        "median_chars": merged["median_chars"],
        "script_share": sum(r["script_share"] * r["documents"] for r in shards) / max(1, count),
        "replacement_share": sum(r["replaced"] for r in shards) / max(1, length),
        "duplicate_ids": merged["duplicate_ids"],
        "test_overlap": merged["test_overlap"],
    }
    return row | drift(row, chars, before), [int(c) for c in chars]


def drift(row: Json, chars: Any, before: Json | None) -> Json:
    """Compare a language with its row in the previous statistics; all None without one."""
    if not before or not before["documents"]:
        return dict.fromkeys(DRIFT)
    return {
        "documents_change": row["documents"] / before["documents"] - 1,
        "mean_chars_change": row["mean_chars"] / before["mean_chars"] - 1 if row["documents"] else None,
        "script_share_change": row["script_share"] - before["script_share"] if row["documents"] else None,
        "chars_distance": _distance(chars, np.array(before["chars"])) if row["documents"] else None,
    }


def _distance(a: Any, b: Any) -> float:
    """Jensen-Shannon distance with logarithms to base 2: 0 for equal distributions, 1 for disjoint ones."""
    p, q = a / max(1, a.sum()), b / max(1, b.sum())
    middle = (p + q) / 2

    def against(x: Any) -> float:
        some = x > 0
        return float((x[some] * np.log2(x[some] / middle[some])).sum())

    return float(np.sqrt(max(0.0, (against(p) + against(q)) / 2)))
