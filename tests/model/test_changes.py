"""The recipe's changes, whole-word masks and resized sources in real runs: what a step sees, and resuming bit for bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmenc.artifact import read_json
from mmenc.data.masking import first_of_word
from mmenc.data.tokens import MASK, open_split
from mmenc.errors import Stopped
from mmenc.model.hf import load_checkpoint
from mmenc.train import loop
from mmenc.train.micro import Part
from mmenc.train.prefetch import Prepared
from tests.pipeline import commands, run_stage, tiny_recipe, workplace, write_recipe

TRAIN = "train@pretrain"
CHANGE = 4_000


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Training sets torch's threads for the process that it runs in."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def recipe(**model: Any) -> dict[str, Any]:
    """Whole words and a change of everything at half of the phase."""
    plain = tiny_recipe()
    after = {"mask": 0.1, "masking": {"mask": 1, "random": 0, "keep": 0, "whole_word": True}, "weight_decay": 1e-5}
    plain["phases"]["pretrain"] |= {
        "tokens": 8_000,
        "mask": 0.4,
        "masking": {"whole_word": True},
        "lr": {"peak": 3e-3, "warmup": 1_000},
        "changes": [{"after": CHANGE, **after, "lr": {"peak": 1e-3, "shape": "linear", "end": 0.1}}],
        "evaluations": 1,
    }
    plain["compute"] |= {"threads": 1, "checkpoint_seconds": 0}
    plain["model"] |= model
    return plain


@pytest.fixture(scope="module")
def ready(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the phase reads."""
    folder = workplace(tmp_path_factory.mktemp("ready"), corpus, recipe())
    stages = commands(folder)
    needed = ("ingest", "clean", "validate", "tokenizer", "tokenize", "init", "mixture@pretrain")
    with pytest.MonkeyPatch.context() as patch:
        for name in sorted(needed, key=list(stages).index):
            assert run_stage(folder, stages[name], patch) == 0
    return folder


class Watched(loop.Trainer):
    """Notes what each step was given; stops after some steps."""

    seen: list[tuple[int, float, float, float]]
    parts_seen: list[Part]
    stop_after = 10**9

    def step(self, made: Prepared) -> Any:
        """Take the step, then note what held."""
        tokens = self.loop.tokens
        found = super().step(made)
        matrix = self.optimizer.param_groups[0]
        self.seen.append((tokens, matrix["lr"], matrix["max_lr"], matrix["weight_decay"]))
        self.parts_seen.extend(made.parts)
        return found

    def keep(self) -> None:
        """After a step is booked, maybe stop as a signal would."""
        super().keep()
        if len(self.seen) == self.stop_after:
            self.save()
            self.saver.wait()
            raise Stopped("here")


def train(folder: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int = 10**9) -> tuple[int, list[Any], list[Part]]:
    """Run the phase; return its exit code, what the steps saw and the parts that they computed."""
    Watched.seen, Watched.parts_seen, Watched.stop_after = [], [], stop_after
    with monkeypatch.context() as patch:
        patch.setattr("mmenc.train.step.Trainer", Watched)
        code = run_stage(folder, commands(folder)[TRAIN], patch)
    return code, Watched.seen, Watched.parts_seen


def test_steps_see_what_holds_and_a_resumed_run_ends_in_the_same_bits(
    ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, halved = (shutil.copytree(ready, tmp_path / name, symlinks=True) for name in ("whole", "halved"))
    code, seen, parts = train(whole, monkeypatch)
    assert code == 0
    edges_V = open_split(whole / "artifacts/tokenize", "train").edges_V
    assert edges_V is not None
    shares: dict[bool, list[float]] = {False: [], True: []}
    for (tokens, rate, peak, decay), part in zip(seen, parts, strict=True):  # one micro-batch a step
        late = tokens >= CHANGE
        assert (peak, decay) == ((1e-3, 1e-5) if late else (3e-3, 8e-5))
        t = (tokens - CHANGE) / (8_000 - CHANGE)
        assert rate == pytest.approx(1e-3 * (0.1 + 0.9 * (1 - min(1, t))) if late else 3e-3 * min(1, (tokens + 1) / 1_000))
        ids_T = part.input_T.copy()
        ids_T[part.index_M] = part.target_M
        first_T, chosen_T = first_of_word(ids_T, edges_V), np.isin(np.arange(len(ids_T)), part.index_M)
        assert (chosen_T == chosen_T[first_T])[ids_T >= 5].all()  # no word is masked in part
        assert (part.input_T[part.index_M] == MASK).all() == late
        shares[late].append(len(part.index_M) / (ids_T >= 5).sum())
    assert abs(np.mean(shares[False]) - 0.4) < 0.05
    assert abs(np.mean(shares[True]) - 0.1) < 0.05
    for stop in (3, len(seen) // 2, 2):  # before, at and after the change
        assert train(halved, monkeypatch, stop)[0] == 75
    assert train(halved, monkeypatch)[0] == 0
    found, expected = (read_json(f / "artifacts/train/pretrain/manifest.json") for f in (halved, whole))
    assert (found["digest"], found["content"]) == (expected["digest"], expected["content"])
    assert expected["facts"]["learning_rate_end"] < 2e-4


def test_a_tiled_source_is_taken_over_by_the_init_step(
    ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command line: small checkpoint in, wider and deeper model out, trained on; foreign ids are refused."""
    folder = shutil.copytree(ready, tmp_path / "w", symlinks=True)
    source = shutil.copytree(folder / "artifacts/train/init", folder / "models" / "small")
    shutil.rmtree(folder / "artifacts/train")
    write_recipe(folder, recipe(hidden=64, heads=4, intermediate=96, layers=7, source="models/small", resize="tile"))
    assert run_stage(folder, commands(folder)["init"], monkeypatch) == 0
    small, large = load_checkpoint(source), load_checkpoint(folder / "artifacts/train/init")
    assert (large.cfg.hidden, large.cfg.layers, large.cfg.heads) == (64, 7, 4)
    assert torch.equal(large.tied_weight[:, 16:48], small.tied_weight)
    assert read_json(folder / "artifacts/train/init/manifest.json")["facts"]["resize"] == "tile"
    code, _, _ = train(folder, monkeypatch)
    assert code == 0
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"pad_token_id": 50}))
    shutil.rmtree(folder / "artifacts/train/init")
    capsys.readouterr()
    assert run_stage(folder, commands(folder)["init"], monkeypatch) == 1
    assert "pad_token_id is 50, in this recipe's tokenizer 0" in capsys.readouterr().err
