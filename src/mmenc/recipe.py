"""One recipe file, `params.yaml`, is the only configuration: this module is its schema and its loader.

Decisions: pydantic, frozen, unknown keys refused with the nearest known name; no nulls (Kubeflow refuses None), whole
numbers may arrive as floats (Kubeflow turns ints inside a dict into floats) and `8e-4` is a number (PyYAML alone reads
a string, DVC a float). What one section must know of another is in `checks.py`.
Defaults are mmBERT's where it published one (arXiv 2509.06888; its six training YAMLs).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from mmenc.errors import Refused, nearest


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
Count = Annotated[Whole, Field(ge=0)]
Positive = Annotated[Whole, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Tag = Annotated[str, StringConstraints(pattern=r"^[a-z]{3}_[A-Z][a-z]{3}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$")]
Folder = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Section(BaseModel):
    """Base of every section: frozen, strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: object) -> object:
        if isinstance(data, Mapping):
            known = {f.alias or k for k, f in cls.model_fields.items()}
            for key in data:
                if key not in known and key not in cls.model_fields:
                    hint = nearest(str(key), known) or f"; known keys: {', '.join(sorted(known))}"
                    raise PydanticCustomError("unknown_key", "unknown key '{key}'{hint}", {"key": str(key), "hint": hint})
        return data


class Top(Section):
    """The N languages with the most training tokens."""

    top: Positive


LanguageSet = list[Tag] | Top | Literal["all"]


class Ingest(Section):
    """Where raw text comes from: a folder with one folder per language (`<ISO 639-3>_<Script>`) or bucket."""

    root: str = "data"
    languages: Literal["all"] | Annotated[list[Folder], Field(min_length=1)] = "all"
    """Folders to read; the others are left alone."""
    license: str = "unknown"
    """Licence noted for documents that do not bring their own (plain text files)."""
    document_bytes: Positive = 20_000
    """Plain text files are cut into documents at blank lines once a document has this many bytes."""


class Clean(Section):
    """Filters of the clean step; each rejected document is kept with its reason."""

    min_chars: Count = 20
    max_chars: Positive = 1_000_000
    script_share: Share = 0.5
    """At least this share of a document's letters is in the script that the language tag names."""
    max_replacement: Share = 0.001
    """At most this share of U+FFFD, the mark that a wrong decoding leaves."""
    max_repetition: Share = 0.5
    """At most this share of a document's lines are repetitions of an earlier line."""
    deduplicate: bool = True


class Waiver(Section):
    """A stated reason to let one expectation fail for one language; shown in the model card."""

    language: str
    expectation: str
    reason: Annotated[str, StringConstraints(min_length=8)]


class Validate(Section):
    """Thresholds of the gate, per language."""

    min_documents: Count = 5
    min_kept_share: Share = 0.5
    max_duplicate_share: Share = 0.5
    min_script_share: Share = 0.7
    min_mean_chars: Count = 20
    max_test_overlap: Share = 0.0
    """Share of held-out documents whose text is also in train (checked after deduplication)."""
    waivers: list[Waiver] = []


class Tokenizer(Section):
    """Byte-level BPE trained on temperature-sampled text."""

    vocab_size: Positive = 8192
    temperature: Annotated[float, Field(gt=0, le=1)] = 0.5
    sample_bytes: Positive = 8_000_000
    min_frequency: Positive = 2


class Tokenize(Section):
    """Every document becomes bos … eos; documents shorter than this many tokens, specials included, are left out."""

    min_tokens: Count = 8


class Model(Section):
    """ModernBERT encoder (recipe.md section 1)."""

    hidden: Positive = 128
    layers: Positive = 4
    heads: Positive = 2
    intermediate: Positive = 192
    window: Positive = 64
    """Tokens that a local layer sees, both sides together."""
    global_every: Positive = 3
    attn_out_dropout: Share = 0.1
    norm_eps: float = 1e-5
    initializer_range: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of the truncated normal that weights start from; narrow models want more (docs/log.md)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    source: str = "random"
    """`random`; a later issue adds a released model to take over."""


class LearningRate(Section):
    """Warm-up is linear; `constant` holds the peak; the others fall from the peak to `end` × peak over the phase."""

    peak: Annotated[float, Field(gt=0)]
    shape: Literal["constant", "one_minus_sqrt", "linear"] = "constant"
    warmup: Count = 0
    """Tokens."""
    end: Share = 0.02


class Optimizer(Section):
    """StableAdamW with decoupled weight decay, none on norms and biases (recipe.md section 2)."""

    beta1: Share = 0.9
    beta2: Share = 0.95
    eps: float = 1e-8
    weight_decay: float = 8e-5


class BatchWarmup(Section):
    """The batch grows from `start` tokens to the phase's `batch_tokens` over `tokens` tokens."""

    start: Positive
    tokens: Positive


class Bucket(Section):
    """A fixed share of the phase, read from one folder of raw data; not part of the temperature sampling."""

    share: Annotated[float, Field(gt=0, lt=1)]
    source: Folder


class Phase(Section):
    """One node of the tree of phases; `init` names the phase whose checkpoint it starts from, or `init`."""

    init: Name
    tokens: Positive
    languages: Name
    temperature: Annotated[float, Field(gt=0, le=1)]
    mask: Annotated[float, Field(gt=0, lt=1)]
    context: Positive
    rope_theta: Annotated[float, Field(gt=0)]
    lr: LearningRate
    batch_tokens: Positive
    batch_warmup: BatchWarmup | None = Field(default=None, exclude_if=lambda v: v is None)
    optimizer: Optimizer = Optimizer()
    epoch_cap: Annotated[float, Field(gt=0)] = 5.0
    buckets: dict[Name, Bucket] = {}
    evaluations: Count = 6
    """How often the held-out loss is taken during the phase."""


class Merge(Section):
    """TIES of the branches against their common base; the density is chosen on dev."""

    base: Name
    branches: Annotated[list[Name], Field(min_length=1)]
    method: Literal["ties", "mean"] = "ties"
    densities: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = [0.2, 0.5, 0.8, 1.0]
    scale: Annotated[float, Field(gt=0)] = 1.0
    dev_tokens: Positive = 60_000


class Evaluate(Section):
    """Figures per language on test."""

    mask: Annotated[float, Field(gt=0, lt=1)] = 0.15
    seed: Count = 0
    tokens_per_language: Positive = 2_000
    bootstrap: Positive = 200
    retrieval_group: str = "udhr"
    """Documents whose group starts with this prefix are parallel across languages."""
    retrieval_pivot: str = "eng_Latn"


class Release(Section):
    """What the released model is called and what it must show."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "mmenc-laptop"
    license: str = "other"
    max_logit_difference: Annotated[float, Field(gt=0)] = 1e-4
    examples: Count = 10


class Compute(Section):
    """Where it runs; never part of an artifact's digest (what changes bits is in the other sections)."""

    threads: Positive = 2
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    micro_batch_tokens: Positive = 16_384
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 30.0


class Recipe(Section):
    """The whole of params.yaml; every section is present (DVC refuses a missing parameter)."""

    seed: Count
    languages: dict[Name, LanguageSet]
    ingest: Ingest
    clean: Clean
    validation: Validate = Field(alias="validate")
    tokenizer: Tokenizer
    tokenize: Tokenize
    model: Model
    phases: Annotated[dict[Name, Phase], Field(min_length=1)]
    merge: Merge
    evaluate: Evaluate
    release: Release
    compute: Compute

    def value(self, path: str) -> Any:
        """Return the resolved value at a dotted path (`phases.extend`), as plain JSON types."""
        node: Any = self.model_dump(mode="json", by_alias=True)
        for part in path.split("."):
            node = node[part]
        return node

    def ancestors(self, phase: str) -> list[str]:
        """Phases from the root down to the parent of `phase`."""
        chain: list[str] = []
        at = self.phases[phase].init
        while at != "init":
            chain.append(at)
            at = self.phases[at].init
        return chain[::-1]


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers (`8e-4` is a float) and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise Refused(f"line {key_node.start_mark.line + 1}: key {key!r} stands there twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9][0-9_]*)$"),
    list("-+0123456789."),
)


def _sentence(error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    # Union branches add their type's name to the location; keys of params.yaml are what the user can look up.
    path = ".".join(str(p) for p in first["loc"] if not str(p).startswith(("list[", "constrained-", "literal[")))
    if first["type"] == "unknown_key":
        return f"{where}: {path + ': ' if path else ''}{first['msg']}"
    if first["type"] == "missing":
        return f"{where}: {path} is missing"
    return f"{where}: {path} is {first['input']!r}; {first['msg'][0].lower()}{first['msg'][1:]}"


def parse(data: object, where: str = "params.yaml") -> Recipe:
    """Turn plain data into a checked Recipe or raise Refused with one sentence."""
    from mmenc.checks import check

    if not isinstance(data, Mapping):
        raise Refused(f"{where}: found {type(data).__name__}, expected a mapping of sections")
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise Refused(_sentence(error, where)) from None
    check(recipe, where)
    return recipe


def load(path: Path) -> Recipe:
    """Read and check a recipe file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Refused(f"{path}: no such recipe file; `cp recipes/monolingual.yaml params.yaml` gives one") from None
    except UnicodeDecodeError as error:
        raise Refused(f"{path}: not UTF-8 at byte {error.start}") from None
    try:
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader subclass)
    except Refused as error:
        raise Refused(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise Refused(f"{path}: not valid YAML{line}: {getattr(error, 'problem', None) or error}") from None
    return parse(data, str(path))
