"""Lineage of a finished run: the page in a real browser, and what verification says of tamper and loss."""
# ruff: noqa: E501 (JavaScript keeps lines of its own length)

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from mmenc.artifact import read_json, write_json
from mmenc.cli import main
from tests.pipeline import commands, run_stage, tiny_recipe, workplace

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def label(manifest: dict) -> str:
    return f"{manifest['step']} {manifest['name']}".strip()


@pytest.fixture(scope="module")
def page(finished: Path, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "lineage.html"
    artifacts = finished / "artifacts"
    assert main(["lineage", str(artifacts / "report"), "--html", str(path), "--against", str(artifacts / "train/extend")]) == 0
    return path


def test_the_page_is_one_file_that_holds_every_artifact(page: Path, finished: Path):
    text = page.read_text(encoding="utf-8")
    tree = ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    assert not re.search(
        r"""(?:src|href)\s*=|@import|url\((?!#)|https?://(?!www\.w3\.org)""", re.sub(r"<script type.*?</script>", "", text)
    )
    nodes = [g for g in tree.iter("g") if g.get("class", "").startswith("node")]
    lineage = read_json(finished / "artifacts/report/lineage.json")
    assert {g.get("data-d") for g in nodes} == {*lineage, read_json(finished / "artifacts/report/manifest.json")["digest"]}
    assert all((g.get("tabindex"), g.get("role")) == ("0", "button") and g.get("aria-label") for g in nodes)
    assert len(text) < 1_500_000


DRIVE = """
const out = {}, name = d => N[d].label, marked = kind => Object.keys(boxes).filter(d => boxes[d].classList.contains(kind)).map(name).sort();
out.compared = [...panel.querySelectorAll("tbody tr")].map(r => [...r.cells].map(c => c.textContent));
const box = at("find"); box.value = "fao_Latn udhr"; box.dispatchEvent(new Event("input", {bubbles: true}));
out.hits = [...at("hits").querySelectorAll("button")].map(b => b.textContent);
at("hits").querySelector("button").click();
out.holds = marked("holds"); out.far = marked("far"); out.said = said.textContent;
box.value = "mask 0.05"; box.dispatchEvent(new Event("input", {bubbles: true})); out.nothing = at("hits").textContent;
box.value = "phases.extend.mask"; box.dispatchEvent(new Event("input", {bubbles: true})); out.setting = at("hits").querySelector("button").textContent;
const g = boxes[Object.keys(boxes).find(d => name(d) === "train extend")];
g.focus(); g.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true}));
out.title = panel.querySelector("h2").textContent; out.config = panel.querySelector("pre").textContent;
g.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft", bubbles: true})); out.left = panel.querySelector("h2").textContent;
out.pressed = g.getAttribute("aria-pressed"); out.focus = document.activeElement.getAttribute("aria-label");
const pre = document.createElement("pre"); pre.id = "result"; pre.textContent = JSON.stringify(out); document.body.append(pre);
"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_the_page_answers_in_a_browser(page: Path, finished: Path, tmp_path: Path):
    driven = tmp_path / "driven.html"
    script = f"<script>//<![CDATA[\nwindow.onerror = m => document.title = m;{DRIVE}//]]></script></body>"
    driven.write_text(page.read_text(encoding="utf-8").replace("</body>", script), encoding="utf-8")
    asked = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=2000",
        "--dump-dom",
        driven.as_uri(),
    ]
    dom = subprocess.run(asked, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<pre id="result">(.*?)</pre>', dom, re.DOTALL)
    assert found, re.findall(r"<title>.*?</title>", dom)
    out = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    # Faroese is in the last wave only: its text is in decay-all, and in the merge if that took this branch or all of them.
    manifests = [
        *read_json(finished / "artifacts/report/lineage.json").values(),
        read_json(finished / "artifacts/report/manifest.json"),
    ]
    assert {"ingest", "clean", "tokenizer", "tokenize", "mixture decay-all", "train decay-all", "merge", "release"} <= {
        *out["holds"]
    }
    assert {"mixture extend", "train extend", "train decay-english", "validate", "init"} <= {*out["far"]}
    assert sorted([*out["holds"], *out["far"]]) == sorted(map(label, manifests))
    assert out["hits"][0].startswith("fao_Latn/udhr.jsonl")
    assert out["said"].startswith("fao_Latn/udhr.jsonl: ●")
    assert out["nothing"] == "nothing found"
    assert out["setting"].startswith("phases.extend.mask: 0.15")
    assert out["title"] == "train extend"
    assert "mask: 0.15" in out["config"]
    assert (out["left"], out["focus"], out["pressed"]) == ("train pretrain", "train pretrain", "false")
    assert out["compared"] == [["report / train extend", "step", "report", "train"]]


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "copy")


def broken(capsys, folder: Path, expected: int = 1) -> list[tuple[str, str]]:
    capsys.readouterr()
    assert main(["lineage", str(folder / "artifacts/release"), "--verify", "--json"]) == expected
    captured = capsys.readouterr()
    rows = [(b["path"], b["reason"]) for b in json.loads(captured.out)["broken"]]
    assert len(captured.err.strip().splitlines()) == (1 if rows else 0)
    return rows


def test_loss_and_tamper_are_one_sentence_each(copy: Path, capsys):
    assert broken(capsys, copy, 0) == []
    artifacts = copy / "artifacts"
    shutil.rmtree(artifacts / "train/extend")
    (artifacts / "clean/manifest.json").write_text("{}")
    moved = read_json(artifacts / "mixture/extend/manifest.json")
    write_json(artifacts / "mixture/extend/manifest.json", moved | {"digest": "0" * 64})
    next((artifacts / "ingest/shards/fao_Latn").iterdir()).unlink()
    shutil.rmtree(copy / "data")
    rows = dict(broken(capsys, copy))
    at = {str(Path(path).relative_to(artifacts)): reason for path, reason in rows.items() if str(artifacts) in path}
    assert "an ancestor, is missing" in at["train/extend"]
    assert "not a manifest" in at["clean/manifest.json"]
    assert "another result lies there (000000000000…)" in at["mixture/extend"]
    assert at["ingest/shards/fao_Latn/00000.jsonl.zst"] == "is missing, the manifest lists it"
    assert "is missing, with the" in rows["data"]
    assert len(rows) == 5


def test_a_changed_history_is_named(copy: Path, capsys):
    path = copy / "artifacts/release/lineage.json"
    lineage = read_json(path)
    digest = next(d for d, m in lineage.items() if label(m) == "train extend")
    lineage[digest]["config"]["phases.extend"]["mask"] = 0.9
    write_json(path, lineage)
    ((where, reason),) = broken(capsys, copy)
    assert where == str(path)
    assert reason == "the manifest of train extend in it was changed: its digest does not follow from config, parents and inputs"


def test_a_manifest_taken_out_is_named_and_the_tree_is_still_drawn(copy: Path, capsys):
    path = copy / "artifacts/release/lineage.json"
    lineage = {d: m for d, m in read_json(path).items() if label(m) != "tokenize"}
    write_json(path, lineage)
    assert main(["lineage", str(path.parent), "--verify"]) == 1
    out, err = capsys.readouterr()
    assert "(its manifest is missing from lineage.json)" in out
    assert "parent tokens" in err
    assert "is missing from it" in err


def test_a_release_alone_is_checked_as_far_as_it_goes(finished: Path, tmp_path: Path, capsys):
    shutil.copytree(finished / "artifacts/release", tmp_path / "model")
    assert main(["lineage", str(tmp_path / "model"), "--verify"]) == 0
    out = capsys.readouterr().out
    assert "not checked: 18 ancestors and the raw files" in out
    assert "every hash that can be reached is right" in out


def test_objects_of_a_store_are_checked(corpus: Path, tmp_path: Path, monkeypatch, capsys):
    recipe = tiny_recipe()
    recipe["compute"]["store"] = str(tmp_path / "store")
    folder = workplace(tmp_path / "w", corpus, recipe)
    assert run_stage(folder, commands(folder)["ingest"], monkeypatch) == 0
    rows = read_json(folder / "artifacts/ingest/manifest.json")["external"]
    objects = [next((tmp_path / "store").rglob(r["sha256"])) for r in rows[:2]]
    objects[0].unlink()
    objects[1].write_bytes(b"other")
    capsys.readouterr()
    assert main(["lineage", "artifacts/ingest", "--verify"]) == 1
    captured = capsys.readouterr()
    assert f"is missing from the store ({rows[0]['path']})" in captured.out
    assert f"is not what {rows[1]['path']} was: its sha256 differs" in captured.out
    assert captured.err.strip().endswith("(2 broken)")


def test_two_branches_are_compared_as_text(finished: Path, capsys):
    trains = finished / "artifacts/train"
    assert main(["lineage", str(trains / "decay-all"), "--against", str(trains / "decay-english")]) == 0
    out = capsys.readouterr().out
    assert "mixture decay-all / mixture decay-english" in out
    assert re.search(r"phases\.\*\.tokens +16000 -> 8000", out)
    assert out.count("phases.*.tokens") == 1
