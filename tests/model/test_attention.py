"""Every backend against one dense masked reference, forward and backward, at all the awkward lengths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mmenc.errors import Refused
from mmenc.model.attention import ONLY_HALF, Packing, attention, available, choose, takes_some_queries
from mmenc.model.rope import Angles, in_turning_order, rotate, table, turned

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
LENGTHS = [
    [1],
    [7, 1, 1, 40],
    [65, 66, 64, 17, 18, 16],  # around the windows
    [32, 64, 96],  # whole buckets and blocks
    [31, 33, 511, 512, 513, 1, 700],  # around BUCKET and LOOP
    [1100, 5],
    [3] * 150,
]
WINDOWS = [None, 1, 16, 64, 100, 600]


def dense(q: Tensor, k: Tensor, v: Tensor, packing: Packing, window: int | None) -> Tensor:
    """Attention by one T x T mask, in fp64."""
    q, k, v = (x.double().transpose(0, 1) for x in (q, k, v))
    at = torch.arange(packing.tokens, device=q.device)
    allowed = packing.doc_T[:, None] == packing.doc_T
    if window is not None:
        allowed &= (at[:, None] - at).abs() <= window
    scores = (q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).masked_fill(~allowed, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1)


def draw(packing: Packing, dtype: torch.dtype, heads: int = 2, width: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(packing.tokens)
    shape, device = (packing.tokens, heads, width), packing.doc_T.device
    return [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_backends_agree(device: str, lengths: list[int], window: int | None) -> None:
    packing = Packing.of(lengths, device)
    for backend in available(device):
        half = backend in ONLY_HALF
        qkv = draw(packing, torch.bfloat16 if half else torch.float32)
        near = {"rtol": 3e-2, "atol": 3e-2} if half else {"rtol": 2e-5, "atol": 2e-5}
        weight = torch.linspace(-1, 1, qkv[0].numel(), device=device).view_as(qkv[0])
        out = attention(*qkv, packing, window, backend=backend)
        grads = torch.autograd.grad((out * weight).sum(), qkv)
        expected = dense(*qkv, packing, window)
        expected_grads = torch.autograd.grad((expected * weight).sum(), qkv)
        for mine, right in zip((out, *grads), (expected, *expected_grads), strict=True):
            torch.testing.assert_close(mine.double(), right.double(), **near)


@pytest.mark.parametrize("window", [None, 16])
def test_flex_forward_on_cpu(window: int | None) -> None:
    packing = Packing.of([40, 1, 130, 29])
    qkv = [x.detach() for x in draw(packing, torch.float32)]
    with torch.no_grad():
        out = attention(*qkv, packing, window, backend="flex")
        torch.testing.assert_close(out.double(), dense(*qkv, packing, window), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("window", [None, 64])
def test_bf16_stays_close(window: int | None) -> None:
    packing = Packing.of([100, 20, 300, 600])
    qkv = draw(packing, torch.bfloat16)
    out = attention(*qkv, packing, window, backend="sdpa")
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), dense(*qkv, packing, window), rtol=3e-2, atol=3e-2)


def test_choice() -> None:
    assert choose("cpu") == "sdpa"
    assert available("cpu") == ["sdpa"]
    assert choose("cuda", torch.float32) == "flex"
    packing = Packing.of([4])
    with pytest.raises(Refused, match="did you mean 'flash'"):
        attention(*draw(packing, torch.float32), packing, None, backend="flahs")


def test_packing() -> None:
    packing = Packing.of(np.array([3, 1, 2]))
    assert packing.cu_seqlens_N1.tolist() == [0, 3, 4, 6]
    assert packing.cu_seqlens_N1.dtype == torch.int32
    assert packing.position_T.tolist() == [0, 1, 2, 0, 0, 1]
    assert packing.doc_T.tolist() == [0, 0, 0, 1, 2, 2]
    assert (packing.max_len, packing.tokens) == (3, 6)
    for wrong in ([], [3, 0]):
        with pytest.raises(Refused, match="document lengths"):
            Packing.of(wrong)


@pytest.mark.parametrize("at", ["every third", "one document", "first", "none"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_some_queries_equal_those_of_all(lengths: list[int], at: str) -> None:
    packing = Packing.of(lengths)
    last = int(packing.doc_T[-1])
    at_M = {
        "every third": torch.arange(0, packing.tokens, 3),
        "one document": torch.nonzero(packing.doc_T == last)[:, 0],  # the others' queries are none
        "first": torch.tensor([0]),
        "none": torch.zeros(0, dtype=torch.int64),
    }[at]
    q, k, v = draw(packing, torch.float32)
    assert takes_some_queries(q, packing, None)
    weight = torch.linspace(-1, 1, q[at_M].numel()).view(-1, *q.shape[1:])
    out = attention(q[at_M], k, v, packing, None, at_M=at_M)
    expected = dense(q, k, v, packing, None)[at_M]
    torch.testing.assert_close(out.double(), expected, rtol=2e-5, atol=2e-5)
    grads = torch.autograd.grad((out * weight).sum(), (q, k, v), allow_unused=True)
    expected_grads = torch.autograd.grad((expected * weight).sum(), (q, k, v))
    for mine, right in zip(grads, expected_grads, strict=True):
        found = torch.zeros_like(right) if mine is None else mine
        torch.testing.assert_close(found.double(), right.double(), rtol=2e-5, atol=2e-5)


def test_some_queries_of_a_windowed_layer_are_refused() -> None:
    packing = Packing.of([100, 20])
    qkv = draw(packing, torch.float32)
    assert not takes_some_queries(qkv[0], packing, 64)
    assert takes_some_queries(qkv[0], packing, 99)  # sees its whole document
    with pytest.raises(Refused, match="all tokens, not of some"):
        attention(*qkv, packing, 64, at_M=torch.tensor([3]))


def test_pairs_turned_as_complex_numbers_give_the_scores_of_halves() -> None:
    heads, width, count = 3, 16, 40
    generator = torch.Generator().manual_seed(0)
    x_TD = torch.randn(count, 24, generator=generator)
    weight = torch.randn(3 * heads * width, 24, generator=generator, requires_grad=True)
    cos_TF, sin_TF = table(count, 100.0, width, torch.device("cpu"))
    paired = (x_TD @ in_turning_order(weight, heads, width).t()).view(count, 3, heads, width)
    q, k, v = turned(paired, Angles.of(cos_TF, sin_TF), 2)
    plain = (x_TD @ weight.t()).view(count, 3, heads, width)
    right_q, right_k = rotate(plain[:, :2], cos_TF, sin_TF).unbind(1)
    both = [(1e-2 * torch.einsum("qhe,khe->hqk", a, b), c) for a, b, c in ((q, k, v), (right_q, right_k, plain[:, 2]))]
    for mine, right in zip(*both, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-5)
    mine_grad, right_grad = (torch.autograd.grad(s.sin().sum() + c.square().sum(), weight)[0] for s, c in both)
    torch.testing.assert_close(mine_grad, right_grad, rtol=1e-4, atol=1e-4)
