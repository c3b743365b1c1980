"""Init: the checkpoint at step 0: random as mmBERT's models (`full_megatron`), or a released model, as it is or resized."""

from __future__ import annotations

from mmenc.artifact import Json, sha256_file, write_json
from mmenc.data.extend import extension_of
from mmenc.data.tokenizer import load
from mmenc.errors import Refused
from mmenc.job import Job
from mmenc.model.config import UNSET, EncoderConfig, encoder_config, parameter_counts
from mmenc.model.grow import grow
from mmenc.model.head import MaskedLM
from mmenc.model.hf import from_hf_state, load_checkpoint, save_checkpoint, to_hf_state
from mmenc.model.init import build
from mmenc.model.resize import resize_state
from mmenc.train.state import no_consumption

SPECIAL_IDS = ("pad_id", "eos_id", "bos_id", "unk_id", "mask_id")


def run(job: Job) -> Json:
    """Write a checkpoint at step 0."""
    config = encoder_config(job.recipe)
    found = load(job.inputs["tokenizer"].path).get_vocab_size()
    if found != config.vocab_size:
        raise Refused(f"tokenizer: has {found} entries, the model {config.vocab_size}; they must be equal")
    model = build(config, job.recipe.seed) if "model.source" not in job.raw else _take_over(job, config)
    save_checkpoint(job.out, model)
    write_json(job.out / "state.json", no_consumption())
    counts = parameter_counts(config)
    source = "random weights" if "model.source" not in job.raw else f"weights of {job.recipe.model.source}"
    job.say(f"{counts['parameters']:,} parameters, {counts['non_embedding']:,} of them not embeddings; {source}")
    return {**counts, "source": job.recipe.model.source, "resize": job.recipe.model.resize}


def _take_over(job: Job, config: EncoderConfig) -> MaskedLM:
    """Read a released model; its tokenizer must be ours, or its embeddings would mean other text."""
    folder = job.raw["model.source"]
    theirs, ours = folder / "tokenizer.json", job.inputs["tokenizer"].path / "tokenizer.json"
    grown = extension_of(job.inputs["tokenizer"].path)
    if theirs.is_file() and sha256_file(theirs) != (grown["base_sha256"] if grown else sha256_file(ours)):
        raise Refused(f"{theirs}: is not the tokenizer of this recipe; set tokenizer.source to {str(folder)!r}")
    source = load_checkpoint(folder) if grown is None else grow(load_checkpoint(folder), grown)
    for name in SPECIAL_IDS:
        found, expected = getattr(source.cfg, name), getattr(config, name)
        if found not in (expected, UNSET):
            key = name.replace("_id", "_token_id")
            raise Refused(
                f"{folder / 'config.json'}: {key} is {found}, in this recipe's tokenizer {expected}; the model was trained with "
                f"another vocabulary"
            )
    if job.recipe.model.resize != "none":
        state = resize_state(to_hf_state(source), source.cfg, config, job.recipe.model.resize)
        return from_hf_state(state, config)
    for name in ("hidden", "layers", "heads", "intermediate", "window", "global_every", "vocab_size", "norm_eps"):
        if getattr(source.cfg, name) != getattr(config, name):
            raise Refused(
                f"model.{name}: {folder} has {getattr(source.cfg, name)}, the recipe {getattr(config, name)}; expected equal"
            )
    return source
