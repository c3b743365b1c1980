"""Pages beside the tasks: well-formed, small whatever the number of languages, made of facts alone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from mmenc.artifact import Manifest, read_json
from mmenc.compare import compare
from mmenc.tables import PAGES, page_of
from tests.pipeline import TINY_LANGUAGES

FOLDERS = {"mixture": "mixture/decay-all", "train": "train/decay-all", "evaluate": "evaluate/merge"}
MANY = 1_833
"""Languages of mmBERT's last phase."""
LIMIT = 400_000


def read(page: str) -> str:
    ET.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    return re.sub(r"<(style|script)>.*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)


def many(table: dict, start: int = 0) -> dict:
    """The table with as many rows as mmBERT has languages."""
    rows = list(table.values())
    return {
        f"{chr(97 + i // 676 % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i % 26)}_Latn": rows[i % len(rows)]
        for i in range(start, MANY)
    }


@pytest.mark.parametrize("step", PAGES)
def test_a_page_says_what_the_step_found(step: str, finished: Path):
    manifest = Manifest.read(finished / "artifacts" / FOLDERS.get(step, step))
    page = page_of(manifest)
    text = read(page)
    assert page == page_of(manifest)
    assert f"{step} {manifest.name}".strip() in text
    if step not in ("merge", "evaluate"):
        assert all(tag in text for tag in TINY_LANGUAGES)
    large = {
        key: many(table) if isinstance(table, dict) and {"eng_Latn", "deu_Latn"} <= set(table) else table
        for key, table in manifest.facts.items()
    }
    if large != manifest.facts:
        blown = page_of(replace(manifest, facts=large))
        assert len(blown.encode()) < LIMIT
        assert "manifest.json in the artifact has all" in read(blown) or blown.count("<tr>") > MANY


def test_the_confusion_of_scripts_is_on_the_page(finished: Path):
    manifest = Manifest.read(finished / "artifacts/evaluate/merge")
    text = read(page_of(manifest))
    assert {"Latn", "Grek", "Hebr", "other", "bytes", "none"} <= set(text.split())
    rows = read_json(finished / "artifacts/evaluate/merge/scores.json")["rows"]
    masked = sum(r["n"] for r in rows if r["language"] and (r["model"], r["metric"]) == ("merge", "loss"))
    assert sum(map(sum, manifest.facts["scripts"]["matrix"])) == masked


def test_eight_models_of_all_languages_fit_on_one_page():
    plain = {"task": "mlm", "metric": "bits_per_byte", "tier": "tail", "status": "ok"}
    tags = list(many({"x": 0}))
    scores = {
        f"model {m}": [{**plain, "language": t, "mean": 1 + (i * (m + 3)) % 17 / 7} for i, t in enumerate(tags)] for m in range(8)
    }
    page, figures = compare(scores, 20)
    assert len(page.encode()) < LIMIT
    assert len(figures) == 8
    assert f"of {MANY} languages" in read(page)
