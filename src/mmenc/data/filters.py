"""Filters that ask one document alone: rules per script, none that assume English.

* Text is repaired (ftfy, only where something looks broken: asking it about every line costs 5 MB/s) and brought to NFC;
  line ends to LF, control characters dropped. ftfy may undo mojibake, entities and terminal escapes; it may not touch what
  other scripts and good typography mean: character widths, curly quotes and ligatures stay as they were written.
* Lengths are in Latin characters: `density` (scripts.py) makes 20 of them 5 Han characters.
* Repetition is asked of lines, and of windows of 24 (Latin) characters as the n-grams of Gopher are of words: the share of
  windows that the document has had before. 24 characters are about five words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from mmenc.data.scripts import density, scaled, share_of
from mmenc.data.windows import points, windows
from mmenc.sections_data import Clean

CONTROL = regex.compile(r"[\p{Cc}--[\n\t]]", regex.V1)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ENTITY = re.compile(r"&#?\w{1,10};")
_ESCAPE = re.compile("[\x1b\x80-\x9f\ud800-\udfff]")
WINDOW = 24
LEAST = 200
"""Documents below this many (Latin) characters are too short to be asked for repeated windows."""


@cache
def _ftfy() -> tuple[Any, Any, Any]:
    import ftfy
    from ftfy.chardata import UTF8_DETECTOR_RE

    config = ftfy.TextFixerConfig(
        fix_character_width=False,
        uncurl_quotes=False,
        fix_latin_ligatures=False,
        restore_byte_a0=False,
        replace_lossy_sequences=False,
    )
    return ftfy.fix_text, config, UTF8_DETECTOR_RE


def repair(text: str) -> str:
    """Undo mojibake, entities and terminal escapes where there are signs of any."""
    if text.isascii() and "&" not in text and "\x1b" not in text:
        return text
    fix, config, mojibake = _ftfy()
    if _ESCAPE.search(text) or _ENTITY.search(text) or mojibake.search(text):
        return str(fix(text, config))
    return text


def normalise(text: str) -> str:
    """Repaired, NFC, LF line ends, no control characters, no space at line ends or around the text."""
    text = repair(text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if _CONTROL.search(text):
        text = CONTROL.sub("", text)
    return "\n".join([line.rstrip() for line in text.split("\n")]).strip()


def repetition(text: str) -> float:
    """Share of the non-empty lines that repeat an earlier line of the same document."""
    lines = [line for line in text.split("\n") if line]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0


def repeated_windows(codes: NDArray[np.uint32], tag: str) -> float:
    """Share of the windows of about five words that the document has had before."""
    found = np.sort(windows(codes, scaled(WINDOW, tag, 4)))  # five times as fast as np.unique
    return int((found[1:] == found[:-1]).sum()) / len(found) if len(found) else 0.0


FILTERS: dict[str, Callable[[str, NDArray[np.uint32], str, Clean], bool]] = {
    "too short": lambda text, _, tag, c: len(text) * density(tag) < c.min_chars,
    "too long": lambda text, _, tag, c: len(text) * density(tag) > c.max_chars,
    "wrong encoding": lambda text, _, __, c: text.count("\ufffd") > c.max_replacement * len(text),
    "repetition": lambda text, codes, tag, c: (
        repetition(text) > c.max_repetition
        or (len(text) * density(tag) >= LEAST and repeated_windows(codes, tag) > c.max_repeated_windows)
    ),
    "other script": lambda _, codes, tag, c: share_of(codes, tag) < c.script_share,
}


def reason(text: str, tag: str, settings: Clean) -> str:
    """Name of the first filter that objects, or an empty string."""
    codes = points(text)
    return next((name for name, objects in FILTERS.items() if objects(text, codes, tag, settings)), "")
