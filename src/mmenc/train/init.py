"""Init: the checkpoint at step 0, randomly initialised as mmBERT's models are (`full_megatron`; model/init.py)."""

from __future__ import annotations

from mmenc.artifact import Json, write_json
from mmenc.data.tokenizer import load
from mmenc.errors import Refused
from mmenc.job import Job
from mmenc.model.config import EncoderConfig, parameter_counts
from mmenc.model.hf import save_checkpoint
from mmenc.model.init import build
from mmenc.recipe import Recipe
from mmenc.train.state import no_consumption


def encoder_config(recipe: Recipe) -> EncoderConfig:
    """The encoder that a recipe describes; RoPE base and context are the phases' business."""
    m = recipe.model
    return EncoderConfig(
        vocab_size=recipe.tokenizer.vocab_size,
        hidden=m.hidden,
        layers=m.layers,
        heads=m.heads,
        intermediate=m.intermediate,
        window=m.window,
        global_every=m.global_every,
        norm_eps=m.norm_eps,
        attn_out_dropout=m.attn_out_dropout,
        initializer_range=m.initializer_range,
    )


def run(job: Job) -> Json:
    """Write a checkpoint at step 0."""
    config = encoder_config(job.recipe)
    found = load(job.inputs["tokenizer"].path).get_vocab_size()
    if found != config.vocab_size:
        raise Refused(f"tokenizer: has {found} entries, the model {config.vocab_size}; they must be equal")
    if job.recipe.model.source != "random":
        raise Refused(f"model.source: {job.recipe.model.source!r} is not supported yet; expected 'random'")
    save_checkpoint(job.out, build(config, job.recipe.seed))
    write_json(job.out / "state.json", no_consumption())
    counts = parameter_counts(config)
    job.say(f"{counts['parameters']:,} parameters, {counts['non_embedding']:,} of them not embeddings")
    return dict(counts)
