"""Tokenize: every kept document becomes `bos … eos` in a flat shard of its split; lengths and bytes are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mmenc.artifact import Json
from mmenc.data.shards import Document, languages
from mmenc.data.split import splitter_of
from mmenc.data.tokenizer import documents, load
from mmenc.data.tokens import BOS, EOS, SPLITS, SplitWriter
from mmenc.errors import Refused
from mmenc.job import Job
from mmenc.progress import bar

BATCH = 512


def _batches(items: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    for item in items:
        batch.append(item)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def run(job: Job) -> Json:
    """Write `train/`, `dev/`, `test/`: tokens.bin, offsets.npy, index.json and, for dev and test, documents.jsonl."""
    clean = job.inputs["clean"].local()
    splitter, tokenizer = splitter_of(clean), load(job.inputs["tokenizer"].path)
    writers = {split: SplitWriter(job.out / split, tokenizer.get_vocab_size()) for split in SPLITS}
    folders: Json = {}
    short: Counter[str] = Counter()
    names = languages(clean)
    with bar("tokenize", len(names), "languages") as shown:
        for folder in names:
            rows: dict[str, list[tuple[list[int], int, Json | None]]] = {split: [] for split in SPLITS}
            for batch in _batches(documents(clean, folder)):
                for document, encoded in zip(
                    batch, tokenizer.encode_batch([d["text"] for d in batch], add_special_tokens=False), strict=True
                ):
                    ids = [BOS, *encoded.ids, EOS]
                    if len(ids) < job.recipe.tokenize.min_tokens:
                        short[folder] += 1
                        continue
                    split, group = splitter.of(document["id"], document.get("group")), document.get("group", "")
                    nbytes = len(document["text"].encode())
                    row = None if split == "train" else {"id": document["id"], "group": group, "bytes": nbytes}
                    rows[split].append((ids, nbytes, row))
            for name, writer in writers.items():
                writer.add(folder, rows[name])
            folders[folder] = {
                split: {"documents": len(r), "tokens": sum(len(ids) for ids, _, _ in r), "bytes": sum(n for _, n, _ in r)}
                for split, r in rows.items()
            }
            shown.advance(1, folder)
    for writer in writers.values():
        writer.close()
    total = {split: sum(row[split]["tokens"] for row in folders.values()) for split in SPLITS}
    empty = next((split for split in SPLITS if not total[split]), None)
    if empty:
        count = sum(row[split]["documents"] for row in folders.values() for split in SPLITS)
        raise Refused(
            f"tokenize: none of the {count} documents is in the {empty} split; bring more documents, or cut plain text "
            "finer with a smaller ingest.document_bytes"
        )
    counted = {split: sum(1 for row in folders.values() if row[split]["tokens"]) for split in SPLITS}
    job.say(f"{total['train']:,} train tokens in {counted['train']} languages; test in {counted['test']}")
    return {
        "folders": folders,
        "total": total,
        "languages": counted,
        "too_short": dict(short),
        "without_test": sorted(f for f, row in folders.items() if not row["test"]["tokens"]),
    }
