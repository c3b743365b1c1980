"""Scripts of characters, by Unicode's own property (the `regex` library carries the tables).

A language tag names its script by ISO 15924 code; the codes that stand for several Unicode scripts are listed here.
Decision: a table of code points per script, made once per process (8 ms), and numpy look-ups: 60 MB/s where a regular
expression over the letters reaches 7.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import regex
from numpy.typing import NDArray

from mmenc.data.windows import points

COMBINED = {
    "Jpan": ("Hira", "Kana", "Hani"),
    "Hrkt": ("Hira", "Kana"),
    "Kore": ("Hang", "Hani"),
    "Hans": ("Hani",),
    "Hant": ("Hani",),
    "Hanb": ("Hani", "Bopo"),
    "Aran": ("Arab",),
    "Cyrs": ("Cyrl",),
    "Latf": ("Latn",),
    "Latg": ("Latn",),
    "Syrn": ("Syrc",),
    "Syre": ("Syrc",),
    "Syrj": ("Syrc",),
    "Geok": ("Geor",),
}
LETTER = regex.compile(r"[\p{L}\p{M}]")
DENSITY = {"Hani": 4.0, "Hans": 3.9, "Hant": 4.1, "Hanb": 4.0, "Yiii": 3.4, "Jpan": 2.6, "Kore": 2.3, "Hang": 2.3, "Ethi": 1.6}
"""How much a character says, Latin letters being 1: characters of the English declaration of human rights over those of the
translation, the median of a script's translations over the median of the 398 Latin ones (default corpus, articles that
both have). Other scripts lie between 0.6 (Thaana) and 1.7 (Syriac) with one or two translations each: taken as 1."""
_LAST = 0x32000
"""Letters and marks of all scripts lie below (planes 0 to 3); variation selectors above count as no letter."""


def density(tag: str) -> float:
    """How many Latin characters one character of the tag's script is worth (1.0 for a bucket)."""
    return DENSITY.get(tag.partition("_")[2], 1.0)


def scaled(size: int, tag: str, least: int = 1) -> int:
    """Turn a number of Latin characters into the number that says as much in the tag's script."""
    return max(least, round(size / density(tag)))


@cache
def _everything() -> str:
    return "".join(map(chr, [*range(0xD800), *[32] * 0x800, *range(0xE000, _LAST)]))


def _table(pattern: str) -> NDArray[np.bool_]:
    found = np.zeros(_LAST + 1, dtype=bool)
    for run in regex.finditer(f"{pattern}+", _everything(), regex.V1):
        found[run.start() : run.end()] = True
    return found


@cache
def letters() -> NDArray[np.bool_]:
    """Which code points are letters or marks."""
    return _table(r"[\p{L}\p{M}]")


@cache
def of_script(script: str) -> NDArray[np.bool_] | None:
    """Which code points are letters or marks of a script; None for a script that Unicode does not know."""
    parts = COMBINED.get(script, (script,))
    try:
        return _table("[[" + "".join(rf"\p{{Script_Extensions={p}}}" for p in parts) + r"]&&[\p{L}\p{M}]]")
    except regex.error:
        return None


def share_of(codes: NDArray[np.uint32], tag: str) -> float:
    """Share of the letters and marks that belong to the script of `tag`, each by its density (1.0 for a bucket).

    Ten Han characters beside the 26 letters of an address are most of what is said, not 28 %.
    """
    if "_" not in tag or (table := of_script(tag.split("_")[1])) is None:
        return 1.0
    low = np.minimum(codes, _LAST)
    own = int(table[low].sum())
    weighed = own * density(tag)
    return weighed / (weighed + int(letters()[low].sum()) - own) if own else 0.0


def script_share(text: str, tag: str) -> float:
    """Share of the text's letters and marks that belong to the script of `tag` (1.0 for a bucket or unknown script)."""
    return share_of(points(text), tag)
