"""In which script a model answers: tokens of real text by script, and the matrix of masked tokens against guesses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmenc.data.tokenizer import load, train_bpe
from mmenc.evaluate.score import Scores
from mmenc.evaluate.scripts import REST, script_confusion, script_of_text

KNOWN = ("Cyrl", "Grek", "Hani", "Hira", "Latn")
TEXTS = ["Alle Menschen sind frei", "Все люди рождаются", "Όλοι οι άνθρωποι", "すべての人間は", "12 34, 56!"]


SCRIPTS = {" frei": "Latn", "9x": "Latn", "люди": "Cyrl", "\ufffdа": "Cyrl", "οι,": "Grek", "人間": "Hani", " すべ": "Hira"}
SCRIPTS |= {" 12!": "none", "": "none", "\ufffd": "bytes", "ᠮᠣ": "other", "\u0301": "other"}


@pytest.mark.parametrize(("text", "script"), SCRIPTS.items())
def test_a_token_has_the_script_of_its_first_letter(text: str, script: str):
    assert script_of_text(text, KNOWN) == script


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    train_bpe(iter(TEXTS * 3), 420, 1).save(str(folder / "tokenizer.json"))
    return load(folder)


def scores(target: list[int], guess: list[int]) -> Scores:
    n = len(target)
    return Scores(np.zeros(n, dtype=np.int64), np.array(target), np.zeros(n), np.array(guess))


def test_rows_are_masked_tokens_and_columns_guesses(tokenizer):
    ids = {text: tokenizer.encode(text, add_special_tokens=False).ids[0] for text in ("Alle", "Все", "Όλοι", "12")}
    latin, cyrillic, greek, number = (ids[t] for t in ("Alle", "Все", "Όλοι", "12"))
    found = script_confusion(
        tokenizer,
        scores([latin, latin, latin, cyrillic, cyrillic, greek, number], [latin, cyrillic, 4, cyrillic, number, cyrillic, latin]),
        ["deu_Latn", "rus_Cyrl", "ell_Grek", "jpn_Jpan"],
    )
    names, matrix = found["names"], np.array(found["matrix"])
    assert names == ["Latn", "Cyrl", "Grek", *REST]

    def cell(row: str, column: str) -> int:
        return int(matrix[names.index(row), names.index(column)])

    assert matrix.sum() == 7
    assert [cell("Latn", c) for c in ("Latn", "Cyrl", "none")] == [1, 1, 1]  # a special token is no text
    assert [cell("Cyrl", "Cyrl"), cell("Cyrl", "none"), cell("Grek", "Cyrl"), cell("none", "Latn")] == [1, 1, 1, 1]
    assert found["right"] == pytest.approx(2 / 6, abs=1e-6)


def test_nothing_masked_is_an_empty_matrix(tokenizer):
    found = script_confusion(tokenizer, scores([], []), ["deu_Latn"])
    assert found["names"] == [*REST]
    assert np.array(found["matrix"]).sum() == 0
    assert found["right"] == 0
