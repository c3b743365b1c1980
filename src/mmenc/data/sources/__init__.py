"""Sources of raw text: one module per kind, all with `documents(file, item, settings)`, which yields documents and rejections.

Decision: a reader holds one document at a time. What cannot be a document (longer than `ingest.max_document_bytes`, no valid
Unicode where the recipe says to skip it, another language than its folder's) is yielded as `Rejected` with its reason and its
first characters; what means that the file itself is broken is a sentence that names the file and the place.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from mmenc.data.shards import Document
from mmenc.errors import Refused
from mmenc.sections_data import Ingest
from mmenc.source import Source

COMPRESSED = (".gz", ".zst", ".bz2")
KINDS = {".jsonl": "jsonl", ".txt": "text", ".parquet": "parquet"}
HEAD = 200
"""Characters of a rejected document that are kept."""
UNFIT = ("Cc", "Cs", "Zl", "Zp")
"""Controls, lone surrogates, ends of lines; titles do hold no-break spaces and zero-width non-joiners."""


@dataclass(frozen=True)
class Item:
    """One input of ingest: a file, an object of a bucket, or one language of a data set."""

    path: str
    """As in the manifest: below the root, or an address."""
    language: str
    """Tag or bucket."""
    kind: str
    bytes: int
    name: str
    """Part of the ids of documents that bring none."""
    source: int = -1
    """Its place in `ingest.sources`."""
    version: str = ""
    base: str = ""
    key: str = ""
    """Of an object: its version, the store that it lies in and its key there. The part that reads it fetches it."""
    config: str = ""
    """Of a data set."""
    groups: tuple[int, int] = (0, 0)
    """Of a Parquet file: the row groups that this item stands for."""

    @property
    def input(self) -> tuple[str, str]:
        """What tells apart the inputs in `facts.sources`."""
        return self.path, self.language


@dataclass(frozen=True)
class Rejected:
    """What a reader could not make a document of."""

    where: str
    reason: str
    bytes: int
    head: str


Made = Document | Rejected


def kind_of(path: str, where: str = "") -> str:
    """The kind of a file by its name; Refused (naming it with what it lies in) for any other."""
    name = plain_name(path)
    kind = KINDS.get(PurePosixPath(name).suffix, "")
    if not kind or (kind == "parquet" and path.endswith(COMPRESSED)):
        raise Refused(
            f"{where}{path}: unknown kind of file; expected .jsonl or .txt (each also with .gz, .zst or .bz2), or .parquet; "
            f"dumps and interleaved documents are named in ingest.sources (wiki, moscar)"
        )
    return kind


def plain_name(path: str) -> str:
    """The path without the suffix of its compression."""
    return next((path.removesuffix(c) for c in COMPRESSED if path.endswith(c)), path)


def stem(path: str) -> str:
    """The path without the suffixes that say its kind."""
    plain = plain_name(path)
    return plain.removesuffix(PurePosixPath(plain).suffix) if PurePosixPath(plain).suffix in (*KINDS, ".xml") else plain


def readers(kind: str) -> Callable[[Path, Item, Ingest], Iterator[Made]]:
    """The reader of a kind; what it needs is imported only where it is used."""
    module = import_module(f"mmenc.data.sources.{kind}")
    found: Callable[[Path, Item, Ingest], Iterator[Made]] = module.documents
    return found


class Maker:
    """Makes the documents of one item by the recipe's rules."""

    def __init__(self, file: Path, item: Item, settings: Ingest) -> None:
        self.file, self.item, self.settings = file, item, settings
        self.said = settings.sources[item.source] if item.source >= 0 else Source.model_construct()
        self.source = self.said.name or PurePosixPath(item.name).name
        self.license = self.said.license or settings.license
        self.columns = {key: self.said.columns.get(key, key) for key in ("text", "id", "source", "license", "group")}

    def decode(self, data: bytes, where: str) -> str | Rejected:
        """Strict UTF-8, or what the recipe says instead."""
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            return self._not_text(data.decode(errors="replace"), where, f"is not UTF-8 ({error.reason})")

    def whole(self, text: str, where: str) -> str | Rejected:
        """The text, if it is one: lone surrogates (from JSON) and NULs are as bad as bytes that are no UTF-8."""
        try:
            text.encode()
        except UnicodeEncodeError:
            return self._not_text(re.sub("[\ud800-\udfff\0]", "\ufffd", text), where, "holds a lone surrogate")
        if "\0" in text:
            return self._not_text(text.replace("\0", "\ufffd"), where, "holds NUL characters")
        return text

    def _not_text(self, mended: str, where: str, why: str) -> str | Rejected:
        if self.settings.encoding_errors == "refuse":
            raise Refused(
                f"{self.file}: {where} {why}; convert the file to UTF-8, or set ingest.encoding_errors to replace or skip"
            )
        if self.settings.encoding_errors == "skip":
            return Rejected(where, why, len(mended.encode()), mended.replace("\0", "\ufffd")[:HEAD])
        return mended.replace("\0", "\ufffd")

    def too_long(self, where: str, size: int, head: bytes | str) -> Rejected:
        """A document that is not read to its end."""
        text = head.decode(errors="ignore") if isinstance(head, bytes) else head
        text = text[:HEAD].replace("\0", "\ufffd").encode(errors="replace").decode()
        return Rejected(where, "longer than max_document_bytes", size, text)

    def document(self, number: int | str, text: str, row: Mapping[str, Any] | None = None, where: str = "") -> Made:
        """A document with the item's defaults for what its row does not say."""
        where = where or f"line {number}"
        found = self.whole(text, where)
        if isinstance(found, Rejected):
            return found
        row, names = row or {}, self.columns
        given = {
            key: self._plain(row[names[key]], where) for key in ("id", "source", "license") if row.get(names[key]) is not None
        }
        document = Document(
            id=given.get("id", f"{self.item.language}/{self.item.name}/{number}"),
            text=found,
            source=given.get("source", self.source),
            license=given.get("license", self.license),
        )
        if row.get(names["group"]):
            document["group"] = self._plain(row[names["group"]], where)
        return document

    def _plain(self, value: Any, where: str) -> str:
        text = str(value)
        if len(text) > 4096 or any(unicodedata.category(c) in UNFIT for c in text):
            raise Refused(
                f"{self.file}: {where} has an id, source, licence or group that is no short text of one line: {text[:60]!r}"
            )
        return text
