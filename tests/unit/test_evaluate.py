"""The evaluation is right: chance for who knows nothing, full marks for who knows all, a library's figures for the rest."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from mmenc.data.masking import SPECIAL_COUNT, mask_tokens
from mmenc.evaluate import calibration
from mmenc.evaluate.intrinsic import language_rows
from mmenc.evaluate.pseudo import draw, pseudo_rows, rows_of, sentences
from mmenc.evaluate.retrieval import Parallel, embed, pair_means, parallel, retrieval_rows, search
from mmenc.evaluate.rows import aggregate, by_script, mean_interval, ratio_interval, widening
from mmenc.evaluate.score import Piece, Scores, cut_document, packed_logits, score_pieces
from mmenc.model.config import EncoderConfig
from mmenc.model.head import MaskedLM
from mmenc.sections import Evaluate

V, DOCUMENTS = 512, 40
SETTINGS = Evaluate(bootstrap=200)
RANGES = {"eng_Latn": (0, 15), "fra_Latn": (15, 30), "rus_Cyrl": (30, DOCUMENTS)}
TIERS = {"eng_Latn": "high", "fra_Latn": "high", "rus_Cyrl": "tail"}


def random_model(seed: int = 0, std: float = 0.02) -> MaskedLM:
    """Weights that know nothing."""
    model = MaskedLM(EncoderConfig(vocab_size=V, hidden=32, layers=3, heads=2, intermediate=48, window=16, max_position=64))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, std, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def pieces() -> list[Piece]:
    """Masked rows of random documents, longer and shorter than the context."""
    draws = np.random.default_rng(1)
    found = []
    for document in range(DOCUMENTS):
        ids = np.array([2, *draws.integers(SPECIAL_COUNT, V, int(draws.integers(20, 200))), 1])
        masked = mask_tokens(ids, 0.15, V, 0, "score", document)
        found += cut_document(masked, document, 64, size_M=draws.integers(1, 5, len(masked[1])).astype(float))
    return found


def all_rows(scores: Scores) -> list[dict]:
    rows, gaps = language_rows("m", "d", scores, RANGES, TIERS, SETTINGS)
    return aggregate(rows, ["high", "tail"], 200, calibration.pooled("m", gaps, 200)) + rows


def figure(rows: list[dict], metric: str, language: str = "", tier: str = "all") -> dict:
    return next(r for r in rows if (r["metric"], r["language"]) == (metric, language) and tier in (r["tier"], language and tier))


def test_random_weights_score_chance(pieces):
    scores = score_pieces(pieces, packed_logits(random_model(), bf16=False))
    rows = all_rows(scores)
    assert figure(rows, "loss")["mean"] == pytest.approx(math.log(V), abs=0.05)
    expected = math.log2(V) * len(scores.loss_M) / scores.size_M.sum()
    assert figure(rows, "bits_per_byte")["mean"] == pytest.approx(expected, rel=0.03)
    low, high = binom.interval(0.999, len(scores.loss_M), 1 / V)
    assert low <= scores.correct.sum() <= high
    assert figure(rows, "calibration_error")["mean"] < 0.02


def test_an_oracle_has_full_marks(pieces):
    def logits(batch: list[Piece]) -> torch.Tensor:
        target_M = np.concatenate([p.target_M for p in batch])
        return 100.0 * torch.nn.functional.one_hot(torch.from_numpy(target_M), V).float()

    for row in all_rows(score_pieces(pieces, logits)):
        assert row["mean"] == pytest.approx(1.0 if row["metric"] == "accuracy" else 0.0, abs=1e-6), row


def test_every_masked_token_is_scored_once(pieces):
    draws = np.random.default_rng(1)
    expected = 0
    for document in range(DOCUMENTS):
        ids = np.array([2, *draws.integers(SPECIAL_COUNT, V, int(draws.integers(20, 200))), 1])
        expected += len(mask_tokens(ids, 0.15, V, 0, "score", document)[1])
        draws.integers(1, 5, len(mask_tokens(ids, 0.15, V, 0, "score", document)[1]))
    assert sum(len(p.index_M) for p in pieces) == expected
    assert all(len(p.input_T) <= 64 and p.input_T[0] == 2 and p.input_T[-1] == 1 for p in pieces)


def test_figures_equal_those_of_scikit_learn(pieces):
    calibration_curve = pytest.importorskip("sklearn.calibration").calibration_curve
    metrics = pytest.importorskip("sklearn.metrics")
    model = random_model(std=0.5)  # large enough that its guesses differ in confidence
    probabilities = []

    def logits(batch: list[Piece]) -> torch.Tensor:
        z_MV = packed_logits(model, bf16=False)(batch) * 0.5
        probabilities.append(z_MV.double().softmax(-1).numpy())
        return z_MV

    scores = score_pieces(pieces, logits)
    p_MV = np.concatenate(probabilities)
    rows = all_rows(scores)
    for language, (first, last) in RANGES.items():
        inside = (scores.document_M >= first) & (scores.document_M < last)
        target, p = scores.target_M[inside], p_MV[inside]
        found = {m: figure(rows, m, language, TIERS[language])["mean"] for m in ("loss", "accuracy", "calibration_error")}
        assert found["accuracy"] == pytest.approx(metrics.accuracy_score(target, p.argmax(1)), abs=1e-6)
        assert found["loss"] == pytest.approx(metrics.log_loss(target, p, labels=range(V)), abs=1e-5)
        top, right = p.max(1), p.argmax(1) == target
        accurate, sure = calibration_curve(right, top, n_bins=15, strategy="uniform")
        weight = np.histogram(top, np.linspace(0, 1, 16))[0]
        expected = float((np.abs(accurate - sure) * weight[weight > 0]).sum() / len(top))
        assert found["calibration_error"] == pytest.approx(expected, abs=1e-5)
        assert found["calibration_error"] > 0.01


def test_calibration_over_languages_counts_each_the_same():
    """A sure and wrong language of 10 tokens beside an unsure and right one of 1,000: the mean of the two, by hand."""
    top, right = np.repeat([0.99, 0.5], [10, 1000]), np.repeat([False, True], [10, 1000])
    gaps = {
        t: calibration.sums(top[part], right[part], np.zeros(part.stop - part.start, dtype=int), 1).sum(1)
        for t, part in (("a", slice(0, 10)), ("b", slice(10, 1010)))
    }
    assert calibration.mean_error(gaps, ["a", "b"], 50, "x")[0] == pytest.approx((0.99 + 0.5) / 2)
    diagram = calibration.diagram(gaps)
    assert [(b["confidence"], b["accuracy"], b["share"]) for b in diagram] == [(0.5, 1.0, 0.5), (0.99, 0.0, 0.5)]


def test_bootstrap_intervals_hold_the_truth_as_often_as_they_say():
    draws, held, ratios, trials = np.random.default_rng(5), 0, 0, 300
    for trial in range(trials):
        values = draws.gamma(2.0, 1.0, 60)
        _, low, high = mean_interval(values.tolist(), 300, "coverage", trial)
        held += low <= 2.0 <= high
        below = draws.integers(5, 50, 60).astype(float)
        _, low, high = ratio_interval(3 * below + draws.normal(0, 4, 60), below, 300, "ratio", trial)
        ratios += low <= 3.0 <= high
    assert 0.89 <= held / trials <= 0.985
    assert 0.89 <= ratios / trials <= 0.985
    assert mean_interval([1.0, 2.0, 3.0], 50, "a") == mean_interval([1.0, 2.0, 3.0], 50, "a")


def test_five_documents_are_enough_for_an_honest_interval():
    draws, held, trials = np.random.default_rng(6), 0, 400
    for trial in range(trials):
        _, low, high = mean_interval(draws.normal(0, 1, 5).tolist(), 300, "few", trial)
        held += low <= 0 <= high
    assert held / trials >= 0.9
    assert widening(2) == pytest.approx(9.168, abs=0.01)
    assert widening(12) == pytest.approx(2.201 / 1.96 * (12 / 11) ** 0.5, abs=0.003)
    assert mean_interval([0.0, 1.0], 200, "share")[1:] == (0.0, 1.0)


def text_of(languages: int, n: int) -> Parallel:
    tags = [f"{chr(97 + i // 26)}{chr(97 + i % 26)}a_{'Latn' if i % 3 else 'Cyrl'}" for i in range(languages)]
    return Parallel([f"g/{i}" for i in range(n)], {t: list(range(i * n, (i + 1) * n)) for i, t in enumerate(tags)})


def test_retrieval_by_random_weights_is_chance():
    """Languages that share no token: whoever knows no translation finds one in n."""
    languages, n, draws = 12, 8, np.random.default_rng(3)
    words = np.arange(SPECIAL_COUNT, V)[: 40 * languages].reshape(languages, -1)
    texts = [np.array([2, *draws.choice(words[i], 30), 1]) for i in range(languages) for _ in range(n)]
    text = text_of(languages, n)
    rows, facts = retrieval_rows(embed(random_model(), texts), "m", "", text, dict.fromkeys(text.documents, "t"), SETTINGS)
    pairs = [r for r in rows if r["metric"] == "accuracy_all_pairs"]
    low, high = binom.interval(0.999, n * languages * (languages - 1), 1 / n)
    assert low <= np.mean([r["mean"] for r in pairs]) * n * languages * (languages - 1) <= high
    assert facts["chance"] == 1 / n


def test_retrieval_by_an_oracle_is_whole_and_constant_embeddings_are_chance(tmp_path):
    text, settings = text_of(9, 6), Evaluate(bootstrap=50, retrieval_pivot="aba_Latn")
    meaning_ND = np.random.default_rng(2).normal(size=(6, 16)).astype(np.float32)
    accent_LD = np.random.default_rng(4).normal(size=(9, 1, 16)).astype(np.float32)
    tiers = dict.fromkeys(text.documents, "t")
    oracle = np.tile(meaning_ND, (9, 1))
    rows, facts = retrieval_rows(oracle, "m", "", text, tiers, settings, tmp_path / "r.npz")
    assert {r["mean"] for r in rows} == {r["low"] for r in rows} == {1.0}
    assert facts["pivot"] == "aba_Latn"
    assert facts["scripts"]["names"] == ["Latn", "Cyrl"]
    assert facts["scripts"]["accuracy"] == {"Latn": [1.0, 1.0], "Cyrl": [1.0, 1.0]}
    stored = np.load(tmp_path / "r.npz")
    assert stored["accuracy"].shape == (9, 9)
    assert (stored["accuracy"] == 6).all()
    # What only tells the language hides the meaning; subtracting each language's mean brings it back.
    spoken = (meaning_ND[None] + 20 * accent_LD).reshape(54, 16)
    rows, _ = retrieval_rows(spoken, "m", "", text, tiers, settings)
    assert {r["mean"] for r in rows if r["metric"] == "accuracy_centred_all_pairs"} == {1.0}
    rows, _ = retrieval_rows(np.ones((54, 4), dtype=np.float32), "m", "", text, tiers, settings)
    assert np.mean([r["mean"] for r in rows if r["metric"] == "accuracy"]) == pytest.approx(1 / 6, abs=1e-6)


def test_search_is_what_a_double_loop_finds():
    x_LND = np.random.default_rng(6).normal(size=(5, 4, 3)).astype(np.float32)
    hits = search(x_LND, 2)
    unit = x_LND / np.linalg.norm(x_LND, axis=-1, keepdims=True)
    both = np.array([[np.mean([(unit[a] @ unit[b].T)[i].argmax() == i for i in range(4)]) for b in range(5)] for a in range(5)])
    assert np.allclose(hits.both(), (both + both.T) / 2)
    assert np.allclose(hits.with_pivot_LN.mean(1), hits.both()[:, 2])
    kinds = ["x", "x", "x", "y", "y"]
    means = pair_means(hits.both(), kinds, ["x", "y"])
    inside = [hits.both()[a, b] for a in range(3) for b in range(3) if a != b]
    across = [hits.both()[a, b] for a in range(3) for b in (3, 4)]
    assert means["x"] == pytest.approx([np.mean(inside), np.mean(across)], abs=1e-4)
    assert pair_means(np.ones((2, 2)), ["x", "y"], ["x", "y"])["x"] == [None, 1.0]


def test_parallel_documents_are_those_of_languages_that_have_them_all():
    groups = {"a": {"u/1": 0, "u/2": 1, "w/1": 2}, "b": {"u/2": 4, "u/1": 3}, "c": {"u/1": 5}}
    found = parallel(groups, "u")
    assert found == Parallel(["u/1", "u/2"], {"a": [0, 1], "b": [3, 4]})
    rows, facts = retrieval_rows(np.empty((0, 0), np.float32), "m", "", parallel(groups, "none"), {}, SETTINGS)
    assert [r["status"] for r in rows] == ["skipped"]
    assert facts["chance"] == 0.0


def test_sentences_of_any_script_and_a_draw_that_forgets_nobody():
    text = "Heading\nAll human beings are born free. They are endowed with reason!\n"
    text += "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心。"
    assert sentences(text) == [
        "All human beings are born free.",
        "They are endowed with reason!",
        "人人生而自由，在尊严和权利上一律平等。",
        "他们赋有理性和良心。",
    ]
    assert {k: len(v) for k, v in draw({"a": [text, text], "b": ["short"]}, 3, 0).items()} == {"a": 3, "b": 0}


def test_pseudo_perplexity_masks_each_token_in_turn_and_that_of_a_uniform_model_is_its_vocabulary():
    ids, sizes = np.array([10, 11, 12]), np.array([1.0, 2.0, 3.0])
    rows = rows_of(ids, sizes, 0, ((2,), (1,)), 4)
    assert [p.input_T.tolist() for p in rows] == [[2, 4, 11, 12, 1], [2, 10, 4, 12, 1], [2, 10, 11, 4, 1]]
    assert [int(p.target_M[0]) for p in rows] == [10, 11, 12]
    found = pseudo_rows(
        "m",
        "",
        {"eng_Latn": ["x", "y"], "rus_Cyrl": []},
        TIERS,
        SETTINGS,
        lambda _, number: rows_of(ids, sizes, number, ((2,), (1,)), 4),
        lambda pieces: score_pieces(pieces, lambda batch: torch.zeros(sum(len(p.index_M) for p in batch), V)),
    )
    assert [(r["metric"], r["status"]) for r in found] == [("perplexity", "ok"), ("bits_per_byte", "ok"), ("", "skipped")]
    assert found[0]["mean"] == pytest.approx(V, rel=1e-5)
    assert found[1]["mean"] == pytest.approx(9 * 3 / 6, rel=1e-5)
    both = [{**found[0], "language": t, "mean": m} for t, m in (("eng_Latn", 10.0), ("fra_Latn", 1000.0))]
    assert aggregate(both, [], 50, {})[0]["mean"] == pytest.approx(100.0)


def test_by_script_is_the_mean_of_its_languages(pieces):
    rows, gaps = language_rows("m", "d", score_pieces(pieces, packed_logits(random_model(), bf16=False)), RANGES, TIERS, SETTINGS)
    found = by_script(rows, "m", 50, calibration.pooled("m", gaps, 50))
    assert list(found) == ["Latn", "Cyrl"]
    latin = [r["mean"] for r in rows if r["metric"] == "bits_per_byte" and r["language"].endswith("Latn")]
    assert found["Latn"]["mlm.bits_per_byte"][0] == pytest.approx(np.mean(latin), abs=1e-6)
    assert found["Latn"]["mlm.bits_per_byte"][3] == 2
    json.dumps(found)
