"""`mmenc evaluate`: ours and foreign models side by side, with the very figures of the pipeline's own step."""

from __future__ import annotations

import csv
import json
import re
import string
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
import transformers

from mmenc.cli import main
from tests.pipeline import TINY_LANGUAGES
from tests.unit.test_evaluate_models import SIZES, word_pieces


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    """A small BERT whose lower-casing tokenizer knows the Latin script only."""
    folder = tmp_path_factory.mktemp("hub") / "latin-bert"
    folder.mkdir()
    size = len(word_pieces(folder, ["the quick brown fox jumps over the lazy dog äöüß „“”’–…", string.printable] * 3))
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=size, **SIZES, max_position_embeddings=64)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """An encoder without a masked-LM head."""
    folder = tmp_path_factory.mktemp("hub") / "bare"
    folder.mkdir()
    config = transformers.BertConfig(vocab_size=len(word_pieces(folder)), **SIZES)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def evaluated(finished: Path, bert: Path, bare: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "side"
    models = ["artifacts/release", "untrained=artifacts/train/init", str(bert), str(bare)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished)
        assert main(["evaluate", *models, "--suite", "intrinsic", "--out", str(out)]) == 0
    return out


def rows_of(folder: Path) -> list[dict]:
    found = json.loads((folder / "scores.json").read_text())
    assert found["schema"] == 1
    return found["rows"]


def test_our_model_has_the_figures_of_the_step(evaluated: Path, finished: Path):
    step = {
        (r["task"], r["metric"], r["language"], r["tier"]): r
        for r in rows_of(finished / "artifacts/evaluate/merge")
        if r["model"] == "merge"
    }
    mine = [r for r in rows_of(evaluated) if r["model"] == "mmenc-laptop"]
    assert len(mine) == len(step)
    for r in mine:
        other = step[r["task"], r["metric"], r["language"], r["tier"]]
        keys = set(r) - {"model", "digest"}
        assert {k: r[k] for k in keys} == {k: other[k] for k in keys}
    hits, theirs = (
        np.load(p) for p in (evaluated / "retrieval/mmenc-laptop.npz", finished / "artifacts/evaluate/merge/retrieval.npz")
    )
    assert set(hits) == {"languages", "groups", "accuracy", "accuracy_centred"}
    assert all((hits[k] == theirs[k]).all() for k in hits)


def test_models_without_a_figure_are_skipped_with_the_reason_and_part_of_no_mean(evaluated: Path):
    rows = rows_of(evaluated)
    bare = [r for r in rows if (r["model"], r["task"]) == ("bare", "mlm")]
    assert {(r["status"], r["reason"]) for r in bare} == {("skipped", "no masked-LM head: its config.json names BertModel")}
    assert {r["language"] for r in bare} == set(TINY_LANGUAGES)
    assert {r["mean"] for r in bare} == {""}
    latin = {r["language"]: r for r in rows if (r["model"], r["task"]) == ("latin-bert", "mlm") and r["language"]}
    assert re.fullmatch(r"\d+ % of the text is unknown to its tokenizer", latin["ell_Grek"]["reason"])
    assert latin["deu_Latn"]["status"] == "ok"
    mean = next(
        r for r in rows if (r["model"], r["metric"], r["language"], r["tier"]) == ("latin-bert", "bits_per_byte", "", "all")
    )
    measured = [r["mean"] for r in rows if (r["model"], r["metric"]) == ("latin-bert", "bits_per_byte") and r["language"]]
    assert mean["n"] == len(measured) < len(TINY_LANGUAGES)
    assert mean["mean"] == pytest.approx(np.mean(measured), abs=1e-5)


def test_untrained_weights_are_worse_than_trained_ones_and_at_chance(evaluated: Path):
    every = [r for r in rows_of(evaluated) if (r["task"], r["language"], r["tier"]) == ("mlm", "", "all")]
    total = {(r["model"], r["metric"]): r["mean"] for r in every}
    assert total["untrained", "loss"] == pytest.approx(np.log(1024), abs=0.2)
    assert total["untrained", "accuracy"] < 0.02
    assert total["mmenc-laptop", "bits_per_byte"] < total["untrained", "bits_per_byte"] - 0.5


def test_the_files_are_whole_and_the_page_opens_offline(evaluated: Path):
    with (evaluated / "scores.csv").open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    rows = rows_of(evaluated)
    assert [{k: str(v) for k, v in r.items()} for r in rows] == table
    page = (evaluated / "comparison.html").read_text(encoding="utf-8")
    ET.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    assert not re.search(r"""(src|href)=["'](?!#)""", page)
    text = re.sub(r"<[^>]+>", " ", page)
    for words in ("its tokenizer drops case and accents", "no masked-LM head", "Wins and losses by language", "★", "untrained"):
        assert words in text, words
    assert re.search(r"untrained minus mmenc-laptop.*?worse; wins 0, loses \d", text, re.DOTALL)
    assert not re.search(r"/(tmp|home|root)/", page)


def test_a_folder_of_one_s_own_text_and_pseudo_perplexity(finished: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    recipe = json.loads((finished / "params.yaml").read_text())
    recipe["evaluate"] |= {"pseudo_perplexity": 2, "retrieval_group": "g"}
    (finished / "own.yaml").write_text(json.dumps(recipe))
    for tag, texts in {"eng_Latn": ["All are born free and equal.", "They are endowed with reason."], "deu_Latn": None}.items():
        texts = texts or ["Alle Menschen sind frei und gleich.", "Sie sind mit Vernunft begabt."]  # noqa: PLW2901
        (tmp_path / "own" / tag).mkdir(parents=True)
        lines = [json.dumps({"text": t, "group": f"g/{i}"}) for i, t in enumerate(texts)]
        (tmp_path / "own" / tag / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "own/fao_Latn").mkdir()
    (tmp_path / "own/fao_Latn/a.txt").write_text("Øll menniskju eru fødd fræls.\n\nÞau hava skil.")
    words = ["evaluate", "artifacts/merge", "--params", "own.yaml", "--data", str(tmp_path / "own"), "--out", str(tmp_path / "o")]
    assert main(words) == 0
    assert "bits per byte" in capsys.readouterr().out
    rows = rows_of(tmp_path / "o")
    assert {r["model"] for r in rows} == {"merge"}
    assert {r["language"] for r in rows if r["metric"] == "perplexity"} == {"", "eng_Latn", "deu_Latn", "fao_Latn"}
    assert {r["language"] for r in rows if r["task"] == "retrieval"} == {"", "eng_Latn", "deu_Latn"}
    first = (tmp_path / "o/scores.json").read_bytes()
    assert main(words) == 0
    assert (tmp_path / "o/scores.json").read_bytes() == first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nobody/has-this-model"], "no such directory, and the hub does not give a model of that name"),
        (["artifacts/tokenizer"], "no config.json"),
        (["artifacts/release", "artifacts/release"], "two models are called mmenc-laptop; name one"),
        (["artifacts/release", "--data", "nowhere"], "nowhere: no such folder"),
        (["artifacts/release", "--data", "data/eng_Latn"], "holds no text; expected a recipe's artifacts"),
        (["artifacts/release", "--suite", "intrinsc"], "did you mean 'intrinsic'"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_leaves_nothing(words, message, finished: Path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["evaluate", *words, "--limit", "1", "--out", str(tmp_path / "o")]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.startswith("mmenc: ")
    assert "\n" not in error
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_things_is_not_replaced(finished: Path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["evaluate", "artifacts/release", "--out", str(tmp_path)]) == 1
    assert main(["evaluate", "artifacts/release", "--out", "artifacts/evaluate/merge"]) == 1
    assert "is an artifact of the pipeline" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
