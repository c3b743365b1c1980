"""Tokenizer: byte-level BPE trained on temperature-sampled text of the train split, saved as a Hugging Face tokenizer.

Decisions: bytes as alphabet, so that every text round-trips byte for byte and nothing is unknown; pre-tokens by Unicode
categories with combining marks kept on their letters (GPT-2's pattern splits Indic words at vowel signs), digits in
groups of at most three; no normaliser, no added prefix space. Special ids as in mmBERT's vocabulary: pad 0, eos 1,
bos 2, unk 3, mask 4; `<mask>` takes the space before it, so that it stands for a whole word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import regex
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Regex as TokenizerRegex

from mmenc import rng
from mmenc.artifact import Json, write_json
from mmenc.data.shards import Document, languages, read_documents, shard_paths
from mmenc.data.split import Splitter, splitter_of
from mmenc.data.tokens import BOS, EOS, SPECIALS
from mmenc.errors import Refused
from mmenc.job import Job
from mmenc.progress import bar

PATTERN = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")
REPORT_BYTES = 50_000
"""Held-out text per language under the fertility figures."""


def documents(clean: Path, language: str) -> Iterator[Document]:
    """All kept documents of a language."""
    for shard in shard_paths(clean, language):
        yield from read_documents(shard)


def sample_quota(sizes: Mapping[str, int], temperature: float, budget: int) -> dict[str, int]:
    """Bytes to take per language: ∝ size^temperature, never more than it has, the surplus to the others."""
    left, quota = dict(sizes), dict.fromkeys(sizes, 0)
    while budget > 0 and left:
        weight = {t: n**temperature for t, n in left.items()}
        unit = budget / sum(weight.values())
        full = [t for t in left if left[t] <= weight[t] * unit]
        for t in full or left:
            quota[t] = left[t] if full else int(weight[t] * unit)
            budget -= quota[t]
        if not full:
            break
        left = {t: n for t, n in left.items() if t not in full}
    return quota


def training_sample(clean: Path, splitter: Splitter, temperature: float, budget: int, seed: int) -> dict[str, list[str]]:
    """Texts of the train split per language, in an order keyed by the seed, up to each language's quota."""
    train = {
        language: [d["text"] for d in documents(clean, language) if splitter.of(d["id"], d.get("group")) == "train"]
        for language in languages(clean)
    }
    sizes = {language: sum(len(t.encode()) for t in texts) for language, texts in train.items()}
    quota = sample_quota({t: n for t, n in sizes.items() if n}, temperature, budget)
    sample: dict[str, list[str]] = {}
    for language, limit in quota.items():
        texts, taken = [], 0
        for i in rng.permutation(len(train[language]), seed, "tokenizer", language):
            if taken >= limit:
                break
            texts.append(train[language][i])
            taken += len(texts[-1].encode())
        sample[language] = texts
    return sample


def train_bpe(texts: Iterator[str], vocab_size: int, min_frequency: int) -> Tokenizer:
    """Train on texts; the result adds bos and eos when asked to add special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(TokenizerRegex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(t, special=True, normalized=False, lstrip=t == "<mask>") for t in SPECIALS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", pair="<bos> $A <eos> $B:1 <eos>:1", special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
    )
    return tokenizer


def load(folder: Path) -> Tokenizer:
    """Open a tokenizer artifact for text that is data: special tokens spelt in the text are ordinary characters."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


def token_bytes(tokenizer: Tokenizer) -> np.ndarray:
    """UTF-8 bytes that each id stands for, (V,) int64; special tokens count 0. Byte-level only: a character a byte."""
    size = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
    for token, i in tokenizer.get_vocab().items():
        size[i] = 0 if token in SPECIALS else len(token)
    return size


def fertility(tokenizer: Tokenizer, texts: list[str]) -> Json:
    """Tokens per word, bytes per token and the share of tokens that are a lone byte of a longer character."""
    sizes = token_bytes(tokenizer)
    ids = np.array([i for e in tokenizer.encode_batch(texts, add_special_tokens=False) for i in e.ids], dtype=np.int64)
    nbytes = sum(len(t.encode()) for t in texts)
    words = sum(len(WORD.findall(t)) for t in texts)
    ascii_ids = {tokenizer.token_to_id(chr(c)) for c in range(33, 127)} | {tokenizer.token_to_id("Ġ"), tokenizer.token_to_id("Ċ")}
    lone = np.isin(ids, [i for i in np.flatnonzero(sizes == 1) if i not in ascii_ids])
    count = max(1, len(ids))
    return {
        "tokens": len(ids),
        "bytes_per_token": round(nbytes / count, 4),
        "tokens_per_word": round(len(ids) / max(1, words), 4),
        "single_byte_share": round(float(lone.sum()) / count, 6),
        "unknown_share": round(float((ids == SPECIALS.index("<unk>")).sum()) / count, 6),
    }


def _heldout_table(tokenizer: Tokenizer, clean: Path, splitter: Splitter) -> Json:
    """Fertility per language on held-out text; refuses a tokenizer that does not give every document back."""
    table: Json = {}
    names = languages(clean)
    with bar("round trip", len(names), "languages") as shown:
        for language in names:
            texts = [d["text"] for d in documents(clean, language) if splitter.of(d["id"], d.get("group")) != "train"]
            encoded = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
            for text, back in zip(texts, tokenizer.decode_batch(encoded, skip_special_tokens=False), strict=True):
                if text != back:
                    raise Refused(f"tokenizer: a held-out document of {language} does not come back byte for byte: {text[:40]!r}")
            report, size = [], 0
            for text in texts:
                if size < REPORT_BYTES:
                    report.append(text)
                    size += len(text.encode())
            if report:
                table[language] = fertility(tokenizer, report)
            shown.advance(1, language)
    return table


def _train(job: Job, clean: Path, splitter: Splitter) -> tuple[Tokenizer, dict[str, int]]:
    """Train on a sample of the train split; also the bytes per language that were used."""
    settings = job.recipe.tokenizer
    sample = training_sample(clean, splitter, settings.temperature, settings.sample_bytes, job.recipe.seed)
    nbytes = {language: sum(len(t.encode()) for t in texts) for language, texts in sample.items()}
    job.say(f"training {settings.vocab_size:,} entries on {sum(nbytes.values()) / 1e6:.1f} MB of {len(sample)} languages")
    tokenizer = train_bpe((t for texts in sample.values() for t in texts), settings.vocab_size, settings.min_frequency)
    if tokenizer.get_vocab_size() != settings.vocab_size:
        raise Refused(
            f"tokenizer.vocab_size: {settings.vocab_size} asked for, the text gives {tokenizer.get_vocab_size()} entries; "
            f"lower it, or bring more text"
        )
    return tokenizer, nbytes


def _adopt(job: Job) -> tuple[Tokenizer, dict[str, int]]:
    """Take over the tokenizer of a release: the special ids must be ours, the alphabet bytes."""
    path = job.raw["tokenizer.source"] / "tokenizer.json"
    if not path.is_file():
        raise Refused(f"tokenizer.source: {path} is missing; expected the tokenizer of a release")
    tokenizer = Tokenizer.from_file(str(path))
    wrong = [t for i, t in enumerate(SPECIALS) if tokenizer.token_to_id(t) != i]
    if wrong or not isinstance(tokenizer.decoder, decoders.ByteLevel):
        raise Refused(
            f"{path}: expected a byte-level tokenizer with {', '.join(SPECIALS)} as ids 0 to 4, found {wrong or 'no byte level'}"
        )
    if tokenizer.get_vocab_size() != job.recipe.tokenizer.vocab_size:
        raise Refused(
            f"tokenizer.vocab_size: {path} has {tokenizer.get_vocab_size()} entries, the recipe {job.recipe.tokenizer.vocab_size}"
        )
    job.say(f"took over {path}, {tokenizer.get_vocab_size():,} entries")
    return tokenizer, {}


def run(job: Job) -> Json:
    """Train, prove the round trip, save as a Hugging Face fast tokenizer."""
    from transformers import PreTrainedTokenizerFast

    settings, clean = job.recipe.tokenizer, job.inputs["clean"].local()
    splitter = splitter_of(clean)
    tokenizer, nbytes = _adopt(job) if "tokenizer.source" in job.raw else _train(job, clean, splitter)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",  # noqa: S106
        eos_token="<eos>",  # noqa: S106
        bos_token="<bos>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        mask_token="<mask>",  # noqa: S106
        cls_token="<bos>",  # noqa: S106
        sep_token="<eos>",  # noqa: S106
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
    fast.save_pretrained(job.out)
    table = _heldout_table(load(job.out), clean, splitter)
    write_json(job.out / "fertility.json", table)
    mean = sum(r["bytes_per_token"] for r in table.values()) / max(1, len(table))
    job.say(f"{mean:.2f} bytes per token over {len(table)} languages; every held-out document round-trips")
    return {"vocab_size": settings.vocab_size, "sample_bytes": nbytes, "languages": table}
