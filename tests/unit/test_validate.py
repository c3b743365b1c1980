"""The gate on three tiny languages, through ingest, clean and validate as a user runs them (one GE import)."""

import json
import shutil
from pathlib import Path

import pytest
from lxml import etree

from mmenc import steps
from mmenc.artifact import Manifest, read_json
from mmenc.errors import Refused
from mmenc.job import execute
from mmenc.recipe import Recipe, load, parse
from mmenc.suites import read_suites

WORDS = {
    "eng_Latn": "All human beings are born free and equal in dignity and rights, as article {} of the declaration says.",
    "fao_Latn": "Øll menniskju eru fødd fræls og jøvn til virðingar og mannarættindi, sum grein {} í yvirlýsingini sigur.",
    "arb_Arab": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق، كما تقول المادة {} من الإعلان العالمي لحقوق الإنسان.",
}
REPO = Path(__file__).parents[2]
REASON = "known mixture of scripts, checked by a reader"


def recipe(clean: dict | None = None, validate: dict | None = None) -> Recipe:
    phase = {
        "init": "init",
        "tokens": 4096,
        "languages": "all",
        "temperature": 0.7,
        "mask": 0.3,
        "context": 64,
        "rope_theta": 10000.0,
        "lr": {"peak": 1e-3},
        "batch_tokens": 1024,
    }
    sections = {s: {} for s in ("ingest", "tokenizer", "tokenize", "model", "evaluate", "release", "compute")}
    merge = {"base": "pretrain", "branches": ["pretrain"]}
    return parse(
        {
            "seed": 1,
            "languages": {"all": "all"},
            **sections,
            "clean": clean or {},
            "validate": {"suites": changed()} | (validate or {}),
            "phases": {"pretrain": phase},
            "merge": merge,
        }
    )


def changed(**bounds: tuple[str, float]) -> dict:
    """The repository's suites, with other bounds of some columns in the suite `all`."""
    suites = read_suites(REPO / "expectations")
    for expectation in suites["all"]["expectations"]:
        if (column := expectation["kwargs"]["column"]) in bounds:
            expectation["kwargs"] = {"column": column, bounds[column][0]: bounds[column][1]}
    return suites


def corpus(root: Path, wrong: str = "", repeat: bool = False) -> Path:
    """40 documents per language, half of them in groups; the language `wrong` is written in Greek."""
    for tag, text in WORDS.items():
        words = "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια, άρθρο {}." if tag == wrong else text
        rows = []
        for n in range(40):
            row = {"id": f"{tag}/{n}", "text": words.format(0 if repeat and tag == "fao_Latn" else n)}
            rows.append(row | ({"group": f"udhr/{n}"} if n < 20 else {}))
        (root / tag).mkdir(parents=True)
        (root / tag / "udhr.jsonl").write_text("\n".join(json.dumps(r) for r in rows) + "\n", encoding="utf-8")
    return root


def gate(tmp_path: Path, settings: Recipe) -> Manifest:
    out = tmp_path / "artifacts"
    execute(steps.find("ingest"), "", settings, out / "ingest", {"data": tmp_path / "data"})
    execute(steps.find("clean"), "", settings, out / "clean", {"raw": out / "ingest"})
    return execute(steps.find("validate"), "", settings, out / "validate", {"clean": out / "clean"})


def test_good_data_passes(tmp_path):
    corpus(tmp_path / "data")
    manifest = gate(tmp_path, recipe())
    out = tmp_path / "artifacts/validate"
    assert manifest.facts["ok"] is True
    assert manifest.facts["languages"] == 3
    assert manifest.facts["waivers"] == []
    row = manifest.facts["statistics"]["fao_Latn"]
    assert row["documents"] == 40
    assert row["train"] + row["dev"] + row["test"] == 40
    assert row["script_share"] == 1.0
    assert row["kept_share"] == 1.0
    assert row["test"] >= 3
    assert row["duplicate_ids"] == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "lineage.json",
        "manifest.json",
        "report.html",
        "statistics.json",
        "verdict.json",
    ]
    assert read_json(out / "verdict.json")["languages"]["arb_Arab"] == {"ok": True, "failed": []}
    assert {r["language"] for r in read_json(out / "statistics.json")["shards"]} == set(WORDS)
    page = (out / "report.html").read_text(encoding="utf-8")
    etree.fromstring(page.encode())
    assert "http" not in page
    (tmp_path / "again").mkdir()
    corpus(tmp_path / "again/data")
    assert gate(tmp_path / "again", recipe()).content == manifest.content


def test_wrong_script_is_refused_and_a_waiver_lets_it_pass(tmp_path, monkeypatch):
    corpus(tmp_path / "data", wrong="fao_Latn")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused) as refused:
        gate(tmp_path, recipe(clean={"script_share": 0.0}))
    words = str(refused.value)
    assert words.startswith("fao_Latn: script_share is 0, below 0.7 of expectations/all.yaml; mend the data, or add a waiver")
    saved = Path(words.rsplit("the page is ", 1)[1])
    assert not saved.is_absolute()
    assert saved.parts[:2] == ("artifacts", ".runs")
    assert "fails" in saved.read_text(encoding="utf-8")
    assert not (tmp_path / "artifacts/validate").exists()

    waiver = {"language": "fao_Latn", "expectation": "script_share", "reason": REASON}
    manifest = gate(tmp_path, recipe(clean={"script_share": 0.0}, validate={"waivers": [waiver]}))
    used = [{**waiver, "found": 0.0, "threshold": 0.7}]
    assert manifest.facts["waivers"] == used
    verdict = read_json(tmp_path / "artifacts/validate/verdict.json")
    assert verdict["ok"] is True
    assert verdict["waivers"] == used
    failed = verdict["languages"]["fao_Latn"]["failed"]
    assert failed == [
        {"expectation": "script_share", "found": 0.0, "threshold": 0.7, "suite": "all", "severity": "critical", "waived": REASON}
    ]
    assert REASON in (tmp_path / "artifacts/validate/report.html").read_text(encoding="utf-8")


def test_rejected_documents_are_named(tmp_path):
    corpus(tmp_path / "data", wrong="fao_Latn")
    with pytest.raises(
        Refused, match=r"^fao_Latn: documents is 0, below .* \(so does kept_share\); clean rejected 40 .* 'other script'"
    ):
        gate(tmp_path, recipe())


def test_text_in_train_and_test_is_found(tmp_path):
    corpus(tmp_path / "data", repeat=True)
    with pytest.raises(Refused, match=r"^fao_Latn: test_overlap is 1, above 0 of expectations/all\.yaml;"):
        gate(tmp_path, recipe(clean={"deduplicate": False}))
    settings = {"deduplicate": False}
    with pytest.raises(Refused, match=r"^arb_Arab: documents is 40, .* \(so does mean_chars; 2 more languages fail\)"):
        gate(
            tmp_path,
            recipe(clean=settings, validate={"suites": changed(mean_chars=("min_value", 200), documents=("min_value", 41))}),
        )


@pytest.mark.parametrize(
    ("waiver", "words"),
    [
        ({"language": "fao_Latn", "expectation": "script_shares"}, "did you mean 'script_share'?"),
        ({"language": "fao_Lat", "expectation": "script_share"}, "did you mean 'fao_Latn'?"),
    ],
)
def test_a_waiver_for_nothing_is_refused(tmp_path, waiver, words):
    corpus(tmp_path / "data")
    with pytest.raises(Refused) as refused:
        gate(tmp_path, recipe(validate={"waivers": [{**waiver, "reason": REASON}]}))
    assert words in str(refused.value)
    assert "validate.waivers.0" in str(refused.value)


def test_a_suite_judges_its_languages_and_a_warning_stops_nothing(tmp_path):
    corpus(tmp_path / "data")
    strict = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "documents", "min_value": 1000.0}}
    mine = {"meta": {"languages": ["*_Arab"]}, "expectations": [{**strict, "severity": "warning", "meta": {"why": "few"}}]}
    manifest = gate(tmp_path, recipe(validate={"suites": {**changed(), "arabic": mine}}))
    assert manifest.facts["warnings"] == [{"language": "arb_Arab", "expectation": "documents", "found": 40, "threshold": 1000}]
    assert manifest.config["validate"]["suites"]["arabic"]["expectations"][0]["kwargs"]["min_value"] == 1000
    other = {
        "expectations": [{"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "documents", "value_set": [41]}}]
    }
    with pytest.raises(Refused, match=r"^arb_Arab: documents is 40, against .*_be_in_set .*value_set.* of .*/own\.yaml"):
        gate(tmp_path, recipe(validate={"suites": {"own": other}}))


@pytest.mark.parametrize(
    ("suites", "words"),
    [
        ({}, "there are no suites in 'expectations'"),
        (
            {"a": {"expectations": [{"type": "expect_column_values_to_be_between", "kwargs": {"column": "script_shares"}}]}},
            "expectations/a.yaml: no column is called 'script_shares'; did you mean 'script_share'?",
        ),
        (
            {"a": {"expectations": [{"type": "expect_column_values_to_be_betwen", "kwargs": {"column": "documents"}}]}},
            "a.yaml: expect_column_values_to_be_betwen of documents",
        ),
    ],
)
def test_a_gate_that_expects_nothing_or_nonsense_is_refused(tmp_path, suites, words):
    corpus(tmp_path / "data")
    with pytest.raises(Refused) as refused:
        gate(tmp_path, recipe(validate={"suites": suites}))
    assert words in str(refused.value)


def test_suites_are_read_with_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(REPO)
    whole = load(REPO / "params.yaml").value("validate")
    assert set(whole["suites"]) == {"all", "large"}
    assert (
        parse(json.loads(json.dumps({**load(REPO / "params.yaml").model_dump(mode="json", by_alias=True)}))).value("validate")
        == whole
    )
    assert load(REPO / "recipes/mmbert-base.yaml").value("validate")["suites"]["all"] != whole["suites"]["all"]
    text = (REPO / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text.replace("validate:\n", "validate:\n  suites: {}\n"), encoding="utf-8")
    with pytest.raises(Refused, match=r"validate\.suites is read from files"):
        load(tmp_path / "params.yaml")
    (tmp_path / "expectations").mkdir()
    (tmp_path / "expectations/all.yaml").write_text("- a list", encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match=r"expectations/all\.yaml: found list, expected a suite"):
        load(tmp_path / "params.yaml")


def test_drift_against_the_previous_data_is_found(tmp_path):
    corpus(tmp_path / "data")
    gate(tmp_path, recipe())
    shutil.move(tmp_path / "artifacts/validate", tmp_path / "before")
    same = gate(tmp_path, recipe(validate={"previous": str(tmp_path / "before")}))
    row = same.facts["statistics"]["fao_Latn"]
    assert (row["documents_change"], row["mean_chars_change"], row["script_share_change"], row["chars_distance"]) == (0, 0, 0, 0)
    assert same.inputs[-1]["path"] == "validate.previous/verdict.json"
    shutil.rmtree(tmp_path / "data")
    corpus(tmp_path / "data")
    path = tmp_path / "data/fao_Latn/udhr.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()[:15]
    rows = [json.loads(line) for line in lines]
    path.write_text("\n".join(json.dumps({**r, "text": "ÞÐÆ " * 9 + f"{r['id']} " * 30}) for r in rows), encoding="utf-8")
    settings = recipe({"max_repeated_windows": 1.0}, {"previous": str(tmp_path / "before/statistics.json")})
    with pytest.raises(Refused, match=r"^fao_Latn: documents_change is -0.625, below -0.5 .*\(so do mean_.*, chars_distance\)"):
        gate(tmp_path, settings)
    with pytest.raises(Refused, match=r"validate\.previous: there is no '.*befor'; did you mean 'before'"):
        gate(tmp_path, recipe(validate={"previous": str(tmp_path / "befor")}))


def test_data_docs_lie_beside_the_artifact(tmp_path):
    corpus(tmp_path / "data")
    manifest = gate(tmp_path, recipe(validate={"data_docs": True}))
    docs = tmp_path / "artifacts/.runs" / manifest.digest / "data_docs"
    assert (docs / "index.html").is_file()
    assert "documents" in "".join(p.read_text(encoding="utf-8") for p in docs.rglob("*.html"))
    assert not list((tmp_path / "artifacts/validate").rglob("*docs*"))


SUITE = "expectations: [{type: expect_column_values_to_be_between, kwargs: {column: kept_share, min_value: 5e-4}}]\n"


def test_files_of_suites_are_read_as_strictly_as_the_recipe(tmp_path):
    for name in ("a", "a-b", "B"):
        (tmp_path / f"{name}.yaml").write_text(SUITE)
    found = read_suites(tmp_path)
    assert list(found) == sorted(found)  # by name, not by file name: a-b.yaml would come before a.yaml
    assert found["a"]["expectations"][0]["kwargs"]["min_value"] == 5e-4
    (tmp_path / "a.json").write_text(json.dumps(found["a"]))
    with pytest.raises(Refused, match=r"a\.yaml: the suite 'a' stands in a\.json too"):
        read_suites(tmp_path)
    (tmp_path / "a.json").unlink()
    (tmp_path / "a.yaml").write_text(SUITE * 2)
    with pytest.raises(Refused, match=r"a\.yaml: line 2: key 'expectations' stands there twice"):
        read_suites(tmp_path)


@pytest.mark.parametrize("folder", ["other", "expectations/../other", "/expectations", "expectations/", "expectations/.hidden"])
def test_suites_lie_where_dvc_watches(folder):
    with pytest.raises(Refused, match=r"validate\.expectations"):
        recipe(validate={"expectations": folder})
    assert recipe(validate={"expectations": "expectations/strict"}).validation.expectations == "expectations/strict"
