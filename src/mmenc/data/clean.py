"""Clean: rules per script, none that assume English; every rejected document is kept with its reason.

Text is brought to NFC, line ends to LF, control characters are dropped; then the filters of the recipe's `clean`
section are asked in the order of `FILTERS`, and the first that objects is the reason.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable

import regex

from mmenc.artifact import Json
from mmenc.data.scripts import script_share
from mmenc.data.shards import Document, languages, read_documents, shard_paths, write_documents
from mmenc.job import Job
from mmenc.progress import bar
from mmenc.sections import Clean

CONTROL = regex.compile(r"[\p{Cc}--[\n\t]]", regex.V1)
SPACE = regex.compile(r"\s+")


def normalise(text: str) -> str:
    """NFC, LF line ends, no control characters, no space at line ends or around the text."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    return "\n".join(line.rstrip() for line in CONTROL.sub("", text).split("\n")).strip()


def repetition(text: str) -> float:
    """Share of the non-empty lines that repeat an earlier line of the same document."""
    lines = [line for line in text.split("\n") if line]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0


def fingerprint(text: str) -> bytes:
    """16 bytes that are equal for texts that differ only in case and white space."""
    return hashlib.sha256(SPACE.sub(" ", text.casefold()).encode()).digest()[:16]


FILTERS: dict[str, Callable[[str, str, Clean], bool]] = {
    "too short": lambda text, _, c: len(text) < c.min_chars,
    "too long": lambda text, _, c: len(text) > c.max_chars,
    "wrong encoding": lambda text, _, c: text.count("\ufffd") > c.max_replacement * len(text),
    "repetition": lambda text, _, c: repetition(text) > c.max_repetition,
    "other script": lambda text, tag, c: script_share(text, tag) < c.script_share,
}
REASONS = (*FILTERS, "duplicate")


def reason(text: str, tag: str, settings: Clean) -> str:
    """Name of the first filter that objects, or an empty string."""
    return next((name for name, objects in FILTERS.items() if objects(text, tag, settings)), "")


def _language(job: Job, language: str) -> Json:
    settings, seen = job.recipe.clean, set[bytes]()
    counts: Counter[str] = Counter()
    kept_bytes = 0
    for shard in shard_paths(job.inputs["raw"].local(f"shards/{language}/*"), language):
        kept: list[Document] = []
        rejected: list[dict[str, object]] = []
        for document in read_documents(shard):
            text = normalise(document["text"])
            why = reason(text, language, settings)
            if not why and settings.deduplicate:
                mark = fingerprint(text)
                why = "duplicate" if mark in seen else ""
                seen.add(mark)
            counts[why or "kept"] += 1
            if why:
                rejected.append({**document, "reason": why})
                continue
            document["text"] = text
            kept_bytes += len(text.encode())
            kept.append(document)
        write_documents(job.out / "shards" / language / shard.name, kept)
        if rejected:
            write_documents(job.out / "rejected" / language / shard.name, rejected)  # type: ignore[arg-type]
    return {
        "documents": counts.total(),
        "kept": counts["kept"],
        "bytes": kept_bytes,
        "rejected": {r: counts[r] for r in REASONS if counts[r]},
    }


def run(job: Job) -> Json:
    """Read `shards/`, write `shards/` (kept) and `rejected/` (with the key `reason`)."""
    table: Json = {}
    names = languages(job.inputs["raw"].local("-"))
    with bar("clean", len(names), "languages") as shown:
        for language in names:
            table[language] = _language(job, language)
            shown.advance(1, language)
    rejected: Counter[str] = Counter()
    for row in table.values():
        rejected.update(row["rejected"])
    total = {key: sum(row[key] for row in table.values()) for key in ("documents", "kept", "bytes")}
    job.say(f"kept {total['kept']:,} of {total['documents']:,} documents; rejected: {dict(rejected)}")
    return {"total": {**total, "rejected": dict(rejected)}, "languages": table}
