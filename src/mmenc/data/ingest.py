"""Ingest: every file below the raw folder becomes documents of one form, per language.

Decision: the folder name is the language tag (ISO 639-3 + script) or the name of a bucket (code, math, …); a file is
JSON lines with at least `text`, or plain text, cut at blank lines. Nothing is guessed: what cannot be read is a
sentence that names the file and line. An empty language is refused, because it would silently drop out of the recipe.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mmenc.artifact import Json, sha256_file
from mmenc.data.shards import Document, read_lines, write_documents
from mmenc.errors import Refused
from mmenc.job import Job
from mmenc.progress import bar

SHARD_BYTES = 64 * 2**20
"""Text bytes per shard: small enough to be one unit of parallel work, large enough that 10 TB are 160,000 files."""
FOLDER = re.compile(r"^([a-z]{3}_[A-Z][a-z]{3}|[a-z][a-z0-9-]*)$")
KINDS = (".jsonl", ".txt")


def _kind(path: Path) -> str:
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    kind = next((k for k in KINDS if name.endswith(k)), "")
    if not kind:
        raise Refused(f"{path}: unknown kind of file; expected {', '.join(KINDS)}, each also with .gz or .zst")
    return kind


def _json_documents(path: Path, language: str, license: str) -> Iterator[Document]:
    name = path.name.split(".")[0]
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            whole = "" if line.endswith("\n") else " and the file ends in the middle of it: it was cut off"
            raise Refused(f"{path}: line {number} is not JSON{whole}; expected one document per line") from None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise Refused(f"{path}: line {number} has no text; expected an object with the key 'text'")
        document = Document(
            id=str(row.get("id", f"{language}/{name}/{number}")),
            text=row["text"],
            source=str(row.get("source", name)),
            license=str(row.get("license", license)),
        )
        if row.get("group"):
            document["group"] = str(row["group"])
        yield document


def _text_documents(path: Path, language: str, license: str, size: int) -> Iterator[Document]:
    """Paragraphs (ended by a blank line) collected into documents of about `size` bytes."""
    name = path.name.split(".")[0]
    held: list[str] = []
    count = held_bytes = 0

    def document() -> Document:
        text = "".join(held).strip()
        return Document(id=f"{language}/{name}/{count}", text=text, source=name, license=license)

    for _, line in read_lines(path):
        held.append(line)
        held_bytes += len(line.encode())
        if not line.strip() and held_bytes >= size:
            yield document()
            held, held_bytes, count = [], 0, count + 1
    if "".join(held).strip():
        yield document()


def _documents(path: Path, language: str, job: Job) -> Iterator[Document]:
    settings = job.recipe.ingest
    if _kind(path) == ".jsonl":
        return _json_documents(path, language, settings.license)
    return _text_documents(path, language, settings.license, settings.document_bytes)


def _language(job: Job, language: str, files: list[str], root: Path) -> tuple[list[Json], int]:
    """Write the shards of one language; return the rows of its sources and its number of characters."""
    shard: list[Document] = []
    size = shards = chars = 0
    seen: set[str] = set()
    rows: list[Json] = []
    versioned = {row["path"] for row in job.raw_files if "sha256" not in row}

    def flush() -> None:
        nonlocal shard, size, shards
        write_documents(job.out / "shards" / language / f"{shards:05d}.jsonl.zst", shard)
        shard, size, shards = [], 0, shards + 1

    for name in files:
        count = nbytes = 0
        kinds: Counter[tuple[str, str]] = Counter()
        for document in _documents(root / name, language, job):
            if document["id"] in seen:
                raise Refused(f"{root / name}: the id {document['id']!r} is used twice in {language}; ids must be unique")
            seen.add(document["id"])
            length = len(document["text"].encode())
            kinds[document["source"], document["license"]] += 1
            count, nbytes, size, chars = count + 1, nbytes + length, size + length, chars + len(document["text"])
            shard.append(document)
            if size >= SHARD_BYTES:
                flush()
        sources, licenses = sorted({s for s, _ in kinds}), sorted({x for _, x in kinds})
        rows.append(
            {
                "path": name,
                "language": language,
                "bytes": nbytes,
                "documents": count,
                "source": ", ".join(sources),
                "license": ", ".join(licenses),
            }
            # Of an object the manifest's input has the version; what its bytes were is known only now.
            | ({"sha256": sha256_file(root / name)} if name in versioned else {})
        )
    if not seen:
        raise Refused(f"{root / language}: holds no documents; add text or remove the folder")
    if shard:
        flush()
    return rows, chars


def run(job: Job) -> Json:
    """Read `data/<language>/*`, write `shards/<language>/NNNNN.jsonl.zst`."""
    root = job.raw["data"]
    chosen = job.recipe.ingest.languages
    names = [p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")] if chosen == "all" else chosen
    by_language: dict[str, list[str]] = {name: [] for name in names}
    for row in job.raw_files:
        folder, _, rest = row["path"].partition("/")
        if not rest:
            raise Refused(f"{root / folder}: lies beside the language folders; expected {root}/<language>/{folder}")
        by_language[folder].append(row["path"])
    sources: list[Json] = []
    languages: Json = {}
    with bar("ingest", len(by_language), "languages") as shown:
        for language, files in sorted(by_language.items()):
            if not FOLDER.match(language):
                raise Refused(
                    f"{root / language}: not a language tag; expected ISO 639-3 and script, such as fao_Latn, "
                    f"or a bucket name such as code"
                )
            rows, chars = _language(job, language, files, root)
            sources += rows
            languages[language] = {
                "documents": sum(r["documents"] for r in rows),
                "bytes": sum(r["bytes"] for r in rows),
                "chars": chars,
            }
            shown.advance(1, language)
    total = {key: sum(row[key] for row in languages.values()) for key in ("documents", "bytes", "chars")}
    job.say(f"{len(languages)} languages, {total['documents']:,} documents, {total['bytes'] / 1e6:.1f} MB")
    return {"total": total, "languages": languages, "sources": sources}
