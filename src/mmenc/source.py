"""One source of raw text, as a line of `ingest.sources` says it; what does not fit together is one sentence.

Decision: one class for every kind, told apart by its one key (`path`, `wiki`, `moscar`, `dataset`), so that adding a
language is one line and a misspelt key has one list to be compared with.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from mmenc.fields import Count, Name, Section


class Source(Section):
    """One place that text comes from: exactly one of `path`, `wiki`, `moscar`, `dataset` (docs/adding-a-language.md)."""

    path: str = ""
    """Files below `ingest.root`, or `s3://bucket/…`: JSON lines, Parquet or plain text. `*`, `**` and `?` as in a shell;
    `{tag}` stands for a folder or a part of a name that is the language."""
    wiki: str = ""
    """MediaWiki XML dumps (`.xml`, `.xml.bz2`): articles only, without markup."""
    moscar: str = ""
    """Documents of interleaved text and images, as mOSCAR has them: the text parts in order."""
    dataset: str = ""
    """A data set of the Hugging Face hub (`organisation/name`), or a folder below `ingest.root` that `datasets` can load."""
    language: str = ""
    """The language of all of it, where the path has no `{tag}`."""
    bucket: Literal[""] | Name = ""
    """The bucket that all of it goes into, in place of a language (`phases.*.buckets.*.source` names it)."""
    languages: list[str] = []
    """Of what `{tag}` finds only these; with `dataset` the list that `{tag}` in `config` runs through."""
    license: str = ""
    """Of documents that do not bring their own; empty: `ingest.license`."""
    name: str = ""
    """Noted as the documents' source; empty: the file's name."""
    columns: dict[Literal["text", "id", "source", "license", "group"], str] = {}
    """Keys or columns, where they are called otherwise: `{text: content}`."""
    config: str = ""
    """Of a `dataset`; `{tag}` in it is the language."""
    split: str = "train"
    revision: Literal[""] | Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")] = ""
    """Commit hash of a `dataset` on the hub: what is read must not change under the same recipe."""
    streaming: bool = True
    """Read a `dataset` from the hub as it goes; false: download it, or take it from the offline cache (HF_HUB_OFFLINE=1)."""
    documents: Count = 0
    """Of a `dataset`, read at most so many documents per language; 0: all."""
    bytes: Count = 0
    """Of a `dataset`, stop after so many bytes of text per language; 0: all."""

    @property
    def place(self) -> str:
        """What the one key says that every source has."""
        return self.path or self.wiki or self.moscar or self.dataset

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        """Say in one sentence what contradicts itself."""
        places = [k for k in ("path", "wiki", "moscar", "dataset") if getattr(self, k)]
        tagged = "{tag}" in (self.config if self.dataset else self.place)
        wrong = ""
        if len(places) != 1:
            wrong = f"a source has exactly one of path, wiki, moscar, dataset; found {' and '.join(places) or 'none'}"
        elif sum((tagged, bool(self.language), bool(self.bucket))) != 1:
            wrong = (
                f"{self.place}: expected exactly one of {{tag}} in {'config' if self.dataset else 'the path'}, language, bucket"
            )
        elif self.dataset and tagged and not self.languages:
            wrong = f"{self.dataset}: {{tag}} in config needs `languages`, the list that it runs through"
        elif not tagged and self.languages:
            wrong = f"{self.place}: `languages` chooses among what {{tag}} finds, and there is no {{tag}}"
        elif not self.dataset and (stray := [k for k in ("config", "revision", "documents", "bytes") if getattr(self, k)]):
            wrong = f"{self.place}: {stray[0]} is for data sets (`dataset`) only"
        elif ".." in self.place.split("/") or self.place.startswith(("/", "~")):
            wrong = f"{self.place}: a path starts below ingest.root and has no '..'; DVC watches that folder only"
        if wrong:
            raise PydanticCustomError("source", "{wrong}", {"wrong": wrong})
        return self
