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
    resize: Literal["none", "stride", "tile"] = "none"
    """`stride`: a wider source is strided down to this width (every k-th hidden index, every k-th head). `tile`: a smaller
    source is tiled from the middle up to this width, MLP and number of layers."""


class LearningRate(Section):
    """Warm-up is linear; `constant` holds the peak; the others fall from the peak to `end` × peak over the phase."""

    peak: Annotated[float, Field(gt=0)]
    shape: Literal["constant", "one_minus_sqrt", "linear"] = "constant"
    warmup: Count = 0
    """Tokens."""
    end: Share = 0.02


class Masking(Section):
    """What becomes of the selected tokens; the three shares add up to 1 (`{mask: 1, random: 0, keep: 0}`: always `<mask>`)."""

    mask: Share = 0.8
    random: Share = 0.1
    keep: Share = 0.1
    whole_word: bool = False
    """Select whole words, not tokens; scripts written without spaces are selected token by token (data/words.py)."""


class Optimizer(Section):
    """StableAdamW with decoupled weight decay, none on norms and biases (recipe.md section 2)."""

    beta1: Share = 0.9
    beta2: Share = 0.95
    eps: float = 1e-8
    weight_decay: float = 8e-5


class BatchWarmup(Section):
    """The batch grows from `start` tokens to the phase's `batch_tokens` over `tokens` tokens, each size for as many steps."""

    start: Positive
    tokens: Positive
    increment: Count = 0
    """Tokens by which it grows at a time; 0: `start` (mmBERT: one micro-batch of every device)."""


def _absent(value: object) -> bool:
    return value is None


class Change(Section):
    """From the step on that begins after `after` tokens of the phase, what is named here replaces what held before."""

    after: Positive
    mask: Annotated[float, Field(gt=0, lt=1)] | None = Field(default=None, exclude_if=_absent)
    masking: Masking | None = Field(default=None, exclude_if=_absent)
    lr: LearningRate | None = Field(default=None, exclude_if=_absent)
    """A schedule of its own: warm-up and fall count from `after` to the next change of `lr`, or to the phase's end."""
    weight_decay: Annotated[float, Field(ge=0)] | None = Field(default=None, exclude_if=_absent)


class Skip(Section):
    """Steps that must not change the weights (train/guard.py): those without a finite loss or gradient, and spikes."""

    sigma: Annotated[float, Field(ge=0)] = 6.0
    """A spike lies this many standard deviations above the mean of the last losses; 0: spikes are trained on."""
    window: Positive = 128
    """Steps that mean and deviation are taken of; nothing is a spike before half of them were taken."""
    most: Count = 20
    """More skipped steps than this stop the phase."""


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
    masking: Masking = Masking()
    context: Positive
    rope_theta: Annotated[float, Field(gt=0)]
    rope_theta_local: Annotated[float, Field(ge=0)] = 0.0
    """Of the local layers; 0: `rope_theta`, as mmBERT (ModernBERT leaves them at 10,000)."""
    lr: LearningRate
    batch_tokens: Positive
    batch_warmup: BatchWarmup | None = Field(default=None, exclude_if=_absent)
    optimizer: Optimizer = Optimizer()
    skip: Skip = Skip()
    changes: list[Change] = []
    """In the middle of the phase, in order."""
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

    What is free (density, weights, scale; decay) is chosen on dev by `criterion`.
    """

    base: Name
    branches: Annotated[list[Name], Field(min_length=1)]
    method: Literal["ties", "mean", "linear", "exponential"] = "ties"
    checkpoint: Literal["last", "best"] = "last"
    """Which of a branch's kept checkpoints stands for it; `best` is chosen on dev."""
    decays: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = [0.25, 0.5, 0.75]
    """For `exponential`: the weight of a checkpoint is this times that of the next later one."""
    densities: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = [0.2, 0.5, 0.8, 1.0]
    favours: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] = [4.0]
    """Beside equal weights each branch in turn is tried with so many times the weight of each other one; `[1]`: equal only."""
    scales: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] = [1.0, 1.3]
    """For `ties`: factors of the merged difference to the base (the paper's lambda)."""
    criterion: Literal["languages", "tokens"] = "languages"
    """What is compared on dev: the mean loss over languages, each the same, or each by its share of the dev text."""
    alone: bool = True
    """Whether one of several branches comes out as it is where no merge is better."""
    dev_tokens: Positive = 60_000


class Tuning(Section):
    """How the suites of labelled data fine-tune (docs/downstream.md)."""

    seeds: Positive = 3
    rates: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] = [2e-5, 8e-5, 3e-4, 1e-3]
    """Learning rates that dev chooses from: the ends of mmBERT's grid, and higher ones for narrow models."""
    steps: Count = 0
    """Cap on the steps of a run; 0: the epochs of each task's protocol."""
    limit: Count = 0
    """Examples of train, dev and test of a language at most; 0: all."""
    modes: list[Literal["language", "zero-shot"]] = []
    """Empty: those of each task's protocol."""
    languages: list[Tag] = []
    """Of the data's languages only these; empty: all."""


class Evaluate(Section):
    """Figures per language on test."""

    mask: Annotated[float, Field(gt=0, lt=1)] = 0.15
    seed: Count = 0
    tokens_per_language: Positive = 2_000
    bootstrap: Positive = 200
    retrieval_group: str = "udhr"
    """Documents whose group starts with this prefix are parallel across languages."""
    retrieval_pivot: str = "eng_Latn"
    pseudo_perplexity: Count = 0
    """Test sentences per language that pseudo-perplexity is taken of; 0: it is not (20 are thirty times all the rest's work)."""
    suites: Annotated[list[str], Field(min_length=1)] = ["intrinsic"]
    """What is measured; the others fine-tune the model on labelled data (docs/downstream.md). `intrinsic` always is."""
    task_data: str = ""
    """Folder or s3://bucket/prefix with that data; every file below it is an input."""
    tuning: Tuning = Tuning()


class ReleaseWaiver(Section):
    """A stated reason to let one language be worse than in the last release; shown in the model card."""

    language: Tag
    metric: Literal["bits_per_byte"] = "bits_per_byte"
    reason: Annotated[str, StringConstraints(min_length=8)]


class Release(Section):
    """What the released model is called and the gates that it must pass (docs/release.md)."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "mmenc-laptop"
    license: str = "other"
    """Identifier of the Hugging Face hub; `other`: the card sends the reader to the licences of the data."""
    datasets: list[str] = []
    """Names of data sets on the Hugging Face hub that the text came from; the card lists all sources anyway."""
    max_logit_difference: Annotated[float, Field(gt=0)] = 1e-4
    """To transformers' own model; the same limit holds for ONNX Runtime and for the embeddings of sentence-transformers."""
    previous: str = ""
    """The last release, a directory or s3://bucket/prefix: no language may be worse than there beyond both intervals."""
    waivers: list[ReleaseWaiver] = []
    onnx: bool = False
    """Export to onnx/model.onnx and compare with ONNX Runtime: 14 s for the default model, needs `mmenc[onnx]`."""
    sentence_transformers: bool = False
    """Load in sentence-transformers and compare; needs `mmenc[eval]`. `mmenc push` does it where that is installed."""
    examples: Count = 10
    """Scripts from which fill-mask examples are shown."""


class Compute(Section):
    """Where it runs; never part of an artifact's digest (what changes bits is in the other sections)."""

    threads: Positive = 2
    """Of all processes of a step together."""
    executor: Literal["processes", "ray"] = "processes"
    """What runs the parts of ingest, clean and tokenize: processes of this machine, or tasks of Ray (docs/recipe.md)."""
    ray_address: str = ""
    """Of a running Ray cluster (`auto`, `ray://host:10001`); empty: Ray is started on this machine with `threads` workers."""
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    processes: Positive = 1
    """That train a phase together on the CPU; on CUDA there is one per accelerator (`accelerators`)."""
    nodes: Positive = 1
    """That train a phase together, each with `accelerators` (on CPUs: `processes`) of its own; more than 1 are pods of a TrainJob
    (docs/multi-node.md)."""
    micro_batch_tokens: Positive = 16_384
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 30.0
    """Between two states to resume from."""
    keep_states: Positive = 2
    """How many of them are kept: the newest, and older ones in case it is damaged."""
    log_seconds: Annotated[float, Field(ge=0)] = 5.0
    """Between two lines of a phase's log (`.runs/<digest>/train.jsonl` and TensorBoard)."""
    activation_checkpointing: bool = False
    compile: bool = False
    """torch.compile of each layer: meant for a GPU; on a CPU it takes half a minute before the first step and needs g++."""
    sharding: Literal["none", "full"] = "none"
    """`none`: every process has the whole model (DDP); `full`: weights, gradients and moments are divided among them (FSDP2)."""
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
