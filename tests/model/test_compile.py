"""`compute.compile`: layers that torch.compile has made train on the CPU as the plain ones do, loss by loss."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from mmenc.errors import Refused
from mmenc.model.encoder import Draw
from mmenc.model.init import build
from mmenc.model.packing import Packing
from tests.model.conftest import small, tokens

ROWS = ([40, 70, 64], [100, 20, 54], [30, 30, 30, 70], [9, 160])
"""Lengths of the documents of four steps: each packing is another one."""


def curve(*, compiled: bool) -> list[float]:
    """Losses of four steps of SGD, with dropout drawn in two parts, as training does."""
    model = build(small(layers=2, attn_out_dropout=0.1, global_every=2), 0)
    if compiled:
        model.model.compile_layers(torch.device("cpu"))
    losses = []
    for step, lengths in enumerate(ROWS):
        count = sum(lengths)
        ids_T, at_M = tokens(count, model.cfg.vocab_size, seed=step % 2), torch.arange(3, count, 7)
        draws = [Draw(step, count, 0, 64), Draw(step + 9, count, 64, count)]
        loss_sum, _ = model(ids_T, Packing.of(lengths), at_M, ids_T[at_M], draws)
        model.zero_grad()
        (loss_sum / len(at_M)).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(0.3 * parameter.grad)
        losses.append(float(loss_sum) / len(at_M))
    return losses


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile writes C++ on a CPU, and there is no g++ here")
def test_compiled_layers_train_as_plain_ones_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    plain = curve(compiled=False)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = curve(compiled=True)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch._dynamo.reset()
    assert graphs > 0, "nothing was compiled"
    assert graphs < 30, "a graph for every packing"
    assert len({round(loss, 2) for loss in plain}) > 2, "it must learn, or equal losses say nothing"
    assert compiled == pytest.approx(plain, abs=1e-4)


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(Refused, match=r"compute.compile: .* needs a C\+\+ compiler, and no-such-compiler is not here"):
        build(small(), 0).model.compile_layers(torch.device("cpu"))
