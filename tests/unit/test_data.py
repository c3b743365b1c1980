"""Mixture, order, packing and masking: properties that hold for any corpus."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmenc.data.masking import SPECIAL_COUNT, mask_tokens
from mmenc.data.mixture import mix, resolve_waves
from mmenc.data.order import Stream, Windows, cut
from mmenc.data.packing import join, materialise, pack, window_rows
from mmenc.data.tokenizer import sample_quota
from mmenc.data.tokens import BOS, EOS, MASK, Split
from mmenc.errors import Refused
from mmenc.recipe import parse
from mmenc.sections import Phase, Top
from tests.pipeline import tiny_recipe

TAGS = [f"{a}{b}a_Latn" for a in "abcdefgh" for b in "xyz"]
sizes = st.lists(st.integers(10, 5_000), min_size=1, max_size=8)


def phase(**changes) -> Phase:
    return parse(tiny_recipe()).phases["pretrain"].model_copy(update=changes)


def split_of(lengths: dict[str, list[int]]) -> Split:
    ranges, flat, offsets = {}, [], [0]
    for folder, sizes_ in sorted(lengths.items()):
        first = len(offsets) - 1
        for n in sizes_:
            flat += [BOS, *(SPECIAL_COUNT + i % 200 for i in range(n - 2)), EOS]
            offsets.append(len(flat))
        ranges[folder] = (first, len(offsets) - 1)
    return Split(np.array(flat, dtype=np.uint16), np.array(offsets), ranges, [])


@given(st.dictionaries(st.sampled_from(TAGS), st.integers(1, 10**12), min_size=1), st.floats(0.05, 1.0))
def test_shares_follow_the_formula_when_nothing_is_capped(counts, temperature):
    p = phase(tokens=10**9, temperature=temperature, epoch_cap=1e30)
    planned = mix(p, "pretrain", sorted(counts), counts).languages
    weight = {t: n**temperature for t, n in counts.items()}
    for tag, tokens in planned.items():
        assert tokens == pytest.approx(weight[tag] / sum(weight.values()) * p.tokens, abs=1.01)
    assert sum(planned.values()) == p.tokens


@given(st.dictionaries(st.sampled_from(TAGS), st.integers(100, 10**6), min_size=2), st.floats(0.1, 1.0), st.floats(0.05, 0.9))
def test_the_cap_holds_and_the_surplus_goes_to_the_others(counts, temperature, part):
    total = sum(counts.values())
    p = phase(tokens=max(1, int(total * 2 * part)), temperature=temperature, epoch_cap=2.0)
    plan = mix(p, "pretrain", sorted(counts), counts)
    assert sum(plan.languages.values()) == p.tokens
    for tag, tokens in plan.languages.items():
        assert tokens <= 2.0 * counts[tag] + 1
    assert len(plan.warnings) == len(plan.capped)


def test_a_phase_that_its_data_cannot_feed_is_refused():
    with pytest.raises(Refused, match="24,000 asked for, its data has 500 within epoch_cap 5"):
        mix(phase(epoch_cap=5.0), "pretrain", ["aaa_Latn"], {"aaa_Latn": 100})


def test_buckets_have_fixed_shares_and_leave_the_sampling():
    recipe = tiny_recipe()
    recipe["phases"]["pretrain"]["buckets"] = {"english": {"share": 0.25, "source": "eng_Latn"}}
    p = parse(recipe).phases["pretrain"]
    plan = mix(p, "pretrain", ["deu_Latn", "eng_Latn"], {"deu_Latn": 10**6, "eng_Latn": 10**6, "code": 10})
    assert plan.buckets == {"english": 6_000}
    assert plan.languages == {"deu_Latn": 18_000}
    with pytest.raises(Refused, match="no training text in 'eng_Latn'"):
        mix(p, "pretrain", ["deu_Latn"], {"deu_Latn": 10**6})


def test_waves_contain_each_other_and_name_what_is_missing():
    counts = {"eng_Latn": 50, "deu_Latn": 40, "fao_Latn": 5, "code": 99}
    waves = parse(tiny_recipe()).languages
    assert resolve_waves({**waves, "middle": Top(top=2)}, counts) == {
        "high": ["eng_Latn"],
        "middle": ["deu_Latn", "eng_Latn"],
        "tail": ["deu_Latn", "eng_Latn", "fao_Latn"],
    }
    with pytest.raises(Refused, match="no training text for deu_Latm; did you mean 'deu_Latn'"):
        resolve_waves({"a": ["deu_Latm"]}, counts)
    with pytest.raises(Refused, match="asks for 4 languages, the data has 2"):
        resolve_waves(waves, {"eng_Latn": 1, "deu_Latn": 1})


@given(st.dictionaries(st.sampled_from(TAGS), st.integers(1, 10**6), min_size=1), st.floats(0.1, 1.0), st.integers(1, 10**6))
def test_a_tokenizer_sample_never_takes_more_than_there_is(counts, temperature, budget):
    quota = sample_quota(counts, temperature, budget)
    assert all(0 <= quota[t] <= counts[t] for t in counts)
    assert sum(quota.values()) <= max(budget, 0) + len(counts)
    assert sum(quota.values()) >= min(budget, sum(counts.values())) - len(counts)


def listed(pieces) -> list[tuple[int, int, int]]:
    return list(zip(pieces.document.tolist(), pieces.start.tolist(), pieces.stop.tolist(), strict=True))


@given(sizes, st.integers(1, 40_000), st.integers(1, 7), st.integers(0, 3), st.sampled_from([16, 128, 1024]))
def test_windows_tile_the_phase_within_half_a_row_of_the_plan(lengths, quota, windows, phases_before, context):
    array = np.array(lengths)
    offset = 0
    for n in range(phases_before):
        offset += Stream("a", array, 7, f"p{n}", 64, offset, 1_000).consumed()
    stream = Stream("a", array, 7, "now", context, offset, quota)
    pieces, counts = stream.windows(0, windows, windows)
    found = [stream.windows(w, w + 1, windows) for w in range(windows)]
    assert [piece for p, _ in found for piece in listed(p)] == listed(pieces)
    assert [int(c[0]) for _, c in found] == counts.tolist()
    assert int(pieces.stored().sum()) == stream.consumed()
    assert abs(stream.consumed() - quota) <= context


@given(sizes, st.lists(st.tuples(st.integers(1, 20_000), st.sampled_from([32, 128, 512])), min_size=1, max_size=4))
def test_no_token_comes_twice_before_its_epoch_is_over_across_phases(lengths, phases):
    array = np.array(lengths)
    times = [np.zeros(n - 2, dtype=int) for n in lengths]
    offset = 0
    for n, (quota, context) in enumerate(phases):
        stream = Stream("a", array, 7, f"p{n}", context, offset, quota)
        for document, start, stop in listed(stream.windows(0, 1, 1)[0]):
            times[document][start:stop] += 1
            assert max(t.max() for t in times) - min(t.min() for t in times) <= 1
        offset += stream.consumed()


def test_a_language_of_half_a_document_is_read_half_of_the_time():
    hits = [Stream("a", np.array([100]), seed, "p", 128, 0, 50).consumed() // 100 for seed in range(400)]
    assert 0.42 < np.mean(hits) < 0.58


@given(st.lists(st.integers(2, 5_000), min_size=1, max_size=5), st.integers(16, 512))
def test_pieces_cover_documents_and_fit(lengths, context):
    array = np.array(lengths)
    pieces = cut(np.arange(len(lengths)), array, context)
    for document, length in enumerate(lengths):
        own = [(a, b) for d, a, b in listed(pieces) if d == document]
        assert [a for a, _ in own[1:]] == [b for _, b in own[:-1]]
        assert (own[0][0], own[-1][1]) == (0, length - 2)
        assert all(b - a <= context - 2 for a, b in own)
    assert pieces.stored().sum() == array.sum()


@given(st.lists(st.integers(1, 128), max_size=300))
def test_packing_loses_nothing_and_is_nearly_full(lengths):
    placed, row = pack(np.array(lengths, dtype=np.int64), 128)
    assert sorted(placed.tolist()) == list(range(len(lengths)))
    sizes = np.bincount(row, np.array(lengths)[placed]) if lengths else np.array([])
    assert (sizes > 0).all()
    assert (sizes <= 128).all()
    # First-fit/best-fit decreasing never needs more than 11/9 of the best number of rows, plus 6/9 (Dosa 2007).
    assert len(sizes) <= 11 / 9 * -(-sum(lengths) // 128) * 1.5 + 1


def best_fit(lengths: list[int], context: int) -> list[list[int]]:
    """The definition, in quadratic time: each piece, longest first, into the first row among those with the least room."""
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = [r for r in range(len(rows)) if room[r] >= lengths[i]]
        r = min(fits, key=lambda r: (room[r], r), default=len(rows))
        if r == len(rows):
            rows.append([])
            room.append(context)
        rows[r].append(i)
        room[r] -= lengths[i]
    return rows


@given(st.lists(st.integers(1, 64), min_size=1, max_size=120))
def test_packing_is_best_fit_decreasing(lengths):
    placed, row = pack(np.array(lengths), 64)
    assert [placed[row == r].tolist() for r in range(row.max() + 1)] == best_fit(lengths, 64)


def whole(streams: list[Stream], split: Split) -> Windows:
    return Windows(streams, [split.ranges[s.folder][0] for s in streams], 1)


def test_a_window_of_real_lengths_is_full_and_materialises_to_its_documents():
    rng = np.random.Generator(np.random.Philox(3))
    lengths = {t: [int(x) for x in np.clip(rng.lognormal(5, 1, 400), 8, 4_000)] for t in ("aaa_Latn", "bbb_Latn")}
    split = split_of(lengths)
    streams = [Stream(t, split.lengths(t), 1, "p", 512, 0, 60_000) for t in lengths]
    rows = window_rows(whole(streams, split), 0, 512, (1, "p"))
    assert rows.lengths().sum() / (512 * len(rows)) > 0.99
    ids_T, pieces = materialise(rows, split)
    stops = np.cumsum(pieces)
    for i in range(len(pieces)):
        content = split.document(rows.document[i])[1 + rows.start[i] : 1 + rows.stop[i]]
        assert ids_T[stops[i] - pieces[i] : stops[i]].tolist() == [BOS, *content, EOS]
    again = window_rows(whole(streams, split), 0, 512, (1, "p"))
    assert (materialise(again, split)[0] == ids_T).all()
    assert sum(rows.stored().values()) == sum(s.consumed() for s in streams)
    # Slices of rows, put together again, are the rows.
    parts = join([rows[:7], rows[7:8], rows[8:]])
    assert len(rows[3:3]) == 0
    assert (materialise(parts, split)[0] == ids_T).all()
    assert (parts.ends == rows.ends).all()


@given(st.lists(st.integers(0, 300), min_size=1, max_size=200), st.floats(0.01, 0.99), st.integers(0, 50))
def test_masks_are_repeatable_and_spare_special_tokens(ids, rate, step):
    ids_T = np.array(ids)
    input_T, index_M, target_M = mask_tokens(ids_T, rate, 301, 1, "mask", "p", step)
    again = mask_tokens(ids_T, rate, 301, 1, "mask", "p", step)
    assert all((a == b).all() for a, b in zip((input_T, index_M, target_M), again, strict=True))
    assert (ids_T[index_M] >= SPECIAL_COUNT).all()
    assert (target_M == ids_T[index_M]).all()
    untouched = np.setdiff1d(np.arange(len(ids)), index_M)
    assert (input_T[untouched] == ids_T[untouched]).all()
    assert np.isin(input_T[index_M], [MASK]).sum() + (input_T[index_M] >= SPECIAL_COUNT).sum() == len(index_M)
    assert len(index_M) or (ids_T < SPECIAL_COUNT).all()


def test_masks_have_the_published_rates():
    ids_T = np.full(200_000, 50)
    input_T, index_M, _ = mask_tokens(ids_T, 0.3, 8192, 1)
    assert len(index_M) / len(ids_T) == pytest.approx(0.3, abs=0.005)
    chosen = input_T[index_M]
    assert (chosen == MASK).mean() == pytest.approx(0.8, abs=0.01)
    assert (chosen == 50).mean() == pytest.approx(0.1, abs=0.01)
    drawn = chosen[(chosen != MASK) & (chosen != 50)]
    assert drawn.min() >= SPECIAL_COUNT
    assert drawn.max() > 8_000
