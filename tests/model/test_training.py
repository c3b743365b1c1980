"""Loss, dropout, tied weights, and documents that do not see one another."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmenc.errors import Refused
from mmenc.model.attention import Packing
from mmenc.model.encoder import derive_seed, dropout
from mmenc.model.head import MaskedLM, masked_loss
from mmenc.model.init import build
from tests.model.conftest import lively, small, tokens


def inputs(rows: int, width: int, vocab: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x, w, b = (3 * torch.randn(s, generator=g) for s in ((rows, width), (vocab, width), (vocab,)))
    return x.requires_grad_(), w.requires_grad_(), b.requires_grad_(), torch.randint(vocab, (rows,), generator=g)


@pytest.mark.parametrize("chunk", [1, 20_000, None])
@pytest.mark.parametrize("rows", [1, 16, 100])
def test_chunked_loss_equals_plain(rows: int, chunk: int | None) -> None:
    x, w, b, target = inputs(rows, 24, 1000)
    target[:3] = F.linear(x, w, b).argmax(-1)[:3]  # some right guesses
    loss, right = masked_loss(x, w, b, target, chunk)
    grads = torch.autograd.grad(loss / rows, (x, w, b))
    logits = F.linear(x.double(), w.double(), b.double())
    plain = F.cross_entropy(logits, target, reduction="sum")
    plain_grads = torch.autograd.grad(plain / rows, (x, w, b))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), plain, rtol=1e-6, atol=1e-5)
    assert int(right) == int((logits.argmax(-1) == target).sum())
    for mine, exact in zip(grads, plain_grads, strict=True):
        torch.testing.assert_close(mine, exact.float(), rtol=1e-4, atol=1e-5 * float(exact.abs().max()))
    with torch.no_grad():
        torch.testing.assert_close(masked_loss(x, w, b, target, chunk)[0], loss)


def test_loss_in_bf16_autocast_is_summed_in_fp32() -> None:
    x, w, b, target = inputs(300, 24, 1000)
    exact = F.cross_entropy(F.linear(x, w, b), target, reduction="sum")
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = masked_loss(x, w, b, target)
    grads = torch.autograd.grad(loss, (x, w, b))
    assert loss.dtype == torch.float32
    assert abs(loss - exact) < 2e-3 * exact
    for mine, right in zip(grads, torch.autograd.grad(exact, (x, w, b)), strict=True):
        assert mine.dtype == torch.float32
        assert (mine - right).norm() < 5e-2 * right.norm()  # logits reach 50 here: their bf16 step is 0.25
    with pytest.raises(Refused, match="float16"):
        masked_loss(x.half(), w.half(), b, target)


def test_no_masked_position_gives_zero() -> None:
    model = lively(small())
    nothing = torch.zeros(0, dtype=torch.int64)
    loss, right = model(tokens(9, 211), Packing.of([9]), nothing, nothing)
    loss.backward()
    assert loss.item() == right.item() == 0
    assert not model.tied_weight.grad.any()


def step(model: MaskedLM, seed: int | None, cfg_lengths: tuple[int, ...] = (50, 70, 3)) -> tuple[Tensor, Tensor]:
    ids = tokens(sum(cfg_lengths), 211)
    model.zero_grad(set_to_none=True)
    loss, _ = model(ids, Packing.of(cfg_lengths), torch.arange(0, len(ids), 4), ids[::4], dropout_seed=seed)
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_dropout_is_a_function_of_its_seed() -> None:
    model = lively(small())
    first = step(model, 7)
    torch.manual_seed(1)  # the global state plays no part
    for mine, again in zip(step(model, 7), first, strict=True):
        assert torch.equal(mine, again)
    assert step(model, 8)[0] != first[0]
    assert step(model, None)[0] != first[0]
    still = lively(small(attn_out_dropout=0.0))
    assert torch.equal(step(still, 7)[0], step(still, None)[0])


def test_dropout_leaves_the_global_state_alone_and_has_its_rate() -> None:
    state = torch.get_rng_state()
    out = dropout(torch.ones(999, 333), 0.1, derive_seed(3, 0))
    assert torch.equal(torch.get_rng_state(), state)
    assert abs((out == 0).float().mean() - 0.1) < 0.003
    assert abs(out.mean() - 1) < 0.003
    assert abs((out == 0).float().mean(0) - 0.1).max() < 0.05  # in every column
    assert not torch.equal(out, dropout(torch.ones(999, 333), 0.1, derive_seed(3, 1)))


@pytest.mark.parametrize("layers", [1, 3, 4])
@pytest.mark.parametrize("seed", [None, 7])
def test_last_layer_at_masked_positions_equals_the_whole_one(layers: int, seed: int | None) -> None:
    """Layers 1 and 4 end in a global layer, 3 in a local one; dropout too is that of the whole."""
    model = lively(small(layers=layers))
    ids, packing, at_M = tokens(223, 211), Packing.of([50, 70, 3, 100]), torch.arange(1, 120, 5)
    results = []
    for some in (False, True):
        model.zero_grad(set_to_none=True)
        x_MD = model.model(ids, packing, seed, at_M) if some else model.model(ids, packing, seed)[at_M]
        x_MD.sin().sum().backward()
        results.append([x_MD.detach(), *(p.grad for p in model.model.parameters())])
    for whole, some in zip(*results, strict=True):
        torch.testing.assert_close(some, whole, rtol=1e-3, atol=1e-4 * float(whole.abs().max()))


def test_positions_in_no_order_are_refused() -> None:
    with pytest.raises(Refused, match="expected them ascending"):
        lively(small()).logits(tokens(30, 211), Packing.of([30]), torch.tensor([4, 2]))


def test_weights_are_tied() -> None:
    model = lively(small())
    assert sum(p is model.tied_weight for p in model.parameters()) == 1
    ids, packing = tokens(30, 211), Packing.of([30])
    unused = next(i for i in range(5, 211) if i not in ids)
    loss, _ = model(ids, packing, torch.arange(5), ids[:5])
    loss.backward()
    assert model.tied_weight.grad[unused].any()  # through the decoder alone


def test_documents_do_not_see_one_another() -> None:
    model, lengths = lively(small()), [40, 33, 27]
    ids = tokens(100, 211)
    other = ids.clone()
    other[40:73] = tokens(33, 211, seed=5)
    with torch.no_grad():
        a, b = (model.hidden(x, Packing.of(lengths)) for x in (ids, other))
    assert torch.equal(a[:40], b[:40])
    assert torch.equal(a[73:], b[73:])
    assert not torch.equal(a[40:73], b[40:73])


def test_autocast_bf16_trains() -> None:
    model = lively(small())
    exact = step(model, None)
    with torch.autocast("cpu", torch.bfloat16):
        rough = step(model, None)
    assert abs(rough[0] - exact[0]) < 0.02 * exact[0]
    assert F.cosine_similarity(rough[1], exact[1], dim=0) > 0.98


def test_compiled_loss_stage_equals_plain_one() -> None:
    pytest.importorskip("torch._inductor")
    from mmenc.model.head import _softmax_stage

    z, target = torch.randn(20, 50), torch.randint(50, (20, 1))
    compiled = torch.compile(_softmax_stage, dynamic=True, backend="aot_eager")
    for mine, right in zip(compiled(z.clone(), target), _softmax_stage(z.clone(), target), strict=True):
        torch.testing.assert_close(mine, right)


def test_too_long_document_is_refused() -> None:
    with pytest.raises(Refused, match="1201 tokens, expected at most 1200"):
        lively(small()).hidden(tokens(1201, 211), Packing.of([1201]))


def test_activation_checkpointing_changes_no_bit() -> None:
    results = []
    for again in (False, True):
        model = build(small(attn_out_dropout=0.1), 3)
        model.model.checkpointing = again
        ids = torch.arange(5, 105)
        loss, _ = model(ids, Packing.of([60, 40]), torch.arange(0, 100, 3), ids[::3], dropout_seed=7)
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
