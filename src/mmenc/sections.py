"""The sections of a recipe: one frozen class each, strict about its keys, with mmBERT's value as default where it has one.

Sources: arXiv 2509.06888 and its six training files. Tokens are tokens, shares lie between 0 and 1.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from mmenc.cluster import Cluster
from mmenc.fields import Count, Folder, Name, Positive, Section, Share, Tag


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
    document_bytes: Positive = 4_000
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
    """Byte-level BPE trained on temperature-sampled text, or the tokenizer of a released model of ours."""

    source: str = "train"
    """`train`, or a directory with the tokenizer.json of a release (continued pretraining)."""
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
    """`random`, or a directory that holds a ModernBERT checkpoint (a release of ours, any released model)."""
    resize: Literal["none", "stride"] = "none"
    """`stride`: a wider source is strided down to this width (every k-th hidden index, every k-th head)."""


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
    min_piece: Count = 0
    """A rest of a long document below this many tokens shares with the piece before it; 0: an eighth of the context."""
    evaluations: Count = 6
    """How often the held-out loss is taken during the phase."""
    checkpoints: Count = 0
    """Intermediate checkpoints that the artifact keeps, at equal distances, under `checkpoints/<tokens>/`."""


class Merge(Section):
    """`ties` or `mean` of the branches against their common base; `linear` or `exponential` weights of one branch's checkpoints.

    What is free (density, decay) is chosen on dev.
    """

    base: Name
    branches: Annotated[list[Name], Field(min_length=1)]
    method: Literal["ties", "mean", "linear", "exponential"] = "ties"
    checkpoint: Literal["last", "best"] = "last"
    """Which of a branch's kept checkpoints stands for it; `best` is chosen on dev."""
    decays: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = [0.25, 0.5, 0.75]
    """For `exponential`: the weight of a checkpoint is this times that of the next later one."""
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
    """Of all processes of a step together."""
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    processes: Positive = 1
    """That train a phase together on the CPU; on CUDA there is one per accelerator (`accelerators`)."""
    micro_batch_tokens: Positive = 16_384
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 30.0
    activation_checkpointing: bool = False
    store: str = ""
    """Folder or s3://bucket/prefix that owns large files, resume state and run records; empty: everything lies beside the
    artifacts."""
    store_patience: Annotated[float, Field(ge=0)] = 300.0
    """Seconds that a step waits for a store that does not answer."""
    counts: str = ""
    """CSV `language,tokens` that `mmenc plan` reads before there is any data."""
    accelerator: str = "cpu"
    accelerators: Positive = 1
    peak_tflops: Annotated[float, Field(gt=0)] = 0.1
    """What one accelerator (or this CPU) can reach in the recipe's dtype; the default is two laptop cores in fp32."""
    utilisation: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Share of the peak that training is expected to reach."""
    utilisation_source: str = "the default recipe on two cores of an AMD EPYC: 11,000 to 13,000 tokens/s"
    memory_gb: Annotated[float, Field(gt=0)] = 8.0
    """Of one accelerator, or of the machine where training runs on the CPU; what a pod gets is in `cluster`."""
    watts: Annotated[float, Field(ge=0)] = 0.0
    price_per_hour: Annotated[float, Field(ge=0)] = 0.0
    """Of one accelerator, in `currency`."""
    currency: str = "USD"
    cluster: Cluster = Cluster()
    """What pods get on Kubernetes; read by `mmenc compile` alone."""
