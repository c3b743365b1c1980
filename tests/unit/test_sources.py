"""Every kind of source, from the line in the recipe to the documents; wrong lines are one sentence."""

import bz2
import gzip
import json
import shutil
import subprocess
import sys

import pytest
import zstandard

from mmenc.artifact import Artifact
from mmenc.errors import Refused
from mmenc.lineage import describe
from tests.ingesting import ingest, made, recipe_of

pq = pytest.importorskip("pyarrow.parquet")
import pyarrow as pa  # noqa: E402

WIKI = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="fo">
 <siteinfo><dbname>fowiki</dbname><namespaces><namespace key="6">Mynd</namespace><namespace key="14">Bólkur</namespace>
 <namespace key="0" /></namespaces></siteinfo>
 <page><title>Føroyar</title><ns>0</ns><id>7</id><revision><id>99</id><model>wikitext</model><text xml:space="preserve">
{{Infoboks|a=1|b={{c}}}}'''Føroyar''' eru [[oyggj]]ar &amp; eitt [[land|fólk]].&lt;ref&gt;heimild [[x]]&lt;/ref&gt;
[[Mynd:kort.png|thumb|Kort av [[Føroyar|oyggjunum]]]]
== Søga ==
* Eitt &lt;!-- burtur --&gt;
{| class="wikitable"
| talva
|}
[http://example.com ein leinkja] &lt;math&gt;x^2&lt;/math&gt;
[[Bólkur:Lond]] [[en:Faroe Islands]]</text></revision></page>
 <page><title>Mynd:a</title><ns>6</ns><id>8</id><revision><text>nei</text></revision></page>
 <page><title>Faroe</title><ns>0</ns><id>9</id><redirect title="Føroyar"/>
  <revision><text>#REDIRECT [[Føroyar]]</text></revision></page>
 <page><title>Tórshavn</title><ns>0</ns><id>10</id><revision><text>Høvuðsstaður.</text></revision></page>
</mediawiki>"""


def jsonl(*texts, **more):
    return "".join(json.dumps({"text": t, **more}, ensure_ascii=False) + "\n" for t in texts).encode()


def fineweb(path, rows, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, **options)


def row(number, tag="fao_Latn", text="Øll menniskju"):
    language, _, script = tag.partition("_")
    said = {"language": language, "language_script": script, "language_score": 0.9}
    return {"text": f"{text} {number}", "id": f"<urn:{number}>", "url": "https://example.com", **said}


def test_fineweb_parquet_by_pattern(tmp_path):
    data = tmp_path / "data"
    rows = [row(n) for n in range(50)] + [row(50, "nob_Latn")] + [{**row(51), "text": None}]
    fineweb(data / "fineweb2/fao_Latn/train/000.parquet", rows, row_group_size=20)
    fineweb(data / "fineweb2/arb_Arab/train/000.parquet", [row(n, "arb_Arab", "جميع") for n in range(3)])
    source = {"path": "fineweb2/{tag}/**/*.parquet", "license": "odc-by", "name": "fineweb-2"}
    facts = ingest(data, tmp_path, sources=[source]).facts
    assert [d["id"] for d in made(tmp_path)["fao_Latn"]] == [f"<urn:{n}>" for n in range(50)]
    assert made(tmp_path)["arb_Arab"][0] == {"id": "<urn:0>", "text": "جميع 0", "source": "fineweb-2", "license": "odc-by"}
    assert facts["languages"]["fao_Latn"]["rejected"] == {"no text": 1, "says it is nob_Latn": 1}
    assert [r["reason"] for r in made(tmp_path, "rejected")["fao_Latn"]] == ["says it is nob_Latn", "no text"]
    only = ingest(data, tmp_path / "two", sources=[source | {"languages": ["arb_Arab"]}])
    assert list(only.facts["languages"]) == ["arb_Arab"]
    assert [i["path"] for i in only.inputs] == ["fineweb2/arb_Arab/train/000.parquet"]


def test_a_large_parquet_file_is_read_by_row_groups_with_the_same_result(tmp_path, monkeypatch):
    from mmenc.data import ingest as step

    data = tmp_path / "data"
    rows = [{k: v for k, v in row(n).items() if k != "id"} for n in range(100)]
    fineweb(data / "fao_Latn/one.parquet", rows, row_group_size=10)
    whole = ingest(data, tmp_path / "whole")
    monkeypatch.setattr(step, "SHARD_BYTES", 1000)
    parts = ingest(data, tmp_path / "parts")
    assert len(list((tmp_path / "parts/ingest/shards/fao_Latn").iterdir())) > 3
    assert made(tmp_path / "parts") == made(tmp_path / "whole")
    assert made(tmp_path / "parts")["fao_Latn"][99]["id"] == "fao_Latn/one/100"
    assert parts.facts == whole.facts


def test_every_compression_and_own_columns(tmp_path):
    folder = tmp_path / "data/fao_Latn"
    folder.mkdir(parents=True)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(jsonl("eitt")))
    (folder / "b.jsonl.zst").write_bytes(zstandard.compress(jsonl("tvey")) + zstandard.compress(jsonl("trý")))
    (folder / "c.jsonl.bz2").write_bytes(bz2.compress(jsonl("fýra")))
    (folder / "d.txt.bz2").write_bytes(bz2.compress(b"\xef\xbb\xbffimm\n"))
    ingest(tmp_path / "data", tmp_path)
    assert [d["text"] for d in made(tmp_path)["fao_Latn"]] == ["eitt", "tvey", "trý", "fýra", "fimm"]
    (folder / "c.jsonl.bz2").write_bytes(bz2.compress(b'{"content": "fyra", "key": 5, "licence": "cc0"}\n'))
    columns = {"text": "content", "id": "key", "license": "licence"}
    sources = [{"path": "{tag}/c.*", "columns": columns}]
    ingest(tmp_path / "data", tmp_path / "two", sources=sources)
    assert made(tmp_path / "two")["fao_Latn"] == [{"id": "5", "text": "fyra", "source": "c", "license": "cc0"}]


def test_a_wiki_dump_gives_articles_without_markup(tmp_path):
    pytest.importorskip("mwparserfromhell")
    (tmp_path / "data/dumps").mkdir(parents=True)
    (tmp_path / "data/dumps/fowiki-20261101-pages-articles.xml.bz2").write_bytes(bz2.compress(WIKI.encode()))
    source = {"wiki": "dumps/fowiki-*-pages-articles.xml.bz2", "language": "fao_Latn", "license": "CC-BY-SA-4.0"}
    ingest(tmp_path / "data", tmp_path, sources=[source])
    first, second = made(tmp_path)["fao_Latn"]
    assert first["id"] == "fowiki/7"
    assert first["text"] == "Føroyar eru oyggjar & eitt fólk.\n\nSøga\nEitt\n\nein leinkja"
    assert (second["text"], second["license"]) == ("Høvuðsstaður.", "CC-BY-SA-4.0")
    # An article beyond the limit is passed over, a dump that is cut off is refused.
    long = WIKI.replace("Høvuðsstaður.", "a" * 5000)
    (tmp_path / "data/dumps/fowiki-20261101-pages-articles.xml.bz2").write_bytes(bz2.compress(long.encode()))
    facts = ingest(tmp_path / "data", tmp_path, sources=[source], max_document_bytes=2000).facts
    assert facts["languages"]["fao_Latn"]["rejected"] == {"longer than max_document_bytes": 1}
    (tmp_path / "data/dumps/fowiki-20261101-pages-articles.xml.bz2").write_bytes(bz2.compress(WIKI.encode()[:-200]))
    with pytest.raises(Refused, match="not a whole MediaWiki dump"):
        ingest(tmp_path / "data", tmp_path, sources=[source])


def test_moscar_keeps_the_text_parts_in_order(tmp_path):
    folder = tmp_path / "data/moscar/fao_Latn"
    folder.mkdir(parents=True)
    image = {"img_idx": "#1", "url": "https://example.com/a.png"}
    documents = [
        {"images": [image], "text": [{"text_idx": "#10", "text": "síðst"}, {"text_idx": "#2", "text": " fyrst "}]},
        {"images": [image], "text": [{"text": "a"}, {"text": "b"}]},
        {"texts": ["c", None, "d"], "images": [None, "x", None]},
    ]
    (folder / "0.jsonl.zst").write_bytes(zstandard.compress("".join(json.dumps(d) + "\n" for d in documents).encode()))
    ingest(tmp_path / "data", tmp_path, sources=[{"moscar": "moscar/{tag}/*.jsonl.zst"}])
    assert [d["text"] for d in made(tmp_path)["fao_Latn"]] == ["fyrst\n\nsíðst", "a\n\nb", "c\n\nd"]
    (folder / "0.jsonl.zst").write_bytes(zstandard.compress(b'{"text": 5}\n'))
    with pytest.raises(Refused, match="line 1 has no list of text parts"):
        ingest(tmp_path / "data", tmp_path, sources=[{"moscar": "moscar/{tag}/*.jsonl.zst"}])


def test_a_folder_that_datasets_can_load(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))
    data = tmp_path / "data"
    for tag in ("fao_Latn", "isl_Latn"):
        fineweb(data / f"my-set/{tag}/train-00000-of-00001.parquet", [row(f"{tag}{n}", tag) for n in range(30)])
    card = "".join(f"- config_name: {t}\n  data_files: {t}/*.parquet\n" for t in ("fao_Latn", "isl_Latn"))
    (data / "my-set/README.md").write_text(f"---\nconfigs:\n{card}---\n")
    source = {"dataset": "my-set", "config": "{tag}", "languages": ["fao_Latn", "isl_Latn"], "documents": 20}
    found = ingest(data, tmp_path, sources=[source])
    assert {k: v["documents"] for k, v in found.facts["languages"].items()} == {"fao_Latn": 20, "isl_Latn": 20}
    assert made(tmp_path)["isl_Latn"][0]["id"] == "<urn:isl_Latn0>"
    assert len(found.inputs) == 3
    assert all(len(i["sha256"]) == 64 for i in found.inputs)
    assert [s["path"] for s in describe(Artifact.read(tmp_path / "ingest"))["sources"]] == ["my-set", "my-set"]
    found = ingest(data, tmp_path / "two", sources=[source | {"documents": 0, "bytes": 100}])
    assert found.facts["languages"]["fao_Latn"]["documents"] == 5
    halves = [
        {"dataset": "my-set", "config": "fao_Latn", "language": "fao_Latn", "split": s} for s in ("train[:50%]", "train[50%:]")
    ]
    found = ingest(data, tmp_path / "halves", sources=halves)
    assert found.facts["languages"]["fao_Latn"]["documents"] == 30
    with pytest.raises(Refused, match=r"ingest\.sources\.1: my-set is read by"):
        ingest(data, tmp_path / "same", sources=[halves[0], halves[0]])
    with pytest.raises(Refused, match=r"my-set: cannot be loaded .*check dataset, config, split"):
        ingest(data, tmp_path / "three", sources=[source | {"split": "validation"}])


PROGRAM = """
import json, shutil, sys
from pathlib import Path
import datasets
folder, commit = Path(sys.argv[1]), "a" * 40
rows = [{"id": f"r{n}", "text": f"grein {n}"} for n in range(10)]
datasets.Dataset.from_list(rows).to_parquet(str(folder / "train.parquet"))
made = datasets.load_dataset_builder("parquet", data_files={"train": str(folder / "train.parquet")})
made.download_and_prepare()
# What a download of the hub's `org/small-set` at this commit leaves in the cache.
target = Path(datasets.config.HF_DATASETS_CACHE) / "org___small-set" / "fao_Latn" / "0.0.0" / commit
shutil.copytree(made.cache_dir, target)
for path in target.glob("parquet-*.arrow"):
    path.rename(path.with_name(path.name.replace("parquet-", "small-set-")))
info = json.loads((target / "dataset_info.json").read_text())
(target / "dataset_info.json").write_text(json.dumps(info | {"config_name": "fao_Latn", "dataset_name": "small-set"}))
from mmenc.artifact import Artifact
from mmenc.errors import Refused
from mmenc.lineage import describe
from tests.ingesting import ingest, made as documents
source = {"dataset": "org/small-set", "config": "{tag}", "languages": ["fao_Latn"], "revision": commit, "streaming": False}
(folder / "data").mkdir()
for streaming in (False, True):
    manifest = ingest(folder / "data", folder / str(streaming), sources=[source | {"streaming": streaming}])
    print(manifest.inputs, [d["id"] for d in documents(folder / str(streaming))["fao_Latn"]] == [r["id"] for r in rows])
try:
    ingest(folder / "data", folder / "other", sources=[source | {"revision": "b" * 40}])
except Refused as error:
    print(error)
"""


def test_a_data_set_of_the_hub_from_the_offline_cache_at_its_commit(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = f"[{{'path': 'hf://datasets/org/small-set/fao_Latn/train', 'version': '{'a' * 40}'}}] True"
    assert done.stdout.count(said) == 2, done.stdout
    assert "the offline cache has aaaaaaaaaaaa…, the recipe names commit bbbbbbbbbbbb…" in done.stdout


def test_buckets_are_fed_by_sources_and_aliases_are_reported(tmp_path, capsys):
    data = tmp_path / "data"
    for name, text in (
        ("web/english.jsonl", "web"),
        ("code/a.jsonl", "x = 1"),
        ("crawl/fo/0.jsonl", "føroyskt"),
        ("crawl/no/0.jsonl", "norsk"),
    ):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(jsonl(text))
    sources = [
        {"path": "crawl/{tag}/*.jsonl"},
        {"path": "web/*", "bucket": "english-web", "license": "odc-by"},
        {"path": "code/**", "bucket": "code"},
    ]
    with pytest.raises(Refused, match=r"ingest.sources.0: crawl/no/0.jsonl: not a language tag: no: nor is a macro-language"):
        ingest(data, tmp_path, sources=sources)
    facts = ingest(data, tmp_path, sources=sources, aliases={"no": "nob_Latn"}).facts
    assert list(facts["languages"]) == ["code", "english-web", "fao_Latn", "nob_Latn"]
    assert [(a["found"], a["language"]) for a in facts["aliases"]] == [("fo", "fao_Latn"), ("no", "nob_Latn")]
    out = capsys.readouterr().out
    assert "fo is read as fao_Latn: fo is fao in ISO 639-3; the script of fao is Latn (CLDR, IANA)" in out
    assert "2 languages (and the buckets code, english-web), 4 documents" in out
    # A bucket of the recipe may have the name of a language.
    (data / "law").mkdir()
    shutil.copy(data / "code/a.jsonl", data / "law/a.jsonl")
    facts = ingest(data, tmp_path, sources=[{"path": "law/*", "bucket": "law"}]).facts
    assert list(facts["languages"]) == ["law"]


@pytest.mark.parametrize(("title", "good"), [("Prix\u00a0: می\u200cخواهم", True), ("a\u2028b", False), ("a\tb", False)])
def test_titles_hold_any_characters_of_one_line(tmp_path, title, good):
    (tmp_path / "data" / "fas_Arab").mkdir(parents=True)
    row = {"id": title, "text": "متن"}
    (tmp_path / "data" / "fas_Arab" / "a.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    if good:
        ingest(tmp_path / "data", tmp_path)
        assert made(tmp_path)["fas_Arab"][0]["id"] == title
        return
    with pytest.raises(Refused, match="no short text of one line"):
        ingest(tmp_path / "data", tmp_path)


def test_two_folders_of_one_language_become_one(tmp_path):
    for name in ("fo", "fao_Latn"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / f"{name}.jsonl").write_bytes(jsonl(name))
    assert list(ingest(tmp_path / "data", tmp_path, languages=["fao_Latn"]).facts["languages"]) == ["fao_Latn"]
    assert [d["text"] for d in made(tmp_path)["fao_Latn"]] == ["fao_Latn", "fo"]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ({}, "ingest.sources.0: a source has exactly one of path, wiki, moscar, dataset; found none"),
        ({"path": "{tag}/*", "wiki": "x"}, "found path and wiki"),
        ({"path": "x/*"}, "x/*: expected exactly one of {tag} in the path, language, bucket"),
        ({"path": "{tag}/*", "bucket": "code"}, "expected exactly one of {tag} in the path, language, bucket"),
        ({"path": "../{tag}/*"}, "../{tag}/*: a path starts below ingest.root and has no '..'"),
        ({"path": "/srv/{tag}/*"}, "a path starts below ingest.root"),
        ({"path": "{tag}/*", "split": "train", "documents": 5}, "documents is for data sets (`dataset`) only"),
        ({"path": "x/*", "language": "fao_Latn", "languages": ["fao_Latn"]}, "there is no {tag}"),
        ({"dataset": "a/b", "config": "{tag}"}, "{tag} in config needs `languages`"),
        ({"dataset": "a/b", "language": "fao_Latn", "revision": "main"}, "ingest.sources.0.revision is 'main'"),
        ({"pth": "{tag}/*"}, "unknown key 'pth'; did you mean 'path'?"),
        ({"path": "{tag}/*", "columns": {"txt": "a"}}, "ingest.sources.0.columns.txt"),
    ],
)
def test_a_wrong_line_is_one_sentence(source, sentence):
    with pytest.raises(Refused) as error:
        recipe_of(sources=[source])
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sources", "sentence"),
    [
        ([{"path": "nothing/{tag}/*"}], "ingest.sources.0: nothing/{tag}/*: nothing is found there below "),
        ([{"path": "{tag}/*", "languages": ["isl_Latn"]}], "finds nothing of isl_Latn"),
        (
            [{"path": "{tag}/*"}, {"path": "fao_*/a.jsonl", "language": "fao_Latn"}],
            "fao_Latn/a.jsonl is read by ingest.sources.0 already",
        ),
        (
            [{"dataset": "org/set", "language": "fao_Latn"}],
            "ingest.sources.0.revision: missing; expected the commit hash of org/set",
        ),
    ],
)
def test_sources_that_find_nothing_or_too_much_are_refused(tmp_path, sources, sentence):
    (tmp_path / "data/fao_Latn").mkdir(parents=True)
    (tmp_path / "data/fao_Latn/a.jsonl").write_bytes(jsonl("a"))
    with pytest.raises(Refused) as error:
        ingest(tmp_path / "data", tmp_path, sources=sources)
    assert sentence in str(error.value)
