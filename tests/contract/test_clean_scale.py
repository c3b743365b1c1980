"""Clean at any size: equal content whatever the processes, a kill goes on at the shard, memory does not grow with the input."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mmenc.artifact import Manifest, Request, seal
from mmenc.data.shards import read_documents, write_documents
from tests.pipeline import REPO
from tests.texts import SENTENCES

LANGUAGES = ("eng_Latn", "rus_Cyrl", "hin_Deva", "cmn_Hans")
PROGRAM = """
import resource, sys
from pathlib import Path
from mmenc import steps
from mmenc.data import clean
from mmenc.job import execute
from mmenc.recipe import load
from mmenc.overrides import override
if __name__ == "__main__":
    out, threads, batch = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    clean.BATCH = clean.SMALL = batch
    recipe = override(load(Path("params.yaml")), [f"compute.threads={threads}"])
    made = execute(steps.find("clean"), "", recipe, out / "clean", {"raw": out / "ingest"})
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print("RESULT", made.content, *own)
"""


def raw(root: Path, shards: int, documents: int) -> Path:
    """An ingest artifact of its own making: words drawn anew, some copies, some foreign documents, some that are too short."""
    rng = np.random.default_rng(7)
    words = {t: " ".join(SENTENCES[t]).split() if t != "cmn_Hans" else list("".join(SENTENCES[t])) for t in LANGUAGES}
    for tag in LANGUAGES:
        for shard in range(shards):
            rows = []
            for n in range(documents):
                text = ("" if tag == "cmn_Hans" else " ").join(rng.choice(words[tag], 150).tolist())
                if n % 50 == 7:
                    text = rows[n - 5]["text"] if n % 100 == 7 else rows[n - 5]["text"][:-9] + "new end"
                if n % 50 == 8:
                    text = "x"
                rows.append({"id": f"{tag}/{shard}/{n}", "text": text, "source": "s", "license": "l"})
            write_documents(root / "shards" / tag / f"{shard:05d}.jsonl.zst", rows)
    files = {p.relative_to(root).as_posix(): "" for p in sorted(root.rglob("*.zst"))}
    return sealed(root, files)


def sealed(root: Path, files: dict[str, str]) -> Path:
    request = Request("ingest", "", 1, {}, (), ())
    seal(root, request, [], {"sources": [], "languages": {}, "files": len(files)}, [])
    return root


def command(out: Path, threads: int, batch: int) -> tuple[list[str], dict[str, str]]:
    path = os.pathsep.join([str(REPO / "src"), str(REPO)])
    program = out.parent / f"{out.name}.py"
    program.write_text(PROGRAM)
    return [sys.executable, str(program), str(out), str(threads), str(batch)], os.environ | {"PYTHONPATH": path}


def run(out: Path, threads: int, batch: int) -> tuple[str, int]:
    """Content and peak memory (bytes) of the largest process of a run of clean in a process of its own."""
    words, env = command(out, threads, batch)
    done = subprocess.run(words, check=False, cwd=REPO, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    content, own, children = done.stdout.split("RESULT ")[1].split()[:3]
    return content, 1024 * max(int(own), int(children))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("small")
    raw(root / "ingest", shards=3, documents=150)
    return root


def copy_of(source: Path, target: Path) -> Path:
    target.mkdir()
    (target / "ingest").symlink_to(source / "ingest")
    return target


def test_processes_change_nothing_and_every_document_has_its_place(small, tmp_path):
    one, _ = run(copy_of(small, tmp_path / "one"), 1, 2_000_000)
    three, _ = run(copy_of(small, tmp_path / "three"), 3, 20_000)
    assert one == three
    facts = Manifest.read(tmp_path / "three/clean").facts
    assert facts["total"]["documents"] == 4 * 3 * 150
    assert facts["total"]["rejected"]["too short"] == 4 * 3 * 3
    assert facts["total"]["rejected"]["duplicate"] == 4 * 3 * 2
    assert facts["total"]["rejected"]["near duplicate"] == 4 * 3
    for tag in LANGUAGES:
        for shard in sorted((small / "ingest/shards" / tag).iterdir()):
            before = [d["id"] for d in read_documents(shard)]
            kept = [d["id"] for d in read_documents(tmp_path / "three/clean/shards" / tag / shard.name)]
            rejected = list(read_documents(tmp_path / "three/clean/rejected" / tag / shard.name))
            assert sorted(kept + [d["id"] for d in rejected]) == sorted(before)
            assert kept == [i for i in before if i in set(kept)], "in their first order"
            assert all(d["reason"] for d in map(dict, rejected))


def test_a_killed_run_goes_on_at_the_shard(small, tmp_path):
    whole, _ = run(copy_of(small, tmp_path / "whole"), 2, 20_000)
    out = copy_of(small, tmp_path / "killed")
    words, env = command(out, 2, 20_000)
    for wanted in ("parts/read/*", "parts/judge/*", "parts/write/*"):
        running = subprocess.Popen(words, cwd=REPO, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while running.poll() is None and not list(out.glob(f".resume/*/{wanted}/.result.json")) and time.monotonic() < until:
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        running.wait()
        if (out / "clean/manifest.json").exists():
            break
    done = subprocess.run(words, check=False, cwd=REPO, env=env, capture_output=True, text=True, timeout=400)
    assert "parts are there from before" in done.stdout
    assert done.stdout.split("RESULT ")[1].split()[0] == whole
    assert not list(out.glob(".resume/*/parts"))


def test_memory_does_not_grow_with_the_input(small, tmp_path):
    """Sixteen times the text: the largest process must not need more than a tenth and 30 MB above."""
    _, low = run(copy_of(small, tmp_path / "low"), 2, 200_000)
    big = tmp_path / "big"
    raw(big / "ingest", shards=12, documents=600)
    _, high = run(big, 2, 200_000)
    print(json.dumps({"small": low, "sixteen times": high, "own": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
    assert high < 1.1 * low + 30e6
