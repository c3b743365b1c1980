"""Data sets through Hugging Face `datasets`: of the hub at a commit, from its offline cache, or a folder below `ingest.root`.

Decision: the commit stands in the recipe, so the digest is known without asking anybody. One language is read in one go and
in order, streamed by default; what `datasets` then gives is compared with the commit, because its offline cache would
silently serve another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmenc.data.sources import Item, Made, Maker
from mmenc.errors import Refused, nearest
from mmenc.sections_data import Ingest
from mmenc.source import Source


def items(index: int, source: Source, name: str, language: str, below: Sequence[str], place: str) -> Item:
    """The input that one language of a data set is."""
    config = source.config.replace("{tag}", name)
    local = any(path.startswith(f"{source.dataset}/") for path in below)
    where = "/".join(p for p in (source.dataset, config, source.split) if p)
    if local:
        return Item(source.dataset, language, "dataset", 0, where, index, config=config)
    if not source.revision:
        raise Refused(
            f"ingest.sources.{index}.revision: missing; expected the commit hash of {source.dataset} on the hub (40 digits), "
            f"or a folder {place}/{source.dataset} that `datasets` can load"
        )
    return Item(f"hf://datasets/{where}", language, "dataset", 0, where, index, version=source.revision, config=config)


def documents(file: Path, item: Item, settings: Ingest) -> Iterator[Made]:
    """Yield a document per row, up to the source's limits."""
    source = settings.sources[item.source]
    maker = Maker(file if not item.version else Path(source.dataset), item, settings)
    text, size = maker.columns["text"], 0
    for number, row in enumerate(_load(source, item, file), 1):
        if not isinstance(row.get(text), str):
            raise Refused(f"{item.path}: row {number} has no text in {text!r}{nearest(text, row)}; its columns: {', '.join(row)}")
        length = len(row[text].encode(errors="replace"))
        size += length
        if length > settings.max_document_bytes:
            yield maker.too_long(f"row {number}", length, row[text][:1000])
        else:
            yield maker.document(number, row[text], row, f"row {number}")
        if number == source.documents or (source.bytes and size >= source.bytes):
            return


def _load(source: Source, item: Item, file: Path) -> Any:
    try:
        import datasets
    except ModuleNotFoundError:
        raise Refused(f"{item.path}: needs Hugging Face datasets; `pip install 'mmenc[sources]'` brings it") from None
    place = source.dataset if item.version else str(file)
    options: dict[str, Any] = {"name": item.config or None}
    if item.version:
        options["revision"] = item.version
    try:
        builder = datasets.load_dataset_builder(place, **options)
        if item.version and item.version != builder.hash:
            raise Refused(
                f"{item.path}: the offline cache has {str(builder.hash)[:12]}…, the recipe names commit {item.version[:12]}…; "
                f"fetch that one while there is a network"
            )
        if source.streaming and item.version:
            return builder.as_streaming_dataset(split=source.split)
        builder.download_and_prepare()
        return builder.as_dataset(split=source.split)
    except Refused:
        raise
    except Exception as error:  # noqa: BLE001 (whatever a network, a cache or a loader raises)
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise Refused(f"{item.path}: cannot be loaded ({reason}); check dataset, config, split and revision") from None
