"""Is a document in the language that its folder names? By a model file where one is configured, else by the input itself.

* `clean.language_model` names a fastText file whose labels are tags such as `__label__fao_Latn` (GlotLID, OpenLID, NLLB). A
  document is rejected where the model knows its tag and gives another one `SURE` or more and its own below `UNSURE`.
* Without a model, each language's character trigrams (pairs for Han; hashed into 2^14 buckets) are counted on a sample of
  its own text, chosen by the hash of the id, so that it depends on no shard. A document is rejected only if its likelihood
  under its own language is an outlier among that language's documents (robust z below -`Z`) *and* another language of the
  same script in the data explains it better by `MARGIN` nats per trigram. What was in the sample is judged without itself.

What the second way finds: documents of another language that is in the data too, among languages with `LEAST` characters
of text; what it cannot find: a language that is nowhere else in the data, close relatives (the margin lets them pass), documents
below `SHORT` trigrams, a folder that is wrong as a whole. It never compares across scripts: `other script` does that.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import regex
from numpy.typing import NDArray

from mmenc.artifact import Json, read_json, write_json
from mmenc.data.scripts import density
from mmenc.data.windows import points, windows
from mmenc.errors import Refused

BUCKETS = 1 << 14
SAMPLES, SAMPLE_CHARS = 400, 600
"""Documents of a language in its sample, and characters of each: 2 MB of trigrams at most."""
LEAST, LEAST_DOCUMENTS = 20_000, 40
SHORT, ASKED = 100, 400
"""Trigrams that a document must have, and how many of it (evenly spaced) are asked."""
Z, MARGIN = 4.0, 0.6
SURE, UNSURE = 0.8, 0.05
LABEL = re.compile(r"__label__([a-z]{3}_[A-Z][a-z]{3})$")
F32 = NDArray[np.float32]
_OTHER = regex.compile(r"[^\p{L}\p{M}]+")


def trigrams(text: str, tag: str) -> NDArray[np.int64]:
    """Buckets of the character trigrams of a text (pairs where a character is a word's worth), one space between words."""
    codes = points(" " + _OTHER.sub(" ", text.casefold()).strip() + " ")
    return (windows(codes, 2 if density(tag) > 3 else 3) % np.uint64(BUCKETS)).astype(np.int64)


def _counts(texts: list[str], tag: str) -> list[NDArray[np.int64]]:
    return [found for t in texts if len(found := trigrams(t, tag)) >= SHORT]


def train(folder: Path, samples: dict[str, list[str]]) -> Json:
    """Write the tables of the languages of one script: counts, log probabilities, and the usual likelihood of each."""
    names, rows, usual = [], [], []
    for tag, texts in sorted(samples.items()):
        documents = _counts(texts, tag)
        if len(documents) < LEAST_DOCUMENTS or sum(map(len, documents)) < LEAST:
            continue
        counts = np.bincount(np.concatenate(documents), minlength=BUCKETS).astype(np.float32)
        total = counts.sum()
        # Left out of its own counts, or every document of a small sample would look usual.
        own = [float(np.log((counts[d] - _same(d) + 0.5) / (total - len(d) + 0.5 * BUCKETS)).mean()) for d in documents]
        middle = float(np.median(own))
        spread = 1.4826 * float(np.median(np.abs(np.array(own) - middle)))
        names.append(tag)
        rows.append(counts)
        usual.append([middle, max(spread, 0.05)])
    if len(names) > 1:
        table = np.array(rows, dtype=np.float32)
        np.save(folder / "counts.npy", table)
        np.save(folder / "logs.npy", np.log((table + 0.5) / (table.sum(1, keepdims=True) + 0.5 * BUCKETS)).T.copy())
        write_json(folder / "languages.json", {"languages": names, "usual": usual})
    return {"languages": names if len(names) > 1 else []}


def _same(document: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each trigram of the document is in it."""
    _, inverse, counts = np.unique(document, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse])


class Own:
    """The tables of one script, made by `train`."""

    def __init__(self, folder: Path) -> None:
        found = read_json(folder / "languages.json")
        self.names: list[str] = found["languages"]
        self.usual: list[list[float]] = found["usual"]
        self.counts: F32 = np.load(folder / "counts.npy", mmap_mode="r")
        self.logs: F32 = np.load(folder / "logs.npy", mmap_mode="r")
        self.totals = np.asarray(self.counts).sum(1)

    def other(self, text: str, tag: str, sampled: bool) -> str:
        """Name the other language that the text is in, or an empty string."""
        if tag not in self.names:
            return ""
        document = trigrams(text[:SAMPLE_CHARS], tag)
        if len(document) < SHORT:
            return ""
        mine = self.names.index(tag)
        asked = document[:: max(1, -(-len(document) // ASKED))]
        if sampled:
            less = np.bincount(document, minlength=BUCKETS)[asked]
            total = self.totals[mine] - len(document) + 0.5 * BUCKETS
            own = float(np.log((np.maximum(self.counts[mine][asked] - less, 0) + 0.5) / total).mean())
        else:
            own = float(self.logs[asked, mine].mean())
        middle, spread = self.usual[mine]
        if (own - middle) / spread > -Z:
            return ""
        scores = self.logs[asked].mean(0)
        scores[mine] = own
        best = int(scores.argmax())
        return self.names[best] if scores[best] - own > MARGIN else ""


class Model:
    """A fastText model file."""

    def __init__(self, path: Path) -> None:
        import fasttext

        try:
            self.model = fasttext.load_model(str(path))
        except (ValueError, OSError) as error:
            raise Refused(f"{path}: cannot be read as a fastText model ({error}); expected a .bin or .ftz file") from None
        labels = [str(label) for label in self.model.get_labels()]
        self.known = {m[1] for label in labels if (m := LABEL.match(label))}
        if not self.known:
            raise Refused(
                f"{path}: its labels are such as {labels[0]!r}; expected such as __label__fao_Latn (GlotLID, OpenLID, NLLB)"
            )

    def other(self, text: str, tag: str) -> str:
        """Name the other language that the model is sure of, or an empty string."""
        if tag not in self.known or len(_OTHER.sub("", text[:2_000])) * density(tag) < SHORT:
            return ""
        labels, shares = self.model.predict(" ".join(text[:2_000].split()), k=3)
        found = {m[1]: float(p) for label, p in zip(labels, shares, strict=True) if (m := LABEL.match(label))}
        best = max(found, key=lambda t: found[t], default=tag)
        return best if best != tag and found[best] >= SURE and found.get(tag, 0.0) < UNSURE else ""


@cache
def model(path: Path) -> Model:
    """Load the model once per process."""
    return Model(path)


@cache
def own(folder: Path) -> Own | None:
    """Load the tables of a script once per process; None where it has fewer than two languages with enough text."""
    return Own(folder) if (folder / "languages.json").is_file() else None
