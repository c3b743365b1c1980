"""Keeps evaluation texts out of training: a document that holds a stretch of one is rejected, in any script.

Decision: 13 words, the usual measure, are no measure where words are not spaced. A stretch is `WINDOW` letters, marks and
digits (case folded; spaces and punctuation do not count, so another tokenisation or layout hides nothing): 60 Latin letters,
about 12 English words, and 15 Han characters. All windows of all evaluation texts are one sorted array of hashes (8 bytes
per character: a million test sentences of 120 letters are 1 GB at most), mapped into every worker; a document is one look-up
per window. Texts that are shorter are not looked for: they would be found in any text.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import regex

from mmenc.data.scripts import DENSITY, of_script
from mmenc.data.shards import read_lines
from mmenc.data.windows import U64, points, windows
from mmenc.errors import Refused

WINDOW = 60
_OTHER = regex.compile(r"[^\p{L}\p{M}\p{Nd}]+")
FIELD = 1 << 30
"""Longest field of a .csv; the library's own limit is 131,072."""
_KNOWN = (".txt", ".tsv", ".csv", ".jsonl", ".json")


def fold(text: str) -> str:
    """Letters, marks and digits, case folded."""
    return str(_OTHER.sub("", text.casefold()))


def _size(codes: np.ndarray[tuple[int], np.dtype[np.uint32]]) -> int:
    """Window of a text by the script that half of it is written in: the text decides, not a tag, for both sides alike."""
    for script in ("Hani", "Hang", "Yiii", "Ethi", "Jpan"):
        table = of_script(script)
        if table is not None and table[np.minimum(codes, len(table) - 1)].mean() > 0.5:
            return round(WINDOW / DENSITY[script])
    return WINDOW


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)


def _texts(path: Path) -> Iterator[str]:
    """Texts of an evaluation file: lines, fields of tables, every string of JSON."""
    kind = next((s for s in path.suffixes if s in _KNOWN), "")
    if not kind:
        return
    lines = (line for _, line in read_lines(path))
    try:
        if kind == ".jsonl":
            for line in lines:
                yield from _strings(json.loads(line))
        elif kind == ".json":
            yield from _strings(json.loads("".join(lines)))
        elif kind == ".csv":
            csv.field_size_limit(FIELD)
            for row in csv.reader(io.StringIO("".join(lines))):
                yield from row
        else:
            for line in lines:
                yield from line.split("\t")
    except (ValueError, csv.Error) as error:
        raise Refused(f"{path}: not valid {kind[1:]} ({error}); expected evaluation texts, mend or remove the file") from None


def index(root: Path, folder: Path) -> dict[str, int]:
    """Write the sorted window hashes of every text below `root`, a file per window; return how many texts, how many too short."""
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file() and not p.name.startswith("."))
    found: dict[int, list[U64]] = {}
    texts = short = 0
    for path in files:
        for text in _texts(path):
            codes = points(fold(text))
            size = _size(codes) if len(codes) else WINDOW
            hashes = windows(codes, size)
            texts, short = texts + bool(len(hashes)), short + (not len(hashes))
            found.setdefault(size, []).append(hashes)
    if not texts:
        raise Refused(f"{root}: holds no text of {WINDOW} letters; expected {', '.join(_KNOWN)} files (also .gz, .zst)")
    for size, hashes_ in found.items():
        np.save(folder / f"{size}.npy", np.unique(np.concatenate(hashes_)))
    return {"texts": texts, "too_short": short}


class Evaluated:
    """The hashes of the evaluation texts; `holds` says whether a document has a stretch of one."""

    def __init__(self, folder: Path) -> None:
        self.hashes: dict[int, U64] = {int(p.stem): np.load(p, mmap_mode="r") for p in sorted(folder.glob("*.npy"))}

    def holds(self, text: str) -> bool:
        """Whether any window of the text is one of an evaluation text."""
        codes = points(fold(text))
        for size, hashes in self.hashes.items():
            found = windows(codes, size)
            if len(hashes) and len(found):
                at = np.minimum(np.searchsorted(hashes, found), len(hashes) - 1)
                if bool((hashes[at] == found).any()):
                    return True
        return False
