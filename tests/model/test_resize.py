"""Striding a wide model down: shapes, the map by hand, and that a strided model is better than nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mmenc.errors import Refused
from mmenc.model.config import EncoderConfig
from mmenc.model.hf import from_hf_state, to_hf_state
from mmenc.model.init import build
from mmenc.model.resize import stride_state

WIDE = EncoderConfig(vocab_size=300, hidden=64, layers=4, heads=4, intermediate=48, window=32, max_position=128)
NARROW = dataclasses.replace(WIDE, hidden=32, heads=2)


def test_every_tensor_fits_and_takes_every_second_index():
    state = to_hf_state(build(WIDE, 1))
    small = stride_state(state, WIDE, NARROW)
    model = from_hf_state(small, NARROW)  # refuses wrong names and shapes
    assert model.cfg == NARROW
    embeddings = "model.embeddings.tok_embeddings.weight"
    assert torch.equal(small[embeddings], state[embeddings][:, ::2])
    # Head 1 of the small model is head 2 of the wide one: rows 32..47 of q become rows 16..31.
    qkv = "model.layers.1.attn.Wqkv.weight"
    assert torch.equal(small[qkv][16:32], state[qkv][32:48, ::2])
    assert torch.equal(small[qkv][32 + 16 : 64], state[qkv][64 + 32 : 64 + 48, ::2])
    out = "model.layers.1.attn.Wo.weight"
    assert torch.equal(small[out][:, 16:32], state[out][::2, 32:48])
    assert torch.equal(small["model.layers.1.mlp.Wi.weight"], state["model.layers.1.mlp.Wi.weight"][:, ::2])
    assert torch.equal(small["model.layers.1.mlp.Wo.weight"], state["model.layers.1.mlp.Wo.weight"][::2])


@pytest.mark.parametrize(
    "change", [{"hidden": 48, "heads": 3}, {"heads": 1, "hidden": 32}, {"layers": 7, "hidden": 32, "heads": 2}]
)
def test_what_cannot_be_strided_is_refused(change):
    with pytest.raises(Refused, match="model"):
        stride_state(to_hf_state(build(WIDE, 1)), WIDE, dataclasses.replace(WIDE, **change))
