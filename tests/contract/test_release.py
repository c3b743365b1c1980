"""A release of the tiny run: its gates, its card as others read it, the last release, and both optional loaders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from mmenc.artifact import Artifact, read_json, sha256_file, write_json
from mmenc.cli import main
from tests.pipeline import commands, run_stage, tiny_recipe, write_recipe


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, in which a release can be made anew."""
    for name in ("merge", "tokenizer", "tokenize", "validate", "evaluate"):
        shutil.copytree(finished / "artifacts" / name, tmp_path / "artifacts" / name)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(finished / name, tmp_path / name)
    return tmp_path


def make(place: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> int:
    recipe = tiny_recipe()
    recipe["release"] |= settings
    write_recipe(place, recipe)
    return run_stage(place, commands(place)["release"], monkeypatch)


def test_every_gate_stands_in_the_facts_and_in_the_card(finished):
    folder = finished / "artifacts" / "release"
    facts = read_json(folder / "manifest.json")["facts"]
    assert [g["name"] for g in facts["gates"]] == [
        "better than a unigram model",
        "tokens equal transformers'",
        "logits equal transformers'",
    ]
    assert all(g["ok"] and g["waived"] == [] for g in facts["gates"])
    none = "no language worse than the last release (none was named)"
    assert facts["not_checked"] == ["sentence-transformers", "ONNX Runtime", none]
    card = (folder / "README.md").read_text()
    assert all(g["name"] in card for g in facts["gates"])
    assert f"Not checked before this card was written: sentence-transformers, ONNX Runtime, {none}." in card
    assert (folder / "scores.json").read_bytes() == (finished / "artifacts/evaluate/merge/scores.json").read_bytes()


def test_the_card_is_the_hubs_own_format_and_comes_back(finished):
    card = ModelCard.load(finished / "artifacts" / "release" / "README.md")
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    assert (card.data.pipeline_tag, card.data.license, card.data.library_name) == ("fill-mask", "other", "transformers")
    assert card.data.language == ["de", "el", "en", "fo", "he", "zu"]
    scores = {
        (r["tier"], r["metric"]): r["mean"]
        for r in read_json(finished / "artifacts/evaluate/merge/scores.json")["rows"]
        if not r["language"] and r["model"] == "merge" and r["task"] == "mlm"
    }
    bits = {r.dataset_config: r.metric_value for r in card.data.eval_results if r.metric_type == "bits_per_byte"}
    assert bits == {tier: mean for (tier, metric), mean in scores.items() if metric == "bits_per_byte"}
    heads = "How to use,Evaluation,Limits and biases,Examples,Languages,Training data,Schedule,Merge,Gates,Waivers,Lineage"
    assert [line[3:] for line in card.text.splitlines() if line.startswith("## ")] == heads.split(",")
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(card.text)
    assert html.count("<table>") == 6
    assert html.count("<details>") == html.count("</details>") == 3
    digest = read_json(finished / "artifacts/evaluate/merge/manifest.json")["digest"]
    assert digest in card.text


def test_examples_come_from_the_tiers_in_turn_each_script_once(finished):
    found = read_json(finished / "artifacts/release/manifest.json")["facts"]["examples"]
    assert len({e["script"] for e in found}) == len(found) == 3  # Latn, Hebr, Grek
    assert found[0]["tier"] == "high"
    assert all(len(e["guesses"]) == 3 and e["language"].endswith(e["script"]) for e in found)


def test_both_optional_loaders_agree_with_ours(place, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    assert make(place, monkeypatch, onnx=True, sentence_transformers=True) == 0
    folder = place / "artifacts" / "release"
    facts = read_json(folder / "manifest.json")["facts"]
    gates = {g["name"]: g for g in facts["gates"]}
    assert facts["not_checked"] == ["no language worse than the last release (none was named)"]
    for name in ("embeddings equal sentence-transformers'", "logits equal ONNX Runtime's"):
        assert 0 <= gates[name]["found"] < gates[name]["limit"] == 1e-4
    # What the card says to do, for lengths and a batch that the export never saw.
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    batch = AutoTokenizer.from_pretrained(folder)(
        ["All human beings", "Øll menniskju eru fødd fræls og jøvn til virðing"], padding=True
    )
    arrays = {k: np.array(batch[k]) for k in ("input_ids", "attention_mask")}
    session = onnxruntime.InferenceSession(str(folder / "onnx" / "model.onnx"))
    logits = session.run(["logits"], arrays)[0]
    import torch

    expected = AutoModelForMaskedLM.from_pretrained(folder)(**{k: torch.tensor(v) for k, v in arrays.items()}).logits
    inside = arrays["attention_mask"].astype(bool)
    assert np.abs(logits - expected.detach().numpy())[inside].max() < 1e-4
    assert str(place).encode() not in (folder / "onnx" / "model.onnx").read_bytes()
    assert b"site-packages" not in (folder / "onnx" / "model.onnx").read_bytes()
    # Equal requests give equal bytes, the export included.
    first = Artifact.read(folder).manifest.content
    shutil.rmtree(folder)
    assert make(place, monkeypatch, onnx=True, sentence_transformers=True) == 0
    assert Artifact.read(folder).manifest.content == first


def test_the_last_release_bars_a_worse_one_until_it_is_waived(place, finished, monkeypatch, capsys):
    last = shutil.copytree(finished / "artifacts" / "release", place / "last")
    assert make(place, monkeypatch, previous="last") == 0
    manifest = read_json(place / "artifacts/release/manifest.json")
    assert [i["path"] for i in manifest["inputs"]] == ["scores.json", "manifest.json"]
    assert any(g["name"].startswith("no language worse than in mmenc-laptop") for g in manifest["facts"]["gates"])
    # The last release, had it been much better in one language.
    scores, manifest_of_last = read_json(last / "scores.json"), read_json(last / "manifest.json")
    for r in scores["rows"]:
        if r["digest"] and r["language"] == "fao_Latn" and r["metric"] == "bits_per_byte":
            r |= {k: r[k] / 2 for k in ("mean", "low", "high")}
    (last / "scores.json").chmod(0o644)
    write_json(last / "scores.json", scores)
    (last / "manifest.json").chmod(0o644)
    files = manifest_of_last["files"] | {"scores.json": sha256_file(last / "scores.json")}
    write_json(last / "manifest.json", {**manifest_of_last, "files": files})
    before = Artifact.read(place / "artifacts" / "release").manifest.digest
    assert make(place, monkeypatch, previous="last") == 1
    told = capsys.readouterr().err
    assert "release: fao_Latn has" in told
    assert "give the reason in release.waivers" in told
    assert Artifact.read(place / "artifacts" / "release").manifest.digest == before
    waiver = {"language": "fao_Latn", "metric": "bits_per_byte", "reason": "the last one was scored in a dream"}
    assert make(place, monkeypatch, previous="last", waivers=[waiver]) == 0
    card = (place / "artifacts" / "release" / "README.md").read_text()
    assert "Waived: the last one was scored in a dream" in card
    assert "| passed, waived |" in card


def test_a_missing_library_is_a_sentence_not_a_pass(place, monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert make(place, monkeypatch, onnx=True) == 1
    assert "pip install 'mmenc[onnx]'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    assert make(place, monkeypatch, sentence_transformers=True) == 1
    assert "pip install 'mmenc[eval]'" in capsys.readouterr().err
    assert not (place / "artifacts" / "release").exists()


def test_a_pod_has_no_local_last_release(tmp_path, capsys):
    recipe = tiny_recipe()
    recipe["release"]["previous"] = "artifacts/last"
    write_recipe(tmp_path, recipe)
    assert main(["compile", "--params", str(tmp_path / "params.yaml"), "--out", str(tmp_path / "p.yaml")]) == 1
    assert "which no pod has; expected s3://bucket/prefix" in capsys.readouterr().err
    assert json.loads((tmp_path / "params.yaml").read_text())["release"]["previous"]
