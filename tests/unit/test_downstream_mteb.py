"""Contrastive training against sentence-transformers' own loss; mteb's tasks on local data in its own layout."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from mmenc.data.tokenizer import save_fast
from mmenc.downstream import contrastive
from mmenc.downstream.backbone import of_subject
from mmenc.downstream.bitext import pair_figures
from mmenc.downstream.options import Options
from mmenc.downstream.registry import Context
from mmenc.downstream.sources import Data
from mmenc.downstream.units import Units
from mmenc.errors import Refused
from mmenc.evaluate.models import Padded
from mmenc.sections import Evaluate
from tests.pipeline import REPO
from tests.small_encoder import small_encoder

TATOEBA = REPO.parent / "shared/data/eval/tatoeba"
# Real sentence pairs for where ../shared is not there: articles 1 and 2 of the Universal Declaration of Human Rights.
GERMAN = [
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "Sie sind mit Vernunft und Gewissen begabt.",
    "Jeder hat Anspruch auf die in dieser Erklärung verkündeten Rechte.",
    "Jeder hat das Recht auf Leben, Freiheit und Sicherheit der Person.",
]
ENGLISH = [
    "All human beings are born free and equal in dignity and rights.",
    "They are endowed with reason and conscience.",
    "Everyone is entitled to all the rights set forth in this Declaration.",
    "Everyone has the right to life, liberty and security of person.",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ours") / "small"


@pytest.fixture(scope="module")
def subject(folder: Path):
    return small_encoder(folder, [*GERMAN, *ENGLISH])


def context(subject, root: Path, **options) -> Context:
    units = Units(root / "units")
    backbone = of_subject(subject, False)
    return Context(
        subject, backbone, Data(root), units, Options(**options), Evaluate(bootstrap=50), lambda t: "", lambda a, n: None
    )


def triplets(n: int = 12) -> list[tuple[str, ...]]:
    words = [f"word{chr(97 + i)}" for i in range(n)]
    return [(f"what is {words[i]}", f"{words[i]} is number {i}", f"nothing about {words[(i + 5) % n]} {i}") for i in range(n)]


def test_loss_and_gradients_are_those_of_sentence_transformers():
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    torch.manual_seed(0)
    x_KBD = torch.randn(3, 7, 16, requires_grad=True)
    mine = contrastive.ranking_loss(x_KBD)
    (grad,) = torch.autograd.grad(mine, x_KBD)
    theirs = losses.CachedMultipleNegativesRankingLoss(torch.nn.Sequential(torch.nn.Identity()), scale=contrastive.SCALE)
    y_KBD = x_KBD.detach().clone().requires_grad_(True)
    loss = theirs.calculate_loss([[y_KBD[k]] for k in range(3)], with_backward=False)
    (other,) = torch.autograd.grad(loss, y_KBD)
    assert float(mine) == pytest.approx(float(loss), abs=1e-5)
    assert torch.allclose(grad, other, atol=1e-6)


def test_cached_gradients_are_those_of_the_whole_batch(subject):
    backbone = of_subject(subject, False)
    rows_KB = [[backbone.texts.text(t) for t in column] for column in zip(*triplets(6), strict=True)]
    whole, cached = backbone.fresh(), backbone.fresh()
    x_SD = contrastive.embed_rows(whole, [r for rows in rows_KB for r in rows])
    loss = contrastive.ranking_loss(x_SD.view(3, 6, -1))
    loss.backward()
    found = contrastive.cached_backward(cached, rows_KB, mini=4)
    assert found == pytest.approx(float(loss.detach()), rel=1e-5)
    for a, b in zip(whole.parameters(), cached.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-5)


def test_no_text_twice_in_a_batch_and_nothing_lost():
    twice = [("q", f"p{i}", f"n{i}") for i in range(4)] + [(f"q{i}", f"p{i}", "n") for i in range(9, 15)]
    found = contrastive.batches(twice, 4, 0)
    assert sorted(i for b in found for i in b) == list(range(len(twice)))
    for b in found:
        texts = [t for i in b for t in twice[i]]
        assert len(texts) == len(set(texts))
    assert contrastive.batches(twice, 4, 0) == found != contrastive.batches(twice, 4, 1)
    assert [contrastive.batch_size(n) for n in (10, 400, 1_250_000)] == [2, 20, 1024]


def test_training_lowers_the_loss_and_repeats(subject):
    backbone, many = of_subject(subject, False), triplets(18)
    first = contrastive.train(backbone, many, 0, rate=3e-3)
    again = contrastive.train(backbone, many, 0, rate=3e-3)
    assert first.losses == again.losses
    assert len(first.losses) == 9
    assert np.allclose(first.embed(["what is wordb"]), again.embed(["what is wordb"]))
    before, after = (
        contrastive.ranking_loss(torch.from_numpy(np.stack([embed([t[k] for t in many]) for k in range(3)])))
        for embed in (subject.embed, first.embed)
    )
    assert float(after) < float(before)


@pytest.mark.parametrize("engine", ["packed", "transformers"])
def test_what_was_trained_is_kept_and_loads_elsewhere(folder, subject, tmp_path: Path, monkeypatch, engine: str):
    from transformers import AutoModel, AutoTokenizer

    from mmenc.downstream import mteb as ours

    if engine == "transformers":
        (tmp_path / "plain").mkdir()
        save_fast(subject.words.tokenizer, tmp_path / "plain")
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(folder / name, tmp_path / "plain" / name)
        subject = Padded("small", subject.digest, tmp_path / "plain", torch.device("cpu"), False)
    kept = replace(context(subject, tmp_path), keep=tmp_path / "sentences")
    monkeypatch.setattr(ours, "train", partial(contrastive.train, rate=3e-3))
    texts = ["what is wordb", "Alle Menschen sind frei"]
    mine = ours.trained(kept, triplets(18))(texts)
    assert ours.trained(kept, triplets(18))(texts) == pytest.approx(mine), "MTEB and CoIR share it"
    assert not np.allclose(mine, subject.embed(texts), atol=1e-3)
    made = tmp_path / "sentences" / "small"
    tokenizer, model = AutoTokenizer.from_pretrained(made), AutoModel.from_pretrained(made)
    with torch.no_grad():
        for text, x_D in zip(texts, mine, strict=True):
            found = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).last_hidden_state[0].mean(0)
            assert np.allclose(found.numpy(), x_D, atol=1e-4)
    library = pytest.importorskip("sentence_transformers")
    assert np.allclose(library.SentenceTransformer(str(made)).encode(texts), mine, atol=1e-4)


def test_triplets_are_trained_once_for_both_suites_and_kept_through_a_kill(subject, mirror: Path, monkeypatch):
    mteb = pytest.importorskip("mteb")
    from mmenc.downstream import mteb as ours

    (mirror / "triplets").mkdir()
    rows = [json.dumps(dict(zip(("query", "positive", "negative"), t, strict=True))) for t in triplets(18)]
    (mirror / "triplets" / "a.jsonl").write_text("\n".join(rows) + "\n")
    made = []
    monkeypatch.setattr(ours, "train", lambda *args, **more: (made.append(1), contrastive.train(*args, **more))[1])
    task = mteb.get_task("Tatoeba", hf_subsets=["nld-eng"])
    monkeypatch.setattr(mteb, "get_benchmark", lambda name: type("B", (), {"tasks": [task]}))
    ctx = replace(context(subject, mirror), keep=mirror / "sentences")
    found = [*ours.measure(ctx, {"mteb-eng": "x"}), *ours.coir_rows(ctx)]
    assert made == [1]
    assert {r["task"] for r in found if r["status"] == "ok"} >= {"mteb-eng/Tatoeba", "coir/Tatoeba"}
    assert {r["reason"] for r in found if r["status"] == "ok"} == {"trained on 18 triplets, learning rate 0.0001"}
    assert (mirror / "sentences" / "small" / "modules.json").is_file()
    again = replace(context(subject, mirror), keep=mirror / "sentences")
    assert [*ours.measure(again, {"mteb-eng": "x"}), *ours.coir_rows(again)] == found
    assert made == [1], "all from units: nothing is trained, what was kept stays"
    (mirror / "triplets" / "a.jsonl").write_text("\n".join(rows[:3]) + "\n")
    with pytest.raises(Refused, match="found 3 lines, expected four or more"):
        ours.coir_rows(context(subject, mirror))


def test_triplets_that_share_a_text_are_refused(subject):
    with pytest.raises(Refused, match="all 4 share a text"):
        contrastive.train(of_subject(subject, False), [("the same", f"p{i}", f"n{i}") for i in range(4)], 0)


def test_triplets_are_read_or_refused(tmp_path: Path):
    folder = tmp_path / "triplets"
    folder.mkdir()
    keys = ("query", "positive", "negative")
    (folder / "a.jsonl").write_text("".join(json.dumps(dict(zip(keys, t, strict=True))) + "\n" for t in triplets(3)))
    assert contrastive.read_triplets(Data(tmp_path)) == triplets(3)
    assert contrastive.read_triplets(Data(tmp_path), 2) == triplets(3)[:2]
    assert contrastive.read_triplets(Data(folder / "nothing")) == []
    (folder / "a.jsonl").write_text('{"query": "x"}\n')
    with pytest.raises(Refused, match="keys query, positive"):
        contrastive.read_triplets(Data(tmp_path))


def pairs() -> tuple[list[str], list[str]]:
    if not TATOEBA.is_dir():
        return GERMAN, ENGLISH
    from mmenc.downstream.bitext import find_pairs

    here, there = next(p for p in find_pairs(TATOEBA) if p.code == "nld").read(Data(TATOEBA))
    return here[:60], there[:60]


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A copy of a data set of the hub as `git clone` makes it: mteb's Tatoeba, with one pair of languages."""
    folder = tmp_path / "mteb" / "tatoeba-bitext-mining" / "data"
    folder.mkdir(parents=True)
    rows = [{"sentence1": a, "sentence2": b, "lang": "nld-eng"} for a, b in zip(*pairs(), strict=True)]
    (folder / "test.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return tmp_path


def test_a_task_of_mteb_on_a_local_copy_has_our_figure(subject, mirror: Path):
    mteb = pytest.importorskip("mteb")
    from mmenc.downstream import mteb as ours

    task = mteb.get_task("Tatoeba", hf_subsets=["nld-eng"])
    ctx = context(subject, mirror)
    with ours.network(False) as off:
        (row,) = ours.score(ctx, "mteb-multilingual", [task], lambda: subject.embed, {"model": subject.digest}, off)
        assert (row["status"], row["metric"], row["task"]) == ("ok", "f1", "mteb-multilingual/Tatoeba")
        found = ours.run_task(ours.encoder("m", "0" * 64, subject.embed), ours.localised(task, ctx.data))
    assert found["score"] == pytest.approx(row["mean"], abs=1e-6)
    assert row["mean"] <= pair_figures(subject, pairs())["accuracy_to_pivot"].mean() + 1e-6  # f1 over predicted sentences
    asked_again = ours.score(ctx, "mteb-multilingual", [task], None, {"model": subject.digest}, lambda: None)
    assert asked_again == [row]  # from the unit: nothing is embedded


def test_what_cannot_be_had_is_skipped_and_so_is_the_average(subject, tmp_path: Path, monkeypatch):
    mteb = pytest.importorskip("mteb")
    from mmenc.downstream import mteb as ours

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    tasks = mteb.get_tasks(tasks=["STS12", "STS13", "Banking77Classification"])
    monkeypatch.setattr(mteb, "get_benchmark", lambda name: type("B", (), {"tasks": tasks}))
    rows = ours.measure(context(subject, tmp_path), {"mteb-eng": "MTEB(eng, v2)"})
    assert {r["status"] for r in rows} == {"skipped"}
    assert {r["task"] for r in rows} == {"mteb-eng/as-is"} | {f"mteb-eng/as-is/{t.metadata.name}" for t in tasks}
    reasons = {r["task"]: r["reason"] for r in rows}
    assert "Hub" in reasons["mteb-eng/as-is/STS12"]
    assert any("0 of 2 types" in r["reason"] for r in rows)


def test_averages_are_those_of_the_paper(subject, tmp_path: Path):
    from mmenc.downstream import mteb as ours
    from mmenc.evaluate.rows import row

    rows = [
        row("m", "", f"x/{i}", "", kind, "s", (v, v, v), 1)
        for i, (kind, v) in enumerate([("STS", 0.2), ("STS", 0.4), ("Retrieval", 0.9)])
    ]
    ctx = context(subject, tmp_path)
    typed = {r["metric"]: r["mean"] for r in ours.totals(ctx, "x", rows, typed=True)}
    assert typed == {"average": pytest.approx(0.6), "STS": pytest.approx(0.3), "Retrieval": pytest.approx(0.9)}
    assert ours.totals(ctx, "x", rows, typed=False)[0]["mean"] == pytest.approx(0.5)


def test_without_the_library_the_row_says_how_to_get_it(subject, tmp_path: Path, monkeypatch):
    from mmenc.downstream import mteb as ours

    monkeypatch.setattr(ours.importlib.util, "find_spec", lambda name: None)
    (row,) = ours.coir_rows(context(subject, tmp_path))
    assert row["status"] == "skipped"
    assert "mmenc[mteb]" in row["reason"]
