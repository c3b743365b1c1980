"""Masks: the very bits of before, shares of the recipe, whole words by hand and by the tokenizer's own words."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from mmenc import rng
from mmenc.data.masking import BEGINS, ENDS, INSIDE, first_of_word, mask_tokens
from mmenc.data.tokenizer import train_bpe
from mmenc.data.tokens import BOS, EOS, MASK, SPECIALS
from mmenc.data.words import word_edges
from mmenc.errors import Refused
from mmenc.recipe import parse
from mmenc.sections import Masking
from tests.pipeline import tiny_recipe

ONLY_MASK = Masking(mask=1, random=0, keep=0)
TEXT = {
    "en": "All human beings are born free and equal in dignity and rights. They don't act well-known, in 1948.\nEveryone has. ",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt. ",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। ",
    "zh": "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม ",
}


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train_bpe(iter([text * 3 for text in TEXT.values()]), 700, 1)


@pytest.mark.parametrize(
    ("count", "vocab", "rate", "names", "masked", "digest"),
    [
        (5000, 8192, 0.3, (21, "mask", "pretrain", 7), 1542, "85ffdf7e5d5588ee"),
        (5000, 256000, 0.05, (21, "mask", "decay", 0), 252, "ced5db5550cca7ec"),
        (40, 50, 0.0005, (3, "mask", "x", 1), 1, "f28637d71b20be67"),  # the one with the least draw
        (9, 6, 0.999, (0,), 2, "7155b910b9b4e2a6"),
        (64, 300, 0.15, (5, "score", 12), 9, "fa4ada09973b3d43"),
    ],
)
def test_default_masks_are_those_of_the_first_version(
    count: int, vocab: int, rate: float, names: tuple[object, ...], masked: int, digest: str
) -> None:
    """Digests written down before masks had options: resumed and repeated runs see the masks that they had."""
    ids_T = (rng.uniform(count, "golden", count) * vocab).astype(np.int64)
    out = mask_tokens(ids_T, rate, vocab, *names)
    assert len(out[1]) == masked
    assert hashlib.sha256(b"".join(a.astype("<i8").tobytes() for a in out)).hexdigest()[:16] == digest


@given(
    st.lists(st.integers(0, 40), max_size=80),
    st.floats(1e-6, 0.999),
    st.sampled_from([Masking(), ONLY_MASK, Masking(mask=0.5, random=0, keep=0.5), Masking(mask=0, random=1, keep=0)]),
    st.booleans(),
    st.integers(0, 9),
)
def test_what_holds_for_all_options(ids: list[int], rate: float, masking: Masking, words: bool, step: int) -> None:
    ids_T = np.array(ids, dtype=np.int64)
    edges_V = (rng.raw(41, "edges") % np.uint64(8)).astype(np.uint8)
    edges_V[: len(SPECIALS)] = BEGINS | ENDS
    masking = masking.model_copy(update={"whole_word": words})
    input_T, index_M, target_M = mask_tokens(ids_T, rate, 41, 1, step, masking=masking, edges_V=edges_V)
    again = mask_tokens(ids_T, rate, 41, 1, step, masking=masking, edges_V=edges_V)
    assert all((a == b).all() for a, b in zip((input_T, index_M, target_M), again, strict=True))
    assert (np.diff(index_M) > 0).all()
    assert (target_M == ids_T[index_M]).all()
    assert (target_M >= len(SPECIALS)).all()
    assert len(index_M) >= min(1, (ids_T >= len(SPECIALS)).sum())
    outside = np.setdiff1d(np.arange(len(ids_T)), index_M)
    assert (input_T[outside] == ids_T[outside]).all()
    new_M = input_T[index_M]
    assert ((new_M == MASK) | (new_M >= len(SPECIALS))).all()  # no special token is drawn
    if masking.mask == 1:
        assert (new_M == MASK).all()
    if masking.random == 1:
        assert (new_M != MASK).all()


@pytest.mark.parametrize(
    "masking", [Masking(), ONLY_MASK, Masking(mask=0.6, random=0.3, keep=0.1), Masking(mask=0.5, random=0, keep=0.5)], ids=str
)
@pytest.mark.parametrize("words", [False, True])
def test_shares_and_rate(masking: Masking, words: bool) -> None:
    count, vocab, rate = 200_000, 50_000, 0.3
    ids_T = rng.permutation(count, "ids") % vocab
    edges_V = np.full(vocab, BEGINS, dtype=np.uint8)
    edges_V[1::3] = 0  # a third of the tokens continue a word
    masking = masking.model_copy(update={"whole_word": words})
    input_T, index_M, target_M = mask_tokens(ids_T, rate, vocab, 3, masking=masking, edges_V=edges_V)
    share = len(index_M) / (ids_T >= len(SPECIALS)).sum()
    assert abs(share - rate) < 5 * (2 * rate * (1 - rate) / count) ** 0.5
    new_M = input_T[index_M]
    found = {"mask": (new_M == MASK).mean(), "keep": (new_M == target_M).mean()}
    found["random"] = 1 - found["mask"] - found["keep"]
    for key, value in found.items():
        assert abs(value - getattr(masking, key)) < 0.006, key
    drawn = new_M[(new_M != MASK) & (new_M != target_M)]
    if len(drawn):  # from the whole vocabulary, evenly
        assert np.abs(np.histogram(drawn, 10, (len(SPECIALS), vocab))[0] / len(drawn) - 0.1).max() < 0.01


def test_first_of_word_by_hand() -> None:
    edges_V = np.array([3, 3, 3, 3, 3, BEGINS, 0, BEGINS | ENDS, INSIDE, INSIDE | ENDS], dtype=np.uint8)
    ids_T = np.array([BOS, 6, 6, 5, 6, 7, 6, 8, 9, 6, EOS, BOS, 7, 8, EOS])
    assert first_of_word(ids_T, edges_V).tolist() == [0, 1, 1, 3, 3, 5, 6, 6, 6, 9, 10, 11, 12, 12, 14]


def test_words_are_masked_whole_with_every_word_as_likely() -> None:
    """Against an independent calculation: a word is in iff its first token's draw is below the rate."""
    vocab = 400
    edges_V = (rng.raw(vocab, "edges") % np.uint64(3)).astype(np.uint8)
    edges_V[: len(SPECIALS)] = BEGINS | ENDS
    ids_T = np.concatenate([[BOS], len(SPECIALS) + rng.permutation(4000, "x") % (vocab - len(SPECIALS)), [EOS]])
    masking = ONLY_MASK.model_copy(update={"whole_word": True})
    _, index_M, _ = mask_tokens(ids_T, 0.2, vocab, 9, masking=masking, edges_V=edges_V)
    draws_T, chosen, expected = rng.uniform(len(ids_T), 9), False, []
    for i, token in enumerate(ids_T.tolist()):
        fresh = i == 0 or edges_V[token] & BEGINS or edges_V[ids_T[i - 1]] & ENDS
        chosen = bool(draws_T[i] < 0.2) if fresh else chosen
        if chosen and token >= len(SPECIALS):
            expected.append(i)
    assert index_M.tolist() == expected
    one = mask_tokens(ids_T[:40], 1e-9, vocab, 9, masking=masking, edges_V=edges_V)[1]
    first_T = first_of_word(ids_T[:40], edges_V)
    assert one.tolist() == np.flatnonzero(first_T == first_T[one[0]]).tolist()  # at least one word, whole


def words(tokenizer: Tokenizer, text: str) -> list[str]:
    """What first_of_word makes of a text, as strings."""
    encoded = tokenizer.encode(text, add_special_tokens=False)
    ids_T = np.array([BOS, *encoded.ids, EOS])
    first_T = first_of_word(ids_T, word_edges(tokenizer))[1:-1]
    groups = [[int(t) for t, f in zip(encoded.ids, first_T, strict=True) if f == start] for start in dict.fromkeys(first_T)]
    return [tokenizer.decode(group) for group in groups]


def test_words_of_a_text_in_a_script_with_spaces(bpe: Tokenizer) -> None:
    found = words(bpe, "They don't act well-known, in 1948.\nEveryone")
    assert found == ["They", " don", "'t", " act", " well", "-known", ",", " in", " ", "1948", ".\n", "Everyone"]
    for language in ("en", "de", "hi"):
        text = TEXT[language].strip()
        assert "".join(words(bpe, text)) == text
        inside = [w.strip() for w in words(bpe, text)]
        assert not any(" " in w for w in inside)
        plain = {w for w in text.replace(".", " ").replace(",", " ").replace("।", " ").split() if w.isalpha()}
        assert plain <= set(inside), plain - set(inside)  # no word is cut


def test_scripts_without_spaces_go_token_by_token(bpe: Tokenizer) -> None:
    for language in ("zh", "th"):
        text = TEXT[language].strip()
        found = words(bpe, text)
        assert "".join(found) == text  # no character is cut, though the vocabulary cuts some
        tokens = bpe.encode(text, add_special_tokens=False).ids
        assert 0.5 * len(tokens) < len(found) <= len(tokens)
    rare = "龘靐"  # in pieces of bytes
    assert len(bpe.encode(rare, add_special_tokens=False).ids) > 2
    assert "".join(words(bpe, "人" + rare)) == "人" + rare


def test_words_begin_in_a_vocabulary_whose_decoder_takes_the_first_space_away() -> None:
    tokenizer = train_bpe([*TEXT.values()] * 2, 700, 2, True)
    assert not isinstance(tokenizer.decoder, decoders.ByteLevel)
    edges_V = word_edges(tokenizer)
    begins = [
        i for t, i in tokenizer.get_vocab().items() if t.startswith("Ġ") and len(t) > 2 and t[1].isascii() and t[1].isalpha()
    ]
    assert len(begins) > 20
    assert (edges_V[begins] & BEGINS).all()


def test_special_tokens_stand_alone(bpe: Tokenizer) -> None:
    edges_V = word_edges(bpe)
    assert edges_V.shape == (700,)
    assert (edges_V[: len(SPECIALS)] == BEGINS | ENDS).all()
    assert edges_V[bpe.token_to_id("Ġ")] == BEGINS | ENDS
    assert edges_V[bpe.token_to_id("a")] == 0


def test_a_vocabulary_with_byte_tokens_is_understood_too() -> None:
    """Gemma's kind: ▁ for the space, <0x0A> for a byte."""
    vocab = {t: i for i, t in enumerate([*SPECIALS, "▁all", "ness", "<0x0A>", "<0xE4>", "<0xBA>", "人", "."])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.decoder = decoders.ByteFallback()
    assert word_edges(tokenizer)[5:].tolist() == [BEGINS, 0, BEGINS | ENDS, 0, INSIDE, BEGINS | ENDS, BEGINS | ENDS]


def test_refusals() -> None:
    with pytest.raises(Refused, match=r"edges\.npy"):
        mask_tokens(np.arange(9), 0.3, 20, 1, masking=Masking(whole_word=True))
    for masking, word in [({"mask": 0.7}, "add up to 0.9"), ({"whole-word": True}, "whole_word"), ({"keep": 1.1}, "keep")]:
        recipe = tiny_recipe()
        recipe["phases"]["extend"]["masking"] = masking
        with pytest.raises(Refused, match=word):
            parse(recipe)
    recipe["phases"]["extend"]["masking"] = {"mask": 1, "random": 0, "keep": 0}
    assert parse(recipe).phases["extend"].masking == ONLY_MASK
