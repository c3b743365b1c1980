"""TIES against a calculation by hand, and what must hold for any branches."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from mmenc.merge import candidates, merge_tensors, ties, trim
from mmenc.recipe import parse
from tests.pipeline import tiny_recipe


def test_ties_by_hand():
    base = torch.tensor([1.0, 1.0, 1.0, 1.0])
    a = base + torch.tensor([0.4, -0.1, 0.3, 0.0])  # density 0.5 keeps 0.4 and 0.3
    b = base + torch.tensor([0.2, -0.6, -0.5, 0.1])  # keeps -0.6 and -0.5
    merged, agreement = ties(base, [a, b], density=0.5, scale=1.0)
    # 0: only a (0.4); 1: only b (-0.6); 2: 0.3 against -0.5, sign − elected, mean of {-0.5}; 3: nothing left.
    assert torch.allclose(merged, torch.tensor([1.4, 0.4, 0.5, 1.0]))
    assert abs(agreement - 2 / 3) < 1e-6


def test_disjoint_mean_leaves_out_who_disagrees():
    base = torch.zeros(1)
    merged, _ = ties(base, [torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([-2.0])], density=1.0, scale=0.5)
    assert torch.allclose(merged, torch.tensor([1.0]))  # mean(3, 1) = 2, scaled by a half


def test_trim_keeps_the_largest():
    kept = trim(torch.tensor([[0.1, -5.0], [2.0, 0.0]]), 0.5)
    assert kept.tolist() == [[0.0, -5.0], [2.0, 0.0]]


@given(st.integers(1, 4), st.floats(0.1, 1.0), st.integers(0, 99))
def test_equal_branches_at_full_density_come_back(count, density, seed):
    g = torch.Generator().manual_seed(seed)
    base = {"w": torch.randn(3, 4, generator=g)}
    branch = {"w": torch.randn(3, 4, generator=g)}
    merged, agreement = merge_tensors(base, [branch] * count, "ties", 1.0, 1.0)
    assert torch.allclose(merged["w"], branch["w"], atol=1e-6)
    assert agreement == 1.0
    thinned, _ = merge_tensors(base, [branch] * count, "ties", density, 1.0)
    moved = (thinned["w"] != base["w"]).sum()
    assert moved <= max(1, round(density * 12))


def test_checkpoint_weights_by_hand():
    states = [{"w": torch.tensor([float(x)])} for x in (1, 2, 4)]
    merge = parse(tiny_recipe()).merge
    linear = next(candidates(merge.model_copy(update={"method": "linear"}), states[0], states[-1:], states))
    assert torch.allclose(linear.tensors["w"], torch.tensor([(1 * 1 + 2 * 2 + 3 * 4) / 6]))
    found = list(
        candidates(merge.model_copy(update={"method": "exponential", "decays": [0.5, 1.0]}), states[0], states[-1:], states)
    )
    assert torch.allclose(found[0].tensors["w"], torch.tensor([(0.25 * 1 + 0.5 * 2 + 4) / 1.75]))
    assert torch.allclose(found[1].tensors["w"], torch.tensor([7 / 3]))
