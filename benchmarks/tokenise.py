"""Tokenising: our whole step on one core (read zstd JSON lines, prove, encode, write shards) against tokenizers' encoding alone.

The peer only encodes documents that are in memory already (`encode_batch_fast`); ours reads, splits, encodes, checks equal
ids on a sample of every language, and writes. Same documents, same tokenizer.json, one thread each, in turn, by processor
time. Every round of ours begins with cold caches, as a part of the step does. Input: the cleaned documents of `make run`, or
with `--corpus DIR` a folder of `LANGUAGE.jsonl.zst`, up to 1 MB of each language. Vocabularies of 16,384 entries are trained
on every 25th document, which the peer encodes.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer

from benchmarks.table import Row, main
from mmenc.artifact import write_json
from mmenc.data.encoders import limit_threads, reference
from mmenc.data.shards import Document, languages, shard_paths, write_documents
from mmenc.data.split import Splitter, by_prefix
from mmenc.data.stream import Bundle, documents
from mmenc.data.survey import groups_part
from mmenc.data.tokenize import encode_part
from mmenc.data.vocabulary import train_bpe
from mmenc.errors import Refused
from tests.kinds import gemma_style, gpt2_style

ENTRIES = 16_384
LANGUAGE_BYTES = 1_000_000
CLEAN = Path("artifacts/clean")


def source(corpus: Path | None) -> dict[str, list[Path]]:
    """Shards by language."""
    if corpus:
        return {p.name.split(".")[0]: [p] for p in sorted(corpus.glob("*.jsonl.zst"))}
    if not (CLEAN / "manifest.json").is_file():
        raise Refused(f"{CLEAN}: not there; run `make run` first, or give --corpus DIR")
    return {t: shard_paths(CLEAN, t) for t in languages(CLEAN)}


def shards(corpus: Path | None, folder: Path) -> tuple[Bundle, int, list[Document]]:
    """The input as a bundle of shards of our kind, its bytes of text, and every 25th document."""
    bundle, total, some = [], 0, []
    for language, paths in source(corpus).items():
        kept, size = [], 0
        for d in documents(paths):
            if size >= LANGUAGE_BYTES:
                break
            kept.append(d)
            size += len(d["text"].encode())
        path = folder / language / "00000.jsonl.zst"
        write_documents(path, kept)
        bundle.append((language, [path]))
        total += size
        some += kept[::25]
    return bundle, total, some


def ours(bundle: Bundle, total: int, path: Path, splits: Path, folder: Path, found: dict[str, str]) -> Iterator[int]:
    """Bytes of whole rounds of the step's part."""
    for number in itertools.count():
        out = folder / f"out-{number}"
        out.mkdir()
        found["library"] = encode_part(out, bundle, path, splits, 8, "fastest", 1)["library"]
        for file in out.iterdir():
            file.unlink()
        yield total


def theirs(texts: list[str], path: Path) -> Iterator[int]:
    """Bytes that Hugging Face's tokenizers encode, a batch at a time."""
    tokenizer: Tokenizer = reference(path)
    batches = [texts[i : i + 512] for i in range(0, len(texts), 512)]
    for batch in itertools.cycle(batches):
        tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        yield sum(len(t.encode()) for t in batch)


def in_turn(sides: dict[str, Iterator[int]], seconds: float, rounds: int) -> dict[str, float]:
    """Bytes per second of processor time, the median of some rounds: both sides have one thread, other load takes wall time."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, steps in sides.items():
            done, start = 0, time.process_time()
            while (spent := time.process_time() - start) < seconds:
                done += next(steps)
            found[name].append(done / (spent or 1))
    return {name: statistics.median(values) for name, values in found.items()}


def run(options: Namespace) -> list[Row]:
    """Each kind of tokenizer in turn."""
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        folder = Path(place)
        bundle, total, some = shards(options.corpus, folder / "shards")
        splits = folder / "sides.json"
        write_json(splits, Splitter(by_prefix(groups_part(folder, bundle)["groups"])).sides)
        texts = [d["text"] for d in some]
        kinds = {
            "byte-level, our pattern": lambda: train_bpe(texts, ENTRIES, 2),
            "byte-level, GPT-2's pattern": lambda: gpt2_style(ENTRIES, texts),
            "Gemma style (▁, byte fallback)": lambda: gemma_style(ENTRIES, texts),
        }
        made = {}
        for number, (kind, make) in enumerate(kinds.items()):
            made[kind] = folder / f"tokenizer-{number}.json"
            make().save(str(made[kind]))
        rows = []
        for kind, path in made.items():
            found: dict[str, str] = {}
            sides = {"ours": ours(bundle, total, path, splits, folder, found), "peer": theirs(texts, path)}
            speed = in_turn(sides, options.seconds, options.rounds)
            for file in folder.glob("out-*"):
                file.rmdir()
            print(f"{kind}: {speed['ours'] / 1e6:.1f} MB/s by {found['library']}, peer {speed['peer'] / 1e6:.2f}", flush=True)
            setting = f"{total / 1e6:.0f} MB, {len(bundle)} languages, {ENTRIES:,} entries, CPU time, {found['library']}"
            name = f"tokenise: {kind}"
            peer = "tokenizers encode_batch_fast, encoding alone"
            rows.append(Row(name, setting, "MB/s", speed["ours"] / 1e6, speed["peer"] / 1e6, peer, tokenizers.__version__))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--folder", type=Path)
    own, rest = parser.parse_known_args()
    sys.argv = [sys.argv[0], *rest]
    limit_threads(1)

    def with_corpus(options: Namespace) -> list[Row]:
        """The shared options and our own."""
        return run(Namespace(**vars(options), **vars(own)))

    main(__doc__, with_corpus)
