"""Does the model answer in the right script? Masked tokens by their script and the script of the likeliest token.

Decisions: a token's script is that of its first letter or mark; a piece of a character alone is `bytes`, a token without
letters `none`. Only scripts of the evaluated languages are told apart, the twelve most frequent ones by name.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np
import regex
from tokenizers import Tokenizer

from mmenc.artifact import Json
from mmenc.data.scripts import COMBINED, LETTER
from mmenc.data.tokens import SPECIALS
from mmenc.evaluate.score import Scores

MOST = 12
REST = ("other", "bytes", "none")


@cache
def _pattern(script: str) -> regex.Pattern[str] | None:
    try:
        return regex.compile(rf"\p{{Script={script}}}")
    except regex.error:
        return None


@cache
def script_of_letter(letter: str, known: tuple[str, ...]) -> str:
    """The Unicode script among `known` that a letter has; empty for another one."""
    return next((s for s in known if (pattern := _pattern(s)) and pattern.match(letter)), "")


def script_of_text(text: str, known: tuple[str, ...]) -> str:
    """The script of a decoded token (module docstring)."""
    letters = LETTER.findall(text)
    if not letters:
        return "bytes" if "\ufffd" in text else "none"
    return next((found for letter in letters if (found := script_of_letter(letter, known))), "other")


def script_confusion(tokenizer: Tokenizer, scores: Scores, tags: Iterable[str]) -> Json:
    """`{names, matrix, right}`: rows are the masked tokens' scripts, columns the guesses'; `right` is of tokens with a script."""
    written = {tag.split("_")[1] for tag in tags}
    known = tuple(sorted({part for script in written for part in COMBINED.get(script, (script,))}))
    ids, places = np.unique(np.concatenate([scores.target_M, scores.guess_M]), return_inverse=True)
    texts = (tokenizer.decode([int(i)], skip_special_tokens=False) if i >= len(SPECIALS) else "" for i in ids)
    kinds = [script_of_text(text, known) for text in texts]
    target_M, guess_M = places.reshape(2, -1)
    counts: dict[str, int] = dict.fromkeys(known, 0)
    for kind, n in zip(kinds, np.bincount(target_M, minlength=len(ids)), strict=True):
        if kind in counts:
            counts[kind] += int(n)
    seen = [s for s in sorted(known, key=lambda s: (-counts[s], s)) if counts[s]][:MOST]
    names = [*seen, *REST]
    index = np.array([names.index(kind if kind in names else "other") for kind in kinds], dtype=np.int64)
    matrix = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(matrix, (index[target_M], index[guess_M]), 1)
    exact = np.array([known.index(kind) if kind in counts else -1 for kind in kinds], dtype=np.int64)
    scripted = exact[target_M] >= 0
    right = float((exact[target_M] == exact[guess_M])[scripted].mean()) if scripted.any() else 0.0
    return {"names": names, "matrix": matrix.tolist(), "right": round(right, 6)}
