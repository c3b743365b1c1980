"""Pages are self-contained, well-formed, escaped and the same every time."""

import math
import re

import pytest
from lxml import etree

from mmenc.charts import bar_chart, line_chart, short, stacked_shares
from mmenc.page import Html, Marked, details, escape, figures, number, page, table

NASTY = '<script>alert("x")</script> & \x00\ud800 עברית 中文'


def example() -> str:
    points = [(float(i) * 1e6, 9 - math.log(1 + i)) for i in range(60)]
    curves = {
        "pretrain": points,
        "extend": [(x + 6e7, y - 4) for x, y in points],
        NASTY: [(1.0, math.nan), (2e6, 5.0)],
        "none": [],
    }
    many = {f"l{i:02d}_Latn": 1.0 / (i + 1) for i in range(40)}
    return page(
        f"Report {NASTY}",
        [
            f"Plain words {NASTY}",
            figures({"languages": 1833, "gate": Marked("open", "ok"), NASTY: Marked(3, "bad")}),
            table(
                ["language", "name", "documents", "share"],
                [
                    ["fao_Latn", NASTY, 1234567, 0.25],
                    ["heb_Hebr", "עברית", None, 0.000123],
                    ["x", Marked("a", "waived"), 2, Marked(0.5, "bad")],
                ],
                heat=["share"],
            ),
            line_chart(curves, "tokens", "held-out loss"),
            bar_chart({"ours": {"eng_Latn": 0.9, NASTY: (0.5, 0.4, 0.7)}, "peer": {"eng_Latn": -0.2, "x": math.inf}}, "accuracy"),
            stacked_shares({"pretrain": many, NASTY: {"eng_Latn": 1.0}, "empty": {}}),
            details(NASTY, NASTY),
        ],
    )


def test_page_is_well_formed_and_escaped():
    text = example()
    text.encode("utf-8")
    root = etree.fromstring(text.encode())
    assert len(root.findall(".//script")) == 1
    assert "alert(" not in root.findtext(".//script")
    assert NASTY.replace("\x00", "\ufffd").replace("\ud800", "\ufffd") in "".join(root.itertext())


def test_page_refers_to_nothing_outside():
    text = example()
    assert "http" not in text
    assert "@import" not in text
    assert not re.search(r"<(link|img|iframe|object|embed)\b|\ssrc=|\shref=", text)
    assert set(re.findall(r"url\(([^)]*)\)", text)) == {"#hatch"}


def test_page_is_deterministic():
    assert example() == example()


def test_words_of_every_script_keep_their_direction():
    root = etree.fromstring(example().encode())
    assert all(td.get("dir") == "auto" for td in root.iter("td") if td.get("data-v") is None)


def test_charts_bear_empty_and_single_values():
    for part in (
        line_chart({}, "x", "y"),
        line_chart({"a": [(1.0, 2.0)]}, "x", "y"),
        line_chart({"a": [(0.0, 0.0), (1.0, 0.0)]}, "x", "y"),
        bar_chart({}, "x"),
        bar_chart({"a": {"x": 0.0}}, "x"),
        stacked_shares({}),
        table(["a"], []),
    ):
        etree.fromstring(part)
        assert "nan" not in part


def test_stacked_shares_sum_the_tail():
    chart = stacked_shares({"p": {f"l{i:02d}": 0.05 for i in range(20)}}, most=6)
    assert "other (15)" in chart
    assert "75.00%" in chart


def test_escape_leaves_markup_alone():
    assert escape("<b>") == "&lt;b&gt;"
    assert escape(Html("<b>")) == "<b>"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        (0, "0"),
        (1234567, "1,234,567"),
        (0.0, "0"),
        (0.25, "0.25"),
        (0.123456, "0.1235"),
        (1234.5678, "1,235"),
        (1.5e-7, "1.5e-07"),
    ],
)
def test_numbers(value, shown):
    assert number(value) == shown


def test_axis_labels():
    assert [short(v) for v in (0, 0.5, 1500, 2e7, 3e12)] == ["0", "0.5", "1.5k", "20M", "3T"]
