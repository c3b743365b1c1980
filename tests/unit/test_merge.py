"""TIES against a calculation by hand and two other implementations, and the search for what it leaves open."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmenc.data.tokens import Split
from mmenc.evaluate.score import Scores
from mmenc.merge import Point, Tried, axes_of, losses_by_language, mean_loss, over_checkpoints, search, sweep, weight_sets
from mmenc.recipe import parse
from mmenc.ties import merge_ties, ties, trim, weighted
from tests.pipeline import tiny_recipe

MERGE = parse(tiny_recipe()).merge

# The example that mergekit and PEFT were given too.
BASE = torch.tensor([[1.0, -1.0, 0.5, 2.0], [0.0, 0.25, -0.75, 1.5]])
DELTAS = [
    torch.tensor([[0.4, -0.1, 0.3, 0.05], [-0.8, 0.6, 0.2, -0.15]]),
    torch.tensor([[0.2, -0.6, -0.5, 0.1], [0.7, 0.05, -0.9, 0.3]]),
    torch.tensor([[-0.35, 0.15, -0.25, 0.9], [0.45, -0.55, 0.1, 0.65]]),
]


def test_ties_by_hand():
    base = torch.tensor([1.0, 1.0, 1.0, 1.0])
    a = base + torch.tensor([0.4, -0.1, 0.3, 0.0])  # density 0.5 keeps 0.4 and 0.3
    b = base + torch.tensor([0.2, -0.6, -0.5, 0.1])  # keeps -0.6 and -0.5
    merged, agreement = ties(base, [a, b], density=0.5)
    # 0: only a (0.4); 1: only b (-0.6); 2: 0.3 against -0.5, sign − elected, mean of {-0.5}; 3: nothing left.
    assert torch.allclose(merged, torch.tensor([1.4, 0.4, 0.5, 1.0]))
    assert abs(agreement - 2 / 3) < 1e-6


def test_weights_and_scale_by_hand():
    base = torch.zeros(3)
    branches = [torch.tensor([1.0, 1.0, -1.0]), torch.tensor([-2.0, 3.0, 0.5])]
    merged, _ = ties(base, branches, density=1.0, scale=2.0, weights=[3.0, 1.0])
    # 0: 3·1 − 1·2 > 0, so + is elected: 3·1/3 = 1; 1: (3·1 + 1·3)/4 = 1.5; 2: −3 + 0.5 < 0: −3/3 = −1; all twice.
    assert torch.allclose(merged, torch.tensor([2.0, 3.0, -2.0]))


@pytest.mark.parametrize(
    ("weights", "density", "scale", "expected"),
    [
        ((1.0, 1.0, 1.0), 0.5, 1.0, [1.4, -1.6, 0.0, 2.9, 0.575, 0.85, -1.65, 2.15]),
        ((1.0, 3.0, 2.0), 0.5, 1.5, [1.6, -1.9, -0.25, 3.35, 0.9, -0.575, -2.1, 2.475]),
        ((1.0, 3.0, 2.0), 1.0, 0.8, [1.2, -1.38, 0.18, 2.2866666, 0.48, -0.19, -1.47, 1.852]),
        ((1.0, 0.0, 0.0), 1.0, 1.0, [1.4, -1.1, 0.8, 2.05, -0.8, 0.85, -0.55, 1.35]),
    ],
)
def test_ties_gives_what_mergekit_gives(weights, density, scale, expected):
    """Output of mergekit 0.1.5, `merge_state_dicts(…, "ties")` with normalize true, on this very input."""
    merged, _ = ties(BASE, [BASE + d for d in DELTAS], density, scale, weights)
    assert torch.allclose(merged.flatten(), torch.tensor(expected), atol=1e-6)


def test_ties_gives_what_peft_gives():
    """Output of `peft.utils.merge_utils.ties` of PEFT 0.21.2 with three equal weights and density 0.5."""
    merged, _ = ties(BASE, [BASE + d for d in DELTAS], 0.5)
    expected = torch.tensor([0.4, -0.6, -0.5, 0.9, 0.575, 0.6, -0.9, 0.65])
    assert torch.allclose((merged - BASE).flatten(), expected, atol=1e-6)


def test_disjoint_mean_leaves_out_who_disagrees():
    merged, _ = ties(torch.zeros(1), [torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([-2.0])], density=1.0, scale=0.5)
    assert torch.allclose(merged, torch.tensor([1.0]))  # mean(3, 1) = 2, scaled by a half


def test_trim_keeps_the_largest():
    kept = trim(torch.tensor([[0.1, -5.0], [2.0, 0.0]]), 0.5)
    assert kept.tolist() == [[0.0, -5.0], [2.0, 0.0]]


@given(st.integers(1, 4), st.floats(0.1, 1.0), st.integers(0, 99))
def test_equal_branches_at_full_density_come_back(count, density, seed):
    g = torch.Generator().manual_seed(seed)
    base = {"w": torch.randn(3, 4, generator=g)}
    branch = {"w": torch.randn(3, 4, generator=g)}
    merged, agreement = merge_ties(base, [branch] * count, 1.0, weights=[0.5 + i for i in range(count)])
    assert torch.allclose(merged["w"], branch["w"], atol=1e-6)
    assert agreement == 1.0
    thinned, _ = merge_ties(base, [branch] * count, density)
    moved = (thinned["w"] != base["w"]).sum()
    assert moved <= max(1, round(density * 12))


def test_checkpoint_weights_by_hand():
    states = [{"w": torch.tensor([float(x)])} for x in (1, 2, 4)]
    linear = next(over_checkpoints(MERGE.model_copy(update={"method": "linear"}), states))
    assert torch.allclose(linear[1]["w"], torch.tensor([(1 * 1 + 2 * 2 + 3 * 4) / 6]))
    found = list(over_checkpoints(MERGE.model_copy(update={"method": "exponential", "decays": [0.5, 1.0]}), states))
    assert [row["decay"] for row, _ in found] == [0.5, 1.0]
    assert torch.allclose(found[0][1]["w"], torch.tensor([(0.25 * 1 + 0.5 * 2 + 4) / 1.75]))
    assert torch.allclose(found[1][1]["w"], torch.tensor([7 / 3]))
    assert torch.allclose(weighted(states, [1.0, 0.0, 0.0])["w"], torch.tensor([1.0]))


def test_each_branch_is_favoured_in_turn():
    assert weight_sets(3, [1.0, 4.0]) == [(1.0, 1.0, 1.0), (4.0, 1.0, 1.0), (1.0, 4.0, 1.0), (1.0, 1.0, 4.0)]
    assert weight_sets(2, [1.0]) == [(1.0, 1.0)]


def test_the_search_tries_each_setting_on_top_of_the_best_before():
    asked: list[Point] = []

    def loss(at: Point) -> float:
        asked.append(at)
        return abs(at.density - 0.2) + abs(at.scale - 1.3) + (0.0 if at.weights == (1.0, 4.0) else 1.0)

    axes = {"weights": weight_sets(2, [4.0]), "density": [0.2, 0.5, 1.0], "scale": [1.0, 1.3]}
    assert search(axes, loss) == Point(0.2, (1.0, 4.0), 1.3)
    assert asked[0] == Point(0.5, (1.0, 1.0), 1.0)
    assert len(set(asked)) == 1 + 2 + 2 + 1
    assert axes_of(MERGE.model_copy(update={"method": "mean"}), 2)["density"] == [1.0]


def split_of(tokens: dict[str, int]) -> Split:
    """One document per language."""
    offsets = np.cumsum([0, *tokens.values()])
    ranges = {t: (i, i + 1) for i, t in enumerate(tokens)}
    return Split(np.zeros(int(offsets[-1]), np.uint16), offsets, ranges, [])


def test_both_criteria_by_hand():
    split = split_of({"eng_Latn": 900, "fao_Latn": 100})
    scores = Scores(np.array([0, 0, 0, 1]), np.zeros(4, int), np.array([1.0, 2.0, 3.0, 6.0]), np.zeros(4, int))
    losses = losses_by_language(split, scores)
    assert losses == {"eng_Latn": 2.0, "fao_Latn": 6.0}
    assert mean_loss(split, losses, "languages") == 4.0
    assert mean_loss(split, losses, "tokens") == pytest.approx(0.9 * 2 + 0.1 * 6)


def test_the_sweep_keeps_the_weights_of_the_best_only():
    base, wanted = {"w": torch.zeros(1)}, 0.8

    def tried(settings, tensors):
        return Tried(settings, tensors, {}, abs(float(tensors["w"]) - wanted))

    branches = {"a": {"w": torch.tensor([1.0])}, "b": {"w": torch.tensor([0.5])}}
    found = sweep(MERGE, SimpleNamespace(tried=tried), base, branches, [])
    best = min(found, key=lambda t: t.loss)
    assert [bool(t.tensors) for t in found].count(True) == 1
    assert best.tensors
    assert len(found) == 1 + 2 + 1 + 1  # weights, densities 0.5 and 1.0, scales 1.0 and 1.3
    assert all({"density", "weights", "scale", "sign_agreement"} <= set(t.settings) for t in found)


@given(st.integers(2, 7), st.floats(0.05, 1.0), st.integers(0, 99))
def test_checkpoint_averages_equal_numpys(count, decay, seed):
    """Exponential (mmBERT-small: decay^age), linear (1, 2, 3, …) and plain, over tensors of every rank."""
    g = torch.Generator().manual_seed(seed)
    states = [{"m": torch.randn(5, 3, generator=g), "v": torch.randn(4, generator=g)} for _ in range(count)]
    expected = {
        "exponential": [[decay**age for age in range(count)][::-1], [1.0] * count],  # the newest weighs most; decay 1 is plain
        "linear": [[float(i) for i in range(1, count + 1)]],
    }
    for method, all_weights in expected.items():
        found = list(over_checkpoints(MERGE.model_copy(update={"method": method, "decays": [decay, 1.0]}), states))
        assert len(found) == len(all_weights)
        for (_, tensors), weights in zip(found, all_weights, strict=True):
            for name, tensor in tensors.items():
                right = np.average([s[name].double().numpy() for s in states], axis=0, weights=weights)
                np.testing.assert_allclose(tensor.numpy(), right, rtol=1e-5, atol=1e-6)
