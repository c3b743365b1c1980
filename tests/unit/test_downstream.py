"""Fine-tuning: alignment of words, both paths of an encoder, repeatable runs, metrics and intervals, chance and gold."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from scipy import stats

from mmenc import rng
from mmenc.data.tokens import SPECIALS
from mmenc.downstream import entities, results, tuning
from mmenc.downstream import metrics as counting
from mmenc.downstream.backbone import Backbone, PackedBody, PaddedBody, of_subject
from mmenc.downstream.classify import Classification, Labelled
from mmenc.downstream.task import Recipe
from mmenc.downstream.text import Texts
from mmenc.downstream.tokens import Sentence, Tagging
from mmenc.evaluate.models import Packed, Padded, open_subject
from mmenc.evaluate.rows import row as score_row
from mmenc.evaluate.words import OurWords, TheirWords
from mmenc.model.config import EncoderConfig
from mmenc.model.head import MaskedLM
from mmenc.model.hf import save_checkpoint
from tests import kinds
from tests.unit.test_evaluate_models import byte_level, fast, word_pieces

CPU = torch.device("cpu")
WORDS = ["Alle", "Menschen", "sind", "frei", "und", "gleich", "an", "Würde", ",", "人人", "समानता", "free"]


def fixed(tokenizer, folder: Path) -> transformers.PreTrainedTokenizerFast:
    """One of ours as a directory of transformers."""
    names = {f"{n}_token": f"<{n}>" for n in ("pad", "eos", "bos", "unk", "mask")}
    return fast(tokenizer, folder, **names, cls_token="<bos>", sep_token="<eos>")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A small ModernBERT with a tokenizer, weights that are not small."""
    folder = tmp_path_factory.mktemp("downstream") / "tiny"
    folder.mkdir()
    tokenizer = kinds.byte_level()
    fixed(tokenizer, folder)
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "hidden": 32, "layers": 4, "heads": 2, "intermediate": 48}
    lm = MaskedLM(EncoderConfig(**sizes, window=8, max_position=128, pad_id=0, bos_id=2, eos_id=1, unk_id=3, mask_id=4))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in lm.parameters():
            weight.add_(0.15 * torch.randn(weight.shape, generator=generator))
        for name, weight in lm.named_parameters():
            if "norm" in name:
                weight.copy_(1 + 0.1 * torch.randn(weight.shape, generator=generator))
    save_checkpoint(folder, lm)
    return folder


def metaspace(folder: Path) -> TheirWords:
    """XLM-R's layout: Unigram with ▁ put before the text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(["Alle Menschen sind frei und gleich an Würde , 人人 समानता free"] * 20, trainer)
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>", "cls_token": "<s>", "sep_token": "</s>"}
    return TheirWords(fast(tokenizer, folder, **names), tokenizer.get_vocab_size())


def words_of(kind: str, folder: Path) -> OurWords | TheirWords:
    if kind == "bert":
        return TheirWords(word_pieces(folder, [" ".join(WORDS)] * 3), 300)
    if kind == "roberta":
        return TheirWords(byte_level(folder), 400)
    if kind == "xlm-r":
        return metaspace(folder)
    made = {
        "ours": kinds.byte_level,
        "ours, prefix space": lambda: kinds.byte_level(prefix_space=True),
        "gemma": kinds.gemma_style,
        "gpt2, prefix space": lambda: kinds.gpt2_style(prefix_space=True),
    }
    return OurWords(made[kind]())


KINDS = ("ours", "ours, prefix space", "gemma", "gpt2, prefix space", "bert", "roberta", "xlm-r")


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_s_label_sits_on_its_first_piece(kind: str, tmp_path: Path):
    texts = Texts(words_of(kind, tmp_path), 512)
    ((row, position_W),) = texts.split(WORDS)
    assert (position_W > 0).all()
    assert (np.diff(position_W) > 0).all(), "every word has a piece of its own, in order"
    joined = texts.pieces(" ".join(WORDS))
    start = 0
    for word, position in zip(WORDS, position_W, strict=True):
        i = position - row.first
        assert joined.ids_N[i] == row.ids_T[position]
        assert joined.start_N[i] == start, (word, "its first piece begins where the word does")
        start += len(word) + 1


@pytest.mark.parametrize("kind", KINDS)
def test_long_sentences_become_several_rows_and_lose_no_word(kind: str, tmp_path: Path):
    texts = Texts(words_of(kind, tmp_path), 512)
    parts = texts.split(WORDS * 5, 24)
    assert len(parts) > 1
    assert sum(len(position_W) for _, position_W in parts) == 5 * len(WORDS)
    for row, position_W in parts:
        assert len(row.ids_T) <= 24
        assert (position_W[position_W >= 0] < len(row.ids_T)).all()
    assert np.mean(np.concatenate([p for _, p in parts]) >= 0) > 0.9


def test_words_without_a_piece_are_none_and_stay_in_the_figures(tmp_path: Path):
    texts = Texts(TheirWords(word_pieces(tmp_path), 300), 64)
    ((_, position_W),) = texts.split(["alle", "\u0301", "frei"])
    assert position_W.tolist()[1] == -1
    task = Tagging("pos", ("A", "B"), lambda _: [], lambda *_: {}, metrics={"accuracy": counting.ACCURACY})
    example = Sentence(("alle", "\u0301", "frei"), ("A", "A", "B"))
    items = task.items([example], texts, train=False)
    counts = task.counts([example], items, [np.array([0, -1, 1])])
    assert counts["accuracy"].tolist() == [[2, 3]]


def test_pairs_are_framed_as_the_tokenizer_does_and_the_longer_text_is_cut(tmp_path: Path):
    theirs = word_pieces(tmp_path)
    texts = Texts(TheirWords(theirs, 300), 64)
    row = texts.text("alle menschen", "sind frei")
    want = theirs("alle menschen", "sind frei", return_token_type_ids=True)
    assert row.ids_T.tolist() == want["input_ids"]
    assert row.second == want["token_type_ids"].index(1)
    short = texts.row(np.arange(10, 40), np.arange(50, 53), 16)
    assert len(short.ids_T) == 16
    assert short.ids_T[short.second : -1].tolist() == [50, 51, 52]
    ours = Texts(OurWords(kinds.byte_level()), 64)
    want = kinds.byte_level().encode("Alle", "frei").ids
    assert ours.text("Alle", "frei").ids_T.tolist() == want
    assert want[0] == SPECIALS.index("<bos>")


def opened(model: Path) -> Backbone:
    return of_subject(open_subject(str(model), None, CPU, False), False)


def topics(n: int, seed: int = 0) -> list[Labelled]:
    """Texts of three kinds of words: easily told apart."""
    draw = random.Random(seed)
    kinds_of = {"a": "free equal dignity", "b": "Menschen Würde Rechten", "c": "reason 1948 12.5"}
    return [
        Labelled(" ".join(draw.choices([*kinds_of[k].split(), "und", "the"], k=draw.randint(3, 9))), None, k)
        for k in draw.choices("abc", k=n)
    ]


def topic_task(epochs: int = 4) -> Classification:
    return Classification("topics", tuple("abc"), lambda _: [], lambda *_: {}, recipe=Recipe(epochs=epochs, patience=9))


def parts_of(task, backbone, train, dev):
    return tuning.Labelled.of(task, train, backbone.texts, True), tuning.Labelled.of(task, dev, backbone.texts)


def both(model: Path):
    """The same weights through both paths."""
    packed = opened(model)
    assert isinstance(packed.body, PackedBody)
    padded = of_subject(Padded("tiny", "x", model, CPU, False), False)
    assert isinstance(padded.body, PaddedBody)
    return packed, padded


def test_packed_and_padded_give_the_same_loss_on_every_first_step(model: Path):
    losses = []
    for backbone in both(model):
        task = topic_task(1)
        train, dev = parts_of(task, backbone, topics(64), topics(16, 1))
        losses.append(tuning.tune(task, backbone, train, dev, 1e-3, (0, "t"), task.recipe).losses)
    assert losses[0][0] == pytest.approx(losses[1][0], abs=1e-4)
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)


def test_a_run_is_a_function_of_its_names_and_learns(model: Path):
    backbone, task = opened(model), topic_task()
    before = [w.clone() for w in backbone.body.parameters()]
    train, dev = parts_of(task, backbone, topics(200), topics(60, 1))
    runs = [tuning.tune(task, backbone, train, dev, 3e-3, (seed, "t"), task.recipe) for seed in (0, 0, 1)]
    assert runs[0].losses == runs[1].losses
    assert runs[0].curve == runs[1].curve
    assert runs[0].losses != runs[2].losses
    assert runs[0].dev > 0.9
    assert tuning.headline(task, tuning.measure(task, runs[0].body, runs[0].head, dev)) == runs[0].dev, "best weights"
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.body.parameters(), strict=True)), "its own copy"


def test_shuffled_labels_score_chance(model: Path):
    backbone, task = opened(model), topic_task(2)
    labels = [e.label for e in topics(300)]
    order = rng.permutation(300, "shuffled")
    wrong = [Labelled(e.text, None, labels[i]) for e, i in zip(topics(300), order, strict=True)]
    train, dev = parts_of(task, backbone, wrong, wrong[:60])
    test = tuning.Labelled.of(task, topics(300, 2), backbone.texts)
    counts = []
    for seed in range(3):
        run = tuning.tune(task, backbone, train, dev, 1e-3, (seed, "t"), task.recipe)
        counts.append(tuning.measure(task, run.body, run.head, test)["accuracy"])
    mean, low, high = results.estimate(counts, counting.ACCURACY, 200, "chance")
    assert low < 1 / 3 < high, (mean, low, high)


def test_gold_predictions_score_one(model: Path):
    texts = opened(model).texts
    task, examples = topic_task(), topics(20)
    items = task.items(examples, texts, train=False)
    assert tuning.headline(task, task.counts(examples, items, [i.target for i in items])) == 1
    labels = ("O", "B-PER", "I-PER")
    tagger = Tagging("ner", labels, lambda _: [], lambda *_: {}, recipe=Recipe(most=12))
    sentences = [Sentence(tuple(WORDS), tuple(random.Random(i).choices(labels, k=len(WORDS)))) for i in range(9)]
    items = tagger.items(sentences, texts, train=False)
    assert len(items) > len(sentences), "cut into rows"
    assert tuning.headline(tagger, tagger.counts(sentences, items, [i.target for i in items])) == 1


def test_a_plain_loop_over_transformers_agrees(model: Path):
    """A fine-tuning that shares nothing with ours but the task: padded by transformers, its own order and head."""
    task = topic_task(3)
    backbone = opened(model)
    train, dev = parts_of(task, backbone, topics(200), topics(100, 1))
    ours = tuning.tune(task, backbone, train, dev, 2e-3, (0, "t"), task.recipe).dev
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(model, num_labels=3)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=2e-3)
    examples = topics(200)

    def batch(chosen):
        rows = tokenizer([e.text for e in chosen], padding=True, return_tensors="pt", return_token_type_ids=False)
        return {**rows, "labels": torch.tensor(["abc".index(e.label) for e in chosen])}

    for epoch in range(3):
        order = torch.randperm(200, generator=torch.Generator().manual_seed(epoch)).tolist()
        for start in range(0, 200, 32):
            loss = theirs(**batch([examples[i] for i in order[start : start + 32]])).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    theirs.eval()
    with torch.inference_mode():
        given = batch(topics(100, 1))
        reference = (theirs(**given).logits.argmax(1) == given["labels"]).float().mean().item()
    assert ours == pytest.approx(reference, abs=0.1)


def test_metrics_are_those_of_scikit_learn_and_scipy():
    sk = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    gold, guess = draw.integers(0, 4, 200), draw.integers(0, 4, 200)
    two, other = gold % 2, guess % 2

    def figure(metric, counts):
        return float(metric.figure(counts.sum(0, keepdims=True))[0])

    assert figure(counting.ACCURACY, counting.hits(guess, gold)) == pytest.approx(sk.accuracy_score(gold, guess))
    assert figure(counting.F1, counting.positives(other, two)) == pytest.approx(sk.f1_score(two, other))
    assert figure(counting.MATTHEWS, counting.table(other, two)) == pytest.approx(sk.matthews_corrcoef(two, other))
    assert figure(counting.MATTHEWS, counting.table(two * 0, two)) == sk.matthews_corrcoef(two, two * 0) == 0
    macro = sk.f1_score(gold, guess, average="macro")
    assert figure(counting.MACRO_F1, counting.confusion(guess, gold, 4)) == pytest.approx(macro)
    x, y = draw.normal(size=50), draw.integers(0, 6, 50).astype(float)
    assert figure(counting.PEARSON, counting.moments(x, y)) == pytest.approx(stats.pearsonr(x, y).statistic)
    ranked = counting.moments(counting.ranks(x), counting.ranks(y))
    assert figure(counting.PEARSON, ranked) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_entity_f1_is_that_of_seqeval():
    seqeval = pytest.importorskip("seqeval.metrics")
    draw = random.Random(0)
    labels = ["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    golds = [draw.choices(labels, k=draw.randint(1, 12)) for _ in range(200)]
    guesses = [[g if draw.random() < 0.7 else draw.choice(labels) for g in s] for s in golds]
    right, guessed, gold = entities.table(guesses, golds).sum(0)
    assert 2 * right / (guessed + gold) == pytest.approx(seqeval.f1_score(golds, guesses))
    assert right / guessed == pytest.approx(seqeval.precision_score(golds, guesses))


def test_the_interval_of_a_mean_over_languages_knows_that_they_share_seeds():
    """Of 20 languages that are alike, resampling them sees nothing of what a seed moves in all of them."""
    draw = np.random.default_rng(0)
    tags, held, blind = [f"l{i:02d}_Latn" for i in range(20)], 0, 0
    for trial in range(60):
        seeds = draw.normal(0.6, 0.05, 3)
        by_seed = {("t", t, "accuracy"): [float(s + draw.normal(0, 0.01)) for s in seeds] for t in tags}
        mean = {t: float(np.mean(by_seed["t", t, "accuracy"])) for t in tags}
        rows = [score_row("m", "", "t", t, "high", "accuracy", (mean[t], 0.1, 0.9), 400) | {"seeds": 3} for t in tags]
        total = results.totals(rows, ["high"], 100, by_seed)[-1]
        plain = results.totals(rows, ["high"], 100)[-1]
        assert total["mean"] == plain["mean"] == pytest.approx(np.mean(list(mean.values())), abs=1e-6), trial
        held += total["low"] <= 0.6 <= total["high"]
        blind += plain["low"] <= 0.6 <= plain["high"]
    assert held >= 53
    assert blind < 30


def test_intervals_hold_the_truth_with_few_seeds():
    """A run's true accuracy varies by seed (0.6 ± 0.05); 95 % intervals of three seeds and 400 examples."""
    draw, held = np.random.default_rng(0), 0
    for trial in range(100):
        rates = draw.normal(0.6, 0.05, 3)
        counts = [np.stack([draw.random(400) < r, np.ones(400)], axis=1).astype(float) for r in rates]
        _, low, high = results.estimate(counts, counting.ACCURACY, 100, "coverage", trial)
        held += low <= 0.6 <= high
    assert 88 <= held <= 100
    one = results.estimate(counts[:1], counting.ACCURACY, 100, "one")
    assert one[1] < one[0] < one[2]
    assert isinstance(Packed, type)
