"""Hostile input: each kind is a sentence or a rejected document with its reason, and none takes memory or breaks off."""

import bz2
import gzip
import json
import resource
import subprocess
import sys
import time

import numpy as np
import pytest
import zstandard

from mmenc.data import ids
from mmenc.data.shards import write_documents
from mmenc.errors import Refused
from tests.ingesting import ingest, made

GOOD = '{"text": "Øll menniskju eru fødd fræls."}\n'


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "data" / "fao_Latn"
    path.mkdir(parents=True)
    (path / "a.jsonl").write_text(GOOD)
    return path


def refused(folder, tmp_path, **settings):
    with pytest.raises(Refused) as error:
        ingest(folder.parent, tmp_path, **settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ingest").exists()
    return str(error.value).replace(str(folder), "fao_Latn")


PROGRAM = """
import resource, sys
from pathlib import Path
from tests.ingesting import ingest
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
manifest = ingest(Path(sys.argv[1]) / "data", Path(sys.argv[1]))
print(manifest.facts["languages"]["fao_Latn"]["rejected"], manifest.facts["total"]["documents"])
print("MB more:", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("name", ["long.jsonl", "long.txt", "long.jsonl.zst"])
def test_a_line_of_200_megabytes_is_rejected_without_being_held(folder, tmp_path, name):
    size = 200 * 2**20
    lines = [b'{"text": "'] + [b"ei " * (2**20 // 3) for _ in range(size // 2**20)] + [b'"}\n', GOOD.encode()]
    if name.endswith(".txt"):
        lines = [*lines[1:-2], b"\n\n", b"Gott.\n"]
    if name.endswith(".zst"):
        rng = np.random.default_rng(0)  # letters that do not compress: growth is another test
        lines[1:-2] = [rng.integers(97, 123, 2**20, np.uint8).tobytes() for _ in range(size // 2**20)]
        with (folder / name).open("wb") as raw, zstandard.ZstdCompressor(1).stream_writer(raw) as stream:
            for line in lines:
                stream.write(line)
    else:
        with (folder / name).open("wb") as stream:
            stream.writelines(lines)
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "{'longer than max_document_bytes': 1} 2" in done.stdout, done.stdout
    assert int(done.stdout.rpartition(":")[2]) < 120, done.stdout
    (row,) = made(tmp_path, "rejected")["fao_Latn"]
    assert row["bytes"] > 190 * 2**20
    assert len(row["text"]) <= 200
    assert row["id"] == f"fao_Latn/{name}: line 1"


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("b.txt", "Øll".encode("latin-1"), "fao_Latn/b.txt: line 1 is not UTF-8 (invalid continuation byte)"),
        ("b.txt", "Øll".encode("utf-16"), "fao_Latn/b.txt: line 1 is not UTF-8"),
        ("b.txt", b"ein\0tekstur\n", "fao_Latn/b.txt: the document that begins in line 1 holds NUL characters"),
        ("b.jsonl", b'{"text": "a\0b"}\n', "fao_Latn/b.jsonl: line 1 holds NUL characters"),
        ("b.jsonl", b'{"text": "a\\u0000b"}\n', "fao_Latn/b.jsonl: line 1 holds NUL characters"),
        ("b.jsonl", b'{"text": "a\\ud800b"}\n', "fao_Latn/b.jsonl: line 1 holds a lone surrogate"),
        ("b.jsonl", GOOD.encode() + b'{"text": "\xff"}\n', "fao_Latn/b.jsonl: line 2 is not UTF-8"),
    ],
)
def test_what_is_no_text_stops_or_is_replaced_or_rejected_as_the_recipe_says(folder, tmp_path, name, data, sentence):
    (folder / name).write_bytes(data)
    found = refused(folder, tmp_path)
    assert sentence in found
    assert "set ingest.encoding_errors to replace or skip" in found
    facts = ingest(folder.parent, tmp_path, encoding_errors="skip").facts
    assert sum(facts["languages"]["fao_Latn"]["rejected"].values()) == 1
    facts = ingest(folder.parent, tmp_path, encoding_errors="replace").facts
    assert "rejected" not in facts["languages"]["fao_Latn"]
    assert any("\ufffd" in d["text"] for d in made(tmp_path)["fao_Latn"])


@pytest.mark.parametrize("name", ["b.jsonl.gz", "b.jsonl.zst", "b.jsonl.bz2", "b.txt.zst"])
def test_a_decompression_bomb_is_refused_while_it_is_read(folder, tmp_path, name):
    pieces = [b'{"text": "'] + [b"a" * 2**20] * 300 + [b'"}\n']
    suffix = name.rpartition(".")[2]
    if suffix == "zst":
        with (folder / name).open("wb") as raw, zstandard.ZstdCompressor(3).stream_writer(raw) as stream:
            for piece in pieces:
                stream.write(piece)
    else:
        with {"gz": gzip, "bz2": bz2}[suffix].open(folder / name, "wb") as stream:
            stream.writelines(pieces)
    assert (folder / name).stat().st_size < 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert f"fao_Latn/{name}: grows to more than 200 times its size" in refused(folder, tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


@pytest.mark.parametrize("name", ["b.jsonl.gz", "b.jsonl.zst", "b.jsonl.bz2", "b.parquet"])
@pytest.mark.parametrize("cut", [9, 0.5, 1.0])
def test_a_file_that_is_cut_off_is_a_sentence(folder, tmp_path, name, cut):
    lines = "".join(json.dumps({"text": f"{n} {n**7}"}) + "\n" for n in range(3000)).encode()
    if name == "b.parquet":
        pq = pytest.importorskip("pyarrow.parquet")
        import pyarrow as pa

        pq.write_table(pa.table({"text": [f"{n} {n**7}" for n in range(3000)]}), folder / name)
        data = (folder / name).read_bytes()
    else:
        data = {"gz": gzip.compress, "bz2": bz2.compress, "zst": zstandard.compress}[name.rpartition(".")[2]](lines)
    keep = -9 if cut == 9 else int(len(data) * (1 - cut))
    (folder / name).write_bytes(data[:keep])
    assert f"fao_Latn/{name}: cut off or damaged" in refused(folder, tmp_path)


def test_a_parquet_file_with_a_damaged_page_or_without_text_is_a_sentence(folder, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    texts = pa.table({"text": [f"{n} {n**7}" for n in range(3000)]})
    pq.write_table(texts, folder / "b.parquet", write_page_checksum=True)
    data = bytearray((folder / "b.parquet").read_bytes())
    data[200:260] = bytes(60)
    (folder / "b.parquet").write_bytes(data)
    assert "fao_Latn/b.parquet: cut off or damaged" in refused(folder, tmp_path)
    pq.write_table(texts.rename_columns(["txt"]), folder / "b.parquet")
    assert "fao_Latn/b.parquet: has no column 'text'; did you mean 'txt'?" in refused(folder, tmp_path)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("[" * 100_000, "line 1 is not JSON"),
        ('{"text": 5}', "line 1 has no text; expected an object with the key 'text'"),
        ('{"text": "a", "n": ' + "9" * 5000 + "}", "line 1 is not JSON"),
        ('{"text": "a", "id": "x\\ny"}', "line 1 has an id, source, licence or group that is no short text of one line"),
        ('{"text": "a", "source": "' + "s" * 5000 + '"}', "line 1 has an id, source, licence or group"),
    ],
)
def test_json_that_is_no_document_is_a_sentence(folder, tmp_path, line, sentence):
    (folder / "b.jsonl").write_text(line + "\n")
    assert f"fao_Latn/b.jsonl: {sentence}" in refused(folder, tmp_path)


def test_links_that_leave_the_folder_are_refused(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/b.jsonl").write_text(GOOD)
    (folder / "b.jsonl").symlink_to(tmp_path / "elsewhere/b.jsonl")
    assert "fao_Latn/b.jsonl: is a link that leaves the folder" in refused(folder, tmp_path)
    (folder / "b.jsonl").unlink()
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    assert "fao_Latn/more: is a link that leaves the folder" in refused(folder, tmp_path)
    (folder / "more").unlink()
    (folder.parent / "isl_Latn").symlink_to(folder)
    assert "isl_Latn: is a link to another folder, whose files would be read twice" in refused(folder, tmp_path)


def test_empty_files_are_nothing_and_empty_languages_are_refused(folder, tmp_path):
    for name, data in (
        ("b.jsonl", b""),
        ("b.txt", b""),
        ("c.txt.gz", gzip.compress(b"")),
        ("d.jsonl.zst", zstandard.compress(b"")),
    ):
        (folder / name).write_bytes(data)
    facts = ingest(folder.parent, tmp_path).facts
    assert [s["documents"] for s in facts["sources"]] == [1, 0, 0, 0, 0]
    (folder.parent / "isl_Latn").mkdir()
    (folder.parent / "isl_Latn/a.jsonl").write_text("\n")
    with pytest.raises(Refused, match="isl_Latn: holds no documents; add text or remove the folder"):
        ingest(folder.parent, tmp_path)


def test_an_id_that_two_files_have_is_refused_with_the_second(folder, tmp_path, monkeypatch):
    from mmenc.data import ingest as step

    monkeypatch.setattr(step, "AT_MOST", 1)  # each file a part of its own
    for name in ("b", "c", "d"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"id": f"{name}{n}", "text": "x"}) + "\n" for n in range(9)))
    with (folder / "d.jsonl").open("a") as stream:
        stream.write('{"id": "b3", "text": "y"}\n')
    assert "fao_Latn/d.jsonl: the id 'b3' is used twice in fao_Latn; ids must be unique" in refused(folder, tmp_path)


def test_equal_hashes_of_different_ids_are_no_duplicates(tmp_path, monkeypatch):
    """Runs over several ranges, with a hash of two values."""
    monkeypatch.setattr(ids, "AT_ONCE", 7)
    monkeypatch.setattr(ids, "hashed", lambda name: (hash(int(name) % 50) * 0x9E3779B97F4A7C15) % 2**64)
    runs, start = [], 0
    with (tmp_path / "ids").open("wb") as stream:
        for number in range(4):
            names = [str(number * 25 + n) for n in range(25)]
            shard = tmp_path / f"{number}.jsonl.zst"
            write_documents(shard, [{"id": n, "text": "", "source": "", "license": ""} for n in names])
            stream.write(ids.run_bytes(ids.array("Q", [ids.hashed(n) for n in names])))
            runs.append(ids.Run(tmp_path / "ids", start, 25, shard))
            start += 25
    assert ids.first_twice(runs) is None
    write_documents(runs[3].shard, [{"id": "3", "text": "", "source": "", "license": ""}])
    assert ids.first_twice(runs) == ("3", runs[3].shard)


def test_two_thousand_languages_at_once(tmp_path):
    from iso639 import iter_langs

    codes = [x.pt3 for x in iter_langs() if x.scope() == "Individual"][:2000]
    for code in codes:
        (tmp_path / "data" / f"{code}_Latn").mkdir(parents=True)
        (tmp_path / "data" / f"{code}_Latn" / "a.jsonl").write_text(GOOD)
    before = time.process_time()
    facts = ingest(tmp_path / "data", tmp_path).facts
    assert facts["total"]["documents"] == 2000
    assert len(facts["languages"]) == 2000
    assert time.process_time() - before < 30
