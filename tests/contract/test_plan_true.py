"""The plan is true: what a finished run has read and done is what `mmenc plan` says, within a piece of text per language."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from mmenc.cli import main
from tests.pipeline import tiny_recipe, write_recipe

Json = dict[str, Any]


def planned(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Json:
    monkeypatch.chdir(folder)
    capsys.readouterr()
    assert main(["plan", "--json"]) == 0
    plan: Json = json.loads(capsys.readouterr().out)
    return plan


def compare(folder: Path, plan: Json, name: str) -> None:
    """Tokens, shares, epochs and steps of one phase."""
    phase, root = plan["phases"][name], folder / "artifacts" / "train" / name
    state, facts = json.loads((root / "state.json").read_text()), json.loads((root / "manifest.json").read_text())["facts"]
    counts = json.loads((folder / "artifacts/tokenize/manifest.json").read_text())["facts"]["folders"]
    # A language's part ends with a piece: at most one context more or less than its quota.
    slack = phase["context"]
    readers = {**phase["languages"], **phase["buckets"]}
    seen = {**state["languages"], **state["buckets"]}
    assert set(seen) <= set(readers)
    off = 0
    for key, row in readers.items():
        found = seen.get(key, 0)
        off += found - row["tokens"]
        assert abs(found - row["tokens"]) <= max(slack, 0.01 * row["tokens"]), (name, key)
        assert abs(found / state["tokens"] - row["share"]) <= max(2 * slack / phase["tokens"], 0.01), (name, key)
        assert row["available"] == counts[row.get("source", key)]["train"]["tokens"]
        assert abs(found / row["available"] - row["epochs"]) <= max(slack / row["available"], 0.01 * row["epochs"]), (name, key)
    assert state["tokens"] - phase["tokens"] == off
    # Independent roundings to a piece: three standard deviations of their sum (uniform: context / sqrt(12) each at most).
    assert abs(off) <= max(0.01 * phase["tokens"], 3 * slack * (len(readers) / 12) ** 0.5), name
    # Steps follow the tokens and the fill, which the plan knows to 2 %; the last batch and a growing one are rounded.
    assert abs(facts["steps"] - phase["steps"] * state["tokens"] / phase["tokens"]) <= 1.5 + 0.02 * phase["steps"], name
    total = state["total"]["languages"]
    for tag, row in phase["languages"].items():
        below = sum(1 for p in plan["phases"] if (folder / "artifacts/train" / p).is_dir())
        have = total.get(tag, 0) + (state["total"]["buckets"].get("english", 0) if tag == "eng_Latn" else 0)
        assert abs(have / row["available"] - row["total_epochs"]) <= below * slack / row["available"] + 0.01 * row["total_epochs"]


def test_a_finished_run_did_what_was_planned(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(finished, monkeypatch, capsys)
    for name in plan["phases"]:
        compare(finished, plan, name)
        mixture = json.loads((finished / "artifacts/mixture" / name / "mixture.json").read_text())
        for tag, row in mixture["languages"].items():
            assert {k: plan["phases"][name]["languages"][tag][k] for k in row} == row
        assert set(mixture["languages"]) == set(plan["phases"][name]["languages"])


def variant(seed: int) -> Json:
    """A random recipe: temperature, tokens, batch and its warm-up, context, waves, a bucket."""
    rng, recipe = random.Random(seed), tiny_recipe()
    recipe["languages"] = {"high": {"top": rng.randint(2, 4)}, "middle": {"top": rng.randint(4, 5)}, "tail": "all"}
    context, batch = rng.choice((96, 128, 160)), rng.randint(5, 12)
    recipe["phases"]["pretrain"] |= {
        "temperature": round(rng.uniform(0.1, 1), 2),
        "tokens": rng.randint(60_000, 100_000),
        "context": context,
        "batch_tokens": batch * context,
        "batch_warmup": {"start": context, "tokens": rng.randint(1, 10_000)},
        "evaluations": 1,
        "languages": "tail" if seed % 2 else "high",
        "buckets": {"english": {"share": round(rng.uniform(0.1, 0.5), 2), "source": "eng_Latn"}} if seed % 3 else {},
    }
    recipe["phases"]["pretrain"]["lr"]["warmup"] = 2_000
    for name in recipe["phases"]:
        if name != "pretrain":
            recipe["phases"][name] |= {"languages": "tail", "context": 160, "batch_tokens": 640}
    return recipe


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_recipes_do_what_was_planned(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "train").mkdir()
    for shared in ("tokenize", "train/init"):
        (tmp_path / "artifacts" / shared).symlink_to(finished / "artifacts" / shared)
    write_recipe(tmp_path, variant(seed))
    plan = planned(tmp_path, monkeypatch, capsys)
    words = ["--name", "pretrain", "--out"]
    assert main(["run", "mixture", *words, "artifacts/mixture/pretrain", "tokens=artifacts/tokenize"]) == 0
    roles = ["tokens=artifacts/tokenize", "mixture=artifacts/mixture/pretrain", "init=artifacts/train/init"]
    assert main(["run", "train", *words, "artifacts/train/pretrain", *roles]) == 0
    compare(tmp_path, plan, "pretrain")
