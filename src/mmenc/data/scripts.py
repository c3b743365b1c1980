"""Scripts of characters, by Unicode's own property (the `regex` library carries the tables).

A language tag names its script by ISO 15924 code; the codes that stand for several Unicode scripts are listed here.
"""

from __future__ import annotations

from functools import cache

import regex

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


@cache
def _pattern(script: str) -> regex.Pattern[str] | None:
    parts = COMBINED.get(script, (script,))
    try:
        return regex.compile("[" + "".join(rf"\p{{Script_Extensions={p}}}" for p in parts) + r"&&[\p{L}\p{M}]]", regex.V1)
    except regex.error:
        return None


def script_share(text: str, tag: str) -> float:
    """Share of the text's letters and marks that belong to the script of `tag` (1.0 for a bucket or unknown script)."""
    if "_" not in tag or (pattern := _pattern(tag.split("_")[1])) is None:
        return 1.0
    letters = len(LETTER.findall(text))
    return len(pattern.findall(text)) / letters if letters else 0.0
