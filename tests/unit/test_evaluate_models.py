"""Foreign models: the padded path gives the packed one's figures, heads and bytes are what they must be."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mmenc.data.masking import mask_tokens
from mmenc.data.tokenizer import token_bytes, train_bpe
from mmenc.data.tokens import SPECIALS
from mmenc.data.vocabulary import special_tokens
from mmenc.errors import Refused
from mmenc.evaluate.models import Packed, Padded, open_subject
from mmenc.evaluate.score import Piece, cut_document, score_pieces
from mmenc.evaluate.suite import score_subject
from mmenc.evaluate.words import OurWords, TheirWords, ours, share_bytes
from mmenc.model.config import EncoderConfig
from mmenc.model.head import MaskedLM
from mmenc.model.hf import save_checkpoint
from mmenc.sections import Evaluate

CPU = torch.device("cpu")
TEXTS = [
    "All human beings are born free and equal in dignity and rights.",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt.",
    "Все люди рождаются свободными и равными в своём достоинстве и правах.",
    "人人生而自由，在尊严和权利上一律平等。",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def fast(tokenizer: Tokenizer, folder: Path, **tokens: str) -> transformers.PreTrainedTokenizerFast:
    found = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens)
    found.save_pretrained(folder)
    return found


def word_pieces(folder: Path, text: list[str] = TEXTS) -> transformers.PreTrainedTokenizerFast:
    """BERT's: lower case, accents stripped, [UNK] for what it has not seen."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(text, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    return fast(tokenizer, folder, **names)


def byte_level(folder: Path) -> transformers.PreTrainedTokenizerFast:
    """RoBERTa's layout: its own special ids, the mask last."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens(["<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
    return fast(tokenizer, folder, **names, unk_token="<unk>", mask_token="<mask>")


def pieces_of(words: OurWords | TheirWords, vocab: int, context: int) -> list[Piece]:
    found = []
    for i, text in enumerate(TEXTS):
        tokens = words.of(text)
        ids = np.array([words.mask_id, *tokens.ids_N, words.mask_id])
        masked = mask_tokens(ids, 0.3, vocab, 0, "score", i, ordinary=words.ordinary, mask_id=words.mask_id)
        found += cut_document(masked, i, context, words.outer, tokens.size_N[masked[1] - 1])
    return sorted(found, key=lambda p: len(p.input_T))


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    """A ModernBERT of ours with our tokenizer and weights that are not small."""
    folder = tmp_path_factory.mktemp("release")
    tokenizer = train_bpe(iter(TEXTS * 3), 320, 1)
    fast(
        tokenizer, folder, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>", mask_token="<mask>",
        cls_token="<bos>", sep_token="<eos>",
    )  # fmt: skip
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "hidden": 32, "layers": 4, "heads": 2, "intermediate": 48}
    model = MaskedLM(EncoderConfig(**sizes, window=16, max_position=48))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2, generator=generator)
    save_checkpoint(folder, model)
    return folder


def test_the_padded_path_and_the_packed_path_give_one_model_the_same_figures(release: Path):
    packed, padded = Packed("a", "", release, release, CPU, False), Padded("b", "", release, CPU, False)
    assert isinstance(packed.words, OurWords)
    assert (padded.reason, padded.context, padded.parameters) == ("", packed.context, packed.parameters)
    pieces = pieces_of(packed.words, packed.vocab, packed.context)
    again = pieces_of(padded.words, padded.vocab, padded.context)
    assert all(np.array_equal(a.input_T, b.input_T) for a, b in zip(pieces, again, strict=True))
    one, two = score_pieces(pieces, packed.logits, 100), score_pieces(again, padded.logits, 60)
    assert len({len(p.input_T) for p in pieces}) > 3  # so that there is padding
    order = [np.lexsort((s.loss_M, s.target_M, s.document_M)) for s in (one, two)]
    assert np.abs(one.loss_M[order[0]] - two.loss_M[order[1]]).max() < 1e-4
    assert np.abs(one.top_M[order[0]] - two.top_M[order[1]]).max() < 1e-4
    assert np.abs(packed.embed(TEXTS) - padded.embed(TEXTS)).max() < 1e-4
    assert one.loss_M.std() > 0.5


FOREIGN = {
    "bert": (word_pieces, transformers.BertConfig, transformers.BertForMaskedLM, {"max_position_embeddings": 40}),
    "roberta": (
        byte_level,
        transformers.RobertaConfig,
        transformers.RobertaForMaskedLM,
        {"max_position_embeddings": 42, "pad_token_id": 1, "type_vocab_size": 1},
    ),
    "xlm-roberta": (
        byte_level,
        transformers.XLMRobertaConfig,
        transformers.XLMRobertaForMaskedLM,
        {"max_position_embeddings": 42, "pad_token_id": 1, "type_vocab_size": 1},
    ),
}


@pytest.fixture(scope="module", params=FOREIGN)
def foreign(request, tmp_path_factory) -> Path:
    make, config, model, more = FOREIGN[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model(config(vocab_size=len(make(folder)), **SIZES, **more, initializer_range=0.3)).save_pretrained(folder)
    return folder


def test_the_head_on_masked_positions_gives_the_whole_model_s_logits(foreign: Path):
    subject = open_subject(str(foreign), None, CPU, False)
    assert (subject.reason, subject.context) == ("", 40)
    assert subject.name == foreign.name
    assert subject.words.outer[0] != subject.words.outer[1] != ()
    pieces = pieces_of(subject.words, subject.vocab, subject.context)
    with torch.inference_mode():
        found = subject.logits(pieces)
        expected = [subject.model(input_ids=torch.from_numpy(p.input_T)[None]).logits[0, p.index_M] for p in pieces]
    assert torch.allclose(found, torch.cat(expected), atol=1e-4)
    special = set(subject.words.tokenizer.all_special_ids)
    assert not special & {int(t) for p in pieces for t in p.target_M}


def test_every_byte_of_a_text_belongs_to_one_token(foreign: Path, release: Path):
    for words in (open_subject(str(foreign), None, CPU, False).words, Packed("a", "", release, release, CPU, False).words):
        for text in TEXTS:
            assert words.of(text).size_N.sum() == pytest.approx(len(text.encode()))
    exact = OurWords(Tokenizer.from_file(str(release / "tokenizer.json")))
    by_offset = TheirWords(transformers.AutoTokenizer.from_pretrained(release), 320)
    sizes = token_bytes(exact.tokenizer)
    latin = TEXTS[0]
    assert np.array_equal(exact.of(latin).ids_N, by_offset.of(latin).ids_N)
    assert np.array_equal(exact.of(latin).size_N, by_offset.of(latin).size_N)  # one byte a character: exact
    assert exact.of(TEXTS[3]).size_N.sum() == sizes[exact.of(TEXTS[3]).ids_N].sum()
    assert share_bytes("a é", [(0, 1), (2, 3), (2, 3)]).tolist() == [1.0, 1.5, 1.5]


def test_our_tokenizers_are_known_by_their_ids_and_lose_no_byte(tmp_path: Path, foreign: Path):
    tokenizer = train_bpe(TEXTS, 320, 1, prefix_space=True)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    words = ours(tmp_path)
    assert words is not None
    for text in (*TEXTS, " begins with a space", "  two", ""):
        assert words.of(text).size_N.sum() == len(text.encode())
    # ▁ for a space, bytes for what it does not know: Gemma's style.
    pieces = [*SPECIALS, *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "b", "▁a"]
    gemma = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [("▁", "a")], byte_fallback=True, unk_token="<unk>"))
    gemma.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    gemma.decoder = decoders.Sequence(steps)
    gemma.add_special_tokens(special_tokens())
    gemma.save(str(tmp_path / "tokenizer.json"))
    words = ours(tmp_path)
    assert words is not None
    for text in ("a b", "é a", "b"):
        assert words.of(text).size_N.sum() == len(text.encode())
    assert ours(foreign) is None


def test_no_pseudo_figure_where_the_text_is_unknown(tmp_path: Path):
    folder = tmp_path / "bert"
    folder.mkdir()
    size = len(word_pieces(folder, TEXTS[:2]))
    transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=size, **SIZES)).save_pretrained(folder)
    subject = open_subject(str(folder), None, CPU, False)
    texts = [TEXTS[0], TEXTS[2], TEXTS[0].replace("born", "born 人")]
    tags = ["eng_Latn", "rus_Cyrl", "mix_Latn"]
    text = SimpleNamespace(chosen={t: [i] for i, t in enumerate(tags)}, text=texts.__getitem__, groups={})
    text.tiers, text.ranges = dict.fromkeys(tags, "all"), {t: (i, i + 1) for i, t in enumerate(tags)}
    settings = Evaluate(pseudo_perplexity=5)
    rows = [r for r in score_subject(subject, text, settings, None)[0] if r["task"] == "pseudo"]
    found = {r["language"]: r for r in rows if r["metric"] in ("perplexity", "")}
    assert found["rus_Cyrl"]["status"] == "skipped"
    assert "unknown to its tokenizer" in found["rus_Cyrl"]["reason"]
    words = subject.words.of(texts[2])
    assert (words.ids_N == 1).any()
    assert found["mix_Latn"]["n"] == int((words.ids_N != 1).sum())


def test_what_a_tokenizer_loses_is_said_and_unknown_text_is_counted(tmp_path: Path):
    words = TheirWords(word_pieces(tmp_path, TEXTS[:2]), 300)
    assert words.note == "its tokenizer drops case and accents"
    assert words.of(TEXTS[0]).unknown == 0.0
    assert words.of(TEXTS[2]).unknown > 0.9


def test_a_model_without_a_head_is_no_masked_lm(tmp_path: Path):
    """Also when its config claims one: transformers would draw the missing weights at random."""
    size = len(word_pieces(tmp_path))
    bare = transformers.BertModel(transformers.BertConfig(vocab_size=size, **SIZES))
    bare.save_pretrained(tmp_path)
    subject = open_subject(f"bare={tmp_path}", None, CPU, False)
    assert (subject.name, subject.reason) == ("bare", "no masked-LM head: its config.json names BertModel")
    assert subject.embed(TEXTS).shape == (5, 32)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"BertModel"', '"BertForMaskedLM"'))
    assert "no masked-LM head: its weights lack cls.predictions" in open_subject(str(tmp_path), None, CPU, False).reason


def test_what_is_no_model_is_refused_in_a_sentence(tmp_path: Path):
    with pytest.raises(Refused, match="expected a model's directory"):
        open_subject(str(tmp_path), None, CPU, False)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(Refused, match="has no weights"):
        open_subject(str(tmp_path), None, CPU, False)
