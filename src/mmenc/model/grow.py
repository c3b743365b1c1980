"""A model whose vocabulary grew: rows of new tokens start as the mean of their old pieces' (data/extend.py says which)."""

from __future__ import annotations

from dataclasses import replace

from mmenc.artifact import Json
from mmenc.data.extend import initialise_rows
from mmenc.errors import Refused
from mmenc.model.head import MaskedLM
from mmenc.model.hf import EMBEDDING, from_hf_state, to_hf_state


def grow(model: MaskedLM, extension: Json) -> MaskedLM:
    """The model with embeddings and output biases of the new tokens; every other weight is as it was."""
    if model.cfg.vocab_size != extension["base"]:
        raise Refused(f"model.source: has {model.cfg.vocab_size} entries, the tokenizer that was extended {extension['base']}")
    state = to_hf_state(model)
    for name, tensor in state.items():
        if name in (EMBEDDING, "decoder.weight", "decoder.bias"):
            state[name] = initialise_rows(tensor, extension["pieces"])
    return from_hf_state(state, replace(model.cfg, vocab_size=extension["base"] + len(extension["pieces"])))
