"""The data steps on much text: wall time and the highest memory of any one process, from raw files to tokenised shards.

    python -m benchmarks.scale CORPUS OUT [--copies 14]

CORPUS holds `TAG.jsonl.zst` of documents (`id`, `text`); OUT gets every language that many times over. A copy's words (in
scripts without spaces: characters) are shuffled, so that copies are no duplicates while their sizes, scripts and alphabets
stay true; what depends on word order (compression, merges of long pieces) is not. No peer: the question is whether the steps
end, and in which memory. Steps go on where they were stopped when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml
import zstandard

from experiments.annealing import SHARED
from mmenc.data.shards import Document, read_documents
from mmenc.data.words import ALONE

REPO = Path(__file__).parents[1]


def shuffled(text: str, seed: str) -> str:
    """The same words, or the same characters where there are no words, in another order."""
    draw = random.Random(seed)
    spaced = 5 * len(ALONE.findall(text)) < len(text)
    pieces = text.split(" ") if spaced else list(text)
    draw.shuffle(pieces)
    return (" " if spaced else "").join(pieces)


def repeat(source: Path, target: Path, copies: int) -> tuple[int, int]:
    """Write one language `copies` times over, the first as it is; return documents and bytes of text."""
    documents, size = 0, 0
    half = target.with_suffix(".tmp")
    half.parent.mkdir(parents=True, exist_ok=True)
    with zstandard.open(half, "wt", encoding="utf-8") as out:
        seen: set[str] = set()
        for document in read_documents(source):
            for copy in range(copies):
                key = f"{document['id']}@{copy}"
                while key in seen:  # the corpus has a few ids twice
                    key += "#"
                seen.add(key)
                text = shuffled(document["text"], key) if copy else document["text"]
                row: Document = {"id": key, "text": text}
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
                documents, size = documents + 1, size + len(text.encode())
    half.replace(target)
    return documents, size


def prepare(corpus: Path, out: Path, copies: int) -> None:
    """Raw files, recipe and expectations in OUT; what is there already stays."""
    documents = size = 0
    for source in sorted(corpus.glob("*.jsonl.zst")):
        target = out / "raw" / source.name.split(".")[0] / "text.jsonl.zst"
        if not target.exists():
            found = repeat(source, target, copies)
            documents, size = documents + found[0], size + found[1]
    if documents:
        print(f"wrote {size / 1e6:,.0f} MB of text in {documents:,} documents", flush=True)
    recipe = yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8"))
    recipe["languages"] = {"high": {"top": 12}, "middle": {"top": 60}, "tail": "all"}
    recipe["ingest"] = {"root": "raw"}
    recipe["validate"]["waivers"] = []
    (out / "params.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    shutil.copytree(REPO / "expectations", out / "expectations", dirs_exist_ok=True)


def measure(out: Path, step: str, inputs: list[str]) -> int:
    """Run one step; say its time, its highest memory of one process and its last line; return its exit code."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "mmenc.cli", "run", step, "--out", f"artifacts/{step}", *inputs]
    with (out / f"{step}.log").open("wb") as log:
        child = subprocess.Popen(command, cwd=out, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    lines = (out / f"{step}.log").read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    spent, memory = time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6
    print(f"{step:10} {spent:7,.0f} s  {memory:6,.0f} MB  {lines[-1]}", flush=True)
    return code


def main() -> None:
    """Raw files, then the steps in order, until one fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--copies", type=int, default=14)
    options = parser.parse_args()
    prepare(options.corpus, options.out, options.copies)
    for step, roles in SHARED.items():
        if code := measure(options.out, step, [f"{role}={path}" for role, path in roles.items()]):
            sys.exit(code)


if __name__ == "__main__":
    main()
