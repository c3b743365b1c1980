"""Gates: what is worse than the last release, what may be waived, and the one sentence of a refusal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmenc.artifact import sha256_file
from mmenc.errors import Refused
from mmenc.gates import Gate, at_most, figures_of, largest, padded, previous_gate, refuse_shut, unigram_gate
from mmenc.raw import raw_inputs
from mmenc.recipe import parse
from mmenc.sections import ReleaseWaiver
from mmenc.steps import find
from tests.pipeline import tiny_recipe

SETTINGS = {"mask": 0.15, "seed": 0, "tokens_per_language": 2000, "bootstrap": 200}


def row(language: str, mean: float, low: float, high: float, digest: str = "d", metric: str = "bits_per_byte") -> dict:
    kinds = {"model": "merge", "task": "mlm", "split": "test", "tier": "tail", "n": 9, "seeds": 1, "status": "ok", "reason": ""}
    return {**kinds, "digest": digest, "language": language, "metric": metric, "mean": mean, "low": low, "high": high}


@pytest.fixture
def last(tmp_path: Path) -> Path:
    rows = [row("fao_Latn", 3.0, 2.9, 3.1), row("eng_Latn", 2.0, 1.9, 2.1), row("one_Latn", 4.0, 4.0, 4.0)]
    rows += [row("fao_Latn", 9.0, 9.0, 9.0, digest=""), row("fao_Latn", 9.0, 9.0, 9.0, metric="loss"), row("", 3.0, 2.0, 4.0)]
    (tmp_path / "scores.json").write_text(json.dumps({"schema": 1, "rows": rows}))
    manifest = {"config": {"evaluate": SETTINGS}, "facts": {"name": "before"}, "digest": "ab" * 32, "step": "release"}
    manifest |= {"files": {"scores.json": sha256_file(tmp_path / "scores.json")}}
    manifest |= {"parents": [{"role": "tokenizer", "digest": "d", "content": "same"}]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def judged(last: Path, *rows: dict, waivers: tuple[ReleaseWaiver, ...] = (), **settings: float) -> Gate:
    return previous_gate(last, list(rows), SETTINGS | settings, waivers, "same")


SAME = (row("fao_Latn", 3.0, 2.9, 3.1), row("eng_Latn", 2.0, 1.9, 2.1), row("one_Latn", 4.0, 4.0, 4.0))


def test_a_language_is_worse_when_its_interval_lies_above_the_last_one(last):
    assert judged(last, *SAME).ok
    assert judged(last, row("fao_Latn", 3.2, 3.05, 3.4), *SAME[1:]).ok  # the intervals overlap
    shut = judged(last, row("fao_Latn", 3.4, 3.2, 3.6), *SAME[1:])
    assert (shut.ok, shut.found, shut.limit) == (False, 1.0, 0.0)
    assert "fao_Latn has 3.400 [3.200, 3.600] bits per byte, 3.000 [2.900, 3.100] in the last release" in shut.sentence
    assert shut.name == "no language worse than in before abababababab"


def test_a_single_document_borrows_an_interval(last):
    figures = figures_of(json.loads((last / "scores.json").read_text())["rows"])
    # Relative half widths 0.1/3 and 0.1/2; their median is 1/24.
    assert figures["one_Latn"].low == pytest.approx(4 * (1 - 1 / 24))
    assert judged(last, *SAME[:2], row("one_Latn", 4.1, 4.1, 4.1)).ok
    assert not judged(last, *SAME[:2], row("one_Latn", 5.0, 5.0, 5.0)).ok


def test_a_language_that_is_gone_is_worse_and_a_new_one_is_not(last):
    shut = judged(last, *SAME[1:])
    assert "fao_Latn was measured in the last release and is not now" in shut.sentence
    assert judged(last, *SAME, row("new_Latn", 9.0, 8.0, 9.5)).ok


def test_a_waiver_lets_through_what_it_names_and_nothing_else(last):
    waiver = ReleaseWaiver(language="fao_Latn", reason="its old source was withdrawn")
    worse = row("fao_Latn", 3.4, 3.2, 3.6)
    passed = judged(last, worse, *SAME[1:], waivers=(waiver,))
    assert passed.ok
    (told,) = passed.waived
    assert told.startswith("fao_Latn has 3.400 [3.200, 3.600] bits per byte, 3.000 [2.900, 3.100] in the last release. Waived:")
    assert told.endswith("its old source was withdrawn")
    both = judged(last, worse, row("eng_Latn", 4.0, 3.9, 4.1), SAME[2], waivers=(waiver,))
    assert not both.ok
    assert both.sentence.startswith("eng_Latn has")
    assert judged(last, *SAME, waivers=(waiver,)).waived == ()


def test_other_masks_and_a_folder_that_is_no_release_are_refused(last, tmp_path):
    with pytest.raises(Refused, match=r"was evaluated with mask 0\.15, this recipe has 0\.3"):
        judged(last, *SAME, mask=0.3)
    with pytest.raises(Refused, match="was evaluated with tokens_per_language 2000, this recipe has 50"):
        judged(last, *SAME, tokens_per_language=50)
    manifest = json.loads((last / "manifest.json").read_text())
    (last / "manifest.json").write_text(json.dumps({**manifest, "step": "evaluate"}))
    with pytest.raises(Refused, match="is an artifact of the step evaluate; expected a release"):
        judged(last, *SAME)
    (last / "manifest.json").write_text(json.dumps(manifest))
    (last / "scores.json").write_text((last / "scores.json").read_text() + " ")
    with pytest.raises(Refused, match="is not the one that its manifest names"):
        judged(last, *SAME)
    (last / "scores.json").unlink()
    with pytest.raises(Refused, match=r"scores\.json is missing; expected a release"):
        judged(last, *SAME)


def test_a_last_release_that_the_recipe_does_not_name_is_refused(last):
    with pytest.raises(Refused, match=r"role source is given and release\.previous is empty"):
        raw_inputs(find("release"), parse(tiny_recipe()), {"source": last}, last / "cache")


def test_a_refusal_is_one_sentence_that_counts_the_others():
    gates = [at_most("a", 1e-5, 1e-4, "never"), at_most("b", 1.0, 1e-4, "b is off"), at_most("c", float("nan"), 1e-4, "c is nan")]
    assert [g.ok for g in gates] == [True, False, False]
    with pytest.raises(Refused, match=r"^release: b is off \(also shut: c\)$"):
        refuse_shut(gates)
    refuse_shut(gates[:1])


def test_a_model_no_better_than_counting_is_shut():
    def tiers(mine: float) -> dict:
        return {"tiers": {"all": {"merge": {"mlm.bits_per_byte": mine}, "unigram": {"mlm.bits_per_byte": 4.0}}}}

    assert unigram_gate(tiers(3.9)).ok
    assert not unigram_gate(tiers(4.0)).ok


def test_a_difference_that_is_not_a_number_shuts_the_gate():
    for found in ([float("nan"), 0.0], [0.0, float("nan"), 1e-6]):
        assert not at_most("logits", largest(found), 1e-4, "off").ok
    assert largest([1e-6, 1e-5, 0.0]) == 1e-5


def test_another_tokenizer_is_said(last):
    assert "another tokenizer" not in judged(last, *SAME).name
    assert previous_gate(last, list(SAME), SETTINGS, (), "other").name.endswith(
        "(of another tokenizer, so other tokens are masked)"
    )


def test_padding_is_masked():
    ids_NT, mask_NT = padded([np.array([2, 7, 1]), np.array([2, 1])])
    assert ids_NT.tolist() == [[2, 7, 1], [2, 1, 0]]
    assert mask_NT.tolist() == [[1, 1, 1], [1, 1, 0]]
