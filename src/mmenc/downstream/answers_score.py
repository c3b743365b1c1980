"""How answers are compared: exact match and F1 over words, as the official scripts of SQuAD and MLQA define them.

Definitions: both sides are lower-cased, lose punctuation and articles, and white space becomes one space; then exact match is
equality, F1 that of the two bags of words; of several right answers the best counts. SQuAD 1.1 (XQuAD, TyDiQA, TiQuAD and FoQA
are counted by it too, as XTREME does) knows ASCII punctuation and English articles; MLQA all of Unicode's punctuation and the
articles of its languages, and cuts Chinese into characters. Where a question has no answer, right is to say nothing (SQuAD 2).
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

Normalise = Callable[[str], str]

_ASCII = str.maketrans("", "", string.punctuation)
_ENGLISH = re.compile(r"\b(a|an|the)\b")
ARTICLES = {
    "eng": _ENGLISH,
    "spa": re.compile(r"\b(un|una|unos|unas|el|la|los|las)\b"),
    "deu": re.compile(r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b"),
    "vie": re.compile(r"\b(của|là|cái|chiếc|những)\b"),
    "arb": re.compile("ال"),
}
"""MLQA's: Hindi and Chinese have none; the Arabic one goes wherever it stands."""
_HAN = re.compile("([\u4e00-\u9fa5])")


def squad(text: str) -> str:
    """Normalise as SQuAD 1.1 does."""
    return " ".join(_ENGLISH.sub(" ", text.lower().translate(_ASCII)).split())


def mlqa(tag: str) -> Normalise:
    """Normalise as MLQA does in a language."""
    code = tag[:3]
    articles = ARTICLES.get(code)

    def normalise(text: str) -> str:
        kept = "".join(c for c in text.lower() if c not in string.punctuation and unicodedata.category(c)[0] != "P")
        kept = articles.sub(" ", kept) if articles else kept
        return " ".join((_HAN.sub(r" \1 ", kept) if code == "cmn" else kept).split())

    return normalise


def overlap(said: str, right: str) -> float:
    """F1 of two normalised texts as bags of words."""
    a, b = said.split(), right.split()
    if not a or not b:
        return float(a == b)
    same = sum((Counter(a) & Counter(b)).values())
    return 2 * same / (len(a) + len(b))


def compare(said: str, answers: Sequence[str], normalise: Normalise) -> tuple[float, float]:
    """F1 and exact match of an answer, the best over those that are right (none: the question has no answer)."""
    mine = normalise(said)
    right = [normalise(a) for a in answers] or [""]
    return max(overlap(mine, r) for r in right), float(mine in right)
