"""The random start: spread, cuts, determinism, independence of the global random state."""

from __future__ import annotations

import math

import torch

from mmenc.model.config import EncoderConfig
from mmenc.model.head import MaskedLM
from mmenc.model.init import build
from tests.model.conftest import small

CUT = 0.8796  # standard deviation of a unit normal cut at +-2


def test_statistics() -> None:
    cfg = EncoderConfig(vocab_size=3000, hidden=128, layers=6, heads=2, intermediate=192)
    for name, p in build(cfg, 1).named_parameters():
        if name.endswith("norm.weight"):
            assert (p == 1).all()
        elif name == "decoder.bias":
            edge = 1 / math.sqrt(128)
            assert 0.98 * edge < p.abs().max() <= edge
            assert abs(p.std() - edge / math.sqrt(3)) < 0.04 * edge
        else:
            std = 0.02 / math.sqrt(12) if name.endswith("Wo.weight") else 0.02
            assert p.abs().max() <= 2 * std + 1e-8
            assert abs(p.std() / (CUT * std) - 1) < 0.02, name
            assert abs(p.mean()) < 0.02 * std


def test_deterministic_and_apart_from_the_global_state() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build(small(), 5).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = build(small(), 5).state_dict(), build(small(), 6).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[n], other[n]) for n in first if not n.endswith("norm.weight"))
    deeper = build(small(vocab_size=400), 5).state_dict()  # one tensor does not move another
    name = "model.layers.1.attn.Wqkv.weight"
    assert torch.equal(first[name], deeper[name])


def test_an_unfilled_model_is_zero() -> None:
    model = MaskedLM(small())
    assert not model.tied_weight.any()
    assert not model.head.dense.weight.any()
