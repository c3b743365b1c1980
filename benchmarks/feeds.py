"""Other libraries' loaders over the same documents: MosaicML streaming (MDS shards), Hugging Face datasets (Arrow).

Each gives one document after the other, shuffled, in one process, as fast as its own documentation says how. What comes
after that is ours for all of them (`joined`, `packed`), so that only the reading differs.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np

from mmenc.data.masking import mask_tokens
from mmenc.data.order import cut
from mmenc.data.packing import pack
from mmenc.data.tokens import BOS, EOS, Split

Documents = Callable[[], Iterator[list[np.ndarray]]]
"""One epoch of shuffled documents (bos … eos), some at a time."""
NAMES = {"streaming": "mosaicml-streaming", "datasets": "datasets"}
BATCH = 1_000
"""Rows that Arrow is asked for at a time; 100 and 10,000 are slower."""


def versions(folder: Path) -> dict[str, str]:
    """Versions of the peers that are installed, by module; puts their folder last on the path."""
    if folder.is_dir() and str(folder.absolute()) not in sys.path:
        sys.path.append(str(folder.absolute()))
    # Its folder of image data sets needs a torchvision built for the same torch; nothing here touches images.
    sys.modules.setdefault("streaming.vision", types.ModuleType("streaming.vision"))
    there = {d.metadata["Name"].lower(): d.version for d in distributions()}
    return {module: there[name] for module, name in NAMES.items() if name in there}


def write_mds(folder: Path, split: Split, documents: np.ndarray) -> None:
    """Write documents as MDS shards of raw bytes, the cheapest encoding that it has for an array."""
    from streaming import MDSWriter

    shutil.rmtree(folder, ignore_errors=True)
    with MDSWriter(out=str(folder), columns={"tokens": "bytes"}) as writer:
        for i in documents.tolist():
            writer.write({"tokens": split.document(i).tobytes()})


def mosaic(folder: Path, dtype: np.dtype) -> Documents:
    """StreamingDataset with its own shuffle, one sample after the other (it has no other way).

    As it comes (predownload of 8 samples) it sleeps most of the time: 1 M tokens/s; with all samples ahead 20 times that.
    """
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    data = StreamingDataset(local=str(folder), shuffle=True, batch_size=256, predownload=1_000_000, num_canonical_nodes=1)

    def epoch() -> Iterator[list[np.ndarray]]:
        for sample in data:
            yield [np.frombuffer(sample["tokens"], dtype=dtype)]

    return epoch


def write_arrow(folder: Path, split: Split, documents: np.ndarray) -> None:
    """Write documents as one Arrow column of lists."""
    import pyarrow as pa
    from datasets import Dataset

    shutil.rmtree(folder, ignore_errors=True)
    flat = np.concatenate([split.document(i) for i in documents.tolist()])
    lengths = np.diff(split.offsets)[documents]
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), type=pa.int64())
    table = pa.table({"tokens": pa.LargeListArray.from_arrays(offsets, pa.array(flat))})
    Dataset(table).save_to_disk(str(folder), max_shard_size="64MB")


def arrow(folder: Path, flattened: bool) -> Documents:
    """Memory-mapped Arrow, shuffled by a map of indices, or written anew in the shuffled order (`flatten_indices`)."""
    from datasets import disable_progress_bars, load_from_disk

    disable_progress_bars()
    data = load_from_disk(str(folder)).shuffle(seed=0)
    if flattened:
        data = data.flatten_indices(cache_file_name=str(folder / "shuffled.arrow"))
    data = data.with_format("arrow")

    def epoch() -> Iterator[list[np.ndarray]]:
        for table in data.iter(batch_size=BATCH):
            for chunk in table.column("tokens").chunks:
                flat, at = chunk.flatten().to_numpy(), chunk.offsets.to_numpy()
                ends = (at - at[0]).tolist()
                yield [flat[a:b] for a, b in itertools.pairwise(ends)]

    return epoch


def _windows(documents: Documents, tokens: int) -> Iterator[list[np.ndarray]]:
    """Documents of `tokens` tokens or a little more, epoch after epoch."""
    held: list[np.ndarray] = []
    size = 0
    while True:
        for some in documents():
            for document in some:
                held.append(document)
                size += len(document)
                if size >= tokens:
                    yield held
                    held, size = [], 0


def joined(documents: Documents, tokens: int, context: int, **_: Any) -> Iterator[int]:
    """The simplest loader: documents joined, the stream cut into rows of `context`; no boundaries, no masks."""
    for window in _windows(documents, tokens):
        ids_T = np.concatenate(window).astype(np.int64)
        rows_RT = ids_T[: len(ids_T) // context * context].reshape(-1, context)
        yield rows_RT.size


def packed(documents: Documents, tokens: int, context: int, mask: float, vocab: int) -> Iterator[int]:
    """What ours does with a window: long documents cut, pieces packed best-fit, ids and masks made; by the same functions."""
    for number, window in enumerate(_windows(documents, tokens)):
        lengths = np.array([len(d) for d in window], dtype=np.int64)
        pieces = cut(np.arange(len(window)), lengths, context)
        placed, row = pack(pieces.stop - pieces.start + 2, context)
        chosen = pieces.at(placed[np.argsort(row, kind="stable")])
        columns = (chosen.document.tolist(), chosen.start.tolist(), chosen.stop.tolist())
        ids_T = np.concatenate([window[d][a : b + 2] for d, a, b in zip(*columns, strict=True)]).astype(np.int64)
        stops = np.cumsum(chosen.stop - chosen.start + 2)
        ids_T[np.concatenate([[0], stops[:-1]])], ids_T[stops - 1] = BOS, EOS
        mask_tokens(ids_T, mask, vocab, 0, "mask", number)
        yield len(ids_T)
