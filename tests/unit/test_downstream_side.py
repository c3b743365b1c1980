"""The page of models side by side: what has no figure, speed, stars only where models can be compared, nothing unescaped."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from mmenc.downstream.side import side_by_side, text
from mmenc.evaluate.rows import row, skipped

ABOUT = {m: {"kind": "k", "parameters": 5, "vocab": 7, "context": 9, "note": ""} for m in ("ours", "<theirs>")}
SECONDS = {"ours": {"sib200, zero-shot": 12.34}, "<theirs>": {"speed": 3.0}}


def cells(page: str) -> list[list[str]]:
    root = ET.fromstring(page.partition("\n")[2])
    return [["".join(td.itertext()) for td in tr.findall("td")] for tr in root.iter("tr") if tr.findall("td")]


def test_figures_stars_and_gaps():
    rows = [
        row("ours", "", "sib200", "", "all", "accuracy", (0.51, 0.4, 0.6), 3),
        row("<theirs>", "", "sib200", "", "all", "accuracy", (0.42, 0.4, 0.5), 3),
        row("ours", "", "udpos", "", "all", "accuracy", (0.9, 0.8, 0.95), 2),
        row("<theirs>", "", "udpos", "", "all", "accuracy", (0.8, 0.7, 0.9), 1),
        row("ours", "", "speed/512-uniform", "", "all", "tokens_per_second_packed", (12345.6, 12000, 13000), 5),
        row("ours", "", "suite/average", "", "all", "average", (0.5, 0.4, 0.6), 8),
        skipped("<theirs>", "", "suite/average", "", "all", "average: no figures of cola"),
        row("ours", "", "sib200", "fao_Latn", "tail", "accuracy", (0.51, 0.4, 0.6), 204),
        skipped("<theirs>", "", "sib200", "fao_Latn", "tail", "no <test> & examples"),
    ]
    page = side_by_side(rows, ABOUT, SECONDS, ["sib200", "udpos"])
    found = cells(page)
    assert ["sib200", "accuracy", "3", "★\u00a051.0\u00a0[40.0, 60.0]", "42.0\u00a0[40.0, 50.0]"] in found
    assert ["udpos", "accuracy", "2 / 1", "90.0\u00a0[80.0, 95.0]", "80.0\u00a0[70.0, 90.0]"] in found, "other languages: no star"
    assert ["speed/512-uniform", "tokens_per_second_packed", "5", "12,346\u00a0[12,000, 13,000]", ""] in found
    assert ["suite/average", "average", "50.0\u00a0[40.0, 60.0]", ""] in found
    assert ["fao_Latn", "tail", "204", "51.0\u00a0[40.0, 60.0]", ""] in found, "what is missing is no zero"
    assert ["sib200", "fao_Latn", "no <test> & examples", "<theirs>"] in found
    assert ["sib200, zero-shot", "12.3", ""] in found
    assert side_by_side(rows, ABOUT, SECONDS, ["sib200", "udpos"]) == page


def test_without_any_figure_there_is_a_page_that_says_why():
    page = side_by_side(
        [skipped("ours", "", "glue", "", "all", "no folder glue")], {"ours": ABOUT["ours"]}, {"ours": {}}, ["glue"]
    )
    assert ["glue", "", "no folder glue", "ours"] in cells(page)


def test_what_is_printed_has_the_unit_of_its_metric():
    assert text(row("m", "", "t", "", "all", "f1", (0.5, 0.4, 0.625), 3)) == "50.0 [40.0, 62.5]"
    assert text(row("m", "", "t", "", "all", "packed_over_padded", (2.4, 1.3, 2.7), 3)) == "2.4 [1.3, 2.7]"
    assert text(row("m", "", "t", "", "all", "tokens_per_second_padded", (8550.4, 8000, 9000), 3)) == "8,550 [8,000, 9,000]"
    assert text(skipped("m", "", "t", "", "all", "why")) == "why"
    assert text(None) == "–"
