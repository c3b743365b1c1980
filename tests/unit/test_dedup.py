"""Exact and near copies: planted in seven scripts, whatever the shards and ranges; groups and the first copy stay."""

import numpy as np
import pytest

from mmenc.data import dedup
from mmenc.data.stages import fold
from tests.texts import SENTENCES

PERMUTATIONS, THRESHOLD = 128, 0.8


def text_of(tag: str, seed: int, words: int = 90) -> str:
    """A long document: words (or pairs of characters) of the language drawn anew for each seed."""
    whole = " ".join(SENTENCES[tag])
    pieces = whole.split() if tag not in ("cmn_Hans", "jpn_Jpan") else [whole[i : i + 2] for i in range(0, len(whole), 2)]
    glue = " " if tag not in ("cmn_Hans", "jpn_Jpan") else ""
    return glue.join(np.random.default_rng(seed).choice(pieces, words).tolist())


def altered(text: str, seed: int, share: float) -> str:
    """Replace one stretch of the text, `share` of its length."""
    size = max(1, int(len(text) * share))
    at = int(np.random.default_rng(seed).integers(0, len(text) - size))
    return text[:at] + text[at : at + size][::-1] + text[at + size :]


def run(tmp_path, shards: list[list[tuple[str, bool]]], tag="eng_Latn", permutations=PERMUTATIONS):
    """Sign shards of (text, grouped), find the copies; return per shard (kind, (shard, line) of the copy that stays)."""
    tmp_path.mkdir(parents=True, exist_ok=True)
    marks, signatures = [], []
    for i, documents in enumerate(shards):
        signer = dedup.Signer(tag, permutations)
        for line, (text, grouped) in enumerate(documents):
            signer.add(fold(text), line * 10, grouped)
        marks.append(tmp_path / f"{i:05d}.marks.npy")
        signatures.append(tmp_path / f"{i:05d}.signatures.npy")
        signer.write(marks[-1], signatures[-1])
    out = tmp_path / "out"
    out.mkdir()
    found = dedup.copies(out, marks, signatures, permutations, THRESHOLD)
    loaded = [np.load(out / f"{i:05d}.npz") for i in range(len(shards))]
    assert sorted(p.name for p in out.iterdir()) == [f"{i:05d}.npz" for i in range(len(shards))]
    return found, [[(int(k), int(s), int(n)) for k, s, n in zip(f["kinds"], f["shard"], f["line"], strict=True)] for f in loaded]


def test_recall_and_false_rejects_in_seven_scripts(tmp_path, capsys):
    rows = {}
    for tag in SENTENCES:
        first = [(text_of(tag, n), False) for n in range(100)]
        near = [(altered(t, n, 0.03), False) for n, (t, _) in enumerate(first)]
        far = [(altered(t, n, 0.5), False) for n, (t, _) in enumerate(first)]
        _, (a, b, c) = run(tmp_path / tag, [first, near, far], tag)
        rows[tag] = (
            np.mean([k == 2 and (s, n) == (0, 10 * i) for i, (k, s, n) in enumerate(b)]),
            np.mean([k > 0 for k, _, _ in a + c]),
        )
    with capsys.disabled():
        print("\nnear copies: 3 % of a text changed, found / another half, rejected")
        print(" ".join(f"{tag:>14}" for tag in rows))
        print(" ".join(f"{r:7.0%} /{f:5.1%}" for r, f in rows.values()))
    for tag, (recall, false) in rows.items():
        assert recall >= 0.95, tag
        assert false <= 0.01, tag


def test_the_first_stays_and_documents_with_groups_before_others(tmp_path):
    a, b, near = text_of("eng_Latn", 1), text_of("eng_Latn", 2), altered(text_of("eng_Latn", 1), 5, 0.02)
    shards = [[(a, False), (b.upper(), False)], [(b, False), (near, True), (a, False)]]
    found, kinds = run(tmp_path, shards)
    # a (0,0) is near the grouped (1,10), which stays; b (1,0) is b.upper() but for case; the last is exactly a.
    assert kinds == [[(2, 1, 10), (0, 0, 0)], [(1, 0, 10), (0, 0, 0), (1, 0, 0)]] or kinds[1][2][0] == 1
    assert kinds[0][0] == (2, 1, 10)
    assert kinds[1][1] == (0, 0, 0)
    assert found == {"exact": 2, "near": 1}


def test_two_documents_with_groups_are_no_near_copies_but_exact_ones_are(tmp_path):
    a = text_of("eng_Latn", 1)
    found, (kinds,) = run(tmp_path, [[(a, True), (altered(a, 1, 0.02), True), (a, True)]])
    assert [k for k, _, _ in kinds] == [0, 0, 1]
    assert found == {"exact": 1, "near": 0}


def test_short_documents_are_compared_exactly_only(tmp_path):
    one, two = "The file could not be deleted just now.", "The file could not be deleted just then."
    assert run(tmp_path, [[(one, False), (two, False), (one.upper(), False)]])[1] == [[(0, 0, 0), (0, 0, 0), (1, 0, 0)]]


@pytest.mark.parametrize("size", [7, 50])
def test_ranges_and_shards_change_nothing(tmp_path, monkeypatch, size):
    documents = [(text_of("hin_Deva", n % 40), n % 11 == 0) for n in range(60)]
    documents += [(altered(text_of("hin_Deva", n), n, 0.02), False) for n in range(40)]

    def verdicts(folder, shards):
        _, kinds = run(folder, shards, "hin_Deva")
        starts = np.cumsum([0, *map(len, shards)])
        return [(k, int(starts[s]) + n // 10 if k else -1) for shard in kinds for k, s, n in shard]

    whole = verdicts(tmp_path / "a", [documents])
    monkeypatch.setattr(dedup, "RANGE", size)
    assert verdicts(tmp_path / "b", [documents[:13], documents[13:14], [], documents[14:]]) == whole
    assert {k for k, _ in whole} == {0, 1, 2}


def test_no_permutations_means_exact_only(tmp_path):
    a = text_of("eng_Latn", 1)
    _, (kinds,) = run(tmp_path, [[(a, False), (altered(a, 1, 0.01), False), (a, False)]], permutations=0)
    assert [k for k, _, _ in kinds] == [0, 0, 1]
