"""Sections of a recipe about text: where it comes from, what is kept of it, the gate, the tokenizer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from mmenc.fields import Count, Folder, Positive, Section, Share, Tag
from mmenc.source import Source
from mmenc.suites import Suite


def _by_name(suites: dict[str, Suite]) -> dict[str, Suite]:
    """Kubeflow hands dicts over in any order, and the page lists suites: another order is other content under one digest."""
    return dict(sorted(suites.items()))


class Ingest(Section):
    """Where raw text comes from: a folder with one folder per language (`<ISO 639-3>_<Script>`) or bucket, or `sources`."""

    root: str = "data"
    sources: list[Source] = []
    """Empty: every file of `root`, whose folders are named by language."""
    languages: Literal["all"] | Annotated[list[Folder], Field(min_length=1)] = "all"
    """Languages (or buckets) to read; the others are left alone."""
    aliases: dict[str, Folder] = {}
    """What a name stands for that no table resolves (`{nor: nob_Latn}`); an alias to itself keeps any name as it is."""
    license: str = "unknown"
    """Licence noted for documents that do not bring their own (plain text files)."""
    document_bytes: Positive = 4_000
    """Plain text files are cut into documents at blank lines once a document has this many bytes."""
    max_document_bytes: Positive = 10_000_000
    """A line, article or cell with more bytes is rejected without being held in memory."""
    max_expansion: Positive = 200
    """A compressed file that grows to more than 64 MB and this many times its size is refused."""
    encoding_errors: Literal["refuse", "replace", "skip"] = "refuse"
    """Of text that is no valid UTF-8, or holds NULs: stop, put U+FFFD in its place, or reject the document."""
    forget: Annotated[list[str], AfterValidator(lambda v: sorted(set(v)))] = Field(default=[], exclude_if=lambda v: not v)
    """Ids of documents that are never read again (`mmenc forget`): they are counted, and nothing of them is kept."""


class Clean(Section):
    """Filters of the clean step, in the order of asking; each rejected document is kept with its reason.

    Lengths count Latin characters: one of Chinese is worth four (`DENSITY` in data/scripts.py).
    """

    min_chars: Count = 20
    max_chars: Positive = 1_000_000
    max_replacement: Share = 0.001
    """At most this share of U+FFFD, the mark that a wrong decoding leaves."""
    max_repetition: Share = 0.5
    """At most this share of a document's lines are repetitions of an earlier line."""
    max_repeated_windows: Share = 0.7
    """At most this share of its stretches of 24 characters are repetitions of an earlier one (documents of 200 and more)."""
    script_share: Share = 0.5
    """At least this share of a document's letters is in the script that the language tag names."""
    boilerplate_share: Share = 0.001
    """Lines that this share of a language's documents have are dropped, `boilerplate_documents` at least; 0: none are."""
    boilerplate_documents: Positive = 30
    language: bool = True
    """Reject documents in another language: by `language_model`, or by the statistics of the languages in the data."""
    language_model: str = ""
    """A fastText file with labels such as `__label__fao_Latn` (GlotLID, OpenLID, NLLB), or a folder or s3://… with one."""
    evaluation_texts: str = ""
    """Folder (or s3://…) with texts that must not be trained on: .txt, .tsv, .csv, .json, .jsonl, also .gz and .zst."""
    mask_personal: bool = False
    """Mask e-mail and IP addresses and international phone numbers."""
    deduplicate: bool = True
    near_duplicates: Share = 0.8
    """Documents of a language that are this similar (Jaccard, of stretches of 12 characters) are copies; 0: exact ones only."""
    permutations: Annotated[Positive, Field(multiple_of=8)] = 128
    """Of a MinHash signature: 4 bytes each and document on disk while cleaning."""


class Waiver(Section):
    """A stated reason to let one expectation fail for one language; shown in the model card."""

    language: str
    expectation: str
    reason: Annotated[str, StringConstraints(min_length=8)]


class Validate(Section):
    """The gate; what it expects stands in the suites of the folder `expectations` (docs/data.md)."""

    expectations: Annotated[str, StringConstraints(pattern=r"^expectations(/[^/.][^/]*)*$")] = "expectations"
    """Folder of the suites, `expectations` or one below it: DVC watches no other."""
    suites: Annotated[dict[str, Suite], AfterValidator(_by_name)] = {}
    """Read from there when the recipe is loaded; not to be given in params.yaml."""
    previous: str = ""
    """An earlier validate artifact (or s3://… with its statistics.json), to compare the data with; empty: no comparison."""
    data_docs: bool = False
    """Also build Great Expectations' own pages, under `.runs/` beside the artifacts (they need a network when opened)."""
    waivers: list[Waiver] = []


class Extend(Section):
    """Growth of a vocabulary that is taken over, on the train text of new languages (docs/tokenizer.md)."""

    languages: Annotated[list[Folder], Field(min_length=1)]
    entries: Positive
    """New tokens; `vocab_size` is that of the source plus these."""


class TokenizerWaiver(Section):
    """A stated reason to let a language stay below `min_bytes_per_token`."""

    language: str
    reason: Annotated[str, StringConstraints(min_length=8)]


class Tokenizer(Section):
    """Byte-level BPE or Unigram trained on temperature-sampled text, or the tokenizer of a released model (docs/tokenizer.md)."""

    source: str = "train"
    """`train`, or a directory with the tokenizer.json of a release (continued pretraining)."""
    kind: Literal["bpe", "unigram"] = "bpe"
    vocab_size: Positive = 8192
    prefix_space: bool = False
    """Put a space before a text that begins with none: words given one by one get the tokens that they have in a sentence."""
    temperature: Annotated[float, Field(gt=0, le=1)] = 0.5
    sample_bytes: Positive = 8_000_000
    min_frequency: Positive = 2
    extend: Extend | None = Field(default=None, exclude_if=lambda v: v is None)
    compare: str = ""
    """The tokenizer.json of another model, whose tokens the report sets beside ours; empty: none."""
    pivot: Tag = "eng_Latn"
    """Parity is tokens per token of this language, on documents that are translations of each other."""
    min_bytes_per_token: Annotated[float, Field(ge=0)] = 1.1
    """The gate: a language below it on held-out text stops the step. A vocabulary without its script gives about 1."""
    waivers: list[TokenizerWaiver] = []


class Tokenize(Section):
    """Every document becomes bos … eos; documents shorter than this many tokens, specials included, are left out."""

    min_tokens: Count = 8
