"""Tokenizer and tokenize at scale: content depends neither on processes nor on the library; every kind of vocabulary; growth."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from mmenc.artifact import Artifact, read_json
from mmenc.cli import main
from mmenc.data import encoders, stream
from mmenc.data.tokenizer import load
from mmenc.data.tokens import open_split
from tests.kinds import gemma_style, saved
from tests.pipeline import REPO, run_all, tiny_recipe, write_recipe

STEPS = ("tokenizer", "tokenize")


def run(folder: Path, step: str, monkeypatch, out: str = "") -> str:
    """Run one step of a folder; its content."""
    roles = ["clean=artifacts/clean", "validate=artifacts/validate"]
    if step == "tokenize":
        roles.append(f"tokenizer=artifacts/tokenizer{out}")
    monkeypatch.chdir(folder)
    assert main(["run", step, "--out", f"artifacts/{step}{out}", *roles]) == 0
    return Artifact.read(folder / f"artifacts/{step}{out}").manifest.content


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Path:
    """A folder with the clean text of the finished run."""
    for name in ("clean", "validate"):
        shutil.copytree(finished / "artifacts" / name, tmp_path / "artifacts" / name)
    write_recipe(tmp_path, tiny_recipe())
    return tmp_path


def test_content_is_the_same_for_any_number_of_parts_and_processes_and_any_library(place, finished, monkeypatch):
    expected = {s: Artifact.read(finished / "artifacts" / s).manifest for s in STEPS}
    monkeypatch.setattr(stream, "BUNDLE_BYTES", 8_000)
    assert len(stream.bundles(place / "artifacts/clean")) > 3
    recipe = tiny_recipe()
    for threads in (1, 2):
        recipe["compute"]["threads"] = threads
        write_recipe(place, recipe)
        for step in STEPS:
            shutil.rmtree(place / "artifacts" / step, ignore_errors=True)
            assert run(place, step, monkeypatch) == expected[step].content, (step, threads)
            assert Artifact.read(place / "artifacts" / step).manifest.facts == expected[step].facts
    used = read_json(place / "artifacts/.runs" / expected["tokenize"].digest / "run.json")["measured"]["tokenize"]
    assert list(used["libraries"]) == [f"fastokens {encoders.version('fastokens')}"]
    recipe["compute"]["threads"] = 1
    write_recipe(place, recipe)
    monkeypatch.setattr(encoders, "candidates", lambda _: [])
    shutil.rmtree(place / "artifacts/tokenize")
    assert run(place, "tokenize", monkeypatch) == expected["tokenize"].content
    used = read_json(place / "artifacts/.runs" / expected["tokenize"].digest / "run.json")["measured"]["tokenize"]
    assert list(used["libraries"]) == [f"tokenizers {encoders.version('tokenizers')}"]


def test_a_text_that_spells_special_tokens_is_text_in_the_shards(place, monkeypatch):
    from mmenc.data.shards import read_documents, shard_paths, write_documents

    path = shard_paths(place / "artifacts/clean", "eng_Latn")[0]
    documents = list(read_documents(path))
    for d in documents:
        d["text"] = "<mask> <eos>\u2028<pad> " + d["text"]
    documents[0]["id"] = "a\u2028b"
    bundle = [("eng_Latn", [place / "x.jsonl.zst"])]
    write_documents(bundle[0][1][0], documents)
    tokenizer = saved(gemma_style(), place / "words")
    for library in ("fastest", "tokenizers"):
        encoder, _ = encoders.prove(tokenizer, library, bundle)
        flat, _ = encoder.encode([d["text"] for d in documents])
        assert flat.min() >= 5


@pytest.mark.parametrize("change", [{"kind": "unigram"}, {"prefix_space": True}])
def test_other_vocabularies_run_through_both_steps(place, monkeypatch, change):
    recipe = tiny_recipe()
    recipe["tokenizer"] |= change
    write_recipe(place, recipe)
    for step in STEPS:
        run(place, step, monkeypatch)
    facts = Artifact.read(place / "artifacts/tokenizer").manifest.facts
    assert facts["kind"] == ("Unigram" if "kind" in change else "BPE")
    assert load(place / "artifacts/tokenizer").get_vocab_size() == 1024
    train = open_split(place / "artifacts/tokenize", "train")
    assert int(train.offsets[-1]) == len(train.flat)
    assert all(r["bytes_per_token"] > 1.3 for r in facts["languages"].values())


def test_a_gemma_style_tokenizer_is_adopted_compared_and_measured(place, finished, monkeypatch):
    texts = [json.loads(line)["text"] for f in sorted((finished / "data").rglob("*.jsonl")) for line in f.open(encoding="utf-8")]
    saved(gemma_style(1_500, texts), place / "models/theirs")
    recipe = tiny_recipe()
    recipe["tokenizer"] |= {
        "source": "models/theirs",
        "vocab_size": 1_500,
        "compare": str(finished / "artifacts/tokenizer/tokenizer.json"),
    }
    write_recipe(place, recipe)
    for step in STEPS:
        run(place, step, monkeypatch)
    manifest = Artifact.read(place / "artifacts/tokenizer").manifest
    assert [i["path"] for i in manifest.inputs] == ["tokenizer.json", "tokenizer.compare/tokenizer.json"]
    rows = manifest.facts["languages"]
    assert all(0.3 < r["compared"] < 2 for r in rows.values())
    assert rows["eng_Latn"]["parity"] == 1.0
    assert rows["heb_Hebr"]["parity"] > 0.5
    assert all(r["exact_share"] == 1 for r in rows.values())
    assert len(manifest.facts["examples"]) == len(rows)
    recipe["tokenizer"]["vocab_size"] = 1_600
    write_recipe(place, recipe)
    assert main(["run", "tokenizer", "--out", "artifacts/t2", "clean=artifacts/clean", "validate=artifacts/validate"]) == 1


def test_the_gate_stops_the_step_and_a_waiver_lets_it_pass(place, monkeypatch, capsys):
    recipe = tiny_recipe()
    recipe["tokenizer"]["min_bytes_per_token"] = 50
    write_recipe(place, recipe)
    monkeypatch.chdir(place)
    command = ["run", "tokenizer", "--out", "artifacts/tokenizer", "clean=artifacts/clean", "validate=artifacts/validate"]
    assert main(command) == 1
    assert "tokenizer.min_bytes_per_token is 50 (5 more languages too" in capsys.readouterr().err
    assert not (place / "artifacts/tokenizer").exists()
    languages = [p.name for p in (place / "artifacts/clean/shards").iterdir()]
    recipe["tokenizer"]["waivers"] = [{"language": t, "reason": "only a test of the gate"} for t in languages]
    write_recipe(place, recipe)
    assert main(command) == 0
    assert len(Artifact.read(place / "artifacts/tokenizer").manifest.facts["waivers"]) == 6


ENTRIES = 256


def grown_recipe(language: str) -> dict:
    """The tiny recipe, starting from a release whose vocabulary grows with one language."""
    recipe = tiny_recipe()
    recipe["languages"] = {"high": [language], "middle": {"top": 2}, "tail": "all"}
    recipe["tokenizer"] |= {"source": "models/start", "vocab_size": 1024 + ENTRIES, "temperature": 1.0}
    recipe["tokenizer"]["extend"] = {"languages": [language], "entries": ENTRIES}
    recipe["model"]["source"] = "models/start"
    return recipe


def grown(folder: Path, release: Path, texts: dict[str, Path], monkeypatch) -> Path:
    """Extend the tokenizer of a release with the first of some languages, and the model with it."""
    for language, source in texts.items():
        shutil.copytree(source / language, folder / "data" / language)
    shutil.copytree(release, folder / "models/start")
    shutil.copytree(REPO / "expectations", folder / "expectations")
    write_recipe(folder, grown_recipe(next(iter(texts))))
    shutil.copy(REPO / "dvc.yaml", folder / "dvc.yaml")
    run_all(folder, monkeypatch, upto="init")
    return folder


def test_a_vocabulary_grows_with_a_new_script(finished, sample, tmp_path, monkeypatch):
    folder = grown(tmp_path, finished / "artifacts/release", {"kat_Geor": sample, "eng_Latn": finished / "data"}, monkeypatch)
    facts = Artifact.read(folder / "artifacts/tokenizer").manifest.facts
    old, new = load(folder / "models/start"), load(folder / "artifacts/tokenizer")
    assert (old.get_vocab_size(), new.get_vocab_size()) == (1024, 1024 + ENTRIES)
    assert facts["old_text"]["documents"] == facts["old_text"]["unchanged"] > 5
    assert facts["languages"]["kat_Geor"]["bytes_per_token"] > 3
    extension = read_json(folder / "artifacts/tokenizer/extended.json")
    before, after = (embeddings(folder / p) for p in ("models/start", "artifacts/train/init"))
    assert torch.equal(after[:1024], before)
    assert torch.allclose(after[1030], before[extension["pieces"][6]].mean(0))


def embeddings(folder: Path) -> torch.Tensor:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")["model.embeddings.tok_embeddings.weight"]
