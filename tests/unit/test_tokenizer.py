"""Tokenizers: bytes, round trips, words given one by one, what is taken over, the sample, the gate."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmenc import rng
from mmenc.data.fertility import gate, parity
from mmenc.data.survey import choose
from mmenc.data.tokens import SPECIALS
from mmenc.data.vocabulary import given_back, pieces_of, read, spec_of, style, token_bytes, train_bpe, train_unigram
from mmenc.errors import Refused
from mmenc.sections_data import TokenizerWaiver
from tests.kinds import CODE, TEXTS, byte_level, gemma_style, gpt2_style, lines, saved


@pytest.fixture(scope="module")
def unigram():
    return train_unigram([*lines(), CODE * 4], 600, 2)


@pytest.fixture(scope="module")
def kinds(unigram):
    found = {"bytes": byte_level(), "prefix": byte_level(prefix_space=True), "unigram": unigram, "gemma": gemma_style()}
    for tokenizer in found.values():
        tokenizer.encode_special_tokens = True
    return found


def test_special_ids_are_mmberts(kinds):
    for tokenizer in kinds.values():
        assert [tokenizer.token_to_id(t) for t in SPECIALS] == [0, 1, 2, 3, 4]
        assert tokenizer.encode("a").ids[0] == 2
        assert tokenizer.encode("a").ids[-1] == 1


@given(st.text(max_size=80))
def test_every_text_comes_back_and_its_bytes_are_counted(kinds, text):
    for name, tokenizer in kinds.items():
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        back = tokenizer.decode(ids, skip_special_tokens=False)
        assert back == given_back(spec_of(tokenizer), text), name
        assert 3 not in ids
        counted = int(token_bytes(tokenizer)[ids].sum())
        added = name == "prefix" and text and not text.startswith(" ")
        assert counted == len(text.replace("▁", " ").encode() if name == "gemma" else text.encode()) + bool(added), name


def test_what_is_normalised_is_said(kinds):
    gemma, prefix = kinds["gemma"], kinds["prefix"]
    assert style(spec_of(gemma)) == "fallback"
    assert gemma.decode(gemma.encode("a▁b", add_special_tokens=False).ids) == "a b"
    assert prefix.decode(prefix.encode(" a", add_special_tokens=False).ids) == "a"
    assert prefix.encode(" a").ids == prefix.encode("a").ids != prefix.encode("  a").ids


def test_marks_stay_on_their_letters_digits_come_in_threes_and_indentation_is_one_token():
    tokenizer = train_bpe([CODE * 50 + "नमस्ते ภาษา 1234567 " * 20] * 3, 900, 2)
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode("x\n        return 1234567", add_special_tokens=False).ids]
    assert "       " in pieces
    assert pieces[-3:] == ["123", "456", "7"]
    split = [text for text, _ in tokenizer.pre_tokenizer.pre_tokenize_str("नमस्ते है")]
    assert len(split) == 2


def test_pieces_are_readable(kinds):
    assert "".join(pieces_of(kinds["bytes"], "All human")) == "All human"
    assert all(p.startswith("‹") or p.strip() for p in pieces_of(kinds["bytes"], "ꀀꀁ"))
    assert "‹" in "".join(pieces_of(kinds["gemma"], "ꀀ"))


SENTENCES = {
    "Latn": "Ils sont doués de raison , « et de conscience » : 12 fois .",
    "Cyrl": "Все люди рождаются свободными и равными , в 1948 году !",
    "Deva": "सभी मनुष्यों को गौरव और अधिकारों के मामले में स्वतन्त्रता प्राप्त है ।",
    "Arab": "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق .",
    "Ethi": "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው ።",
}


@pytest.mark.parametrize("script", SENTENCES)
def test_words_given_one_by_one_get_the_tokens_of_the_sentence(script, tmp_path):
    """What NER and POS need: transformers' is_split_into_words on an exported tokenizer."""
    from transformers import AutoTokenizer

    from mmenc.data.tokenizer import save_fast

    sentence = SENTENCES[script]
    save_fast(byte_level(1_000, prefix_space=True), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    whole = tokenizer(sentence)["input_ids"]
    split = tokenizer(sentence.split(), is_split_into_words=True)
    assert split["input_ids"] == whole
    assert tokenizer.decode(whole, skip_special_tokens=True) == sentence
    words = [w for w in split.word_ids() if w is not None]
    assert sorted(set(words)) == list(range(len(sentence.split())))
    # Without the option the words of a list have lost their space: other tokens than in running text.
    save_fast(byte_level(1_000), tmp_path / "plain")
    plain = AutoTokenizer.from_pretrained(tmp_path / "plain")
    assert plain(sentence.split(), is_split_into_words=True)["input_ids"] != plain(sentence)["input_ids"]


def test_a_mask_inside_a_text_keeps_the_words_around_it(tmp_path):
    from transformers import AutoTokenizer

    from mmenc.data.tokenizer import save_fast

    save_fast(byte_level(1_000, prefix_space=True), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    masked = tokenizer("All <mask> beings are")["input_ids"]
    assert masked.count(4) == 1
    after = tokenizer("x beings are", add_special_tokens=False)["input_ids"]
    assert masked[masked.index(4) + 1 : -1] == after[-len(masked) + masked.index(4) + 2 :]


def test_unigram_is_the_same_every_time(unigram):
    again = train_unigram([*lines(), CODE * 4], 600, 2)
    assert again.to_str() == unigram.to_str()
    assert unigram.get_vocab_size() > 300


def test_a_tokenizer_that_loses_text_or_has_other_special_ids_is_seen(tmp_path):
    assert style(spec_of(gpt2_style())) == "bytes"
    spec = spec_of(gemma_style())
    spec["model"]["byte_fallback"] = False
    assert style(spec) == ""
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(Refused, match="is no tokenizer that can be read"):
        read(tmp_path / "tokenizer.json")
    with pytest.raises(Refused, match="is missing"):
        read(tmp_path / "nothing.json")
    spec = json.loads(saved(gemma_style(), tmp_path / "g").read_text())
    spec["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (tmp_path / "g/tokenizer.json").write_text(json.dumps(spec))
    assert len(read(tmp_path / "g/tokenizer.json").encode(TEXTS["rus_Cyrl"]).ids) > 4


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=300), st.integers(1, 200_000), st.integers(0, 99))
def test_a_sample_by_blocks_is_the_sample_of_a_whole_permutation(sizes, limit, seed):
    expected, taken = [], 0
    for i in rng.permutation(len(sizes), seed, "tokenizer", "a"):
        if taken >= limit:
            break
        expected.append(int(i))
        taken += sizes[i]
    cut = seed % len(sizes)
    files = [np.array(sizes[:cut], "<u4"), np.array(sizes[cut:], "<u4")]
    numbers, nbytes = choose(files, limit, seed, "tokenizer", "a")
    assert numbers.tolist() == sorted(expected)
    assert nbytes == taken


def test_parity_is_of_shared_documents_only():
    groups = {"eng_Latn": {"udhr/1": 10, "udhr/2": 10}, "fao_Latn": {"udhr/1": 15, "other/9": 99}, "deu_Latn": {"x/1": 5}}
    assert parity(groups, "eng_Latn") == {"eng_Latn": 1.0, "fao_Latn": 1.5}
    assert parity(groups, "xxx_Latn") == {}


def test_the_gate_names_the_language_the_figure_and_the_threshold():
    table = {"fao_Latn": {"bytes_per_token": 3.0}, "iii_Yiii": {"bytes_per_token": 1.01}, "nqo_Nkoo": {"bytes_per_token": 1.2}}
    with pytest.raises(Refused, match=r"iii_Yiii gets 1.01 bytes per token .* is 1.5 \(1 more languages too: nqo_Nkoo\)"):
        gate(table, 1.5, [])
    waiver = TokenizerWaiver(language="iii_Yiii", reason="one page of text is all there is")
    assert gate(table, 1.1, [waiver]) == [
        {"language": "iii_Yiii", "found": 1.01, "threshold": 1.1, "reason": "one page of text is all there is"}
    ]
    assert gate(table, 1.0, []) == []
    with pytest.raises(Refused, match="did you mean 'fao_Latn'"):
        gate(table, 1.0, [TokenizerWaiver(language="fao_Lath", reason="long enough")])


def test_a_tokenizer_to_compare_with_is_a_file_or_a_folder_with_one(tmp_path):
    from mmenc.raw import named_input

    (tmp_path / "model").mkdir()
    with pytest.raises(Refused, match=r"tokenizer\.compare: there is no .*model/tokenizer\.json"):
        named_input("tokenizer.compare", str(tmp_path / "model"), tmp_path / "cache", 1)
    saved(byte_level(), tmp_path / "model")
    (tmp_path / "model" / "weights.bin").write_bytes(bytes(9))
    for place in ("model", "model/tokenizer.json"):
        path, rows = named_input("tokenizer.compare", str(tmp_path / place), tmp_path / "cache", 1)
        assert path == tmp_path / "model" / "tokenizer.json"
        assert [row["path"] for row in rows] == ["tokenizer.compare/tokenizer.json"]
