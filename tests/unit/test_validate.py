"""The gate on three tiny languages, through ingest, clean and validate as a user runs them (one GE import)."""

import json
from pathlib import Path

import pytest
from lxml import etree

from mmenc import steps
from mmenc.artifact import Manifest, read_json
from mmenc.errors import Refused
from mmenc.job import execute
from mmenc.recipe import Recipe, parse

WORDS = {
    "eng_Latn": "All human beings are born free and equal in dignity and rights, as article {} of the declaration says.",
    "fao_Latn": "Øll menniskju eru fødd fræls og jøvn til virðingar og mannarættindi, sum grein {} í yvirlýsingini sigur.",
    "arb_Arab": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق، كما تقول المادة {} من الإعلان العالمي لحقوق الإنسان.",
}
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
            "validate": validate or {},
            "phases": {"pretrain": phase},
            "merge": merge,
        }
    )


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
    assert words.startswith("fao_Latn: script_share is 0, below validate.min_script_share 0.7; mend the data, or add a waiver")
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
    assert failed == [{"expectation": "script_share", "found": 0.0, "threshold": 0.7, "waived": REASON}]
    assert REASON in (tmp_path / "artifacts/validate/report.html").read_text(encoding="utf-8")


def test_rejected_documents_are_named(tmp_path):
    corpus(tmp_path / "data", wrong="fao_Latn")
    with pytest.raises(
        Refused, match=r"^fao_Latn: documents is 0, below .* \(so does kept_share\); clean rejected 40 .* 'other script'"
    ):
        gate(tmp_path, recipe())


def test_text_in_train_and_test_is_found(tmp_path):
    corpus(tmp_path / "data", repeat=True)
    with pytest.raises(Refused, match=r"^fao_Latn: test_overlap is 1, above validate\.max_test_overlap 0;"):
        gate(tmp_path, recipe(clean={"deduplicate": False}))
    with pytest.raises(Refused, match=r"^arb_Arab: documents is 40, .* \(so does mean_chars; 2 more languages fail\)"):
        gate(tmp_path, recipe(clean={"deduplicate": False}, validate={"min_mean_chars": 200, "min_documents": 41}))


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
