"""Speed: the lengths of the published harness, the same weights and outputs in both engines, rows that stand in no artifact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from mmenc.downstream import speed
from mmenc.downstream.backbone import of_subject
from mmenc.downstream.options import Options
from mmenc.downstream.registry import Context
from mmenc.downstream.sources import Data
from mmenc.downstream.suite import tuned_suites
from mmenc.downstream.units import Units
from mmenc.errors import Refused
from mmenc.evaluate.models import Padded, open_subject
from mmenc.sections import Evaluate
from tests.small_encoder import small_encoder
from tests.unit.test_evaluate_models import SIZES, word_pieces


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return small_encoder(tmp_path_factory.mktemp("ours") / "small", ["All human beings are born free and equal."])


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Padded:
    folder = tmp_path_factory.mktemp("hub") / "bert"
    folder.mkdir()
    config = transformers.BertConfig(vocab_size=len(word_pieces(folder)), **SIZES, max_position_embeddings=512)
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    return open_subject(str(folder), None, torch.device("cpu"), False)


def test_lengths_are_those_of_the_published_harness():
    assert speed.lengths_of(512, False, 16_384, 0) == [512] * 32
    assert speed.lengths_of(8192, False, 16_384, 0) == [8192] * 2
    found = np.array(speed.lengths_of(512, True, 512 * 4000, 0))
    assert found.min() >= 16
    assert found.max() <= 512
    assert abs(found.mean() - 256) < 5
    assert abs(found.std() - 64) < 4
    assert speed.lengths_of(8192, True, 16_384, 0) == speed.lengths_of(8192, True, 16_384, 0)


def test_batches_hold_as_many_rows_as_fit_padded():
    rows = speed.rows_of([512] * 33, np.arange(5, 99), 0)
    assert {int(r.ids_T.min()) >= 5 for r in rows} == {True}
    assert [len(b) for b in speed.batches_of(rows, 512, 8192)] == [16, 16, 1]
    assert [len(b) for b in speed.batches_of(rows, 8192, 4096)] == [1] * 33


def test_both_engines_give_the_same_vectors_also_beyond_the_context(release):
    bodies = speed.engines(release)
    rows = speed.rows_of([release.context * 3, 17, 64], release.words.ordinary, 1)
    with torch.inference_mode():
        packed, padded = (bodies[name](rows)[0] for name in ("packed", "padded"))
    assert torch.allclose(packed, padded, atol=2e-4)


def test_rows_of_ours_and_of_another(release, bert, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(speed, "SETTINGS", speed.SETTINGS[:2])
    for subject, expected in ((release, 3), (bert, 1)):
        backbone = of_subject(subject, False)
        units, options = Units(tmp_path / "units"), Options(limit=4)
        context = Context(subject, backbone, Data(tmp_path), units, options, Evaluate(), lambda t: "", lambda a, n: None)
        rows = speed.measure(context, repeats=2)
        assert len(rows) == 2 * expected
        assert all(r["status"] == "ok" and 0 < r["low"] <= r["mean"] <= r["high"] and r["n"] == 2 for r in rows)
        assert {r["task"] for r in rows} == {"speed/512-uniform", "speed/512-variable"}
    assert not list((tmp_path / "units").iterdir())  # a time is never taken from an earlier run


def test_learned_positions_end_with_the_context(bert, tmp_path: Path):
    backbone = of_subject(bert, False)
    context = Context(
        bert, backbone, Data(tmp_path), Units(tmp_path / "u"), Options(), Evaluate(), lambda t: "", lambda a, n: None
    )
    rows = speed._setting_rows(context, speed.engines(bert), speed.Setting(8192, False), 1, 8192, torch.device("cpu"))
    assert [(r["status"], r["reason"]) for r in rows] == [("skipped", "its context is 512 tokens")]


def test_a_recipe_may_not_ask_for_times():
    assert tuned_suites(["intrinsic", "speed"], "--suite") == ["speed"]
    with pytest.raises(Refused, match="speed measures time"):
        tuned_suites(["speed"], "evaluate.suites")
