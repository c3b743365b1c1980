"""Schedules against closed forms in numpy, the batch warm-up against the published thresholds, changes within a phase."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmenc.costs import phase_flops
from mmenc.errors import Refused
from mmenc.model.config import encoder_config
from mmenc.recipe import parse
from mmenc.sections import Optimizer, Phase
from mmenc.train.schedule import at, batch_rows, learning_rate, mask_mean, set_rates, thresholds
from tests.pipeline import tiny_recipe

B = 10**9


def phase(**changes: Any) -> Phase:
    plain = {k: v for k, v in tiny_recipe()["phases"]["pretrain"].items() if k != "lr"}
    return Phase.model_validate(plain | {"lr": {"peak": 8e-4}} | changes)


def refused(change: dict[str, Any]) -> str:
    recipe = tiny_recipe()
    recipe["phases"]["pretrain"] |= change
    with pytest.raises(Refused) as caught:
        parse(recipe)
    return str(caught.value)


def test_the_trapezoid_of_mmbert_base_over_its_three_phases() -> None:
    """Warm-up 3 B, constant 2.3 T + 600 B, 1 − sqrt over 100 B to 0.02 × 8e-4 = 1.6e-5 (its three training files)."""
    phases = [
        phase(tokens=2300 * B, lr={"peak": 8e-4, "warmup": 3 * B}),
        phase(tokens=600 * B, lr={"peak": 8e-4}),
        phase(tokens=100 * B, lr={"peak": 8e-4, "shape": "one_minus_sqrt", "end": 0.02}),
    ]
    edges = np.cumsum([0, *(p.tokens for p in phases)])
    x = np.unique(np.concatenate([np.linspace(0, 3000 * B, 4001).astype(np.int64), np.linspace(0, 4 * B, 401).astype(np.int64)]))
    for t in x[:-1].tolist():
        which = int(np.searchsorted(edges, t, side="right")) - 1
        found = learning_rate(phases[which], t - int(edges[which]))
        decay = 1.6e-5 + (8e-4 - 1.6e-5) * (1 - math.sqrt(max(0, t - 2900 * B) / (100 * B)))
        expected = float(np.interp(t, [0, 3 * B, 2900 * B], [0, 8e-4, 8e-4])) if t < 2900 * B else decay
        assert found == pytest.approx(expected, rel=1e-9, abs=1.01 * 8e-4 / (3 * B))  # one token up the ramp
    assert learning_rate(phases[0], 0) > 0
    assert learning_rate(phases[2], 100 * B) == pytest.approx(1.6e-5)


def test_the_decay_of_small_is_linear_to_the_same_end() -> None:
    """`warmup_stable_decay` with alpha_f 0.04 from 4e-4 over 100 B: the same 1.6e-5 as base."""
    small = phase(tokens=100 * B, lr={"peak": 4e-4, "shape": "linear", "end": 0.04})
    t = np.linspace(0, 100 * B, 333).astype(np.int64)
    found = [learning_rate(small, x) for x in t.tolist()]
    np.testing.assert_allclose(found, np.interp(t, [0, 100 * B], [4e-4, 1.6e-5]), rtol=1e-12)


@given(
    st.sampled_from(["constant", "one_minus_sqrt", "linear"]),
    st.integers(0, 999),
    st.integers(1000, 5000),
    st.floats(0, 1),
    st.integers(0, 6000),
)
def test_every_shape_after_a_warm_up(shape: str, warmup: int, total: int, end: float, tokens: int) -> None:
    p = phase(tokens=total, lr={"peak": 3e-3, "shape": shape, "warmup": warmup, "end": end})
    x = np.float64(min(1.0, max(0, tokens - warmup) / (total - warmup)))
    forms = {"constant": np.float64(1), "linear": 1 - (1 - end) * x, "one_minus_sqrt": 1 - (1 - end) * np.sqrt(x)}
    expected = 3e-3 * ((tokens + 1) / warmup if tokens < warmup else forms[shape])
    assert learning_rate(p, tokens) == pytest.approx(float(expected), rel=1e-9)


def test_batch_warm_up_has_the_published_thresholds() -> None:
    """mmBERT-base on 8 GPUs: 384 rows more after each of these; the figures of the recipe notes, in billions of tokens."""
    published = [0.91, 2.73, 5.45, 9.09, 13.6, 19.1, 25.5, 32.7, 40.9, 50.0, 60.0]
    found = thresholds(393_216, 393_216, 4_718_592, 60 * B)
    assert [round(t / B, 2 if t < 10 * B else 1) for t in found] == published
    # ModernBERT's own arithmetic: per rank, in units of a micro-batch, rounded up per rank
    rank, units = math.ceil(60 * B / 8), np.arange(1, 12)
    theirs = np.ceil(rank / units.sum() * np.cumsum(units)) * 8
    assert np.abs(theirs - np.array(found)).max() <= 8
    base = phase(tokens=2300 * B, context=1024, batch_tokens=4_718_592, batch_warmup={"start": 393_216, "tokens": 60 * B})
    for i, edge in enumerate(found):
        assert batch_rows(base, edge - 1) == 384 * (i + 1)
        assert batch_rows(base, edge) == 384 * (i + 2)
    assert batch_rows(base, 0) == 384
    assert batch_rows(base, 10**13) == 4608


@given(st.integers(1, 9), st.integers(0, 5), st.integers(1, 60), st.integers(1, 3_000_000))
def test_every_size_gets_as_many_steps(start: int, increment: int, full: int, warm: int) -> None:
    full = max(start, full)
    warmup = {"start": 64 * start, "tokens": warm, "increment": 64 * increment}
    p = phase(tokens=10**9, context=64, batch_tokens=64 * full, batch_warmup=warmup)
    steps: dict[int, int] = {}
    tokens = last = 0
    while tokens < warm:
        size = batch_rows(p, tokens)
        assert last <= size <= full
        last, tokens = size, tokens + 64 * size
        steps[size] = steps.get(size, 0) + 1
    assert batch_rows(p, tokens) == full
    growing = {size: n for size, n in steps.items() if size < full}
    step = increment or start
    assert set(growing) <= set(range(start, full, step))
    if growing and min(growing.values()) > 2:
        assert max(growing.values()) - min(growing.values()) <= 2


def test_modernberts_warm_up_may_start_at_several_units() -> None:
    p = phase(context=64, batch_tokens=64 * 48, tokens=10**6, batch_warmup={"start": 640, "tokens": 60_000, "increment": 128})
    sizes = np.arange(640, 64 * 48, 128)
    edges = np.ceil(60_000 * np.cumsum(sizes) / sizes.sum()).astype(int)
    for t in range(0, 70_000, 97):
        i = int((edges <= t).sum())
        assert batch_rows(p, t) == (sizes[i] if i < len(sizes) else 64 * 48) // 64


SMALL: dict[str, Any] = {
    "tokens": 2300 * B,
    "mask": 0.3,
    "lr": {"peak": 8e-4, "warmup": 4 * B},
    "optimizer": {"weight_decay": 8e-5},
    "changes": [{"after": 1200 * B, "mask": 0.2, "lr": {"peak": 4e-4}, "weight_decay": 4e-5}],
}


def test_mmbert_smalls_change_in_mid_phase() -> None:
    """At 1.2 T tokens: learning rate and weight decay halved, mask 20 % for the rest of the phase (paper, footnote)."""
    p = phase(**SMALL)
    before, after = 1200 * B - 1, 1200 * B
    assert (learning_rate(p, before), learning_rate(p, after)) == (8e-4, 4e-4)
    assert (at(p, before).mask, at(p, after).mask) == (0.3, 0.2)
    assert (at(p, 0).optimizer.weight_decay, at(p, after).optimizer.weight_decay) == (8e-5, 4e-5)
    assert at(p, after).optimizer.beta2 == 0.95
    assert mask_mean(p) == pytest.approx((0.3 * 1200 + 0.2 * 1100) / 2300)
    assert at(p, after).model_copy(update={"mask": 0.3, "lr": p.lr, "optimizer": p.optimizer}) == p


def test_several_changes_each_from_its_own_start() -> None:
    """Constant, then 1 − sqrt to a half (Ettin's in mid phase), constant again with a warm-up, then linear to the end."""
    half = {"peak": 4e-4, "warmup": 100}
    changes = [
        {"after": 1000, "lr": {"peak": 8e-4, "shape": "one_minus_sqrt", "end": 0.5}},
        {"after": 1500, "mask": 0.1},
        {"after": 2000, "lr": half, "masking": {"mask": 1, "random": 0, "keep": 0}},
        {"after": 3000, "lr": {"peak": 4e-4, "shape": "linear", "end": 0.0}, "mask": 0.05},
    ]
    p = phase(tokens=4000, mask=0.3, changes=changes)
    for t in range(0, 4000, 13):
        if t < 1000:
            expected = 8e-4
        elif t < 2000:
            expected = 8e-4 * (1 - 0.5 * ((t - 1000) / 1000) ** 0.5)
        elif t < 3000:
            expected = 4e-4 * min(1.0, (t - 2000 + 1) / 100)
        else:
            expected = 4e-4 * (4000 - t) / 1000
        assert learning_rate(p, t) == pytest.approx(expected, rel=1e-9)
        assert at(p, t).mask == (0.3 if t < 1500 else 0.1 if t < 3000 else 0.05)
        assert at(p, t).masking.mask == (0.8 if t < 2000 else 1.0)
    assert mask_mean(p) == pytest.approx((0.3 * 1500 + 0.1 * 1500 + 0.05 * 1000) / 4000)
    assert phase(tokens=4000) == at(phase(tokens=4000), 3999)


def test_the_optimizer_is_given_what_holds() -> None:
    from mmenc.train.state import make_optimizer

    p = phase(**SMALL)
    model = torch.nn.Linear(2, 2)
    optimizer = make_optimizer(model, Optimizer(weight_decay=8e-5), 8e-4)  # type: ignore[arg-type]
    for tokens, rate, decay in [(0, 8e-4 / (4 * B), 8e-5), (1199 * B, 8e-4, 8e-5), (1200 * B, 4e-4, 4e-5)]:
        set_rates(optimizer, p, tokens)
        matrix, bias = optimizer.param_groups
        assert (matrix["lr"], bias["lr"]) == (rate, rate)
        assert (matrix["weight_decay"], bias["weight_decay"]) == (decay, 0.0)
        # What one step takes off a weight whose gradient is 0: weight decay × rate / peak of the schedule in force.
        with torch.no_grad():
            model.weight.fill_(1.0)
        model.weight.grad, model.bias.grad = torch.zeros(2, 2), torch.zeros(2)
        optimizer.step()
        taken = 1 - float(model.weight[0, 0].detach().double())
        assert taken == pytest.approx(decay * rate / matrix["max_lr"], abs=1.3e-7)


def test_costs_count_the_mask_in_force() -> None:
    recipe = parse(tiny_recipe())
    cfg = encoder_config(recipe)
    plain = phase(tokens=10**6, mask=0.3)
    changed = phase(tokens=10**6, mask=0.3, changes=[{"after": 250_000, "mask": 0.1}])
    even = phase(tokens=10**6, mask=0.15)
    assert phase_flops(cfg, changed, False)["head"] == pytest.approx(phase_flops(cfg, even, False)["head"])
    linear = {name: phase_flops(cfg, p, False)["linear"] for name, p in (("plain", plain), ("changed", changed), ("even", even))}
    assert linear["changed"] == linear["even"] < linear["plain"]  # the last layer computes masked positions only


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"changes": [{"after": 24_000, "mask": 0.1}]}, "changes.0.after: 24000 tokens; expected more than 0 and less than"),
        (
            {"changes": [{"after": 9, "mask": 0.1}, {"after": 9, "mask": 0.2}]},
            "changes.1.after: 9 tokens; expected more than the",
        ),
        ({"changes": [{"after": 9}]}, "changes.0: changes nothing"),
        ({"changes": [{"after": 9, "maks": 0.1}]}, "did you mean 'mask'"),
        ({"changes": [{"after": 9, "mask": 1.5}]}, "changes.0.mask"),
        ({"changes": [{"after": 9, "masking": {"mask": 0.9}}]}, "changes.0.masking: mask, random and keep add up to 1.1"),
        ({"changes": [{"after": 20_000, "lr": {"peak": 1e-3, "warmup": 4_000}}]}, "changes.0.lr.warmup: 4000 tokens of warm-up"),
        ({"changes": [{"after": 4_000, "lr": {"peak": 1e-3}}]}, "pretrain.lr.warmup: 4000 tokens of warm-up do not fit"),
        ({"batch_warmup": {"start": 64, "tokens": 99, "increment": 70}}, "batch_warmup.increment: 70 is not a multiple"),
    ],
)
def test_wrong_changes_are_one_sentence(change: dict[str, Any], words: str) -> None:
    assert words in refused(change)


def test_a_recipe_with_changes_has_no_nulls_and_survives_kubeflow() -> None:
    """Kubeflow refuses None and turns every int in a dict into a float."""
    recipe = tiny_recipe()
    recipe["phases"]["pretrain"]["changes"] = [{"after": 9_000, "mask": 0.2}, {"after": 12_000.0, "lr": {"peak": 1e-3}}]
    first = parse(recipe).value("phases.pretrain")
    assert first["changes"][0] == {"after": 9_000, "mask": 0.2}
    assert "None" not in str(first)
    assert "rope_theta_local" in first
    recipe["phases"]["pretrain"] = first
    assert parse(recipe).value("phases.pretrain") == first
