"""Extension of a vocabulary with new scripts: old ids and old merges stay, new merges come after them.

Decisions: BPE is *continued*. The new languages' text is cut by the old tokenizer, its tokens become the alphabet of a second
training, and the merges found there are appended. As they rank last, any text is first cut exactly as before and then joined
further where a new pair occurs; text without such a pair keeps its ids. (Merges of a tokenizer trained apart would mostly be
dead: the old merges run first and leave other pairs.) With byte fallback, characters that were bytes become entries first. A
new token's embedding starts as the mean of its old pieces'; `extended.json` says which those are: `{base, base_sha256,
pieces}`, the token `base + i` was `pieces[i]`. Unigram is refused: pieces with scores of another training would change old
text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Encoding, Tokenizer, models, pre_tokenizers, trainers

from mmenc.artifact import Json, read_json
from mmenc.data.tokens import UNK
from mmenc.data.vocabulary import is_byte, spec_of, style
from mmenc.errors import Refused

if TYPE_CHECKING:
    from torch import Tensor

FILE = "extended.json"
FIRST = 0x10000
"""Symbol i is written as the character FIRST + i while merges are trained: none of them is white space."""


class Symbols:
    """What the second training takes for letters: old tokens, and characters that were bytes so far."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.names = {i: t for t, i in tokenizer.get_vocab().items()}
        self.fallback = style(spec_of(tokenizer)) == "fallback"
        self.base = tokenizer.get_vocab_size()
        known = tokenizer.get_vocab()
        self.bytes = [known.get(f"<0x{b:02X}>", UNK) for b in range(256)]
        self.fresh: dict[str, int] = {}
        """New characters and their ids."""

    def words(self, encoded: Encoding) -> Iterator[list[str]]:
        """Token strings by pre-token; with byte fallback a word begins at ▁ and runs of bytes become characters."""
        word: list[str] = []
        number: int | None = None
        for token, at in zip(encoded.tokens, encoded.word_ids, strict=True):
            if word and (at != number or (self.fallback and token.startswith("▁"))):
                yield self._characters(word)
                word = []
            word.append(token)
            number = at
        if word:
            yield self._characters(word)

    def _characters(self, word: list[str]) -> list[str]:
        if not self.fallback or not any(map(is_byte, word)):
            return word
        found: list[str] = []
        run = b""
        for token in [*word, ""]:
            if is_byte(token):
                run += bytes([int(token[3:5], 16)])
                continue
            found += run.decode(errors="ignore")
            run = b""
            found += [token] if token else []
        return found

    def encode(self, texts: Iterable[str]) -> Iterator[Encoding]:
        """Encodings by the old tokenizer, in batches."""
        batch: list[str] = []
        for text in texts:
            batch.append(text)
            if len(batch) == 256:
                yield from self.tokenizer.encode_batch(batch, add_special_tokens=False)
                batch = []
        yield from self.tokenizer.encode_batch(batch, add_special_tokens=False)

    def line(self, encoded: Encoding) -> str:
        """A text as the second training reads it: a character per symbol, a space between words."""
        ids = self.tokenizer.token_to_id
        return " ".join(
            "".join(chr(FIRST + i) for t in word if (i := self.fresh.get(t, ids(t))) is not None) for word in self.words(encoded)
        )

    def name(self, symbols: str) -> str:
        """The token that some symbols make together."""
        return "".join(self.names[ord(s) - FIRST] for s in symbols)

    def old(self, symbols: str) -> list[int]:
        """Ids of the old tokens that some symbols stand for."""
        ids: list[int] = []
        for i in (ord(s) - FIRST for s in symbols):
            if i < self.base:
                ids.append(i)
            else:
                ids += [self.bytes[b] for b in self.names[i].encode()]
        return ids

    def add(self, characters: list[str]) -> None:
        """Make characters entries of their own."""
        self.fresh = {c: self.base + i for i, c in enumerate(characters)}
        self.names |= {i: c for c, i in self.fresh.items()}


def _new_characters(symbols: Symbols, texts: Iterable[str], entries: int, min_frequency: int) -> None:
    """Give characters that were bytes an id, the most frequent first."""
    counts: Counter[str] = Counter()
    known = symbols.tokenizer.get_vocab()
    for encoded in symbols.encode(texts):
        for word in symbols.words(encoded):
            counts.update(t for t in word if t not in known)
    chosen = sorted((c for c, n in counts.items() if n >= min_frequency), key=lambda c: (-counts[c], c))[:entries]
    symbols.add(chosen)


def _merges(symbols: Symbols, texts: Iterable[str], count: int, min_frequency: int) -> list[tuple[str, str]]:
    """Merges of symbols, the most frequent pair first."""
    second = Tokenizer(models.BPE())
    second.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    alphabet: set[str] = set()
    for encoded in symbols.encode(texts):
        alphabet.update(symbols.line(encoded))
    # The alphabet counts as entries, and some merges make a token that is there already by another road.
    size = len(alphabet - {" "}) + count + count // 8 + 64
    lines = (symbols.line(encoded) for encoded in symbols.encode(texts))
    second.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=size, min_frequency=min_frequency, show_progress=False))
    return [(a, b) for a, b in spec_of(second)["model"]["merges"]]


def extend(tokenizer: Tokenizer, texts: Iterable[str], entries: int, min_frequency: int) -> tuple[Tokenizer, list[list[int]]]:
    """The tokenizer with `entries` more, and the old pieces of each new token. `texts` is iterated several times."""
    spec = spec_of(tokenizer)
    if spec["model"]["type"] != "BPE":
        raise Refused(f"tokenizer.extend: the source is {spec['model']['type']}; only BPE keeps old text as it is when it grows")
    symbols = Symbols(tokenizer)
    if symbols.fallback:
        _new_characters(symbols, texts, entries, min_frequency)
    vocab, merges = spec["model"]["vocab"], spec["model"]["merges"]
    pieces = [symbols.old(chr(FIRST + i)) for i in symbols.fresh.values()]
    vocab |= symbols.fresh
    taken = set(tokenizer.get_vocab()) | set(symbols.fresh)
    pair = list if not merges or isinstance(merges[0], list) else " ".join
    for a, b in _merges(symbols, texts, entries, min_frequency):
        if len(pieces) >= entries:
            break
        name = symbols.name(a + b)
        merges.append(pair((symbols.name(a), symbols.name(b))))
        if name not in taken:
            taken.add(name)
            vocab[name] = symbols.base + len(pieces)
            pieces.append(symbols.old(a + b))
    if len(pieces) < entries:
        raise Refused(
            f"tokenizer.extend.entries: {entries} asked for, the text of the new languages gives {len(pieces)}; lower it, or "
            f"bring more text"
        )
    grown = Tokenizer.from_str(json.dumps(spec, ensure_ascii=False))
    grown.encode_special_tokens = tokenizer.encode_special_tokens
    return grown, pieces


def extension_of(folder: Path) -> Json | None:
    """What `extended.json` of a tokenizer artifact says; None where the vocabulary was not extended."""
    return read_json(folder / FILE) if (folder / FILE).is_file() else None


def initialise_rows(rows_V: Tensor, pieces: list[list[int]]) -> Tensor:
    """Rows of the old vocabulary and one more for each new token: the mean of its old pieces' rows (a matrix or a vector)."""
    import torch

    fresh = [rows_V[torch.tensor(old)].mean(dim=0) for old in pieces]
    return torch.cat([rows_V, torch.stack(fresh)]) if fresh else rows_V
