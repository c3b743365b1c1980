"""Clean: rules per script and language, none that assume English; every rejected document is kept with its reason.

Decision: six stages, each split into parts for several processes (mmenc.parts): a part is a batch of shards of about `BATCH`
compressed bytes, or of languages. Batches follow from the input alone, so neither the number of processes nor a restart
changes a byte, and memory is that of one document plus the hashes of one shard (dedup.py and stages.py sort in ranges).
The order of the reasons is the order of asking; what is asked of one document is in filters.py, the rest in stages.py.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmenc.artifact import Json, write_json
from mmenc.data import boilerplate, contamination, stages
from mmenc.data.filters import FILTERS, normalise, reason, repetition
from mmenc.data.shards import languages, shard_paths
from mmenc.data.stages import Shard, fingerprint, name_of
from mmenc.external import size_of
from mmenc.job import Job
from mmenc.parts import Parts

__all__ = ["FILTERS", "REASONS", "fingerprint", "normalise", "reason", "repetition", "run"]
BATCH = 2_000_000
"""At least this, and at most about 4,096 batches in all: a part costs folders, files and two fsyncs."""
SMALL = 32_000_000
"""Bytes of a batch in the stages that read hashes, not text: another process costs more than so little work."""
REASONS = (*FILTERS, "boilerplate", "other language", "in an evaluation set", "duplicate", "near duplicate")
SHOWN = 12
"""Examples of a reason in the facts, of as many languages; examples.json has those of every language."""


def batches(weights: Mapping[Any, int], size: int) -> list[list[Any]]:
    """Cut keys, in their order, into runs of about `size` by weight, or of more where they would be too many."""
    size = max(size, sum(n + 1_000 for n in weights.values()) // 4096)
    found: list[list[Any]] = []
    full = size
    for key, weight in weights.items():
        if full >= size:
            found.append([])
            full = 0
        found[-1].append(key)
        full += weight + 1_000
    return found


class Cleaning:
    """The stages of one run over the raw shards of all languages."""

    def __init__(self, job: Job) -> None:
        self.job, self.settings = job, job.recipe.clean
        root = job.text("raw", "shards/*/*")
        self.shards: list[Shard] = [(t, p) for t in languages(root) for p in shard_paths(root, t)]
        self.names = {t: [name_of(p) for u, p in self.shards if u == t] for t in dict.fromkeys(t for t, _ in self.shards)}
        self.batches = batches({s: size_of(s[1]) for s in self.shards}, BATCH)
        self.of = {f"{t}/{name_of(p)}": f"{i:05d}" for i, batch in enumerate(self.batches) for t, p in batch}
        self.seconds: dict[str, float] = {}

    def numbered(self) -> Iterator[tuple[str, list[Shard]]]:
        """The batches with their keys."""
        return ((f"{i:05d}", batch) for i, batch in enumerate(self.batches))

    def stage(
        self, name: str, function: Any, parts: Mapping[str, tuple[Any, ...]], *, last: bool = False
    ) -> tuple[Parts, dict[str, Json]]:
        """Run one stage; return its parts and their results, those of shards or languages together."""
        start = time.perf_counter()
        made = Parts(self.job, name, last=last)
        results = made.run(function, parts)
        self.seconds[name] = round(time.perf_counter() - start, 3)
        return made, {k: v for result in results.values() for k, v in result.items()}

    def shard_file(self, parts: Parts, shard: str, suffix: str) -> Path:
        """A file that a stage wrote for a shard."""
        return parts.folder(self.of[shard]) / f"{shard}{suffix}"

    def by_language(self, parts: Parts, suffix: str) -> dict[str, list[Path]]:
        """The files of a stage over shards, by language."""
        return {t: [self.shard_file(parts, f"{t}/{n}", suffix) for n in names] for t, names in self.names.items()}

    def frequent(self, read: Parts, results: Mapping[str, Json]) -> dict[str, Path]:
        """Boilerplate lines of every language, as files of hashes."""
        s = self.settings
        if not s.boilerplate_share:
            return {}
        documents = {t: sum(results[f"{t}/{n}"]["documents"] for n in names) for t, names in self.names.items()}
        tables = self.by_language(read, ".lines.npy")
        weights = {t: 16 * sum(results[f"{t}/{n}"]["lines"] for n in names) for t, names in self.names.items()}
        parts = {
            f"{i:05d}": ({t: (tables[t], documents[t]) for t in batch}, s.boilerplate_share, s.boilerplate_documents)
            for i, batch in enumerate(batches(weights, SMALL))
        }
        made, found = self.stage("frequent", boilerplate.frequent, parts)
        return {t: made.folder(k) / f"{t}.npy" for k, (given, _, _) in parts.items() for t in given if found[t]}

    def tables(self, read: Parts) -> tuple[dict[str, Path], dict[str, int]]:
        """Trigram tables by language, and the last hash of each language's sample."""
        if not self.settings.language or self.settings.language_model:
            return {}, {}
        samples = self.by_language(read, ".sample.json")
        scripts: dict[str, dict[str, list[Path]]] = {}
        for tag, files in samples.items():
            if "_" in tag:
                scripts.setdefault(tag.split("_")[1], {})[tag] = files
        several = {
            s: sum(read.size(p) for files in found.values() for p in files) for s, found in scripts.items() if len(found) > 1
        }
        parts = {f"{i:05d}": ({s: scripts[s] for s in batch},) for i, batch in enumerate(batches(several, SMALL))}
        made, results = self.stage("languages", stages.languages, parts)
        where = {script: made.folder(k) / script for k, (batch,) in parts.items() for script in batch}
        used = {t: where[script] for script, found in results.items() for t in found["languages"]}
        return used, {t: n for found in results.values() for t, n in found["last"].items()}

    def evaluated(self) -> tuple[Path | None, Json]:
        """The hashes of the evaluation texts, if the recipe names some."""
        if not self.settings.evaluation_texts:
            return None, {}
        made = Parts(self.job, "evaluated")
        found = made.run(_index, {"texts": (self.job.raw["clean.evaluation_texts"],)})
        return made.folder("texts"), found["texts"]

    def judge(self, read: Parts, boilerplate: Mapping[str, Path]) -> tuple[Parts, dict[str, Json], Json]:
        """Run the stage that asks about language, evaluation texts and personal data."""
        tables, last = self.tables(read)
        evaluated, texts = self.evaluated()
        settings = self.settings
        if settings.language_model:
            settings = settings.model_copy(update={"language_model": str(_model_file(self.job.raw["clean.language_model"]))})

        def job(language: str, path: Path) -> tuple[Any, ...]:
            kept = self.shard_file(read, f"{language}/{name_of(path)}", ".kept.zst")
            return language, kept, (boilerplate.get(language), tables.get(language), last.get(language, 0), evaluated)

        parts = {k: ([job(*s) for s in batch], settings) for k, batch in self.numbered()}
        made, found = self.stage("judge", stages.judge, parts)
        return made, found, {"compared": len(tables), "evaluation": texts}

    def copies(self, judged: Parts) -> dict[str, Path]:
        """Which documents are copies, as a file per shard."""
        if not self.settings.deduplicate:
            return {}
        marks, signatures = (self.by_language(judged, f".{kind}.npy") for kind in ("marks", "signatures"))
        weights = {t: sum(map(judged.size, files)) for t, files in marks.items()}
        parts = {
            f"{i:05d}": ({t: (marks[t], signatures[t]) for t in batch}, self.settings)
            for i, batch in enumerate(batches(weights, SMALL))
        }
        made, _ = self.stage("copies", stages.copies, parts)
        return {
            f"{t}/{n}": made.folder(k) / t / f"{n}.npz" for k, (given, _) in parts.items() for t in given for n in self.names[t]
        }

    def write(self, read: Parts, judged: Parts) -> tuple[Parts, dict[str, Json]]:
        """Write the final shards."""
        copies = self.copies(judged)

        def job(key: str, language: str, path: Path) -> tuple[Any, ...]:
            shard = f"{language}/{name_of(path)}"
            return shard, read.folder(key), judged.folder(key), copies.get(shard), self.names[language]

        return self.stage("write", stages.write, {k: ([job(k, *s) for s in batch],) for k, batch in self.numbered()}, last=True)


def _index(folder: Path, root: Path) -> Json:
    return dict(contamination.index(root, folder))


def _model_file(given: Path) -> Path:
    return next(iter(sorted(p for p in given.rglob("*") if p.suffix in (".bin", ".ftz"))), given) if given.is_dir() else given


def _rows(names: Mapping[str, list[str]], results: list[Mapping[str, Json]]) -> Json:
    """One row per language from the results of read, judge and write."""
    table: Json = {}
    for tag, shards in names.items():
        found = [[r[f"{tag}/{n}"] for n in shards] for r in results]
        rejected: Counter[str] = Counter()
        for row in (row for rows in found for row in rows):
            rejected.update(row["rejected"])
        table[tag] = {
            "documents": sum(r["documents"] for r in found[0]),
            "kept": sum(r["kept"] for r in found[2]),
            "bytes": sum(r["bytes"] for r in found[2]),
            "rejected": {r: rejected[r] for r in REASONS if rejected[r]},
            "boilerplate_lines": sum(r["lines"] for r in found[1]),
            "masked": sum(r["masked"] for r in found[1]),
        }
    return table


def _examples(names: Mapping[str, list[str]], results: list[Mapping[str, Json]]) -> Json:
    """`{reason: {language: [{id, text, detail}]}}`, the first of each language."""
    found: Json = {}
    for tag, shards in names.items():
        for rows in results:
            for shard in shards:
                for why, shown in rows[f"{tag}/{shard}"]["examples"].items():
                    mine = found.setdefault(why, {}).setdefault(tag, [])
                    mine += shown[: stages.EXAMPLES - len(mine)]
                for line, times in rows[f"{tag}/{shard}"].get("line_examples", []):
                    mine = found.setdefault("boilerplate line", {}).setdefault(tag, [])
                    mine += [{"id": "", "text": line, "detail": f"{times} times"}][: stages.EXAMPLES - len(mine)]
    return found


def _shown(examples: Json, table: Json) -> Json:
    """Up to SHOWN examples of each reason, one per language, from where the reason took most."""
    found: Json = {}
    for why in [r for r in (*REASONS, "boilerplate line") if r in examples]:
        tags = sorted(examples[why], key=lambda t: (-table[t]["rejected"].get(why, 0), t))
        found[why] = [{"language": t, **examples[why][t][0]} for t in tags[:SHOWN]]
    return found


def run(job: Job) -> Json:
    """Read `shards/`, write `shards/` (kept), `rejected/` (with the keys `reason` and `detail`) and examples.json."""
    cleaning = Cleaning(job)
    parts = {k: (batch, cleaning.settings) for k, batch in cleaning.numbered()}
    read, first = cleaning.stage("read", stages.read, parts)
    judged, second, checks = cleaning.judge(read, cleaning.frequent(read, first))
    written, third = cleaning.write(read, judged)
    for key in parts:
        written.take(key, job.out)
    table = _rows(cleaning.names, [first, second, third])
    for tag in cleaning.names:
        (job.out / "shards" / tag).mkdir(parents=True, exist_ok=True)
    examples = _examples(cleaning.names, [first, second, third])
    write_json(job.out / "examples.json", examples)
    rejected: Counter[str] = Counter()
    for row in table.values():
        rejected.update(row["rejected"])
    ordered = {r: rejected[r] for r in REASONS if rejected[r]}
    total = {k: sum(row[k] for row in table.values()) for k in ("documents", "kept", "bytes", "boilerplate_lines", "masked")}
    job.measured["stages"] = cleaning.seconds
    job.say(f"kept {total['kept']:,} of {total['documents']:,} documents; rejected: {ordered}")
    return {"total": {**total, "rejected": ordered}, "languages": table, "checks": checks, "examples": _shown(examples, table)}
