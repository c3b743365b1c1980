"""`mmenc forget`: what it says of a document is what the steps really did, and its plan is what then happens."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from mmenc.artifact import Manifest, read_json
from mmenc.cli import main
from mmenc.data import tokenizer as tokenizer_step
from mmenc.data.shards import read_documents, shard_paths
from mmenc.data.tokens import open_split
from mmenc.sections import Phase
from mmenc.train.batches import Batches, Place, make_streams
from tests.pipeline import commands, run_stage, write_recipe

IDS = ["udhr/fao/01", "udhr/eng/01", "udhr/fao/02", "udhr/deu_1996/02"]


@pytest.fixture(scope="module")
def asked(finished: Path) -> dict:
    return ask(finished, *IDS)


def ask(folder: Path, *words: str) -> dict:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert (
            main(["forget", *words, "--artifacts", str(folder / "artifacts"), "--params", str(folder / "params.yaml"), "--json"])
            == 0
        )
    return json.loads(out.getvalue())


def holds(data: dict) -> dict[str, str]:
    return {a["artifact"]: a["holds"] for a in data["artifacts"]}


def test_it_is_found_from_raw_shard_to_release(asked: dict, finished: Path):
    found = {d["id"]: d for d in asked["documents"]}
    assert set(found) == {*IDS}
    for d in asked["documents"]:
        row = list(read_documents(finished / f"artifacts/ingest/shards/{d['language']}/{d['shard']}.jsonl.zst"))[d["line"] - 1]
        assert row["id"] == d["id"]
        if d["kept"]:
            rows = list(read_documents(finished / "artifacts/clean/shards" / d["kept"][0]))
            assert rows[d["kept"][1] - 1]["id"] == d["id"]
    assert found["udhr/fao/02"]["split"] == "test"
    assert found["udhr/fao/02"]["phases"] == {}
    copy = found["udhr/deu_1996/02"]
    assert (copy["kept"], copy["rejected"]) == (None, "duplicate")
    assert copy["copies"] == [{"id": "udhr/deu_1901/02", "relation": "stays in place of it (duplicate)"}]
    held = holds(asked)
    assert {held[k] for k in ("ingest", "clean", "tokenize")} == {"text"}
    assert {held[k] for k in ("train pretrain", "train extend", "train decay-all", "release")} == {"weights"}
    assert held["init"] == "nothing"
    assert len(held) == len(list((finished / "artifacts").rglob("manifest.json")))


def test_the_copy_that_stays_names_the_one_that_would_take_its_place(finished: Path):
    (document,) = ask(finished, "udhr/deu_1901/02")["documents"]
    assert document["copies"] == [{"id": "udhr/deu_1996/02", "relation": "duplicate of it, left out in its favour"}]


def test_what_a_phase_read_is_what_its_batches_hold(finished: Path):
    """The truth: every batch of the phase, as training takes them."""
    folder = finished / "artifacts"
    split = open_split(folder / "tokenize", "train")
    ids = [d["id"] for tag in ("fao_Latn", "zul_Latn") for p in shard_paths(folder / "clean", tag) for d in read_documents(p)]
    data = ask(finished, *ids)
    indexed = [d for d in data["documents"] if d["split"] == "train" and d["token_index"] is not None]
    assert len({d["token_index"] for d in indexed}) == len(indexed) > 30
    manifest = Manifest.read(folder / "train/decay-all")
    phase, seed = Phase.model_validate(manifest.config["phases.decay-all"]), manifest.config["seed"]
    read = read_json(folder / "train/extend/state.json")["streams"]
    streams = make_streams(split, read_json(folder / "mixture/decay-all/mixture.json"), read, seed, "decay-all", phase)
    batches, place, seen = Batches(streams, split, phase, "decay-all", seed), Place(), Counter()
    while taken := batches.take(place, max(1, phase.batch_tokens // phase.context)):
        rows, place = taken
        for document, start, stop in zip(rows.document, rows.start, rows.stop, strict=True):
            seen[int(document)] += int(stop - start)
    assert {d["token_index"] for d in indexed if "decay-all" in d["phases"]} == {
        d["token_index"] for d in indexed if seen[d["token_index"]]
    }
    assert any("decay-all" not in d["phases"] for d in indexed)
    assert all(set(d["phases"]) <= {"decay-all"} for d in indexed), "no other phase has these languages"


def test_the_tokenizers_sample_is_the_one_that_it_was_trained_on(finished: Path, tmp_path: Path, monkeypatch):
    folder = shutil.copytree(finished, tmp_path / "w", ignore=shutil.ignore_patterns("train", "mixture", "evaluate", "release"))
    shutil.rmtree(folder / "artifacts/tokenizer")
    sample: list[str] = []

    class Spy(tokenizer_step._Sample):
        def __init__(self, files):
            super().__init__(files)
            sample.extend(self)

    monkeypatch.setattr(tokenizer_step, "_Sample", Spy)
    assert run_stage(folder, commands(folder)["tokenizer"], monkeypatch) == 0
    rows = [
        d for tag in ("eng_Latn", "heb_Hebr") for p in shard_paths(folder / "artifacts/clean", tag) for d in read_documents(p)
    ]
    said = {d["id"]: d["in_sample"] for d in ask(finished, *(d["id"] for d in rows))["documents"]}
    assert said == {d["id"]: d["text"] in sample for d in rows}
    assert {*said.values()} == {True, False}


def test_blocked_it_never_comes_back_and_the_digests_are_those_of_the_plan(finished: Path, tmp_path: Path, monkeypatch, capsys):
    forget = ["udhr/deu_1901/02", "udhr/fao/01"]
    made = ask(finished, *forget)
    assert made["forget"] == forget
    folder = shutil.copytree(finished, tmp_path / "w", ignore=shutil.ignore_patterns("artifacts"))
    recipe = read_json(folder / "params.yaml")
    recipe["ingest"]["forget"] = [*reversed(forget), forget[0]]
    write_recipe(folder, recipe)
    stages = commands(folder)
    for name in ("ingest", "clean"):
        assert run_stage(folder, stages[name], monkeypatch) == 0, name
    plan = {s["step"]: s["new_digest"] for s in made["plan"]["steps"]}
    new = [Manifest.read(p.parent) for p in sorted((folder / "artifacts").rglob("manifest.json"))]
    assert {f"{m.step} {m.name}".strip(): m.digest for m in new}.items() <= plan.items()
    assert len(plan) == len(made["artifacts"])
    assert made["plan"]["gpu_hours"] > 0
    ingest = next(m for m in new if m.step == "ingest")
    assert ingest.facts["total"]["rejected"] == 2
    assert ingest.facts["languages"]["fao_Latn"]["rejected"] == {"forgotten": 1}
    capsys.readouterr()
    assert main(["forget", *forget]) == 1
    assert "no document of ingest has" in capsys.readouterr().err
    for path in (folder / "artifacts").rglob("*.zst"):
        assert not {d["id"] for d in read_documents(path)} & {*forget}
    # Its copy has taken its place: that is why copies are named.
    (copy,) = ask(folder, "udhr/deu_1996/02")["documents"]
    assert copy["kept"]


def test_a_source_or_an_address_means_all_its_documents(finished: Path, capsys, monkeypatch):
    monkeypatch.chdir(finished)
    all_of_it = {d["id"] for d in ask(finished, "--source", "udhr")["documents"]}
    assert len(all_of_it) > 150
    below = {d["id"] for d in ask(finished, "--url", "udhr/fao")["documents"]}
    assert below == {i for i in all_of_it if i.startswith("udhr/fao/")}
    assert main(["forget", "udhr/fao/01"]) == 0
    out = capsys.readouterr().out
    assert "in the tokenizer's sample" in out
    assert '    - "udhr/fao/01"' in out
    assert "to make everything without it: 25 steps get new digests" in out
    assert main(["forget"]) == 1
    assert "expected ids of documents" in capsys.readouterr().err


def test_a_lost_or_damaged_shard_is_never_no_such_document(finished: Path, tmp_path: Path, capsys):
    folder = shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    words = ["forget", IDS[0], "--artifacts", str(folder / "artifacts"), "--params", str(folder / "params.yaml")]
    record = next((folder / "artifacts" / ".runs").glob("*/run.json"))
    record.write_text("{")
    assert main(words) == 0
    capsys.readouterr()
    (folder / "artifacts/train/pretrain/state.json").write_text("{")
    assert main(words) == 1
    assert "pretrain/state.json: was changed or cut; what it holds cannot be known" in capsys.readouterr().err
    for place, text in (("tokenize/train/index.json", ""), ("ingest/shards/fao_Latn/00000.jsonl.zst", "x")):
        path = folder / "artifacts" / place
        path.unlink()
        assert main(words) == 1
        assert f"{path}: is missing" in capsys.readouterr().err
        path.write_text(text)
        assert main(words) == 1
        assert f"{path}: sha256 is" in capsys.readouterr().err
