"""Named entities out of labels, by the definition of seqeval's default mode (that of conlleval), tested against seqeval.

An entity begins with B-, or with I- of another type than the label before, or with I- after O; it ends before the next beginning
or before what is not I- of its type. Right is what has the same type, first and last word.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmenc.downstream.task import Floats

Entity = tuple[str, int, int]


def entities(labels: Sequence[str]) -> set[Entity]:
    """(type, first word, last word) of a sentence's BIO labels."""
    found: set[Entity] = set()
    kind, first = "", 0
    for i, label in enumerate([*labels, "O"]):
        tag, _, name = label.partition("-")
        name = name or ("" if tag == "O" else "_")
        goes_on = tag == "I" and name == kind
        if kind and not goes_on:
            found.add((kind, first, i - 1))
            kind = ""
        if tag in ("B", "I") and not goes_on:
            kind, first = name, i
    return found


def counts(guess: Sequence[str], gold: Sequence[str]) -> tuple[int, int, int]:
    """Right, guessed and true entities of a sentence."""
    a, b = entities(guess), entities(gold)
    return len(a & b), len(a), len(b)


def table(guesses: Sequence[Sequence[str]], golds: Sequence[Sequence[str]]) -> Floats:
    """Counts of every sentence, for F1 over all entities."""
    rows = [counts(a, b) for a, b in zip(guesses, golds, strict=True)]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)
