"""Parquet as FineWeb2 has it (text, id, url, language, language_script, …), read row group by row group.

Decision: 16 rows at a time without reading ahead, so that memory is some pages and 16 cells, whatever the file's size; a cell
beyond the limit is measured before it becomes a Python object. A row that says another language than its folder is rejected.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmenc.data.sources import Item, Made, Maker, Rejected
from mmenc.data.tags import resolve
from mmenc.errors import Refused, nearest
from mmenc.sections_data import Ingest

ROWS = 16
LANGUAGE = ("language", "language_script")


def opened(file: Path) -> Any:
    """A Parquet file; one that is cut off is a sentence."""
    try:
        import pyarrow.parquet as pq
        from pyarrow import ArrowException
    except ModuleNotFoundError:
        raise Refused(f"{file}: Parquet needs pyarrow; `pip install 'mmenc[sources]'` brings it") from None
    try:
        return pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20)
    except (ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Refused(
            f"{file}: cut off or damaged, or no Parquet ({str(error).splitlines()[0][:120]}); fetch the file again"
        ) from None


def documents(file: Path, item: Item, settings: Ingest) -> Iterator[Made]:
    """Yield a document per row."""
    maker = Maker(file, item, settings)
    parquet = opened(file)
    names = parquet.schema_arrow.names
    text = maker.columns["text"]
    if text not in names:
        raise Refused(f"{file}: has no column {text!r}{nearest(text, names)}; its columns: {', '.join(names[:20])}")
    wanted = [n for n in names if n in maker.columns.values()]
    tagged = all(n in names for n in LANGUAGE) and not maker.said.bucket
    columns = [*wanted, *(n for n in LANGUAGE if tagged and n not in wanted)]
    first, last = item.groups if item.groups[1] else (0, parquet.num_row_groups)
    number = sum(parquet.metadata.row_group(g).num_rows for g in range(first))
    others: dict[tuple[str, str], str] = {}
    for batch in _batches(file, parquet, range(first, last), columns):
        for row in _rows(batch, text, settings.max_document_bytes):
            number += 1
            where = f"row {number}"
            cell = row.pop(text)
            if not isinstance(cell, bytes):
                yield maker.too_long(where, cell, "") if cell else Rejected(where, "no text", 0, "")
                continue
            found = maker.decode(cell, where)
            if isinstance(found, Rejected):
                yield found
            elif tagged and (other := _other(row, item.language, settings, others)):
                yield Rejected(where, f"says it is {other}", len(cell), found[:200])
            else:
                yield maker.document(number, found, row, where)


def _batches(file: Path, parquet: Any, groups: range, columns: list[str]) -> Iterator[Any]:
    from pyarrow import ArrowException

    try:
        yield from parquet.iter_batches(ROWS, row_groups=list(groups), columns=columns, use_threads=False)
    except (ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Refused(f"{file}: cut off or damaged ({str(error).splitlines()[0][:120]}); fetch the file again") from None


def _rows(batch: Any, text: str, limit: int) -> Iterator[dict[str, Any]]:
    """Rows whose text is bytes, its length where it is too long, or 0 where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = batch.column(text)
    if not (pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type) or pa.types.is_binary(cells.type)):
        cells = cells.cast(pa.string())
    cells = cells.cast(pa.large_binary())
    lengths = pc.binary_length(cells).to_pylist()
    others = batch.drop_columns([text]).to_pylist() if batch.num_columns > 1 else [{} for _ in lengths]
    for cell, length, row in zip(cells, lengths, others, strict=True):
        yield {**row, text: 0 if length is None else length if length > limit else cell.as_py()}


def _other(row: dict[str, Any], language: str, settings: Ingest, known: dict[tuple[str, str], str]) -> str:
    """The tag that a row's own columns give, where it is not the item's."""
    said = (str(row.get(LANGUAGE[0])), str(row.get(LANGUAGE[1])))
    if said not in known:
        name = "_".join(said)
        try:
            known[said] = resolve(name, settings.aliases).name
        except Refused:
            known[said] = name
    return known[said] if known[said] != language else ""
