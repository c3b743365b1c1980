"""`mmenc evaluate --suite …` on a tiny labelled set: rows, skips, resuming, the same figures twice, refusals."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import torch
import yaml

from mmenc.artifact import Artifact, Request
from mmenc.cli import main
from mmenc.downstream import runner
from mmenc.errors import Refused
from mmenc.evaluate.step import tuned_rows
from mmenc.job import Job
from mmenc.raw import raw_inputs
from mmenc.recipe import load
from mmenc.steps import find
from tests.unit.test_downstream import topics

KEYS = ("model", "digest", "task", "split", "language", "tier", "metric", "mean", "low", "high", "n", "seeds", "status", "reason")
NAMES = {"a": "travel", "b": "politics", "c": "sports"}
FAST = ["--seeds", "2", "--rates", "1e-3,3e-3", "--steps", "12"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """SIB-200 in two languages, one of them without training examples, and named entities."""
    root = tmp_path_factory.mktemp("labelled")
    for tag, parts in {"eng_Latn": {"train": 96, "dev": 24, "test": 40}, "ell_Grek": {"test": 40}}.items():
        (root / "sib200" / tag).mkdir(parents=True)
        for i, (part, n) in enumerate(parts.items()):
            rows = [f"{j}\t{NAMES[e.label]}\t{e.text}" for j, e in enumerate(topics(n, i))]
            text = "\n".join(["index_id\tcategory\ttext", *rows]) + "\n"
            (root / "sib200" / tag / f"{part}.tsv").write_text(text, encoding="utf-8")
    sentence = "Anna B-PER\nMaria I-PER\nlives O\nin O\nParis B-LOC\n. O\n\n"
    (root / "masakhaner2/data/yor").mkdir(parents=True)
    for part in ("train", "dev", "test"):
        (root / f"masakhaner2/data/yor/{part}.txt").write_text(sentence * 40)
    return root


def run(finished: Path, labelled: Path, out: Path, *more: str, models: tuple[str, ...] = ("artifacts/release",)) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished)
        return main(["evaluate", *models, "--data", str(labelled), "--out", str(out), *FAST, *more])


def rows_of(folder: Path) -> list[dict]:
    found = json.loads((folder / "scores.json").read_text())
    assert found["schema"] == 1
    assert all(set(r) == set(KEYS) for r in found["rows"])
    return found["rows"]


@pytest.fixture(scope="module")
def evaluated(finished: Path, labelled: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "side"
    models = ("artifacts/release", "untrained=artifacts/train/init")
    assert run(finished, labelled, out, "--suite", "sib200,masakhaner,udpos,glue", models=models) == 0
    return out


def test_rows_are_measured_with_seeds_and_intervals(evaluated: Path):
    rows = rows_of(evaluated)
    mine = {(r["task"], r["language"], r["metric"]): r for r in rows if r["model"] == "mmenc-laptop" and r["language"]}
    english = mine["sib200/zero-shot", "eng_Latn", "accuracy"]
    told = r"protocol full, seeds 2, rates 0\.001/0\.003, steps 12; learning rate 0\.00[13]"
    assert all(re.fullmatch(told, r["reason"]) for r in rows if r["status"] == "ok"), "averages and means too"
    assert (english["seeds"], english["n"], english["status"]) == (2, 40, "ok")
    assert 0 <= english["low"] < english["high"] <= 1
    assert ("sib200/zero-shot", "ell_Grek", "accuracy") in mine, "tested where there is nothing to train on"
    total = next(
        r for r in rows if (r["model"], r["task"], r["metric"], r["language"], r["tier"])
        == ("mmenc-laptop", "sib200/zero-shot", "accuracy", "", "all")
    )  # fmt: skip
    greek = mine["sib200/zero-shot", "ell_Grek", "accuracy"]
    assert total["n"] == 2
    assert total["mean"] == pytest.approx((english["mean"] + greek["mean"]) / 2, abs=1e-6)
    assert mine["masakhaner", "yor_Latn", "f1"]["n"] == 40
    with (evaluated / "scores.csv").open(newline="", encoding="utf-8") as stream:
        assert [{k: str(v) for k, v in r.items()} for r in rows] == list(csv.DictReader(stream))


def test_a_page_shows_the_models_side_by_side(evaluated: Path):
    text = (evaluated / "tasks.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=|@import|url\(", text), "it opens without a network"
    main = ET.fromstring(text.partition("\n")[2]).find(".//main")
    shown = {h.text: "".join(e.itertext()) for h, e in sections(main)}
    rows = rows_of(evaluated)
    for r in rows:
        if r["status"] == "ok" and r["tier"] == "all" and not r["language"]:
            interval = f"\u00a0[{100 * r['low']:.1f}, {100 * r['high']:.1f}]" if r["high"] > r["low"] else ""
            figure = f"{100 * r['mean']:.1f}{interval}"
            assert figure in shown["Means over languages"], figure
        elif r["status"] == "ok" and r["language"]:
            assert f"{100 * r['mean']:.1f}" in shown["By language"]
            assert r["language"] in shown["By language"]
        elif r["status"] == "skipped":
            assert r["reason"] in shown["Skipped"]
    assert "No glue/average: glue_average: no figures of cola, mnli" in shown["Averages over tasks"]
    assert all(name in shown["Seconds per task"] for name in ("sib200, zero-shot", "masakhaner, language"))
    assert "protocol full, seeds 2, rates 0.001/0.003, steps 12; learning rate" in shown["How they were made"]
    assert all(name in shown["The models"] for name in ("mmenc-laptop", "untrained"))


def sections(main: ET.Element):
    """Headings with all that stands below them."""
    heading, body = None, ET.Element("div")
    for element in main:
        if element.tag == "h2":
            if heading is not None:
                yield heading, body
            heading, body = element, ET.Element("div")
        body.append(element)
    yield heading, body


def test_missing_data_is_a_skipped_row_and_part_of_no_mean(evaluated: Path):
    skips = [r for r in rows_of(evaluated) if r["status"] == "skipped" and r["model"] == "untrained"]
    told = {r["task"]: r["reason"] for r in skips}
    assert told["udpos/zero-shot"] == "no folder udpos in --data"
    assert told["cola"].startswith("no folder glue or GLUE or glue_data in --data")
    assert told["glue/average"].startswith("glue_average: no figures of cola, mnli, mnli-mm, mrpc")
    assert {r["mean"] for r in skips} == {""}


def test_what_was_read_and_how_runs_went_is_kept(evaluated: Path):
    kept = json.loads((evaluated / "runs.json").read_text())
    assert {"path", "sha256"} == set(kept["inputs"][0])
    assert "sib200/eng_Latn/train.tsv" in [row["path"] for row in kept["inputs"]]
    runs = kept["runs"]["mmenc-laptop"]
    assert {(r["training"], r["seed"]) for r in runs} == {("sib200", 0), ("sib200", 1), ("masakhaner", 0), ("masakhaner", 1)}
    assert {r["rate"] for r in runs} <= {1e-3, 3e-3}
    assert list((evaluated / "units").glob("*.npz"))
    assert not list(evaluated.parent.glob(".*"))


def test_a_killed_evaluation_goes_on_and_gives_the_same(finished, labelled, evaluated, tmp_path, monkeypatch):
    made, real = [], runner.tune

    def tune(*args, **more):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(args[5])
        return real(*args, **more)

    out = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr(runner, "tune", tune)
        assert run(finished, labelled, out, "--suite", "sib200,masakhaner") == 75
    assert not out.exists()
    assert len(list((tmp_path / ".again.units").glob("*.npz"))) == 4, "two rates, two seeds"
    made[:] = []
    monkeypatch.setattr(runner, "tune", lambda *args, **more: (made.append(args[5]), real(*args, **more))[1])
    assert run(finished, labelled, out, "--suite", "sib200,masakhaner") == 0
    before, after = ([r for r in rows_of(f) if r["model"] == "mmenc-laptop" and r["status"] == "ok"] for f in (evaluated, out))
    assert before == after, "interrupted and not: the same figures"
    assert len(made) == 3, "the other task alone"
    made[:] = []
    assert run(finished, labelled, out, "--suite", "sib200,masakhaner") == 0
    assert made == [], "an evaluation over an earlier one takes its units"
    spent = json.loads((out / "runs.json").read_text())["seconds"]["mmenc-laptop"]
    assert spent.keys() == {"sib200, zero-shot", "masakhaner, language"}
    assert min(spent.values()) > 0, "time of the runs that were taken over"


def test_the_pipeline_s_step_takes_the_suites_from_the_recipe(finished: Path, labelled: Path, tmp_path: Path):
    text = yaml.safe_load((finished / "params.yaml").read_text())
    tuning = {"seeds": 1, "rates": [3e-3], "steps": 6}
    text.setdefault("evaluate", {}).update(suites=["intrinsic", "sib200"], task_data=str(labelled), tuning=tuning)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(text))
    recipe, step, root = load(tmp_path / "params.yaml"), find("evaluate"), finished / "artifacts"
    raw, files, _ = raw_inputs(step, recipe, {}, tmp_path)
    assert "evaluate.task_data/sib200/eng_Latn/train.tsv" in [row["path"] for row in files]
    assert all(len(row["sha256"]) == 64 for row in files)
    inputs = {"model": Artifact.read(root / "train/init"), "tokenizer": Artifact.read(root / "tokenizer")}
    request = Request("evaluate", "init", step.version, {}, (), tuple(files))
    job = Job(step, "init", recipe, inputs, raw, files, tmp_path / "out", tmp_path / "resume", request)
    rows = tuned_rows(job)
    assert job.measured["downstream"]["device"] == "cpu", "where it ran goes to the run's record"
    assert "cpu" not in json.dumps(rows)
    if not torch.cuda.is_available():
        elsewhere = recipe.model_copy(update={"compute": recipe.compute.model_copy(update={"device": "cuda"})})
        with pytest.raises(Refused, match=r"compute\.device: 'cuda' asked for"):
            tuned_rows(Job(step, "init", elsewhere, inputs, raw, files, tmp_path / "out", tmp_path / "other", request))
    assert {(r["model"], r["task"], r["seeds"]) for r in rows} == {("init", "sib200/zero-shot", 1)}
    assert list((tmp_path / "resume/units").glob("*.npz"))
    default = load(finished / "params.yaml")
    assert raw_inputs(step, default, {}, tmp_path)[1] == []
    assert tuned_rows(Job(step, "init", default, inputs, {}, [], tmp_path, tmp_path / "none", request)) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "sib20"], "no suite is called 'sib20'; did you mean 'sib200'?"),
        (["--suite", "sib200", "--rates", "fast"], "--rates: found 'fast'"),
        (["--suite", "sib200", "--modes", "zeroshot"], "did you mean 'zero-shot'?"),
    ],
)
def test_refusals(finished: Path, labelled: Path, tmp_path: Path, capsys, words: list[str], message: str):
    assert run(finished, labelled, tmp_path / "no", *words) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
