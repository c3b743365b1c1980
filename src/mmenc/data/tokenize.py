"""Tokenize: every kept document becomes `bos … eos` in a flat shard of its split; lengths and bytes are counted.

Decisions: a bundle of shards is one part (`mmenc.parts`): several processes, restartable, results in the order of the shards,
so that content depends neither on the number of processes nor on who encodes. Each part picks the fastest library that proves
equal ids on the languages it is about to encode (encoders.py). The parts' files are then copied one after the other into the
split's, so the step needs the room of its tokens twice. Measured on 357 MB in 561 languages, one core, reading zstd JSON
lines and writing included: see benchmarks/results/tokenise.json.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from mmenc.artifact import Json
from mmenc.data.encoders import Encoder, limit_threads, prove, reference
from mmenc.data.shards import Document, languages
from mmenc.data.split import Splitter
from mmenc.data.stream import Bundle, batches, bundles
from mmenc.data.survey import read_splitter, save_splitter
from mmenc.data.tokens import BOS, EDGES, EOS, SPLITS, SplitWriter, dtype_of
from mmenc.data.words import word_edges
from mmenc.errors import Refused
from mmenc.job import Job
from mmenc.parts import Parts


def framed(flat: NDArray[np.uint32], offsets: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Put bos before and eos behind every document; also the new lengths."""
    lengths = np.diff(offsets) + 2
    ends = np.cumsum(lengths)
    out = np.empty(len(flat) + 2 * len(lengths), dtype=np.uint32)
    inside = np.ones(len(out), dtype=bool)
    for at, special in ((ends - lengths, BOS), (ends - 1, EOS)):
        out[at] = special
        inside[at] = False
    out[inside] = flat
    return out, lengths


@dataclass
class _Side:
    """Files and counts of one split in a part."""

    tokens: BinaryIO
    lengths: BinaryIO
    documents: BinaryIO
    folders: dict[str, Json] = field(default_factory=dict)

    def add(self, language: str, ids: NDArray[np.uint32], lengths: NDArray[np.int64], nbytes: int, rows: list[Json]) -> None:
        self.tokens.write(ids.tobytes())
        self.lengths.write(lengths.astype("<u4").tobytes())
        self.documents.writelines(json.dumps(r, ensure_ascii=False, sort_keys=True).encode() + b"\n" for r in rows)
        row = self.folders.setdefault(language, {"documents": 0, "tokens": 0, "bytes": 0})
        row["documents"] += len(lengths)
        row["tokens"] += len(ids)
        row["bytes"] += nbytes


@lru_cache(maxsize=1)
def _splitter(path: Path) -> Splitter:
    return read_splitter(path)


def _row(document: Document, nbytes: int) -> Json:
    return {"id": document["id"], "group": document.get("group", ""), "bytes": nbytes}


def encode_part(folder: Path, bundle: Bundle, tokenizer: Path, splits: Path, min_tokens: int, library: str, threads: int) -> Json:
    """Encode the shards of a bundle into `SPLIT.tokens`, `.lengths` and `.documents`."""
    limit_threads(threads)
    splitter = _splitter(splits)
    encoder, proof = prove(tokenizer, library, bundle)
    dtype = dtype_of(reference(tokenizer).get_vocab_size())
    short: Counter[str] = Counter()
    with ExitStack() as stack:

        def opened(split: str, kind: str) -> BinaryIO:
            return stack.enter_context((folder / f"{split}.{kind}").open("wb"))

        sides = {s: _Side(opened(s, "tokens"), opened(s, "lengths"), opened(s, "documents")) for s in SPLITS}
        for language, paths in bundle:
            for batch in batches(paths):
                short[language] += _batch(batch, language, encoder, splitter, min_tokens, dtype, sides)
    found = {name: side.folders for name, side in sides.items()}
    return {"splits": found, "short": {k: n for k, n in short.items() if n}, **proof}


def _batch(
    batch: list[Document],
    language: str,
    encoder: Encoder,
    splitter: Splitter,
    min_tokens: int,
    dtype: str,
    sides: dict[str, _Side],
) -> int:
    """Encode some documents and write them to their sides; how many were too short."""
    ids, lengths = framed(*encoder.encode([d["text"] for d in batch]))
    ids = ids.astype(dtype)
    kept = lengths >= min_tokens
    of = np.array([SPLITS.index(splitter.of(d["id"], d.get("group"))) for d in batch])
    nbytes = [len(d["text"].encode()) for d in batch]
    for number, side in enumerate(sides.values()):
        chosen = kept & (of == number)
        which = np.flatnonzero(chosen).tolist()
        rows = [] if number == 0 else [_row(batch[i], nbytes[i]) for i in which]
        total = sum(nbytes[i] for i in which)
        side.add(language, ids if chosen.all() else ids[np.repeat(chosen, lengths)], lengths[chosen], total, rows)
    return int((~kept).sum())


def _counts(names: list[str], results: dict[str, Json]) -> dict[str, dict[str, Json]]:
    """Documents, tokens and bytes per folder and split, over all parts."""
    keys = ("documents", "tokens", "bytes")
    total: dict[str, dict[str, Json]] = {name: {split: dict.fromkeys(keys, 0) for split in SPLITS} for name in names}
    for result in results.values():
        for split, folders in result["splits"].items():
            for name, row in folders.items():
                for key in keys:
                    total[name][split][key] += row[key]
    return total


def _say_library(job: Job, results: dict[str, Json]) -> None:
    """Which library encoded, and why not a faster one; never in the facts, since content is the same."""
    used = Counter(r["library"] for r in results.values())
    refused = sorted({why for r in results.values() for why in r["refused"]})
    proven = sum(r["proof_documents"] for r in results.values())
    job.measured["tokenize"] = {"libraries": dict(used), "refused": refused, "proof_documents": proven}
    names = ", ".join(f"{name} ({n} of {len(results)} parts)" if len(used) > 1 else name for name, n in used.items())
    job.say(
        f"encoded by {names}" + (f"; ids equal Hugging Face's on {proven:,} sample documents of all languages" if proven else "")
    )
    for why in refused:
        job.say(f"not used: {why}")


def run(job: Job) -> Json:
    """Write `train/`, `dev/`, `test/`: tokens.bin, offsets.npy, index.json and, for dev and test, documents.jsonl."""
    clean, words = job.text("clean"), job.inputs["tokenizer"].path / "tokenizer.json"
    parts = bundles(clean)
    splits = save_splitter(job, clean)
    processes = max(1, min(job.recipe.compute.threads, len(parts)))
    common = (words, splits, job.recipe.tokenize.min_tokens, "fastest", max(1, job.recipe.compute.threads // processes))
    done = Parts(job, "tokenize", last=True)
    results = done.run(encode_part, {key: (bundle, *common) for key, bundle in parts.items()})
    _say_library(job, results)
    folders = _counts(languages(clean), results)
    total = {split: sum(row[split]["tokens"] for row in folders.values()) for split in SPLITS}
    empty = next((split for split in SPLITS if not total[split]), None)
    if empty:
        count = sum(row[split]["documents"] for row in folders.values() for split in SPLITS)
        raise Refused(
            f"tokenize: none of the {count} documents is in the {empty} split; bring more documents, or cut plain text "
            "finer with a smaller ingest.document_bytes"
        )
    for split in SPLITS:
        rows = {name: row[split] for name, row in folders.items()}
        writer = SplitWriter(job.out / split, reference(words).get_vocab_size(), sum(r["documents"] for r in rows.values()))
        for key in parts:
            writer.append(done.folder(key))
        writer.close(rows)
    np.save(job.out / EDGES, word_edges(reference(words)))
    short: Counter[str] = Counter()
    for result in results.values():
        short.update(result["short"])
    counted = {split: sum(1 for row in folders.values() if row[split]["tokens"]) for split in SPLITS}
    job.say(f"{total['train']:,} train tokens in {counted['train']} languages; test in {counted['test']}")
    return {
        "folders": folders,
        "total": total,
        "languages": counted,
        "too_short": dict(sorted(short.items())),
        "without_test": sorted(f for f, row in folders.items() if not row["test"]["tokens"]),
    }
