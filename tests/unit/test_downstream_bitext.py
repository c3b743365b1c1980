"""Bitext mining: nearest neighbours both ways, margins, missing files, on real sentences where they are there."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mmenc.downstream import bitext
from mmenc.downstream.bitext import Pair, cosines, find_pairs, hits, margins, measure, pair_figures, tag_of
from mmenc.downstream.options import Options
from mmenc.downstream.registry import Context
from mmenc.downstream.sources import Data
from mmenc.downstream.units import Units
from mmenc.errors import Refused
from mmenc.sections import Evaluate
from tests.pipeline import REPO

SHARED_DATA = REPO.parent / "shared/data/eval"


class Lexicon:
    """A model that knows some words in both languages, and counts calls."""

    name, digest, calls = "lexicon", "0" * 64, 0
    WORDS = ("hund dog", "katze cat", "haus house", "baum tree", "brot bread")

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.calls += 1
        known = [w.split() for w in self.WORDS]
        return np.array([[float(any(v in t.lower() for v in pair)) for pair in known] + [0.1] for t in texts], dtype=np.float32)


def write(root: Path, code: str, here: Sequence[str], there: Sequence[str], *, packed: bool = False) -> None:
    folder = root / "tatoeba"
    folder.mkdir(exist_ok=True)
    for side, lines in ((code, here), ("eng", there)):
        text = "".join(f"{line}\n" for line in lines)
        name = folder / f"tatoeba.{code}-eng.{side}"
        if packed:
            name.with_name(name.name + ".gz").write_bytes(gzip.compress(text.encode()))
        else:
            name.write_text(text, encoding="utf-8")


def context(root: Path, model: Lexicon, limit: int = 0) -> Context:
    units, settings = Units(root / "units"), Evaluate(bootstrap=50)
    return Context(model, None, Data(root), units, Options(limit=limit), settings, lambda tag: "tier", lambda a, n: None)


GERMAN = ["Der Hund.", "Die Katze.", "Das Haus.", "Ein Baum.", "Brot!", "Unbekannt."]
ENGLISH = ["The dog.", "The cat.", "The house.", "A tree.", "Bread!", "The dog again."]


def test_each_direction_counts_by_itself():
    # 5 of 6 find theirs from German; the sixth sentence has no known word. From English "The dog again." finds "Der Hund."
    found = pair_figures(Lexicon(), (GERMAN, ENGLISH))
    assert found["accuracy_to_pivot"].tolist() == [1, 1, 1, 1, 1, 0]
    assert found["accuracy_from_pivot"].tolist() == [1, 1, 1, 1, 1, 0]
    assert found["accuracy"].mean() == pytest.approx(5 / 6)


def test_both_directions_differ_where_a_sentence_is_everybodys_neighbour():
    x_ND = np.array([[1, 0], [0, 1], [0.9, 0.1]], dtype=np.float32)
    y_ND = np.array([[1, 0.1], [0.1, 1], [0, -1]], dtype=np.float32)
    found = hits(cosines(x_ND, y_ND))
    assert found.there_N.tolist() == [1, 1, 0]
    assert found.back_N.tolist() == [0, 1, 0]
    assert found.mean.tolist() == [0.5, 1, 0]


def test_margins_are_the_published_ratio():
    cosine_NN = np.random.default_rng(0).uniform(0.1, 1, (9, 9)).astype(np.float32)
    found = margins(cosine_NN, 4)
    for i, j in ((0, 0), (3, 7), (8, 1)):
        near = (sum(sorted(cosine_NN[i])[-4:]) + sum(sorted(cosine_NN[:, j])[-4:])) / 8
        assert found[i, j] == pytest.approx(cosine_NN[i, j] / near, rel=1e-5)


def test_a_hub_that_is_near_to_all_is_no_neighbour_by_margin():
    """Sentence 0 of the other side is close to all; dividing by its neighbourhood undoes that."""
    cosine_NN = np.full((6, 6), 0.1, dtype=np.float32) + 0.5 * np.eye(6, dtype=np.float32)
    cosine_NN[:, 0] = 0.7
    assert hits(cosine_NN).there_N.mean() == pytest.approx(1 / 6)
    assert hits(margins(cosine_NN)).there_N.mean() == 1.0


def test_rows_skip_what_is_absent_and_the_average_of_xtreme_with_them(tmp_path: Path):
    write(tmp_path, "deu", GERMAN, ENGLISH, packed=True)
    (tmp_path / "tatoeba" / "tatoeba.fin-eng.fin").write_text("Koira.\n")
    model = Lexicon()
    rows = measure(context(tmp_path, model))
    ok = {r["metric"]: r for r in rows if r["status"] == "ok"}
    assert set(ok) == {"accuracy", "accuracy_to_pivot", "accuracy_from_pivot", "accuracy_margin"}
    assert ok["accuracy"]["language"] == "deu_Latn"
    assert ok["accuracy"]["n"] == 6
    assert ok["accuracy"]["tier"] == "tier"
    assert ok["accuracy"]["low"] < ok["accuracy"]["mean"] == round(5 / 6, 6) < ok["accuracy"]["high"]
    skips = {r["language"]: r["reason"] for r in rows if r["status"] == "skipped"}
    assert skips["fin_Latn"] == "no file tatoeba.fin-eng.eng in --data"
    assert len(skips) == 36
    assert skips[""] == "XTREME: 1 of its 36 languages have figures"
    assert measure(context(tmp_path, model)) == rows
    assert model.calls == 1
    assert [r["n"] for r in measure(context(tmp_path, model, limit=3)) if r["metric"] == "accuracy"] == [3]


def test_files_that_do_not_match_are_refused_and_no_folder_is_a_row(tmp_path: Path):
    write(tmp_path, "deu", GERMAN, ENGLISH[:-1])
    with pytest.raises(Refused, match="6 lines and 5 lines"):
        find_pairs(tmp_path / "tatoeba")[0].read(Data(tmp_path))
    assert [r["status"] for r in measure(context(tmp_path / "tatoeba" / "x", Lexicon()))] == ["skipped"]


def test_tags_are_language_and_script_of_the_sentences():
    assert tag_of("cmn", ["我們試試看！"]) == "cmn_Hans"
    assert tag_of("deu", ["Guten Tag"]) == "deu_Latn"
    assert tag_of("srp", ["Добар дан"]) == "srp_Cyrl"
    assert tag_of("srp", ["Dobar dan"]) == "srp_Latn"
    assert tag_of("kab", ["Azul fellawen"]) == "kab_Latn"
    assert tag_of("kzj", ["Kotobian"]).endswith("_Latn")


@pytest.mark.skipif(not (SHARED_DATA / "tatoeba").is_dir(), reason="needs ../shared/data/eval/tatoeba")
def test_real_files_gold_is_near_100_and_shuffled_is_chance():
    """A model that reads the line number scores 100; one that knows nothing scores chance."""
    pairs = [p for p in find_pairs(SHARED_DATA / "tatoeba") if not p.missing]
    assert len(pairs) >= 50
    data = Data(SHARED_DATA)
    here, there = pairs[0].read(data)
    assert len(here) == len(there) == 1000
    own = np.random.default_rng(1).normal(size=(1000, 64)).astype(np.float32)
    assert hits(cosines(own, own)).mean.mean() == 1.0
    other = np.random.default_rng(2).normal(size=(1000, 64)).astype(np.float32)
    assert hits(cosines(own, other)).mean.mean() < 0.01
    tags = {p.code: tag_of(p.code, p.read(data)[0]) for p in pairs}
    assert tags["ell"] == "ell_Grek"
    assert tags["heb"] == "heb_Hebr"
    assert tags["afr"] == "afr_Latn"


def test_a_pair_without_files_says_which():
    assert Pair("ara", "eng", (None, None)).missing == "no file tatoeba.ara-eng.ara and tatoeba.ara-eng.eng in --data"
    assert len(bitext.XTREME) == len(set(bitext.XTREME)) == 36
