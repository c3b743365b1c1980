"""The whole tiny pipeline: artifacts of the contract, loaders of other libraries, equal results, lineage."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mmenc.artifact import Artifact, read_json
from mmenc.cli import main
from mmenc.data.tokenizer import load, token_bytes
from mmenc.data.tokens import SPECIALS, open_split
from tests.pipeline import commands, contents, run_all, run_stage, tiny_recipe, workplace, write_recipe


@pytest.fixture(scope="module")
def artifacts(finished: Path) -> Path:
    return finished / "artifacts"


def test_every_artifact_verifies_and_is_where_the_contract_says(artifacts: Path):
    names = {str(p.parent.relative_to(artifacts)) for p in artifacts.rglob("manifest.json")}
    phases = tiny_recipe()["phases"]
    single = {
        "ingest",
        "clean",
        "validate",
        "tokenizer",
        "tokenize",
        "merge",
        "release",
        "report",
        "train/init",
        "evaluate/merge",
    }
    assert names == single | {f"{kind}/{p}" for kind in ("train", "mixture", "evaluate") for p in phases}
    for name in names:
        Artifact.read(artifacts / name)


def test_equal_recipes_give_equal_content_in_another_folder(finished, corpus, tmp_path, monkeypatch):
    other = workplace(tmp_path / "elsewhere", corpus)
    run_all(other, monkeypatch, upto="release")
    assert contents(other) == contents(finished)


def test_a_second_run_leaves_everything_as_it_is(finished, monkeypatch, capsys):
    before = {p: p.stat().st_mtime_ns for p in (finished / "artifacts").rglob("manifest.json")}
    for words in commands(finished).values():
        assert run_stage(finished, words, monkeypatch) == 0
    assert capsys.readouterr().out.count("up to date") == len(before)
    assert before == {p: p.stat().st_mtime_ns for p in (finished / "artifacts").rglob("manifest.json")}


def test_the_closing_screen_counts_every_step(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    assert main(["show"]) == 0
    records = [read_json(p) for p in (finished / "artifacts/.runs").glob("*/run.json")]
    assert {r["step"] for r in records} >= {"evaluate", "release", "report"}
    assert f"{sum(r['seconds'] for r in records) / 60:.1f} minutes of work in all steps" in capsys.readouterr().out


def test_config_never_holds_compute(artifacts: Path):
    for path in artifacts.rglob("manifest.json"):
        assert "compute" not in read_json(path)["config"]


def test_the_release_loads_in_transformers(artifacts: Path):
    from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

    release = str(artifacts / "release")
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(release), AutoTokenizer.from_pretrained(release)
    batch = tokenizer(["All human beings are <mask>.", "כל בני האדם"], return_tensors="pt", padding=True)
    assert batch["input_ids"][0, 0] == tokenizer.bos_token_id
    assert model(**batch).logits.shape == (2, batch["input_ids"].shape[1], 1024)
    answers = pipeline("fill-mask", model=release)("All human beings are born <mask> and equal.")
    assert len(answers) == 5
    assert all(0 < a["score"] < 1 for a in answers)
    assert read_json(artifacts / "release" / "manifest.json")["facts"]["max_logit_difference"] < 1e-4


def test_the_release_loads_in_sentence_transformers(artifacts: Path):
    from sentence_transformers import SentenceTransformer

    from mmenc.model.attention import Packing
    from mmenc.model.head import mean_pool
    from mmenc.model.hf import load_checkpoint

    found = SentenceTransformer(str(artifacts / "release"), device="cpu").encode(["Øll menniskju eru fødd fræls"])
    assert found.shape == (1, 32)
    model = load_checkpoint(artifacts / "release").eval()
    ids = [2, *load(artifacts / "tokenizer").encode("Øll menniskju eru fødd fræls", add_special_tokens=False).ids, 1]
    packing = Packing.of([len(ids)])
    with torch.inference_mode():
        ours = mean_pool(model.hidden(torch.tensor(ids), packing), packing).numpy()
    assert np.abs(found - ours).max() < 1e-4


def test_the_model_card_is_read_by_huggingface_hub(artifacts: Path):
    from huggingface_hub import ModelCard

    card = ModelCard.load(artifacts / "release" / "README.md")
    assert card.data.pipeline_tag == "fill-mask"
    assert set(card.data.language) == {"de", "el", "en", "fo", "he", "zu"}
    assert "## Schedule" in card.text


def test_tokens_are_the_documents_and_specials_in_text_are_text(artifacts: Path):
    tokenizer = load(artifacts / "tokenizer")
    spelled = "a <mask> in the text, a <bos> too"
    ids = tokenizer.encode(spelled, add_special_tokens=False).ids
    assert min(ids) >= len(SPECIALS)
    assert tokenizer.decode(ids, skip_special_tokens=False) == spelled
    assert token_bytes(tokenizer)[ids].sum() == len(spelled.encode())
    train = open_split(artifacts / "tokenize", "train")
    sizes = token_bytes(tokenizer)
    index = read_json(artifacts / "tokenize" / "train" / "index.json")["folders"]
    for language in train.ranges:
        assert sizes[train.folder_tokens(language)].sum() == index[language]["bytes"]
    assert (train.flat[train.offsets[:-1]] == 2).all()
    assert (train.flat[train.offsets[1:] - 1] == 1).all()


def test_parallel_documents_are_held_out_in_every_language_alike(artifacts: Path):
    sides = {}
    for split in ("dev", "test"):
        for document in open_split(artifacts / "tokenize", split).documents:
            assert sides.setdefault(document["group"], split) == split
    assert sum(1 for g in sides if g.startswith("udhr/")) == 5 + 3 + 1 - 1


def test_what_is_trained_is_what_was_planned_and_is_carried_on(artifacts: Path):
    recipe = tiny_recipe()
    for name, phase in recipe["phases"].items():
        manifest = read_json(artifacts / "train" / name / "manifest.json")
        state = read_json(artifacts / "train" / name / "state.json")
        parent = read_json(artifacts / "train" / phase["init"] / "state.json")
        planned = read_json(artifacts / "mixture" / name / "mixture.json")
        assert sum(r["tokens"] for r in [*planned["languages"].values(), *planned["buckets"].values()]) == phase["tokens"]
        assert state["tokens"] == pytest.approx(phase["tokens"], rel=0.02)
        assert state["total"]["tokens"] == parent["total"]["tokens"] + state["tokens"]
        for folder, read in state["streams"].items():
            assert read >= parent["streams"].get(folder, 0)
        assert set(state) >= {"tokens", "steps", "languages", "buckets", "total"}
        assert (artifacts / "train" / name / "optimizer.safetensors").exists()
        heldout = manifest["facts"]["heldout"]
        assert heldout[-1][1] < heldout[0][1] + 0.5
        config = read_json(artifacts / "train" / name / "config.json")
        assert config["max_position_embeddings"] == phase["context"]
    first = read_json(artifacts / "train" / "pretrain" / "manifest.json")["facts"]["heldout"]
    assert first[0][1] == pytest.approx(math.log(1024), abs=0.15)
    assert first[-1][1] < first[0][1] - 0.5


def test_scores_follow_the_contract(artifacts: Path):
    scores = read_json(artifacts / "evaluate" / "merge" / "scores.json")
    keys = {
        "model",
        "digest",
        "task",
        "split",
        "language",
        "tier",
        "metric",
        "mean",
        "low",
        "high",
        "n",
        "seeds",
        "status",
        "reason",
    }
    assert scores["schema"] == 1
    for row in scores["rows"]:
        assert set(row) == keys
        assert row["status"] in {"ok", "skipped"}
        if row["status"] == "ok":
            assert row["low"] <= row["mean"] + 1e-9
            assert row["mean"] <= row["high"] + 1e-9
    tiers = {r["tier"] for r in scores["rows"] if r["status"] == "ok"}
    assert tiers == {"high", "middle", "tail", "all"}
    retrieval = [
        r for r in scores["rows"] if r["task"] == "retrieval" and r["language"] == "fao_Latn" and r["metric"] == "accuracy"
    ]
    assert len(retrieval) == 1
    assert retrieval[0]["n"] == 5


def test_bits_per_byte_of_a_uniform_model_is_what_it_must_be(artifacts: Path):
    """The definition by hand on one language: a model that knows nothing pays log2(V) bits for each masked token."""
    from mmenc.evaluate.intrinsic import language_rows
    from mmenc.evaluate.score import Scores
    from mmenc.recipe import parse

    test = open_split(artifacts / "tokenize", "test")
    first, last = test.ranges["eng_Latn"]
    target_M = test.document(first)[1:-1].astype(np.int64)
    n = len(target_M)
    sizes = token_bytes(load(artifacts / "tokenizer"))
    nothing = np.zeros(n, dtype=np.int64)
    scores = Scores(np.full(n, first), target_M, np.full(n, math.log(1024)), nothing, size_M=sizes[target_M].astype(float))
    settings = parse(tiny_recipe()).evaluate
    rows, _ = language_rows("m", "", scores, {"eng_Latn": (first, last)}, {"eng_Latn": "high"}, settings)
    bits = next(r["mean"] for r in rows if r["metric"] == "bits_per_byte")
    assert bits == pytest.approx(10 * n / sizes[target_M].sum(), abs=1e-5)


def test_lineage_reaches_every_raw_file(finished: Path, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    assert main(["lineage", "artifacts/release", "--json", "--verify"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["root"] in data["nodes"]
    raw = sorted(str(p.relative_to(finished / "data")) for p in (finished / "data").rglob("*.jsonl"))
    assert sorted(s["path"] for s in data["sources"]) == raw
    assert set(data["sources"][0]) == {"path", "language", "sha256", "bytes", "documents", "source", "license"}
    assert {n["step"] for n in data["nodes"].values()} == {
        "ingest", "clean", "validate", "tokenizer", "tokenize", "init", "mixture", "train", "merge", "evaluate", "release",
    }  # fmt: skip
    assert main(["lineage", "artifacts/release"]) == 0
    assert "eng_Latn/udhr.jsonl" in capsys.readouterr().out


def test_lineage_names_what_was_tampered_with(finished: Path, tmp_path: Path, monkeypatch, capsys):
    copy = shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(copy)
    path = copy / "data" / "fao_Latn" / "udhr.jsonl"
    path.write_text(path.read_text().replace("Øll", "Öll"))
    assert main(["lineage", "artifacts/release", "--verify"]) == 1
    assert "fao_Latn/udhr.jsonl: was changed since it was ingested" in capsys.readouterr().err
    (copy / "artifacts" / "train" / "extend" / "model.safetensors").write_bytes(b"no model")
    assert main(["lineage", "artifacts/release", "--verify", "--json"]) == 1
    assert any(b["path"].endswith("train/extend/model.safetensors") for b in json.loads(capsys.readouterr().out)["broken"])


def test_a_change_of_one_branch_leaves_the_others_alone(finished: Path, tmp_path: Path, monkeypatch):
    copy = shutil.copytree(finished, tmp_path / "copy")
    recipe = tiny_recipe()
    recipe["phases"]["decay-all"]["mask"] = 0.1
    write_recipe(copy, recipe)
    run_all(copy, monkeypatch, upto="release")
    before, after = contents(finished), contents(copy)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"mixture/decay-all", "train/decay-all", "merge", "evaluate/decay-all", "evaluate/merge", "release"}


def test_one_language_and_one_branch(corpus: Path, tmp_path: Path, monkeypatch):
    recipe = tiny_recipe()
    recipe["languages"] = {"own": "all"}
    recipe["ingest"]["languages"] = ["deu_Latn"]
    recipe["tokenizer"]["vocab_size"] = 512
    recipe["phases"] = {
        name: {**recipe["phases"][name], "languages": "own", "buckets": {}} for name in ("pretrain", "extend", "decay-all")
    }
    recipe["merge"]["branches"] = ["decay-all"]
    folder = workplace(tmp_path / "mono", corpus, recipe)
    run_all(folder, monkeypatch)
    assert list(read_json(folder / "artifacts" / "ingest" / "manifest.json")["facts"]["languages"]) == ["deu_Latn"]
    rows = read_json(folder / "artifacts" / "evaluate" / "merge" / "scores.json")["rows"]
    assert [r["reason"] for r in rows if r["task"] == "retrieval"] == [
        "fewer than two parallel test documents or languages with groups udhr/…"
    ]
    merged, branch = (Artifact.read(folder / "artifacts" / n).path / "model.safetensors" for n in ("merge", "train/decay-all"))
    assert merged.read_bytes() == branch.read_bytes()
