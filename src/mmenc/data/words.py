"""Where words begin and end, by token id: what whole-word masking needs to know of a tokenizer.

Decision: three bits per id, one file of a byte per entry (256 kB for 256,000) that `tokenize` writes beside its shards, because
training reads the shards and not the tokenizer. A word begins at a token that BEGINS one, after a token that ENDS one, and
around special tokens, never INSIDE a character. A token continues the word before it only where letters, marks or
digits meet, or where byte-level BPE has cut a character or a mark from its letter; `Ġ`, the space before a word, and
punctuation begin one (`Ġwell`, `-known`; `don`, `'t`). Scripts that are written without spaces (Han, kana, Thai, Lao, Khmer,
Burmese, Tibetan, …) have no such boundary, and the pre-token there is a whole run of text up to the next punctuation:
masking it would leave nothing to guess from. There every token is a word, as in token masking; only the pieces of a
character and its marks stay together.
"""

from __future__ import annotations

import numpy as np
import regex
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mmenc.data.masking import BEGINS, ENDS, INSIDE
from mmenc.data.tokens import SPECIALS
from mmenc.data.vocabulary import BYTES, spec_of, style

NO_SPACES = ("Hani", "Hira", "Kana", "Bopo", "Thai", "Laoo", "Khmr", "Mymr", "Tibt", "Lana", "Talu", "Tavt", "Bali", "Java")
MARK = regex.compile(r"\p{M}")
WORD = regex.compile(r"[\p{L}\p{M}\p{N}]")
ALONE = regex.compile("[" + "".join(rf"\p{{Script={script}}}" for script in NO_SPACES) + "]")
BYTE = regex.compile(r"<0x([0-9A-F]{2})>")


def _bytes(token: str, alphabet: dict[str, int] | None) -> bytes:
    """UTF-8 that a token stands for; `alphabet` is None for vocabularies of plain text with `▁` and `<0x0A>`."""
    if alphabet is not None and all(c in alphabet for c in token):
        return bytes(alphabet[c] for c in token)
    found = BYTE.fullmatch(token)
    return bytes([int(found[1], 16)]) if found else token.replace("▁", " ").encode()


def _edges(text: bytes) -> int:
    """The bits of one token; a piece of a character at its end is taken for a part of a word."""
    plain = text.decode("utf-8", "surrogateescape")  # bytes that are no whole character become U+DC80 .. U+DCFF
    if not plain:
        return BEGINS | ENDS

    def apart(character: str) -> bool:
        whole = not "\udc80" <= character <= "\udcff"
        return whole and (not WORD.match(character) or bool(ALONE.match(character)))

    if MARK.match(plain[0]) or "\udc80" <= plain[0] <= "\udcbf":
        return INSIDE | ENDS * apart(plain[-1])
    return BEGINS * apart(plain[0]) | ENDS * apart(plain[-1])


def word_edges(tokenizer: Tokenizer) -> NDArray[np.uint8]:
    """BEGINS | ENDS of every id, (V,) uint8; special tokens are both."""
    alphabet = BYTES if style(spec_of(tokenizer)) == "bytes" else None
    edges_V = np.full(tokenizer.get_vocab_size(), BEGINS | ENDS, dtype=np.uint8)
    for token, i in tokenizer.get_vocab().items():
        if token not in SPECIALS:
            edges_V[i] = _edges(_bytes(token, alphabet))
    return edges_V
