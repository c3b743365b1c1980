"""Fast encoders: equal ids or not used; spelt special tokens stay text; nothing installed means Hugging Face."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmenc.data import encoders
from mmenc.data.encoders import PROBES, Fastokens, Gigatoken, HuggingFace, differing, open_fast, prove, reference
from mmenc.data.shards import write_documents
from mmenc.data.vocabulary import spec_of
from tests.kinds import CODE, TEXTS, byte_level, gemma_style, gpt2_style, saved

KINDS = {
    "ours": (byte_level, Fastokens),
    "prefix": (lambda: byte_level(prefix_space=True), Fastokens),
    "gpt2": (gpt2_style, Fastokens),
    "gemma": (gemma_style, Gigatoken),
}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    return {name: saved(make(), folder / name) for name, (make, _) in KINDS.items()}


def bundle(folder: Path, texts: dict[str, list[str]]):
    found = []
    for language, rows in texts.items():
        path = folder / "shards" / language / "0.jsonl.zst"
        write_documents(path, ({"id": f"{language}-{i}", "text": t, "source": "s", "license": "l"} for i, t in enumerate(rows)))
        found.append((language, [path]))
    return found


REAL = {language: [text, CODE + text, f"<mask> {text}\n<eos>"] for language, text in TEXTS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_fast_library_is_used_and_equal(kind: str, tokenizers, tmp_path):
    if KINDS[kind][1] is Gigatoken:
        pytest.importorskip("gigatoken")
    encoder, proof = prove(tokenizers[kind], "fastest", bundle(tmp_path, REAL))
    assert proof["library"].split()[0] == {Fastokens: "fastokens", Gigatoken: "gigatoken-cachefix"}[KINDS[kind][1]], proof
    assert proof["proof_documents"] == len(PROBES) + sum(map(len, REAL.values()))
    texts = [t for rows in REAL.values() for t in rows] + list(PROBES)
    theirs = HuggingFace(reference(tokenizers[kind])).encode(texts)
    for ours, expected in zip(encoder.encode(texts), theirs, strict=True):
        assert np.array_equal(ours, expected)
    flat, offsets = encoder.encode(["a <mask> b <eos>", "", "x"])
    assert flat.min() >= 5
    assert offsets.dtype == np.int64
    assert len(offsets) == 4
    assert len(encoder.encode([])[0]) == 0


@pytest.fixture(scope="module")
def opened(tokenizers):
    here = {k: path for k, path in tokenizers.items() if KINDS[k][1] is not Gigatoken or importlib.util.find_spec("gigatoken")}
    return [(open_fast(KINDS[k][1], spec_of(reference(path))), HuggingFace(reference(path))) for k, path in here.items()]


tricky = st.text(alphabet="'sStTlLrReEvVmMdDſ aéяक\u093f\u0301 \t\n\r1²½_Ⅷ.,-中\U0001f600\ufe0f", max_size=60)


@given(st.lists(st.text(max_size=60) | tricky, max_size=4))
def test_any_text_gives_equal_ids(opened, texts):
    for fast, slow in opened:
        for ours, theirs in zip(fast.encode(texts), slow.encode(texts), strict=True):
            assert np.array_equal(ours, theirs), (fast.name, texts)


def test_english_contractions_and_marks_choose_the_road():
    easy = ("it's", "we'll go", "L'été, d'or", "日本語 привет 123", "'", "")
    assert all(encoders.is_easy(t) for t in easy)
    assert not any(encoders.is_easy(t) for t in ("'some", "o'tmoq", "e\u0301", "नमस्ते", "we'llx", "❤\ufe0f", "\U0001e000"))


def test_a_library_that_differs_in_one_language_is_not_used(tokenizers, tmp_path, monkeypatch):
    class Wrong(Fastokens):
        def encode(self, texts):
            flat, offsets = super().encode(texts)
            return (np.where(flat == flat[-1], flat + 1, flat) if any("Все" in t for t in texts) else flat), offsets

    monkeypatch.setattr(encoders, "candidates", lambda _: [Wrong])
    encoder, proof = prove(tokenizers["ours"], "fastest", bundle(tmp_path, REAL))
    assert isinstance(encoder, HuggingFace)
    assert "other ids in rus_Cyrl" in proof["refused"][0]
    assert proof["proof_documents"] == 0


def test_without_the_libraries_hugging_face_encodes(tokenizers, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastokens", None)
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    encoder, proof = prove(tokenizers["ours"], "fastest", bundle(tmp_path, REAL))
    assert isinstance(encoder, HuggingFace)
    assert proof["refused"] == []


def test_what_a_library_cannot_load_is_said(tmp_path):
    spec = spec_of(byte_level())
    spec["normalizer"] = {"type": "NFKC"}
    path = tmp_path / "tokenizer.json"
    import json

    path.write_text(json.dumps(spec))
    encoder, proof = prove(path, "fastest", bundle(tmp_path, REAL))
    assert isinstance(encoder, HuggingFace) == bool(proof["refused"])
    assert not proof["refused"] or "cannot take this tokenizer" in proof["refused"][0]


def test_a_small_language_is_proven_whole_and_a_large_one_at_its_beginning(tokenizers, tmp_path):
    many = {"eng_Latn": [TEXTS["eng_Latn"] * 5] * 200, "fao_Latn": ["Øll menniskju eru fødd fræls"] * 3}
    fast, slow = HuggingFace(reference(tokenizers["ours"])), HuggingFace(reference(tokenizers["ours"]))
    language, compared = differing(fast, slow, bundle(tmp_path, many))
    assert language == ""
    size = len(many["eng_Latn"][0])
    assert compared == len(PROBES) + -(-encoders.PROOF_BYTES[0] // size) + 3
