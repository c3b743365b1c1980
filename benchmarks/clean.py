"""Cleaning on one core: ours against datatrove's pipeline on the same documents, files to files, in turns in one run.

Both read the ingest artifact's shards of six languages (five scripts), repair with ftfy, look for repetition, sign with MinHash
(128 permutations of ours, 14 × 8 of datatrove's default), find the copies and write what stays; ours also asks for script,
length, encoding, boilerplate lines, language and exact copies. datatrove gets its fastest word splitter (white space), though
that is none for Japanese. Figures are kilobytes of UTF-8 text per second of CPU time, the median of the rounds. Needs `make run`.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import datatrove.pipeline.dedup.minhash
import datatrove.utils.word_tokenizers
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import GopherRepetitionFilter
from datatrove.pipeline.formatters import FTFYFormatter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.hashing import HashConfig
from datatrove.utils.word_tokenizers import WordTokenizer

from benchmarks.table import Row, main
from mmenc.data import boilerplate, stages
from mmenc.data.shards import read_documents
from mmenc.errors import Refused
from mmenc.sections_data import Clean

SHARDS = Path("artifacts/ingest/shards")
LANGUAGES = ("eng_Latn", "fin_Latn", "rus_Cyrl", "arb_Arab", "hin_Deva", "jpn_Jpan")


class Spaces(WordTokenizer):
    """Words between white space."""

    def word_tokenize(self, text: str) -> list[str]:
        """Split."""
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        """Lines."""
        return text.split("\n")

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Not asked for here."""
        raise NotImplementedError


def ours(folder: Path, shards: list[stages.Shard]) -> int:
    """All stages, one process; return the documents that stay."""
    settings = Clean()
    read = stages.read(folder / "read", shards, settings)
    (folder / "lines").mkdir()
    (folder / "tables").mkdir()
    (folder / "copies").mkdir()
    files = {t: folder / "read" / t / stages.name_of(p) for t, p in shards}
    documents = {key.split("/")[0]: row["documents"] for key, row in read.items()}
    lines = {t: ([f.with_suffix(".lines.npy")], documents[t]) for t, f in files.items()}
    boilerplate.frequent(folder / "lines", lines, settings.boilerplate_share, settings.boilerplate_documents)
    scripts: dict[str, dict[str, list[Path]]] = {}
    for tag, file in files.items():
        scripts.setdefault(tag.split("_")[1], {})[tag] = [file.with_suffix(".sample.json")]
    found = stages.languages(folder / "tables", {s: f for s, f in scripts.items() if len(f) > 1})
    used = {t: folder / "tables" / s for s, row in found.items() for t in row["languages"]}
    last = {t: n for row in found.values() for t, n in row["last"].items()}
    more = {t: (folder / "lines" / f"{t}.npy", used.get(t), last.get(t, 0), None) for t in files}
    asked = [(t, f.with_suffix(".kept.zst"), more[t]) for t, f in files.items()]
    stages.judge(folder / "judge", asked, settings)
    judged = {t: folder / "judge" / t / f.name for t, f in files.items()}
    marks = {t: ([f.with_suffix(".marks.npy")], [f.with_suffix(".signatures.npy")]) for t, f in judged.items()}
    stages.copies(folder / "copies", marks, settings)
    places = folder / "read", folder / "judge"
    wanted = [(f"{t}/{f.name}", *places, folder / "copies" / t / f"{f.name}.npz", [f.name]) for t, f in files.items()]
    return sum(row["kept"] for row in stages.write(folder / "write", wanted).values())


def peer(folder: Path, shards: list[stages.Shard]) -> int:
    """Datatrove's pipeline of four steps, one task a step; return the documents that stay."""
    # Its own splitters need a further package for every language; white space is the fastest that there is.
    for module in (datatrove.utils.word_tokenizers, datatrove.pipeline.dedup.minhash):
        module.load_word_tokenizer = lambda _language: Spaces()
    config = MinhashConfig(hash_config=HashConfig(hash_fc="sha1"))  # its xxhash fails with the xxhash of today

    def run(name: str, *pipeline: object, tasks: int = 1) -> None:
        logs = str(folder / "logs" / name)
        LocalPipelineExecutor(pipeline=list(pipeline), tasks=tasks, workers=1, logging_dir=logs, skip_completed=False).run()

    for tag, path in shards:
        (folder / "in").mkdir(exist_ok=True)
        shutil.copy(path, folder / "in" / f"{tag}.jsonl.zst")
    signatures, buckets, removed = (str(folder / n) for n in ("signatures", "buckets", "removed"))
    reader = JsonlReader(str(folder / "in"), compression="zstd")
    filtered = JsonlWriter(str(folder / "filtered"), compression="zstd", output_filename="${rank}.jsonl.zst")
    repeated = GopherRepetitionFilter()
    run("filter", reader, FTFYFormatter(), repeated, filtered)
    again = JsonlReader(str(folder / "filtered"), compression="zstd")
    run("sign", again, MinhashDedupSignature(signatures, config=config))
    run("buckets", MinhashDedupBuckets(signatures, buckets, config=config), tasks=config.num_buckets)
    run("cluster", MinhashDedupCluster(buckets, removed, config=config))
    out = JsonlWriter(str(folder / "out"), compression="zstd", output_filename="${rank}.jsonl.zst")
    run("write", JsonlReader(str(folder / "filtered"), compression="zstd"), MinhashDedupFilter(removed), out)
    return sum(1 for path in (folder / "out").glob("*.zst") for _ in read_documents(path))


def measured(side: Callable[[Path, list[stages.Shard]], int], shards: list[stages.Shard]) -> tuple[float, int]:
    """CPU seconds of one run, and the documents that stay."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        kept = side(Path(folder), shards)
        return time.process_time() - start, kept


def run(options: Namespace) -> list[Row]:
    """Take turns, and report kilobytes per CPU second."""
    if not SHARDS.is_dir():
        raise Refused(f"{SHARDS}: not there; run `make run` first")
    shards = [(t, next(iter(sorted((SHARDS / t).glob("*.zst"))))) for t in LANGUAGES]
    size = sum(len(d["text"].encode()) for _, p in shards for d in read_documents(p))
    spent: dict[str, list[float]] = {"ours": [], "peer": []}
    kept = {}
    for _ in range(options.rounds):
        for name, side in (("ours", ours), ("peer", peer)):
            seconds, kept[name] = measured(side, shards)
            spent[name].append(seconds)
    speed = {name: size / 1e3 / statistics.median(values) for name, values in spent.items()}
    setting = f"{size / 1e6:.1f} MB, {len(LANGUAGES)} languages, one core; kept {kept['ours']:,} and {kept['peer']:,} documents"
    return [Row("clean, files to files", setting, "kB/s of CPU", speed["ours"], speed["peer"], "datatrove", version("datatrove"))]


if __name__ == "__main__":
    main(__doc__, run)
