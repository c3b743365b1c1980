"""Encoders: Hugging Face tokenizers, or a faster library where it provably gives the same ids.

Decisions: Hugging Face is the reference. A faster library must load the very tokenizer.json, and give equal ids on spelt
special tokens, odd whitespace and the first 2 to 16 kB of every language that it is about to encode (all of a small
language); at the first difference it is not used. Ids come as one flat array with offsets: no Python object per token.
Measured on one busy core of an AMD EPYC, MB/s of text: byte-level as we train it 75 (fastokens 0.3.5) against 2.4–3.0, Gemma
style 17 (gigatoken) against 3.6. Text that spells a special token is ordinary characters in all of them.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mmenc.artifact import Json
from mmenc.data.stream import Bundle, documents
from mmenc.data.tokens import SPECIALS
from mmenc.data.vocabulary import PATTERN, adds_space

Ids = tuple[NDArray[np.uint32], NDArray[np.int64]]
"""Ids of all texts, one after the other, and where each begins (one more than texts)."""
PROOF_BYTES = (2_000, 16_000)
"""Text per language, in each part of the work, on which equal ids are shown: a hundredth of the shards' size, within these.

The proof runs at the reference's speed: a thousandth of the text costs 3 % of the time, so that is about what it reads."""
PROBES = (
    *SPECIALS,
    "a <mask> b<eos>\n<pad><unk>x<bos>",
    "  two  spaces \t\n\n\r\n    indented = {'x': 0x1F}\n\treturn -1.50e10 # ok ",
    "1234567 12 3,456.78 ٣٤٥ १२३४ Ⅷ ½",
    "it's o'tmoq L'ÉTÉ 'ſt d’accord",
    "हिन्दी க்ஷ ภาษาไทย 日本語。한국어 שָׁלוֹם مُحَمَّد e\u0301 ❤️👩‍👩‍👧 \u200b\ufeff\u00a0x\u2028y",
    " ",
    "",
)


KNOWN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CONTRACTION = re.compile(r"'(?:[sStTmMdDſ]|[rR][eE]|[vV][eE]|[lL][lL])\w")


@lru_cache(maxsize=1)
def _marks() -> NDArray[np.bool_]:
    """Whether a UTF-16 unit is or may be (part of) a combining mark: what Python's Unicode does not know yet counts too."""
    return np.array([unicodedata.category(chr(i)) in ("Mn", "Mc", "Me", "Cn", "Cs") for i in range(1 << 16)])


def is_easy(text: str) -> bool:
    """Whether PATTERN cuts a text as KNOWN does."""
    if not text.isascii() and _marks()[np.frombuffer(text.encode("utf-16-le"), "<u2")].any():
        return False
    return "'" not in text or CONTRACTION.search(text) is None


class Encoder(Protocol):
    """What the step needs of a library."""

    name: str

    def encode(self, texts: list[str]) -> Ids:
        """Ids of some texts, without bos and eos."""


class HuggingFace:
    """The reference."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.name = f"tokenizers {version('tokenizers')}"
        self.tokenizer = tokenizer

    def encode(self, texts: list[str]) -> Ids:
        """By encode_batch_fast."""
        rows = [np.array(e.ids, dtype=np.uint32) for e in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        return _joined(rows)


class Fastokens:
    """fastokens (Apache-2.0): the fastest for byte-level BPE.

    It has hand-written code for known patterns, ours goes through a regex engine at half the speed. On a text without combining
    marks and without an English contraction that runs on (`'some`), our pattern cuts as the known one does (KNOWN), so such texts
    take that road; the proof covers both.
    """

    def __init__(self, spec: Json) -> None:
        from fastokens import Tokenizer as Fast

        self.name = f"fastokens {version('fastokens')}"
        self.tokenizer = Fast.from_json_str(json.dumps(spec))
        text = json.dumps(spec)
        self.known = (
            Fast.from_json_str(text.replace(json.dumps(PATTERN), json.dumps(KNOWN))) if json.dumps(PATTERN) in text else None
        )

    def encode(self, texts: list[str]) -> Ids:
        """Into one buffer of bytes per road, put together in the order of the texts."""
        if self.known is None:
            return self._flat(self.tokenizer, texts)
        easy = np.array([is_easy(t) for t in texts], dtype=bool)
        lengths = np.zeros(len(texts), dtype=np.int64)
        found = {}
        for road, which in ((self.known, easy), (self.tokenizer, ~easy)):
            flat, offsets = self._flat(road, [texts[i] for i in np.flatnonzero(which)])
            lengths[which] = np.diff(offsets)
            found[road is self.known] = flat
        of_easy = np.repeat(easy, lengths)
        out = np.empty(len(of_easy), dtype=np.uint32)
        out[of_easy], out[~of_easy] = found[True], found[False]
        return out, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    @staticmethod
    def _flat(tokenizer: Any, texts: list[str]) -> Ids:
        flat, offsets = tokenizer.encode_batch_flat(texts, add_special_tokens=False, split_special_tokens=True)
        return np.frombuffer(flat, "<u4"), np.frombuffer(offsets, "<u8").astype(np.int64)


class Gigatoken:
    """gigatoken (MIT; the fork whose cache is bounded): the fastest for ▁ with byte fallback."""

    def __init__(self, spec: Json) -> None:
        from gigatoken import Tokenizer as Giga

        self.name = f"gigatoken-cachefix {version('gigatoken-cachefix')}"
        # It has no switch that makes spelt special tokens ordinary text: without them in its table they are.
        plain = spec | {"added_tokens": [t for t in spec["added_tokens"] if not t["special"]], "post_processor": None}
        self.tokenizer = Giga.from_json(json.dumps(plain))

    def encode(self, texts: list[str]) -> Ids:
        """Through one awkward array."""
        import awkward as ak

        found = self.tokenizer.encode_batch(texts, parallel=False)
        counts = ak.to_numpy(ak.num(found)) if len(texts) else np.empty(0, np.int64)
        # Flattened at once: an awkward array iterated row by row is seven times slower.
        return ak.to_numpy(ak.flatten(found)).astype(np.uint32), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


class Prefixed:
    """A space before every text that does not begin with one: done here, so that the library need not know it."""

    def __init__(self, inner: Encoder) -> None:
        self.inner, self.name = inner, inner.name

    def encode(self, texts: list[str]) -> Ids:
        """The inner library's."""
        return self.inner.encode([t if not t or t[0] == " " else " " + t for t in texts])


def _joined(rows: list[NDArray[np.uint32]]) -> Ids:
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
    return (np.concatenate(rows) if rows else np.empty(0, np.uint32)), offsets


def limit_threads(count: int) -> None:
    """Threads of the Rust libraries in this process; they read it once, when they first encode."""
    for name in ("RAYON_NUM_THREADS", "FASTOKENS_BPE_THREADS"):
        os.environ[name] = str(count)


def load(folder: Path) -> Tokenizer:
    """Open a tokenizer artifact for text that is data: special tokens spelt in the text are ordinary characters."""
    return reference(folder / "tokenizer.json")


@lru_cache(maxsize=2)
def _spec(path: Path, _changed: int) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def reference(path: Path) -> Tokenizer:
    """Open a tokenizer.json by Hugging Face's library."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    return tokenizer


def candidates(spec: Json) -> list[type[Fastokens | Gigatoken]]:
    """Faster libraries, the fastest for this kind of tokenizer first."""
    byte_fallback = bool(spec["model"].get("byte_fallback"))
    return [Gigatoken, Fastokens] if byte_fallback else [Fastokens, Gigatoken]


def open_fast(kind: type[Fastokens | Gigatoken], spec: Json) -> Encoder:
    """A faster encoder of a tokenizer; ImportError where it is not installed, any other exception where it cannot."""
    if adds_space(spec):
        return Prefixed(kind(spec | {"normalizer": None}))
    return kind(spec)


def sample(bundle: Bundle) -> Iterator[tuple[str, list[str]]]:
    """The first documents of each language, up to the bytes that its size asks for, the last one cut there."""
    least, most = PROOF_BYTES
    for language, paths in bundle:
        limit = min(most, max(least, sum(p.stat().st_size for p in paths) // 100))
        texts, size = [], 0
        for d in documents(paths):
            texts.append(d["text"][: limit - size])
            size += len(texts[-1].encode())
            if size >= limit:
                break
        yield language, texts


def differing(fast: Encoder, slow: Encoder, bundle: Bundle) -> tuple[str, int]:
    """The first language (or "probes") whose ids differ, empty if none, and how many documents were compared."""
    compared = 0
    for language, texts in [("probes", list(PROBES)), *sample(bundle)]:
        ours, theirs = fast.encode(texts), slow.encode(texts)
        if not (np.array_equal(ours[0], theirs[0]) and np.array_equal(ours[1], theirs[1])):
            return language, compared
        compared += len(texts)
    return "", compared


def prove(path: Path, library: str, bundle: Bundle) -> tuple[Encoder, Json]:
    """The encoder to use for a bundle: the fastest that gives Hugging Face's ids; and what was found out.

    `library`: `fastest`, or `tokenizers` to use the reference alone.
    """
    slow = HuggingFace(reference(path))
    spec = _spec(path, path.stat().st_mtime_ns)
    refused: list[str] = []
    for kind in candidates(spec) if library == "fastest" else []:
        try:
            fast = open_fast(kind, spec)
            language, compared = differing(fast, slow, bundle)
        except (ImportError, PackageNotFoundError):
            continue
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            refused.append(f"{kind.__name__.lower()} cannot take this tokenizer ({str(error).splitlines()[0][:120]})")
            continue
        if not language:
            return fast, {"library": fast.name, "refused": refused, "proof_documents": compared}
        refused.append(f"{fast.name} gives other ids in {language}")
    return slow, {"library": slow.name, "refused": refused, "proof_documents": 0}
