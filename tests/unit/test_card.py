"""The card's front matter and its tables; the whole card of a release is in tests/contract/test_release.py."""

from __future__ import annotations

from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from mmenc.card import settings_of_merge
from mmenc.card_text import limits
from mmenc.markdown import plain, table
from mmenc.metadata import MEMBERS, TWO, card_data, hub_languages
from mmenc.recipe import parse
from tests.pipeline import tiny_recipe


def test_languages_are_the_hubs_codes():
    assert len(TWO) == 184
    assert not set(TWO) & set(MEMBERS)
    assert set(MEMBERS.values()) <= set(TWO.values())
    assert hub_languages(["cmn_Hans", "cmn_Hant", "fao_Latn", "nob_Latn", "nor_Latn", "zgh_Tfng"]) == [
        "fo",
        "nb",
        "no",
        "zgh",
        "zh",
    ]


def score(metric: str, mean: float, language: str = "", digest: str = "d", task: str = "mlm") -> dict:
    kinds = {"model": "merge", "split": "test", "tier": "all", "n": 3, "seeds": 1, "status": "ok", "reason": ""}
    return {
        **kinds,
        "task": task,
        "metric": metric,
        "mean": mean,
        "low": mean - 0.1,
        "high": mean + 0.1,
        "language": language,
    } | {"digest": digest}


def test_front_matter_comes_back_as_it_was():
    release = parse(tiny_recipe()).release.model_copy(update={"datasets": ["org/text"]}).model_dump()
    rows = [score("bits_per_byte", 3.0), score("accuracy", 0.2, task="retrieval"), score("bits_per_byte", 4.0, digest="")]
    rows += [score("bits_per_byte", 5.0, language="fao_Latn"), score("new_metric", 1.0)]
    data = card_data(release, ["nor_Latn", "eng_Latn", "yes_Latn"], rows)
    back = ModelCard(f"---\n{data.to_yaml()}\n---\n# x\n").data
    assert back.to_dict() == data.to_dict()
    assert back.language == ["en", "no", "yes"]
    assert (back.license, back.license_name, back.datasets) == ("other", "see-training-data", ["org/text"])
    assert [(r.metric_type, r.metric_value, r.task_type) for r in back.eval_results] == [
        ("bits_per_byte", 3.0, "fill-mask"),
        ("accuracy", 0.2, "feature-extraction"),
    ]
    assert back.eval_results[0].metric_args == {"interval_95": [2.9, 3.1]}


def test_text_of_documents_cannot_break_atable():
    hostile = "a | b\n<script>x</script> `c` *d* _e_ [f](g) \\ ~~h~~ & $i$"
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(table(["text", "n"], [[plain(hostile), "1"]]))
    assert html.count("<td") == 2
    assert "<script" not in html
    assert "<em" not in html
    assert "<a " not in html
    assert "a | b ↵ &lt;script&gt;" in html


def test_limits_say_what_is_so():
    told = limits(["high", "tail"], "fao_Latn (3.00)", ["duplicate", "too short"])
    assert "Languages of the tier `tail` were read least" in told
    assert "filtered (duplicate, too short), not by content" in told
    assert "were read least" not in limits(["all"], "fao_Latn (3.00)", [])
    assert "was not filtered by content" in limits(["all"], "fao_Latn (3.00)", [])


def test_settings_of_a_merge_in_words():
    row = {"density": 0.5, "scale": 1.3, "weights": {"a": 1.0, "b": 4.0}, "sign_agreement": 0.9, "dev_loss": 7.0}
    assert settings_of_merge("ties", row) == "ties (density 0.5, scale 1.3, weights a 1, b 4)"
    assert settings_of_merge("mean", {"weights": {"a": 1.0, "b": 1.0}, "dev_loss": 7.0}) == "mean (equal weights)"
    assert settings_of_merge("ties", {"branch": "decay-all", "dev_loss": 7.0}) == "branch decay-all alone"
