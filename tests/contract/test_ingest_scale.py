"""Ingest at scale: any number of processes or Ray workers, killed anywhere, a bucket that fails: equal content."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from mmenc.errors import Refused
from mmenc.store import Store
from tests.ingesting import ingest, made
from tests.pipeline import REPO
from tests.s3 import S3, running

SMALL = 200_000
"""Bytes of a shard in these tests."""


@pytest.fixture(scope="module")
def big(tmp_path_factory) -> Path:
    """Twelve files of three languages, 6 MB of text that compresses little."""
    data = tmp_path_factory.mktemp("big") / "data"
    dice = random.Random(5)
    words = ["".join(dice.choices("abdðeéfghijklmnoprstuvyøæ", k=dice.randint(2, 9))) for _ in range(3000)]
    for language in ("fao_Latn", "isl_Latn", "dan_Latn"):
        (data / language).mkdir(parents=True)
        for number in range(4):
            lines = [json.dumps({"text": " ".join(dice.choices(words, k=120))}, ensure_ascii=False) for _ in range(600)]
            text = ("\n".join(lines) + "\n").encode()
            (data / language / f"{number}.jsonl.zst").write_bytes(zstandard.compress(text))
    return data


@pytest.fixture(scope="module")
def few(big, tmp_path_factory) -> Path:
    """Four files of one language: four parts, for what needs a server."""
    data = tmp_path_factory.mktemp("few") / "data"
    shutil.copytree(big / "dan_Latn", data / "dan_Latn")
    return data


@pytest.fixture
def small_shards(monkeypatch) -> None:
    from mmenc.data import ingest as step

    monkeypatch.setattr(step, "SHARD_BYTES", SMALL)


def test_the_number_of_processes_changes_nothing(big, tmp_path, small_shards):
    one = ingest(big, tmp_path / "one")
    two = ingest(big, tmp_path / "two", {"threads": 2})
    assert (one.digest, one.content, one.facts) == (two.digest, two.content, two.facts)
    assert one.facts["total"]["documents"] == 7200


def test_ray_gives_equal_content(big, tmp_path, small_shards):
    pytest.importorskip("ray")
    one = ingest(big, tmp_path / "one")
    two = ingest(big, tmp_path / "ray", {"threads": 2, "executor": "ray"})
    assert (one.digest, one.content, one.facts) == (two.digest, two.content, two.facts)
    shutil.copytree(big, tmp_path / "data")
    (tmp_path / "data/fao_Latn/9.jsonl").write_text("{")
    with pytest.raises(Refused, match=r"fao_Latn/9.jsonl: line 1 is not JSON"):
        ingest(tmp_path / "data", tmp_path / "ray", {"threads": 2, "executor": "ray"})
    with pytest.raises(Refused, match=r"compute.ray_address: no Ray cluster answers at 127.0.0.1:1"):
        ingest(big, tmp_path / "no", {"executor": "ray", "ray_address": "127.0.0.1:1"})


PROGRAM = """
import sys
from pathlib import Path
from mmenc.data import ingest as step
step.SHARD_BYTES = 200_000
from tests.ingesting import ingest
if __name__ == "__main__":
    ingest(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_killed_among_its_parts_it_goes_on_with_those_that_are_missing(big, tmp_path, small_shards, capsys):
    expected = ingest(big, tmp_path / "whole").content
    (tmp_path / "main.py").write_text(PROGRAM)
    out = tmp_path / "killed"
    for wanted in (2, 5):
        process = subprocess.Popen(
            [sys.executable, tmp_path / "main.py", big, out],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(REPO)},
        )
        until = time.monotonic() + 60
        while len(list(out.glob(".resume/*/parts/read/[0-9]*/.result.json"))) < wanted and time.monotonic() < until:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = len(list(out.glob(".resume/*/parts/read/[0-9]*/.result.json")))
    assert finished >= 5
    assert not (out / "ingest").exists()
    capsys.readouterr()
    assert ingest(big, out).content == expected
    assert f"read: {finished} of " in capsys.readouterr().out
    assert not list(out.glob(".resume/*/parts"))


def test_killed_while_the_parts_are_put_together_they_are_still_whole(big, tmp_path, small_shards, monkeypatch):
    from mmenc.parts import Parts

    expected = ingest(big, tmp_path / "whole").content
    link, count = Parts.link, iter(range(100))

    def dies(self, path, target):
        if next(count) == 5:
            raise RuntimeError("killed")
        link(self, path, target)

    monkeypatch.setattr(Parts, "link", dies)
    with pytest.raises(RuntimeError, match="killed"):
        ingest(big, tmp_path / "out")
    monkeypatch.setattr(Parts, "link", link)
    assert ingest(big, tmp_path / "out").content == expected


def test_memory_does_not_grow_with_the_input(tmp_path):
    """One file of 200 MB: several shards, below 150 MB more than an import takes."""
    line = (json.dumps({"text": "Øll menniskju eru fødd fræls " * 60}, ensure_ascii=False) + "\n").encode()
    (tmp_path / "data/fao_Latn").mkdir(parents=True)
    with (tmp_path / "data/fao_Latn/a.jsonl").open("wb") as stream:
        for _ in range(200):
            stream.write(line * (2**20 // len(line)))
    program = "import sys; from pathlib import Path; from tests.ingesting import ingest; import resource\n"
    program += "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
    program += "print(ingest(Path(sys.argv[1]) / 'data', Path(sys.argv[1])).facts['total'])\n"
    program += "print('MB more:', (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout.rpartition(":")[2]) < 150, done.stdout
    assert len(list((tmp_path / "ingest/shards/fao_Latn").iterdir())) == 4


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[S3]:
    pytest.importorskip("s3fs")
    with running(tmp_path_factory.mktemp("s3") / "weed") as found:
        found.bucket("versioned", versions=True)
        found.bucket("plain")
        yield found


@pytest.fixture
def s3(server: S3, monkeypatch) -> S3:
    for key, value in server.env.items():
        monkeypatch.setenv(key, value)
    return server


def upload(data: Path, base: str) -> None:
    store = Store(base, 10)
    for path in sorted(p for p in data.rglob("*") if p.is_file()):
        store.put(path, path.relative_to(data).as_posix())


def test_a_bucket_is_a_source_and_its_objects_are_here_only_while_they_are_read(s3, few, tmp_path, small_shards, monkeypatch):
    from mmenc.data import ingest as step

    base = f"s3://versioned/{tmp_path.name}"
    upload(few, f"{base}/crawl")
    (tmp_path / "data").mkdir()
    source = {"path": f"{base}/crawl/{{tag}}/*.jsonl.zst", "license": "cc0"}
    most = 0
    read = step._read

    def watched(file, item, settings, language):
        nonlocal most
        most = max(most, len([p for p in (tmp_path / "s3").rglob("*.jsonl.zst") if ".cache" in p.parts]))
        return read(file, item, settings, language)

    monkeypatch.setattr(step, "_read", watched)
    found = ingest(tmp_path / "data", tmp_path / "s3", sources=[source])
    assert most == 1
    assert not list((tmp_path / "s3/.cache").rglob("*.zst"))
    local = ingest(few, tmp_path / "local", license="cc0")
    assert [d["text"] for d in made(tmp_path / "s3")["dan_Latn"]] == [d["text"] for d in made(tmp_path / "local")["dan_Latn"]]
    assert found.inputs[0]["path"] == f"{base}/crawl/dan_Latn/0.jsonl.zst"
    assert set(found.inputs[0]) == {"path", "version"}
    assert found.facts["sources"][0]["sha256"] == local.inputs[0]["sha256"]
    # Another version of an object is another digest; the same versions are up to date.
    assert ingest(tmp_path / "data", tmp_path / "s3", sources=[source]).digest == found.digest
    Store(f"{base}/crawl", 10).put(few / "dan_Latn/1.jsonl.zst", "dan_Latn/0.jsonl.zst")
    assert ingest(tmp_path / "data", tmp_path / "s3", sources=[source]).digest != found.digest


class Proxy:
    """A connection to the server that cuts answers off, or lets them wait."""

    def __init__(self, port: int, *, cut: int = 0, pause: float = 0.0) -> None:
        self.port, self.left, self.pause, self.faults = port, cut, pause, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            upstream = socket.create_connection(("127.0.0.1", self.port))
            for pair in ((client, upstream, False), (upstream, client, True)):
                threading.Thread(target=self.pump, args=pair, daemon=True).start()

    def pump(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        given = 0
        try:
            while data := source.recv(16384):
                given += len(data)
                if answers and given > 40_000 and self.left > 0:
                    self.left, self.faults = self.left - 1, self.faults + 1
                    break
                if answers and self.pause and given > 16384:
                    self.faults += 1
                    time.sleep(self.pause)
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("fault", [{"cut": 3}, {"pause": 0.05}])
def test_answers_that_break_off_or_come_slowly_change_nothing(s3, few, tmp_path, small_shards, monkeypatch, fault):
    base = f"s3://plain/{tmp_path.name}"
    upload(few, base)
    (tmp_path / "data").mkdir()
    source = {"path": f"{base}/{{tag}}/*.jsonl.zst"}
    expected = ingest(tmp_path / "data", tmp_path / "one", sources=[source]).content
    proxy = Proxy(s3.port, **fault)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    assert ingest(tmp_path / "data", tmp_path / "two", {"store_patience": 60}, sources=[source]).content == expected
    assert proxy.faults >= 3
    proxy.listener.close()


def test_a_bucket_that_goes_away_is_waited_for_and_named_if_it_stays_away(s3, few, tmp_path, small_shards, monkeypatch, capsys):
    from mmenc.data import ingest as step

    base = f"s3://plain/{tmp_path.name}"
    upload(few, base)
    (tmp_path / "data").mkdir()
    source = {"path": f"{base}/{{tag}}/*.jsonl.zst"}
    expected = ingest(tmp_path / "data", tmp_path / "one", sources=[source]).content
    fetch, count = step.fetch_object, iter(range(1000))

    def dying(*arguments):
        if next(count) == 2:
            s3.down()
            back.start()
        fetch(*arguments)

    back = threading.Timer(4, s3.up)
    monkeypatch.setattr(step, "fetch_object", dying)
    assert ingest(tmp_path / "data", tmp_path / "two", {"store_patience": 60}, sources=[source]).content == expected
    assert "not reachable" in capsys.readouterr().out
    back.join()
    back, count = threading.Timer(8, s3.up), iter(range(1000))
    with pytest.raises(Refused, match=rf"{base}: not reachable .*run the same command again"):
        ingest(tmp_path / "data", tmp_path / "three", {"store_patience": 2}, sources=[source])
    back.join()
    capsys.readouterr()
    assert ingest(tmp_path / "data", tmp_path / "three", sources=[source]).content == expected
    assert "parts are there from before" in capsys.readouterr().out


def test_a_wrong_key_a_missing_bucket_and_nothing_there_are_one_sentence_at_once(s3, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()

    def refused(path: str) -> str:
        before = time.monotonic()
        with pytest.raises(Refused) as error:
            ingest(tmp_path / "data", tmp_path, {"store_patience": 60}, sources=[{"path": path}])
        assert time.monotonic() - before < 20
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "s3://no-such-bucket/x: there is no such bucket" in refused("s3://no-such-bucket/x/{tag}/*.jsonl")
    assert "s3://plain/nothing/{tag}/*: nothing is found there" in refused("s3://plain/nothing/{tag}/*")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "the store refuses the key" in refused("s3://plain/x/{tag}/*.jsonl")


def test_what_is_pushed_by_dvc_comes_back_by_dvc_and_ingests_alike(s3, few, tmp_path, small_shards, monkeypatch):
    """`dvc push` and `dvc pull` of data.dvc, in another checkout, against a real server."""
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull}
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    shutil.copytree(few, here / "data")

    def call(folder: Path, *words: str) -> None:
        subprocess.run(words, cwd=folder, env=env, check=True, capture_output=True)

    dvc = (sys.executable, "-m", "dvc")
    call(here, "git", "init", "-q")
    call(here, *dvc, "init", "-q")
    call(here, *dvc, "config", "core.analytics", "false")
    call(here, *dvc, "config", "cache.type", "hardlink,symlink")
    call(here, *dvc, "remote", "add", "-d", "bucket", f"s3://plain/{tmp_path.name}-dvc")
    call(here, *dvc, "remote", "modify", "bucket", "endpointurl", s3.url)
    call(here, *dvc, "add", "-q", "data")
    call(here, *dvc, "push", "-q")
    call(here, "git", "add", ".")
    call(here, "git", "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "data")
    call(tmp_path, "git", "clone", "-q", str(here), str(there))
    assert not (there / "data").exists()
    call(there, *dvc, "pull", "-q")
    monkeypatch.chdir(here)
    first = ingest("data", tmp_path / "one")
    monkeypatch.chdir(there)
    second = ingest("data", tmp_path / "two")
    assert (first.digest, first.content) == (second.digest, second.content)
