"""Striding down and tiling up: every index by an independent calculation, what resized models compute, and that they learn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mmenc.errors import Refused
from mmenc.model.attention import Packing
from mmenc.model.config import EncoderConfig
from mmenc.model.head import MaskedLM
from mmenc.model.hf import from_hf_state, to_hf_state
from mmenc.model.init import build
from mmenc.model.resize import middle, resize_state, tile_map
from tests.model.conftest import lively

WIDE = EncoderConfig(vocab_size=300, hidden=64, layers=4, heads=4, intermediate=48, window=32, max_position=128)
NARROW = replace(WIDE, hidden=32, heads=2)
SMALL = EncoderConfig(vocab_size=256, hidden=384, layers=4, heads=6, intermediate=1152)  # mmBERT's width
BASE = replace(SMALL, hidden=768, heads=12)
EMBEDDINGS = "model.embeddings.tok_embeddings.weight"


def stride(state: dict[str, torch.Tensor], source: EncoderConfig, target: EncoderConfig) -> dict[str, torch.Tensor]:
    return resize_state(state, source, target, "stride")


def tile(state: dict[str, torch.Tensor], source: EncoderConfig, target: EncoderConfig) -> dict[str, torch.Tensor]:
    return resize_state(state, source, target, "tile")


def test_every_strided_tensor_fits_and_takes_every_second_index() -> None:
    state = to_hf_state(build(WIDE, 1))
    small = stride(state, WIDE, NARROW)
    model = from_hf_state(small, NARROW)  # refuses wrong names and shapes
    assert model.cfg == NARROW
    assert torch.equal(small[EMBEDDINGS], state[EMBEDDINGS][:, ::2])
    # Head 1 of the small model is head 2 of the wide one: rows 32..47 of q become rows 16..31.
    qkv = "model.layers.1.attn.Wqkv.weight"
    assert torch.equal(small[qkv][16:32], state[qkv][32:48, ::2])
    assert torch.equal(small[qkv][32 + 16 : 64], state[qkv][64 + 32 : 64 + 48, ::2])
    out = "model.layers.1.attn.Wo.weight"
    assert torch.equal(small[out][:, 16:32], state[out][::2, 32:48])
    assert torch.equal(small["model.layers.1.mlp.Wi.weight"], state["model.layers.1.mlp.Wi.weight"][:, ::2])
    assert torch.equal(small["model.layers.1.mlp.Wo.weight"], state["model.layers.1.mlp.Wo.weight"][::2])
    assert torch.equal(small["head.dense.weight"], state["head.dense.weight"][::2, ::2])
    assert torch.equal(small["decoder.bias"], state["decoder.bias"])


def from_middle(x: np.ndarray, *shape: int) -> np.ndarray:
    """ModernBERT's `tile_weights_from_middle`, as its paper tells it: the source in the middle, repeated to all sides."""
    grown = np.pad(
        x,
        [((new - old) // 2, new - old - (new - old) // 2) for old, new in zip(x.shape, shape, strict=True)],
        mode="wrap",
    )
    assert grown.shape == shape
    return grown


def expected_tiles(state: dict[str, np.ndarray], source: EncoderConfig, target: EncoderConfig) -> dict[str, np.ndarray]:
    """The whole tiled model by numpy's own wraparound padding."""
    h, n, inner = target.hidden, source.hidden, target.intermediate
    out = {
        EMBEDDINGS: from_middle(state[EMBEDDINGS], target.vocab_size, h),
        "decoder.bias": state["decoder.bias"],
        "head.dense.weight": from_middle(state["head.dense.weight"], h, h),
    }
    for name in ("model.embeddings.norm.weight", "model.final_norm.weight", "head.norm.weight"):
        out[name] = from_middle(state[name], h)
    for new in range(target.layers):
        old, here = min(round(new * source.layers / target.layers), source.layers - 1), f"model.layers.{new}."
        there = f"model.layers.{old}."
        q, k, v = (from_middle(state[there + "attn.Wqkv.weight"][i * n : (i + 1) * n], h, h) for i in range(3))
        first, second = (
            from_middle(state[there + "mlp.Wi.weight"][i * source.intermediate : (i + 1) * source.intermediate], inner, h)
            for i in range(2)
        )
        out[here + "attn.Wqkv.weight"] = np.concatenate([q, k, v])
        out[here + "attn.Wo.weight"] = from_middle(state[there + "attn.Wo.weight"], h, h)
        out[here + "mlp.Wi.weight"] = np.concatenate([first, second])
        out[here + "mlp.Wo.weight"] = from_middle(state[there + "mlp.Wo.weight"], h, inner)
        out[here + "mlp_norm.weight"] = from_middle(state[there + "mlp_norm.weight"], h)
        if new:
            norm = state.get(there + "attn_norm.weight")
            out[here + "attn_norm.weight"] = np.ones(h) if norm is None else from_middle(norm, h)
    return out


def numbered(cfg: EncoderConfig) -> dict[str, torch.Tensor]:
    """A state in which no two entries are equal: an entry tells where it came from."""
    out, at = {}, 0
    for name, tensor in to_hf_state(MaskedLM(cfg)).items():
        out[name] = torch.arange(at, at + tensor.numel(), dtype=torch.float64).view(tensor.shape)
        at += tensor.numel()
    return out


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (SMALL, BASE),  # mmBERT-small -> mmBERT-base
        (
            replace(BASE, intermediate=30),
            replace(BASE, hidden=1024, heads=16, intermediate=41, layers=28),
        ),
        (NARROW, replace(WIDE, hidden=96, heads=6, layers=13, intermediate=101)),  # more than three times as deep
        (NARROW, NARROW),
    ],
    ids=["small-to-base", "modernbert-base-to-large", "very-deep", "same"],
)
def test_every_tiled_weight_comes_from_where_it_should(source: EncoderConfig, target: EncoderConfig) -> None:
    state = numbered(source)
    grown = tile(state, source, target)
    right = expected_tiles({name: t.numpy() for name, t in state.items()}, source, target)
    assert grown.keys() == right.keys()
    assert grown.keys() == to_hf_state(MaskedLM(target)).keys()  # tied: the decoder has no weight of its own
    for name, tensor in grown.items():
        assert torch.equal(tensor.double(), torch.from_numpy(right[name]).double()), name


def test_layers_follow_gopher_and_heads_stay_whole() -> None:
    base = replace(BASE, layers=22)
    assert tile_map(base, replace(base, layers=28)).layers == np.rint(np.arange(28) * 22 / 28).tolist()  # ModernBERT
    assert tile_map(NARROW, replace(NARROW, layers=13)).layers[-3:] == [3, 3, 3]  # 12 · 4 / 13 = 3.7 would be a fifth
    assert middle(2, 5).tolist() == [1, 0, 1, 0, 1]
    assert middle(6, 12).tolist() == [3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1, 2]
    odd = tile_map(NARROW, replace(NARROW, hidden=48, heads=3))  # three heads of two
    assert odd.rows_H.view(3, 16)[:, 0].tolist() == [0, 16, 0]
    assert (odd.rows_H.view(3, 16).diff() == 1).all()


def logits(model: MaskedLM) -> torch.Tensor:
    ids = torch.arange(5, 95)
    with torch.no_grad():
        return model.logits(ids, Packing.of([50, 40]))


def test_three_times_as_wide_and_strided_back_computes_the_same() -> None:
    """n → 3n → n: index i comes back as 3i mod n, a reordering wherever 3 does not divide n, and the model is blind to that."""
    source = replace(NARROW, max_position=128)
    wide = replace(source, hidden=96, heads=6)
    model = lively(source)
    back = stride(tile(to_hf_state(model), source, wide), wide, source)
    assert torch.equal(back[EMBEDDINGS], model.tied_weight[:, torch.arange(32) * 3 % 32])
    assert not torch.equal(back[EMBEDDINGS], model.tied_weight)
    torch.testing.assert_close(logits(from_hf_state(back, source)), logits(model), rtol=1e-4, atol=1e-4)


def test_tiling_to_the_same_size_changes_nothing_and_back_from_double_is_half_of_it() -> None:
    model = lively(NARROW)
    state = to_hf_state(model)
    same = tile(state, NARROW, NARROW)
    assert all(torch.equal(same[n], t) for n, t in state.items())
    back = stride(tile(state, NARROW, WIDE), WIDE, NARROW)
    # n → 2n → n: (2i − n/2) mod n meets every second index twice; no reordering, so not the model that it was.
    assert torch.equal(back[EMBEDDINGS], state[EMBEDDINGS][:, (torch.arange(32) * 2 - 16) % 32])


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small products: a second thread costs more than it gives."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(model: MaskedLM, steps: int, rate: float, seed: int) -> list[float]:
    """Losses on a little language: each document counts on from somewhere, round and round."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    losses = []
    for _ in range(steps):
        ids = (5 + (torch.randint(24, (8, 1), generator=generator) + torch.arange(24)) % 24).flatten()
        index = torch.randperm(len(ids), generator=generator)[:50].sort().values
        loss, _ = model(ids.index_fill(0, index, 4), Packing.of([24] * 8), index, ids[index])
        (loss / 50).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item() / 50)
    return losses


def test_a_tiled_model_learns_faster_than_a_random_one(one_thread: None) -> None:
    tiny = EncoderConfig(vocab_size=32, hidden=32, layers=2, heads=2, intermediate=48, window=16, initializer_range=0.1)
    deep = replace(tiny, hidden=64, heads=4, intermediate=96, layers=4)
    teacher = build(tiny, 0)
    learnt = train(teacher, 120, 4e-3, seed=0)
    assert np.mean(learnt[-5:]) < 0.5
    tiled = from_hf_state(tile(to_hf_state(teacher), tiny, deep), deep)
    a, b = train(tiled, 30, 1e-3, seed=1), train(build(deep, 0), 30, 1e-3, seed=1)
    assert np.isfinite(a).all()
    assert np.mean(a[-5:]) < 0.5 * np.mean(b[-5:]), (a, b)


@pytest.mark.parametrize(
    ("how", "change"),
    [
        ("stride", {"hidden": 48, "heads": 3}),
        ("stride", {"heads": 1, "hidden": 32}),
        ("stride", {"layers": 7, "hidden": 32, "heads": 2}),
        ("stride", {"window": 16, "hidden": 32, "heads": 2}),
        ("tile", {"hidden": 32, "heads": 2}),
        ("tile", {"hidden": 128, "heads": 4}),
        ("tile", {"layers": 1}),
        ("tile", {"vocab_size": 301}),
        ("tile", {"norm_eps": 1e-6}),
        ("tile", {"global_every": 2}),
    ],
    ids=str,
)
def test_what_cannot_be_resized_is_refused(how: str, change: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=r"model\."):
        resize_state(to_hf_state(build(WIDE, 1)), WIDE, replace(WIDE, **change), how)
