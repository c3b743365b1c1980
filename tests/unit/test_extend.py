"""Extension: old ids and old text stay, new tokens are reachable, and their rows are the means of what they replace."""

from __future__ import annotations

import pytest
import torch

from mmenc.data.extend import extend, initialise_rows
from mmenc.data.vocabulary import token_bytes, train_unigram
from mmenc.errors import Refused
from tests.kinds import TEXTS, byte_level, gemma_style, lines

OLD = ("eng_Latn", "rus_Cyrl")
NEW = [TEXTS["amh_Ethi"], TEXTS["hin_Deva"]] * 6
KINDS = {"bytes": byte_level, "gemma": gemma_style}


@pytest.mark.parametrize("kind", KINDS)
def test_old_text_keeps_its_ids_and_new_text_gets_shorter(kind: str):
    base = KINDS[kind](600, texts=lines(*OLD))
    base.encode_special_tokens = True
    size = base.get_vocab_size()
    grown, pieces = extend(base, NEW, 60, 2)
    assert grown.get_vocab_size() == size + 60
    assert len(pieces) == 60
    old, new = base.get_vocab(), grown.get_vocab()
    assert all(new[t] == i for t, i in old.items())
    for language in OLD:
        assert grown.encode(TEXTS[language]).ids == base.encode(TEXTS[language]).ids
    before, after = base.encode(NEW[0]).ids, grown.encode(NEW[0]).ids
    assert len(after) < 0.6 * len(before)
    assert grown.decode(after) == NEW[0]
    # Every new token stands for the bytes of its old pieces, and a good share of them is used on the text that made them.
    bytes_V = token_bytes(grown)
    assert all(bytes_V[size + i] == bytes_V[old_ids].sum() for i, old_ids in enumerate(pieces))
    used = {i for t in NEW for i in grown.encode(t).ids if i >= size}
    assert len(used) > 15


def test_the_old_pieces_of_a_new_token_spell_it():
    base = byte_level(600, texts=lines(*OLD))
    grown, pieces = extend(base, NEW, 40, 2)
    names = {i: t for t, i in grown.get_vocab().items()}
    size = base.get_vocab_size()
    assert all("".join(names[i] for i in old) == names[size + n] for n, old in enumerate(pieces))


def test_rows_of_new_tokens_are_means_and_old_rows_stay():
    rows_VD = torch.arange(12.0).view(4, 3)
    out_VD = initialise_rows(rows_VD, [[0, 3], [2]])
    assert torch.equal(out_VD[:4], rows_VD)
    assert out_VD[4].tolist() == [4.5, 5.5, 6.5]
    assert torch.equal(out_VD[5], rows_VD[2])
    assert initialise_rows(torch.tensor([1.0, 3.0]), [[0, 1]]).tolist() == [1.0, 3.0, 2.0]


def test_what_cannot_be_extended_is_refused():
    with pytest.raises(Refused, match="100000 asked for, the text of the new languages gives"):
        extend(byte_level(600, texts=lines(*OLD)), NEW, 100_000, 2)
    with pytest.raises(Refused, match="is Unigram; only BPE"):
        extend(train_unigram(lines(), 500, 2), NEW, 10, 2)
