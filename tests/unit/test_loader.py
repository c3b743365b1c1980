"""What the loader promises: blocks of windows, fill, shares, epochs, cuts counted; and steps made ahead in a thread."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest

from mmenc.data.mixture import mix
from mmenc.data.order import BLOCK, Stream, Windows
from mmenc.data.packing import Rows, join
from mmenc.data.tokens import Split
from mmenc.recipe import parse
from mmenc.sections import Phase
from mmenc.train.batches import Batches, Place, make_streams
from mmenc.train.prefetch import Ahead, prepare
from tests.pipeline import tiny_recipe


def phase(**changes) -> Phase:
    return parse(tiny_recipe()).phases["pretrain"].model_copy(update={"min_piece": 0, **changes})


def corpus(folders: int, documents: int, seed: int = 1) -> Split:
    """Lengths of the corpus that performance.md measured: log-normal, median 147, mean 555; sizes of folders fall as 1/rank."""
    random = np.random.Generator(np.random.Philox(seed))
    counts = np.maximum(2, documents / (1 + np.arange(folders)) / np.log(folders + 1)).astype(int)
    lengths = np.clip(random.lognormal(np.log(147), np.sqrt(2 * np.log(555 / 147)), counts.sum()), 8, 50_000).astype(np.int64)
    ends = np.cumsum(counts)
    ranges = {f"f{i:03d}": (int(b - n), int(b)) for i, (b, n) in enumerate(zip(ends, counts, strict=True))}
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Split(np.full(offsets[-1], 9, dtype=np.uint16), offsets, ranges, [])


def loader(split: Split, p: Phase, name: str = "p", read: dict[str, int] | None = None) -> tuple[Batches, dict[str, int]]:
    """Batches of a phase over all folders, and the plan."""
    counts = {f: int(split.lengths(f).sum()) for f in split.ranges}
    plan = mix(p, name, sorted(counts), counts).languages
    mixture = {"languages": {t: {"tokens": n} for t, n in plan.items()}, "buckets": {}}
    return Batches(make_streams(split, mixture, read or {}, 21, name, p), split, p, name, 21), plan


def all_rows(batches: Batches, rows: int) -> Rows:
    parts, place = [], Place()
    while taken := batches.take(place, rows):
        found, place = taken
        parts.append(found)
    return join(parts)


@pytest.mark.parametrize(("context", "least"), [(1024, 0.99), (8192, 0.98)])
def test_rows_are_full_on_real_lengths(context, least):
    split = corpus(300, 20_000)
    rows = all_rows(loader(split, phase(tokens=6_000_000, context=context, epoch_cap=5.0, temperature=0.5))[0], 64)
    assert rows.lengths().sum() / (context * len(rows)) >= least
    assert rows.lengths().max() <= context


def test_a_block_of_windows_is_its_windows_one_by_one():
    split = corpus(40, 3_000)
    streams = [
        Stream(f, split.lengths(f), 3, "p", 256, 100 * i, quota)
        for i, (f, quota) in enumerate(zip(split.ranges, itertools.cycle([900, 40_000, 7, 260_000]), strict=False))
    ]
    count = 2 * BLOCK + 9
    windows = Windows(streams, [split.ranges[s.folder][0] for s in streams], count)
    for number in [*range(0, count, 5), BLOCK - 1, BLOCK, count - 1]:
        folder, pieces = windows.pieces(number)
        alone = [s.windows(number, number + 1, count)[0] for s in streams]
        assert folder.tolist() == [i for i, p in enumerate(alone) for _ in p.document]
        firsts = [split.ranges[s.folder][0] for s in streams]
        assert pieces.document.tolist() == [d + f for p, f in zip(alone, firsts, strict=True) for d in p.document.tolist()]
        for column in ("start", "stop", "last"):
            assert (getattr(pieces, column) == np.concatenate([getattr(p, column) for p in alone])).all()


def test_nothing_is_dropped_and_what_is_cut_is_counted():
    split = corpus(20, 2_000)
    total = int(split.offsets[-1])
    p = phase(tokens=total, context=128, epoch_cap=1.0, temperature=1.0)
    rows = all_rows(loader(split, p)[0], 32)
    times = np.zeros(len(split.flat), dtype=int)
    first = split.offsets[rows.document]
    for a, b in zip((first + 1 + rows.start).tolist(), (first + 1 + rows.stop).tolist(), strict=True):
        times[a:b] += 1
    edges = np.concatenate([split.offsets[:-1], split.offsets[1:] - 1])
    times[edges] = 1
    assert (times == 1).all()
    lengths = np.diff(split.offsets)
    assert rows.divided() == (int((lengths > 128).sum()), int(lengths[lengths > 128].sum()))
    # Batches add up to the phase.
    halves = [rows[: len(rows) // 2].divided(), rows[len(rows) // 2 :].divided()]
    assert tuple(map(sum, zip(*halves, strict=True))) == rows.divided()


def test_shares_follow_the_plan_at_any_point_of_the_phase():
    split = corpus(200, 30_000)
    p = phase(tokens=8_000_000, context=512, epoch_cap=5.0, temperature=0.5)
    batches, plan = loader(split, p)
    place, rows, read = Place(), [], 0
    for _ in range(60):
        found, place = batches.take(place, 128)
        rows.append(found)
    seen = join(rows).stored()
    read = sum(seen.values())
    assert 0.4 < read / p.tokens < 0.6
    piece = split.lengths("f000").clip(max=512)
    for folder, quota in plan.items():
        # Whole pieces begin and end a window: at most two rows from what N tokens should hold, beside the window in hand.
        expected = quota * read / p.tokens
        slack = 2 * 512 + quota / batches.count
        assert abs(seen.get(folder, 0) - expected) <= slack, (folder, seen.get(folder, 0), expected)
    shares = np.array([seen.get(f, 0) / read for f in plan])
    planned = np.array([q / p.tokens for q in plan.values()])
    error = np.sqrt(planned * (1 - planned) * (piece**2).mean() / piece.mean() / read)  # of drawing pieces at random
    assert (np.abs(shares - planned) <= 4 * error + 512 / read).all()
    assert np.abs(shares - planned).sum() / 2 < 0.01


def test_no_document_comes_twice_before_its_epoch_is_over_across_phases_with_batches():
    split = corpus(30, 2_000)
    times = {f: np.zeros(last - first, dtype=int) for f, (first, last) in split.ranges.items()}
    read: dict[str, int] = {}
    for name, tokens, context in (("one", 300_000, 128), ("two", 500_000, 512), ("three", 900_000, 256)):
        p = phase(tokens=tokens, context=context, epoch_cap=1e9, temperature=0.3)
        batches, _ = loader(split, p, name, read)
        for window in range(batches.count):
            rows = batches.window(window)
            for folder, stored in rows.stored().items():
                read[folder] = read.get(folder, 0) + stored
            begun = rows.start == 0
            for i in np.unique(rows.folder):
                folder = rows.folders[i]
                np.add.at(times[folder], rows.document[begun & (rows.folder == i)] - split.ranges[folder][0], 1)
        for folder, n in times.items():
            assert n.max() - n.min() <= 1, (name, folder)


def whole_phase(batches: Batches, p: Phase):
    def make(rows: Rows, tokens: int, step: int):
        return [(rows.document.tolist(), tokens, step)], 1

    return prepare(batches, p, make, Place(), 0, 0)


def test_steps_made_ahead_are_the_steps():
    split = corpus(10, 800)
    p = phase(tokens=200_000, context=128, epoch_cap=5.0, batch_tokens=4_096)
    expected = list(whole_phase(loader(split, p)[0], p))
    with Ahead(whole_phase(loader(split, p)[0], p)) as ahead:
        found = list(ahead)
    assert [s.parts for s in found] == [s.parts for s in expected]
    assert [s.last for s in found] == [False] * (len(found) - 1) + [True]
    assert [s.after for s in found] == [s.after for s in expected]
    # From a step in the middle on, nothing but numbers is needed.
    middle = expected[4]
    _, tokens, step = expected[5].parts[0]
    batches = loader(split, p)[0]
    rest = prepare(batches, p, lambda rows, t, n: ([(rows.document.tolist(), t, n)], 1), middle.after, tokens, step)
    assert [s.parts for s in rest] == [s.parts for s in expected[5:]]


def test_no_more_than_depth_steps_are_made_ahead():
    made = []
    source = (made.append(i) or i for i in range(100))
    with Ahead(source, depth=2) as ahead:
        for taken in range(10):
            assert next(ahead) == taken
            time.sleep(0.01)
            assert len(made) <= taken + 3
    assert len(made) <= 13
    assert not [t for t in threading.enumerate() if t.name == "prefetch"]


def test_an_error_comes_up_when_its_turn_comes():
    def source():
        yield 1
        raise ValueError("the disk is gone")

    with Ahead(source()) as ahead:
        assert next(ahead) == 1
        for _ in range(2):
            with pytest.raises(ValueError, match="the disk is gone"):
                next(ahead)


def test_an_error_of_the_loop_ends_the_thread():
    def loop():
        with Ahead(iter(range(5))) as ahead:
            next(ahead)
            raise KeyError("the loop failed")

    with pytest.raises(KeyError):
        loop()
    assert not [t for t in threading.enumerate() if t.name == "prefetch"]


def test_waiting_for_data_is_measured():
    def slow():
        for i in range(3):
            time.sleep(0.05)
            yield i

    with Ahead(slow()) as ahead:
        assert list(ahead) == [0, 1, 2]
    assert 0.1 < ahead.waited < 2
    with Ahead(iter(range(3))) as ahead:
        for _ in ahead:
            time.sleep(0.02)
    assert ahead.waited < 0.1
