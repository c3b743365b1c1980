"""Feeding: the loader that training uses, against MosaicML streaming and Hugging Face datasets, over the same documents.

Ours is order -> packing -> masks -> micro-batches, as `train.loop` calls it, from memory-mapped shards in one process. The
peers read exactly the documents that our phase reads, in one shuffled set (they need not mix languages), and come twice:
with documents joined and cut into rows, which is less than ours does, and with our packing and masks in numpy behind them.
With `--cpu` the clock is the loading thread's CPU time; what a peer's helper threads compute comes free, which favours it.
The data is the default run's, repeated (`--tokens`: any folder laid out as artifacts/tokenize); it lies in the page cache.
"""

from __future__ import annotations

import os
import shutil
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import feeds
from benchmarks.table import Row, in_turn, main, write
from mmenc.artifact import read_json, write_json
from mmenc.data.mixture import mix, resolve_waves
from mmenc.data.tokens import Split, is_language, open_split
from mmenc.errors import Refused
from mmenc.recipe import load
from mmenc.sections import Phase, Top
from mmenc.train.batches import WINDOW_ROWS, Batches, Place, make_streams
from mmenc.train.micro import cut

NAME = "bench"
SEED = 21
LIMIT = 1 / (1 / 202e6 + 1 / 115e6)
"""Tokens/s: documents from a memmap 202 M, then masks of 30 % by compiled code 115 M (performance.md section 4)."""
BATCH_TOKENS = 262_144
MICRO_TOKENS = 32_768


@dataclass(frozen=True)
class Case:
    """A phase to be fed."""

    languages: int
    """The N with most text; 0: all."""
    context: int
    mask: float
    temperature: float


CASES = (Case(60, 1024, 0.30, 0.5), Case(0, 1024, 0.30, 0.3), Case(0, 8192, 0.15, 0.3))


def repeated(source: Path, work: Path, tokens: int) -> Split:
    """The train split, its documents repeated within each folder until there are so many tokens; a file of its own."""
    if not (source / "train" / "index.json").is_file():
        raise Refused(f"{source}: no tokens there; run `make run` first or name another folder with --tokens")
    split = open_split(source, "train")
    times = -(-tokens // len(split.flat))
    if times == 1:
        return split
    target = work / "tokens" / "train"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    index, lengths, first = read_json(source / "train" / "index.json"), [], 0
    with (target / "tokens.bin").open("wb") as stream:
        for folder, row in sorted(index["folders"].items()):
            stream.write(split.folder_tokens(folder).tobytes() * times)
            lengths.append(np.tile(split.lengths(folder), times))
            last = first + times * (row["last"] - row["first"])
            index["folders"][folder] = {**row, "first": first, "last": last}
            first = last
    np.save(target / "offsets.npy", np.concatenate([[0], *lengths]).cumsum())
    write_json(target / "index.json", index)
    return open_split(work / "tokens", "train")


class Ours:
    """The loader of a phase of one case."""

    def __init__(self, split: Split, case: Case) -> None:
        self.split = split
        self.vocab = load(Path("params.yaml")).tokenizer.vocab_size
        counts = {f: int(split.offsets[last] - split.offsets[first]) for f, (first, last) in split.ranges.items()}
        wave: Top | str = Top(top=min(case.languages, len(counts))) if case.languages else "all"
        tags = resolve_waves({"bench": wave}, counts)["bench"]
        # Half of what the flattened mix could read: most languages once at most, the smallest up to five times.
        self.phase = Phase.model_validate(
            {
                "init": "init",
                "tokens": sum(counts[t] for t in tags) // 2,
                "languages": "bench",
                "temperature": case.temperature,
                "mask": case.mask,
                "context": case.context,
                "rope_theta": 10_000,
                "lr": {"peak": 1e-3},
                "batch_tokens": BATCH_TOKENS,
            }
        )
        self.mixture = {"languages": {t: {"tokens": n} for t, n in mix(self.phase, NAME, tags, counts).languages.items()}}
        self.languages = sum(map(is_language, tags))

    def batches(self) -> Batches:
        """The phase from its start, nothing looked up yet."""
        streams = make_streams(self.split, {**self.mixture, "buckets": {}}, {}, SEED, NAME, self.phase)
        return Batches(streams, self.split, self.phase, NAME, SEED)

    def steps(self) -> Iterator[int]:
        """Tokens of each step's micro-batches, phase after phase."""
        rows = BATCH_TOKENS // self.phase.context
        while True:
            batches, place, step = self.batches(), Place(), 0
            while taken := batches.take(place, rows):
                found, place = taken
                size = MICRO_TOKENS // self.phase.context
                parts, _ = cut(found, self.split, self.phase, self.vocab, (SEED, NAME, step), size, slice(0, len(found)))
                yield sum(len(part.input_T) for part in parts)
                step += 1

    def documents(self) -> np.ndarray:
        """Every document that the phase reads, as often as it reads its beginning."""
        streams = self.batches().windows.streams
        firsts = [self.split.ranges[s.folder][0] for s in streams]
        parts = [s.windows(0, 1, 1)[0] for s in streams]
        return np.concatenate([p.document[p.start == 0] + first for p, first in zip(parts, firsts, strict=True)])


@dataclass(frozen=True)
class Side:
    """A peer: its module, what it is called, how its shards are written and read, what is done behind it."""

    module: str
    name: str
    documents: Callable[[Path, Split], feeds.Documents]
    behind: Callable[..., Iterator[int]]


def _mosaic(work: Path, split: Split) -> feeds.Documents:
    return feeds.mosaic(work / "mds", split.flat.dtype)


def _shuffled(work: Path, _: Split) -> feeds.Documents:
    return feeds.arrow(work / "arrow", flattened=False)


def _rewritten(work: Path, _: Split) -> feeds.Documents:
    return feeds.arrow(work / "arrow", flattened=True)


SIDES = (
    Side("streaming", "MosaicML streaming, documents joined and cut, no masks", _mosaic, feeds.joined),
    Side("streaming", "MosaicML streaming, with our packing and masks", _mosaic, feeds.packed),
    Side("datasets", "HF datasets, shuffled, joined and cut, no masks", _shuffled, feeds.joined),
    Side("datasets", "HF datasets, shuffled, with our packing and masks", _shuffled, feeds.packed),
    Side("datasets", "HF datasets, written anew in shuffled order, with our packing and masks", _rewritten, feeds.packed),
)


def compare(split: Split, case: Case, there: dict[str, str], work: Path, options: Namespace) -> list[Row]:
    """The rows of one case."""
    ours = Ours(split, case)
    documents = ours.documents()
    if "streaming" in there:
        feeds.write_mds(work / "mds", split, documents)
    if "datasets" in there:
        feeds.write_arrow(work / "arrow", split, documents)
    what: dict[str, Any] = {"tokens": WINDOW_ROWS * case.context, "context": case.context, "mask": case.mask, "vocab": ours.vocab}
    sides = {side.name: side.behind(side.documents(work, split), **what) for side in SIDES if side.module in there}
    clock = time.thread_time if options.cpu else time.perf_counter
    found = in_turn({"ours": ours.steps(), **sides}, options.seconds, options.rounds, clock)
    lengths = np.diff(split.offsets)[documents]
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    data = f"{lengths.sum() / 1e6:.0f} M tokens, {lengths.mean():.0f} a document"
    setting = f"{ours.languages} languages, rows of {case.context}, mask {case.mask:g}, {data}, {load}"
    return [
        Row(
            "loader",
            setting,
            "tokens/s of CPU time" if options.cpu else "tokens/s",
            found["ours"],
            found.get(side.name, 0.0),
            side.name if side.module in there else f"{side.name}: not installed (`make bench` does)",
            there.get(side.module, ""),
            LIMIT,
        )
        for side in SIDES
    ]


def run(options: Namespace) -> list[Row]:
    """All cases."""
    work = Path("artifacts/.bench/loader")
    work.mkdir(parents=True, exist_ok=True)
    there = feeds.versions(options.peers)
    split = repeated(options.tokens, work, int(options.millions * 1e6))
    int(split.flat[:: 4096 // split.flat.itemsize].sum())  # every page is in memory from here on
    rows: list[Row] = []
    for case in CASES:
        rows += compare(split, case, there, work, options)
        write(options.json, rows)
        print(f"{rows[-1].setting}: ours {rows[-1].ours / 1e6:.1f} M tokens/s", flush=True)
    return rows


def choices(parser: ArgumentParser) -> None:
    """Options beside those of every benchmark."""
    parser.add_argument("--tokens", type=Path, default=Path("artifacts/tokenize"), help="folder laid out as artifacts/tokenize")
    parser.add_argument("--millions", type=float, default=60, help="tokens that the documents are repeated up to")
    parser.add_argument("--cpu", action="store_true", help="CPU time of the loading thread: for a machine with other load")
    parser.add_argument("--peers", type=Path, default=Path(".venv/peers"), help="where benchmarks/peers.txt is installed")


if __name__ == "__main__":
    main(__doc__, run, choices, seconds=2.0)
