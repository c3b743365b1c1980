"""Vocabularies: byte-level BPE or Unigram trained on a sample, and what any tokenizer.json says of itself.

Decisions: bytes as alphabet, so that every text round-trips byte for byte and nothing is unknown (for Unigram too: its pieces
are pieces of bytes, which does what byte fallback is for); pre-tokens by Unicode categories with combining marks kept on
their letters (GPT-2's pattern splits Indic words at vowel signs), digits in groups of at most three from the left, a run of
whitespace one pre-token, so that the indentation of code is one token. No normaliser, unless `prefix_space` puts a space
before a text that does not begin with one. Special ids as in mmBERT's vocabulary: pad 0, eos 1, bos 2, unk 3, mask 4;
`<mask>` takes the space before it, so that it stands for a whole word.

Unigram is trained by SentencePiece: Hugging Face's trainer took 374 s for 2.6 MB where SentencePiece takes 37, and gave
other scores on every run (it sums in the order of a randomly keyed hash table).
"""

from __future__ import annotations

import io
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Regex as TokenizerRegex

from mmenc.artifact import Json
from mmenc.data.tokens import BOS, EOS, SPECIALS, UNK
from mmenc.errors import Refused

PATTERN = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TWO_SPACES = r"\A  "
PIECE = 24
"""Longest piece of a Unigram vocabulary in bytes: eight characters of three bytes."""
WORD_BYTES = 1_000
"""Longer pre-tokens (a sentence without a space is one) are cut for training Unigram, whose time grows with their length."""


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


def special_tokens() -> list[AddedToken]:
    """Our special tokens in the order of their ids."""
    return [AddedToken(t, special=True, normalized=False, lstrip=t == "<mask>") for t in SPECIALS]


def dress(tokenizer: Tokenizer, prefix_space: bool = False) -> Tokenizer:
    """Give a model over bytes its pre-tokens and decoder."""
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(TokenizerRegex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    if prefix_space:
        # Always one, and of two one less: a replacement of width zero makes ByteLevel panic (tokenizers 0.23).
        once = normalizers.Replace(TokenizerRegex(TWO_SPACES), " ")
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(" "), once])
        tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    return tokenizer


def frame(tokenizer: Tokenizer) -> Tokenizer:
    """Let it put bos before and eos behind, when it is asked to add special tokens, as training does."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", pair="<bos> $A <eos> $B:1 <eos>:1", special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
    )
    return tokenizer


def train_bpe(texts: Iterable[str], vocab_size: int, min_frequency: int, prefix_space: bool = False) -> Tokenizer:
    """Byte-level BPE; memory is that of the sample's distinct pre-tokens (92 MB of text to 262k entries: 93 s, 1.8 GB)."""
    tokenizer = dress(Tokenizer(models.BPE()), prefix_space)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=special_tokens(),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter(texts), trainer)
    return frame(tokenizer)


def train_unigram(texts: Iterable[str], vocab_size: int, min_frequency: int, prefix_space: bool = False) -> Tokenizer:
    """Unigram over bytes; bytes that the sample lacks get the score of the rarest piece."""
    plain = dress(Tokenizer(models.BPE()), prefix_space)
    counts = _words(plain, texts)
    present = {c for word in counts for c in word}
    missing = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - present)
    pieces = _sentencepiece(counts, vocab_size - len(SPECIALS) - len(missing), min_frequency, present)
    known = {piece for piece, _ in pieces}
    lowest = min((score for _, score in pieces), default=0.0)
    pieces += [(c, lowest) for c in sorted(pre_tokenizers.ByteLevel.alphabet()) if c not in known]
    model = models.Unigram([(t, 0.0) for t in SPECIALS] + pieces, unk_id=UNK, byte_fallback=False)
    tokenizer = dress(Tokenizer(model), prefix_space)
    tokenizer.add_special_tokens(special_tokens())
    return frame(tokenizer)


def _words(plain: Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """Pre-tokens as strings of byte characters, with counts."""
    counts: Counter[str] = Counter()
    for text in texts:
        whole = plain.normalizer.normalize_str(text) if plain.normalizer else text
        for word, _ in plain.pre_tokenizer.pre_tokenize_str(whole):
            counts.update(word[i : i + WORD_BYTES] for i in range(0, len(word), WORD_BYTES))
    return counts


def _sentencepiece(counts: Counter[str], size: int, min_frequency: int, present: set[str]) -> list[tuple[str, float]]:
    """Pieces with log probabilities; one thread, because sums depend on how work is cut."""
    try:
        import sentencepiece
    except ImportError:
        raise Refused(
            "tokenizer.kind: unigram needs the package sentencepiece; `pip install mmenc[steps]` or use kind: bpe"
        ) from None
    written = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".tsv") as words:
        # What is rarer than asked for counts for the alphabet only.
        words.writelines(f"{w}\t{n}\n" for w, n in sorted(counts.items()) if n >= min_frequency or len(w) == 1)
        words.writelines(f"{c}\t1\n" for c in sorted(present))
        words.flush()
        try:
            sentencepiece.SentencePieceTrainer.train(
                input=words.name,
                input_format="tsv",
                model_writer=written,
                model_type="unigram",
                vocab_size=size + 1,
                num_threads=1,
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                normalization_rule_name="identity",
                split_by_unicode_script=False,
                split_by_number=False,
                split_by_whitespace=False,
                character_coverage=1.0,
                max_sentence_length=1 << 20,
                max_sentencepiece_length=PIECE,
                hard_vocab_limit=False,
                minloglevel=2,
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
            )
        except RuntimeError as error:
            raise Refused(f"tokenizer.vocab_size: SentencePiece cannot make it of this text ({error})") from None
    model = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    return [(model.id_to_piece(i), model.get_score(i)) for i in range(1, model.get_piece_size())]


def spec_of(tokenizer: Tokenizer) -> Json:
    """What tokenizer.json says."""
    spec: Json = json.loads(tokenizer.to_str())
    return spec


def adds_space(spec: Json) -> bool:
    """Whether it is one of ours with `prefix_space`."""
    return TWO_SPACES in [n.get("pattern", {}).get("Regex") for n in (spec["normalizer"] or {}).get("normalizers", [])]


def style(spec: Json) -> str:
    """`bytes` (a character a byte), `fallback` (▁ for space, `<0xE1>` for bytes), or empty: text may get lost."""
    decoder = json.dumps(spec["decoder"])
    if '"ByteLevel"' in decoder:
        return "bytes"
    vocab = spec["model"].get("vocab", [])
    names = vocab if isinstance(vocab, dict) else {row[0] for row in vocab}
    fallback = spec["model"].get("byte_fallback") and '"ByteFallback"' in decoder
    return "fallback" if fallback and all(f"<0x{i:02X}>" in names for i in range(256)) else ""


def is_byte(token: str) -> bool:
    """Whether a token of the style `fallback` is one byte."""
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def token_bytes(tokenizer: Tokenizer) -> np.ndarray:
    """UTF-8 bytes that each id stands for, (V,) int64; special tokens count 0.

    Bytes: a character a byte. Fallback: ▁ is one byte (a space), `<0xE1>` one, the rest its UTF-8. Added tokens stand for
    themselves.
    """
    size = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
    added = tokenizer.get_added_tokens_decoder()
    fallback = style(spec_of(tokenizer)) == "fallback"
    for token, i in tokenizer.get_vocab().items():
        if i in added:
            size[i] = 0 if added[i].special else len(token.replace("▁", " ").encode() if fallback else token.encode())
        elif fallback:
            size[i] = 1 if is_byte(token) else len(token.replace("▁", " ").encode())
        else:
            size[i] = len(token)
    return size


def _byte_characters() -> dict[str, int]:
    """Byte that each character of a byte-level vocabulary stands for (GPT-2's table: printable bytes are themselves)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


BYTES = _byte_characters()


def shown(token: str, kind: str) -> str:
    """A token as text that a person can read; bytes that are no whole characters in hexadecimal, ‹E18A›."""
    if kind == "fallback":
        return f"‹{token[3:5]}›" if is_byte(token) else token.replace("▁", " ")
    data = bytes(BYTES[c] for c in token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return f"‹{data.hex().upper()}›"


def given_back(spec: Json, text: str) -> str:
    """What decoding has to give for a text: itself, but for a leading space with `prefix_space` and a ▁ that was written."""
    if adds_space(spec):
        return text.removeprefix(" ")
    return text.replace("▁", " ") if style(spec) == "fallback" else text


def pieces_of(tokenizer: Tokenizer, text: str) -> Iterator[str]:
    """The tokens of a text as a person reads them."""
    kind = style(spec_of(tokenizer))
    yield from (shown(t, kind) for t in tokenizer.encode(text, add_special_tokens=False).tokens)


def read(path: Path) -> Tokenizer:
    """Open a tokenizer.json or say what is wrong with it."""
    if not path.is_file():
        raise Refused(f"{path}: is missing; expected the tokenizer.json of a released model")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 (the library raises plain Exception)
        raise Refused(f"{path}: is no tokenizer that can be read ({str(error).splitlines()[0][:120]})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
