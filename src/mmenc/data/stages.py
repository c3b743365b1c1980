"""The stages of cleaning that one process does alone, each over a batch of shards or languages (mmenc.parts).

`read` (a batch of shards): normalise, ask the filters of one document, count lines, sample for language statistics.
`frequent` (a batch of languages): lines that so many documents of a language share that they are boilerplate (boilerplate.py).
`languages` (a script): the trigram tables (langid.py).
`judge` (a batch of shards): drop boilerplate lines, ask for language and evaluation texts, mask, sign for duplicates.
`copies` (a batch of languages): which documents are copies (dedup.py).
`write` (a batch of shards): the kept shards and the rejected documents in their first order.
A stage keeps `LANGUAGE/SHARD.*`; `n` in it is a line of the raw shard. One document at a time is in memory.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from mmenc.artifact import Json, write_json
from mmenc.data import contamination, dedup, langid
from mmenc.data.filters import normalise, reason
from mmenc.data.personal import mask
from mmenc.data.scripts import density
from mmenc.data.shards import read_documents, read_lines
from mmenc.data.tokens import is_language
from mmenc.sections_data import Clean

Shard = tuple[str, Path]
"""Language and raw shard."""
EXAMPLES, EXAMPLE_CHARS = 2, 160
LINE_CHARS = 10
"""Shorter lines (in Latin characters) are never boilerplate: a line of a dialogue is repeated too."""
DIGITS = re.compile(r"\d+")
Write = Callable[[Json], None]


def fold(text: str) -> str:
    """Case and white space made alike."""
    return " ".join(text.casefold().split())


def fingerprint(text: str) -> bytes:
    """16 bytes that are equal for texts that differ only in case and white space."""
    return hashlib.sha256(fold(text).encode()).digest()[:16]


def name_of(shard: Path) -> str:
    """The name of a shard without its endings."""
    return shard.name.split(".")[0]


@contextmanager
def writer(path: Path, level: int = 1) -> Iterator[Write]:
    """Write documents to a zstd file as they come."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
    with path.open("wb") as raw, compressor.stream_writer(raw) as stream:
        yield lambda document: void(stream.write((json.dumps(document, ensure_ascii=False) + "\n").encode()))


def void(_: object) -> None:
    """Forget a result."""


class Tally:
    """Counts and first examples of what a shard's documents were rejected for."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[Json]] = {}

    def reject(self, document: Json, why: str, detail: str = "") -> Json:
        """Count one and return it with its reason."""
        self.counts[why] += 1
        seen = self.examples.setdefault(why, [])
        if len(seen) < EXAMPLES:
            text = " ".join(str(document["text"])[: 2 * EXAMPLE_CHARS].split())[:EXAMPLE_CHARS]
            seen.append({"id": document["id"], "text": text, "detail": detail})
        return {**document, "reason": why, **({"detail": detail} if detail else {})}

    def json(self) -> Json:
        """As a stage returns it."""
        return {"rejected": dict(self.counts), "examples": self.examples}


def long_lines(text: str, tag: str) -> Iterator[tuple[str, int]]:
    """Lines of a text, each with eight bytes that are equal whatever its case and digits; 0 for a short or empty one."""
    least = LINE_CHARS / density(tag)
    folded = DIGITS.sub("0", text.casefold())
    for line, plain in zip(text.split("\n"), folded.split("\n"), strict=True):
        yield line, int.from_bytes(hashlib.blake2b(plain.encode(), digest_size=8).digest(), "little") if len(line) >= least else 0


def id_hash(id: str) -> int:
    """What a sample is chosen by."""
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest(), "little")


def read(folder: Path, shards: list[Shard], settings: Clean) -> Json:
    """Normalise, ask the filters of one document, count lines, sample."""
    return {f"{t}/{name_of(p)}": _read(folder / t / name_of(p), t, p, settings) for t, p in shards}


def _read(base: Path, language: str, path: Path, settings: Clean) -> Json:
    tally, lines, count = Tally(), array("Q"), 0
    boilerplate = settings.boilerplate_share > 0 and is_language(language)  # `#include <stdio.h>` is none
    sample: list[tuple[int, str]] = []
    with ExitStack() as stack:
        keep, drop = (stack.enter_context(writer(base.with_suffix(f".{end}.zst"))) for end in ("kept", "out"))
        for n, raw in enumerate(read_documents(path)):
            count += 1
            document: Json = {**raw, "n": n}
            text = normalise(raw["text"])
            if why := reason(text, language, settings):
                drop(tally.reject(document, why))
                continue
            document["text"] = text
            if boilerplate and "\n" in text:
                mark = int.from_bytes(fingerprint(text)[:8], "little")  # copies share it, and count once
                lines.extend(n for h in {h for _, h in long_lines(text, language) if h} for n in (h, mark))
            if settings.language and not settings.language_model:
                item = (-id_hash(raw["id"]), text[: langid.SAMPLE_CHARS])
                (heapq.heappush if len(sample) < langid.SAMPLES else heapq.heappushpop)(sample, item)
            keep(document)
    pairs = np.array(lines, dtype=np.uint64).reshape(-1, 2)
    np.save(base.with_suffix(".lines.npy"), np.ascontiguousarray(pairs[np.argsort(pairs[:, 0], kind="stable")].T))
    write_json(base.with_suffix(".sample.json"), sorted([-h, t] for h, t in sample))
    return {"documents": count, "lines": len(pairs), **tally.json()}


def languages(folder: Path, scripts: dict[str, dict[str, list[Path]]]) -> Json:
    """Train the tables of scripts, each on the samples of its languages; return the sample's last hash by language."""
    found: Json = {}
    for script, samples in scripts.items():
        (folder / script).mkdir()
        found[script] = _tables(folder / script, samples)
    return found


def _tables(folder: Path, samples: dict[str, list[Path]]) -> Json:
    texts: dict[str, list[str]] = {}
    last: dict[str, int] = {}
    for language, paths in samples.items():
        rows = heapq.nsmallest(langid.SAMPLES, (row for p in paths for row in json.loads(p.read_text(encoding="utf-8"))))
        texts[language] = [text for _, text in rows]
        last[language] = rows[-1][0] if rows else 0
    return {**langid.train(folder, texts), "last": last}


class Judge:
    """What `judge` asks about the documents of one language; files of other stages are given as folders."""

    def __init__(
        self, language: str, settings: Clean, boilerplate: Path | None, tables: Path | None, last: int, evaluated: Path | None
    ) -> None:
        self.language, self.settings, self.last = language, settings, last
        self.lines = set(np.load(boilerplate).tolist()) if boilerplate else set[int]()
        self.tables = langid.own(tables) if tables else None
        self.evaluated = contamination.Evaluated(evaluated) if evaluated else None
        self.dropped: Counter[str] = Counter()
        self.masked = 0

    def _without_boilerplate(self, text: str) -> str:
        if not self.lines or "\n" not in text:
            return text
        kept = list[str]()
        for line, mark in long_lines(text, self.language):
            if mark in self.lines:
                self.dropped[line] += 1
            else:
                kept.append(line)
        return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()

    def of(self, document: Json) -> tuple[str, str]:
        """Change the document's text to what is kept of it; return the reason to reject it and a detail."""
        text = self._without_boilerplate(document["text"])
        if len(text) * density(self.language) < self.settings.min_chars:
            return "boilerplate", ""
        document["text"] = text
        other = ""
        if self.settings.language and self.settings.language_model:
            other = langid.model(Path(self.settings.language_model)).other(text, self.language)
        elif self.tables:
            other = self.tables.other(text, self.language, id_hash(document["id"]) <= self.last)
        if other:
            return "other language", other
        if self.evaluated and self.evaluated.holds(text):
            return "in an evaluation set", ""
        if self.settings.mask_personal:
            document["text"], count = mask(text)
            self.masked += count
        return "", ""


def judge(folder: Path, shards: list[tuple[str, Path, tuple[Any, ...]]], settings: Clean) -> Json:
    """Ask a Judge about every document that `read` kept (`(language, its file, arguments of Judge)`); sign what stays."""
    found: Json = {}
    for language, path, more in shards:
        shard = f"{language}/{name_of(path)}"
        found[shard] = _judge(folder / shard, path, Judge(language, settings, *more))
    return found


def _judge(base: Path, path: Path, judge_: Judge) -> Json:
    tally = Tally()
    settings = judge_.settings
    signer = dedup.Signer(judge_.language, settings.permutations if settings.deduplicate and settings.near_duplicates else 0)
    with ExitStack() as stack:
        keep, drop = (stack.enter_context(writer(base.with_suffix(f".{end}.zst"))) for end in ("kept", "out"))
        for _, line in read_lines(path):
            document = json.loads(line)
            why, detail = judge_.of(document)
            if why:
                drop(tally.reject(document, why, detail))
                continue
            signer.add(fold(document["text"]), document["n"], "group" in document)
            keep(document)
    signer.write(base.with_suffix(".marks.npy"), base.with_suffix(".signatures.npy"))
    lines = [[line[:EXAMPLE_CHARS], n] for line, n in judge_.dropped.most_common(EXAMPLES)]
    return {**tally.json(), "lines": judge_.dropped.total(), "line_examples": lines, "masked": judge_.masked}


def copies(folder: Path, given: dict[str, tuple[list[Path], list[Path]]], settings: Clean) -> Json:
    """Write per language and shard which documents are copies of which; `given`: marks and signatures of a language's shards."""
    found: Json = {}
    permutations = settings.permutations if settings.near_duplicates else 0
    for language, (marks, signatures) in given.items():
        (folder / language).mkdir()
        found[language] = dedup.copies(folder / language, marks, signatures, permutations, settings.near_duplicates)
    return found


def write(folder: Path, shards: list[tuple[str, Path, Path, Path | None, list[str]]]) -> Json:
    """Write the shards: `(LANGUAGE/SHARD, folder of read, folder of judge, file of copies, names of the language's shards)`."""
    found: Json = {}
    for shard, read_, judged, copies_, names in shards:
        with np.load(copies_) if copies_ else nullcontext({}) as copy:
            found[shard] = _write(folder, shard, (read_, judged), dict(copy), names)
    return found


def _decided(path: Path, tally: Tally, copy: Json, names: list[str]) -> Iterator[Json]:
    """What `judge` kept, copies with their reason."""
    for at, (_, line) in enumerate(read_lines(path)):
        document = json.loads(line)
        if copy and (kind := copy["kinds"][at]):
            where = f"copy of line {copy['line'][at] + 1} of raw shard {names[copy['shard'][at]]}"
            document = tally.reject(document, "duplicate" if kind == 1 else "near duplicate", where)
        yield document


def _write(folder: Path, shard: str, stages: tuple[Path, Path], copy: Json, names: list[str]) -> Json:
    tally, counts, nbytes = Tally(), [0, 0], 0
    before = (map(json.loads, (line for _, line in read_lines(p / f"{shard}.out.zst"))) for p in stages)
    decided = _decided(stages[1] / f"{shard}.kept.zst", tally, copy, names)
    rejected = folder / "rejected" / f"{shard}.jsonl.zst"
    with ExitStack() as stack:
        keep = stack.enter_context(writer(folder / "shards" / f"{shard}.jsonl.zst", 3))
        drop = stack.enter_context(writer(rejected, 3))
        for document in heapq.merge(*before, decided, key=lambda d: int(d["n"])):
            del document["n"]
            out = "reason" in document
            (drop if out else keep)(document)
            counts[out] += 1
            nbytes += 0 if out else len(document["text"].encode())
    if not counts[1]:
        rejected.unlink()
    return {**tally.json(), "kept": counts[0], "bytes": nbytes}
