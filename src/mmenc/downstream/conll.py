"""Files of labelled words: CoNLL-U, two columns (tab or space), CoNLL-2003's four, WikiANN with `en:` before every word.

Decision: of two columns the last is the label and all before it the word, because some treebanks have words with a space; a file
whose every line has four columns is CoNLL-2003's. Ranges (1-2) and empty nodes (1.1) of CoNLL-U are no words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmenc.downstream.sources import Data
from mmenc.downstream.tokens import Sentence
from mmenc.errors import Refused

PREFIX = re.compile(r"^[a-z]{2,3}(?:-[a-z]+)*:(?=.)")
DOCUMENT = "-DOCSTART-"


def _blocks(lines: Iterable[str]) -> Iterator[list[str]]:
    block: list[str] = []
    for line in lines:
        if line.strip():
            block.append(line)
        elif block:
            yield block
            block = []
    if block:
        yield block


def _sentence(pairs: list[tuple[str, str]]) -> Sentence:
    words, labels = zip(*pairs, strict=True)
    return Sentence(words, labels)


def read_conllu(data: Data, path: Path) -> list[Sentence]:
    """Words and universal parts of speech; words without one (`_`) are left out."""
    found: list[Sentence] = []
    for block in _blocks(data.lines(path)):
        rows = [line.split("\t") for line in block if not line.startswith("#")]
        if bad := next((r for r in rows if len(r) != 10), None):
            raise Refused(f"{path}: a line has {len(bad)} columns ({bad[0][:40]!r}), expected the ten of CoNLL-U")
        pairs = [(r[1], r[3]) for r in rows if r[0].isdigit() and r[3] != "_"]
        if pairs:
            found.append(_sentence(pairs))
    return found


def read_columns(data: Data, path: Path) -> list[Sentence]:
    """Two columns, or the first and last of four."""
    blocks = [[x for x in b if not x.startswith(DOCUMENT)] for b in _blocks(data.lines(path))]
    lines = [x for b in blocks for x in b]
    four = bool(lines) and all("\t" not in x and len(x.split()) == 4 for x in lines)
    prefix = _prefix(lines)
    found: list[Sentence] = []
    for block in blocks:
        pairs = [p for line in block if (p := _pair(path, line, four, prefix))]
        if pairs:
            found.append(_sentence(pairs))
    return found


def _prefix(lines: list[str]) -> str:
    """What stands before every word of WikiANN: the language and a colon."""
    first = PREFIX.match(lines[0]) if lines else None
    return first[0] if first and all(x.startswith(first[0]) for x in lines) else ""


def _pair(path: Path, line: str, four: bool, prefix: str) -> tuple[str, str] | None:
    """Word and label; None where the word is nothing but white space."""
    line = line.removeprefix(prefix)
    if four:
        word, label = line.split()[0], line.split()[-1]
    else:
        word, tab, label = line.rpartition("\t") if "\t" in line else line.rpartition(" ")
        if not tab:
            raise Refused(f"{path}: the line {line[:40]!r} has one column, expected a word and its label")
    return (word.strip(), label.strip()) if word.strip() else None


def read(data: Data, path: Path) -> list[Sentence]:
    """By the file's name."""
    return read_conllu(data, path) if ".conllu" in path.name else read_columns(data, path)
