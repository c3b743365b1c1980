"""Suites of questions, choices and sentence vectors, as `registry.SUITES` names them."""

from __future__ import annotations

from mmenc.downstream import answers, choice, classify_suites, token_suites
from mmenc.downstream.task import Suite

QA = Suite("qa", [answers.XQUAD, answers.MLQA, answers.TYDIQA, answers.TIQUAD, answers.FOQA, answers.SQUAD2])
XQUAD_SPLIT = Suite("xquad-split", [answers.XQUAD_SPLIT])
CHOICE = Suite("choice", [choice.XCOPA, choice.XCOPA_DIRECT])
COLUMNS = {
    "xnli": "accuracy", "pawsx": "accuracy", "xcopa": "accuracy", "xquad": "f1", "mlqa": "f1", "tydiqa": "f1",
    "wikiann": "f1", "udpos": "accuracy",
}  # fmt: skip
"""The eight columns of the paper's table of XTREME; its average is the plain mean of them (recipe notes, §5)."""
XTREME = Suite(
    "xtreme",
    [
        classify_suites.XNLI,
        classify_suites.PAWSX,
        choice.XCOPA,
        answers.XQUAD,
        answers.MLQA,
        answers.TYDIQA,
        token_suites.WIKIANN,
        token_suites.POS,
    ],
    {"paper": [[(f"{name}/zero-shot", metric)] for name, metric in COLUMNS.items()]},
)
