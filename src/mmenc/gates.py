"""The gates of a release: each has a name, what was found and its limit; one that is shut is a refusal in one sentence.

Decisions: two models are compared by the 95 % intervals of `scores.json`. A language is worse than in the last release when
its whole interval lies above the last one's. Where a language has one test document there is no interval: it borrows
the median relative half width of those that have one (about 0.05 in the default corpus). Of 459 languages whose text is the
same, chance alone shuts this gate about never, since both releases are scored on the same masked tokens.
A library that is not installed passes nothing: what the recipe does not ask for is not checked and is listed as such.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mmenc.artifact import Json, read_json, sha256_file
from mmenc.data.tokens import PAD, SPECIALS, Split
from mmenc.errors import Refused
from mmenc.model.attention import Packing
from mmenc.model.head import MaskedLM, mean_pool
from mmenc.sections import ReleaseWaiver

TASK, METRIC = "mlm", "bits_per_byte"
SAME = ("mask", "seed", "tokens_per_language")
"""Keys of `evaluate` that both releases must share: other masks or documents give other figures."""
TEXTS = 12
"""Documents that are compared in each loader: one per script and the longest."""


@dataclass(frozen=True)
class Gate:
    """One gate; `waived` lists what was let through with a stated reason."""

    name: str
    ok: bool
    found: float
    limit: float
    waived: tuple[str, ...] = ()
    sentence: str = ""
    """What to say when it is shut."""

    def json(self) -> Json:
        """As it stands in the facts."""
        row = asdict(self) | {"waived": list(self.waived)}
        del row["sentence"]
        return row


def refuse_shut(gates: Sequence[Gate]) -> None:
    """Raise Refused with the first shut gate's sentence, and how many more there are."""
    if shut := [g for g in gates if not g.ok]:
        more = f" (also shut: {', '.join(g.name for g in shut[1:])})" if shut[1:] else ""
        raise Refused(f"release: {shut[0].sentence}{more}")


def largest(differences: Sequence[float]) -> float:
    """The largest difference; one that is not a number makes it not a number (Python's `max` would hide it)."""
    return float(np.max(differences))


def at_most(name: str, found: float, limit: float, sentence: str) -> Gate:
    """A gate for a difference that must stay below a limit; not a number is shut."""
    return Gate(name, bool(np.isfinite(found) and found <= limit), found, limit, (), sentence)


def unigram_gate(evaluation: Json) -> Gate:
    """The model knows more than the frequencies of the training text."""
    tiers = evaluation["tiers"]["all"]
    mine = tiers["merge"][f"{TASK}.{METRIC}"]
    base = tiers["unigram"][f"{TASK}.{METRIC}"]
    text = f"{mine:.3f} bits per byte on test is no better than a unigram model's {base:.3f}; train longer"
    return Gate("better than a unigram model", mine < base, mine, base, (), text)


# The last release


@dataclass(frozen=True)
class Figure:
    """Bits per byte of a language and its interval."""

    mean: float
    low: float
    high: float
    tier: str


def figures_of(rows: Sequence[Json]) -> dict[str, Figure]:
    """Figures by language of the scored model itself (baselines have no digest), single documents with a borrowed interval."""
    found = {
        r["language"]: Figure(r["mean"], r["low"], r["high"], r["tier"])
        for r in rows
        if r["digest"] and r["language"] and (r["task"], r["metric"], r["status"]) == (TASK, METRIC, "ok")
    }
    widths = [(f.high - f.low) / (2 * f.mean) for f in found.values() if f.high > f.low]
    half = statistics.median(widths) if widths else 0.0
    return {
        t: f if f.high > f.low else Figure(f.mean, f.mean * (1 - half), f.mean * (1 + half), f.tier) for t, f in found.items()
    }


def _worse(old: Mapping[str, Figure], new: Mapping[str, Figure]) -> dict[str, str]:
    """Languages that are worse than before beyond both intervals, or gone, with a sentence each; the worst first."""
    found: dict[str, tuple[float, str]] = {}
    for tag, was in old.items():
        now = new.get(tag)
        if now is None:
            found[tag] = (float("inf"), f"{tag} was measured in the last release and is not now")
        elif now.low > was.high:
            told = [f"{f.mean:.3f} [{f.low:.3f}, {f.high:.3f}]" for f in (now, was)]
            found[tag] = (now.mean / was.mean, f"{tag} has {told[0]} bits per byte, {told[1]} in the last release")
    return {tag: text for tag, (_, text) in sorted(found.items(), key=lambda item: (-item[1][0], item[0]))}


def _last(folder: Path) -> Json:
    """Manifest of the last release, its scores.json verified."""
    for name in ("scores.json", "manifest.json"):
        if not (folder / name).is_file():
            raise Refused(f"release.previous: {folder / name} is missing; expected a release made by mmenc with step version 2")
    manifest: Json = read_json(folder / "manifest.json")
    if manifest.get("step") != "release":
        raise Refused(f"release.previous: {folder} is an artifact of the step {manifest.get('step')}; expected a release")
    if sha256_file(folder / "scores.json") != manifest["files"].get("scores.json"):
        raise Refused(
            f"release.previous: {folder / 'scores.json'} is not the one that its manifest names; fetch the release anew"
        )
    return manifest


def previous_gate(folder: Path, rows: Sequence[Json], settings: Json, waivers: Sequence[ReleaseWaiver], tokenizer: str) -> Gate:
    """No language worse than in the last release without a stated waiver.

    `settings` is this recipe's section `evaluate`, `tokenizer` the content of this release's tokenizer.
    """
    manifest = _last(folder)
    before = manifest["config"].get("evaluate", {})
    for key in SAME:
        if before.get(key) != settings[key]:
            raise Refused(
                f"release.previous: {folder} was evaluated with {key} {before.get(key)}, this recipe has {settings[key]}; "
                f"bits per byte of other masks or documents do not compare, keep evaluate.{key} or evaluate the old model again"
            )
    worse = _worse(figures_of(read_json(folder / "scores.json")["rows"]), figures_of(rows))
    reasons = {w.language: w.reason for w in waivers}
    open_ = [text for tag, text in worse.items() if tag not in reasons]
    waived = tuple(f"{text}. Waived: {reasons[tag]}" for tag, text in worse.items() if tag in reasons)
    more = f", and {len(open_) - 1} more languages are worse" if open_[1:] else ""
    text = f"{open_[0]}{more}; train longer, or give the reason in release.waivers" if open_ else ""
    name = f"no language worse than in {manifest['facts'].get('name', 'the last release')} {manifest['digest'][:12]}"
    if tokenizer not in [p["content"] for p in manifest["parents"] if p["role"] == "tokenizer"]:
        name += " (of another tokenizer, so other tokens are masked)"
    return Gate(name, not open_, float(len(open_)), 0.0, waived, text)


# Loaders


def whole_documents(split: Split, scripts: Mapping[str, Sequence[int]], context: int) -> list[NDArray[np.int64]]:
    """Real text for the loaders: of each script (most text first) the first document that fits, and the longest that does."""
    fits = [d for ds in scripts.values() for d in ds if len(split.document(d)) <= context]
    first = [next((d for d in ds if len(split.document(d)) <= context), None) for ds in scripts.values()]
    chosen = [d for d in first if d is not None][: TEXTS - 1]
    chosen += [max(fits, key=lambda d: (len(split.document(d)), -d))] if fits else []
    return [split.document(d).astype(np.int64) for d in dict.fromkeys(chosen)]


def beginnings(split: Split, scripts: Mapping[str, Sequence[int]], context: int, tokenizer: Tokenizer) -> list[NDArray[np.int64]]:
    """Where every document is longer than the context (a book in one file): of each script a beginning that encodes to itself."""
    found: list[NDArray[np.int64]] = []
    for documents in list(scripts.values())[:TEXTS]:
        ids = split.document(documents[0]).astype(np.int64)
        for end in range(context - 1, 1, -1):
            cut = np.append(ids[:end], ids[-1])
            if tokenizer.encode(tokenizer.decode(cut[1:-1].tolist(), skip_special_tokens=False)).ids == cut.tolist():
                found.append(cut)
                break
    return found


def tokenizer_gate(folder: Path, texts: Mapping[str, NDArray[np.int64]]) -> Gate:
    """The tokenizer of transformers gives the ids that the model was trained on."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = {text: ids for text, ids in texts.items() if not any(s in text for s in SPECIALS)}
    wrong = [text for text, ids in plain.items() if tokenizer(text)["input_ids"] != ids.tolist()]
    text = f"transformers' tokenizer gives other ids for {wrong[0][:40]!r}; the export is wrong" if wrong else ""
    return Gate("tokens equal transformers'", not wrong, float(len(wrong)), 0.0, (), text)


def sentence_transformers_difference(folder: Path, model: MaskedLM, texts: Mapping[str, NDArray[np.int64]]) -> float:
    """Largest difference between the mean-pooled embeddings of sentence-transformers and ours."""
    try:
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError:
        raise Refused(
            "release.sentence_transformers: is true and sentence-transformers is not installed here; "
            "`pip install 'mmenc[eval]'`, or let `mmenc push` check it"
        ) from None
    plain = {text: ids for text, ids in texts.items() if not any(s in text for s in SPECIALS)}
    theirs_ND = SentenceTransformer(str(folder), device="cpu").encode(list(plain), show_progress_bar=False)
    packing = Packing.of([len(ids) for ids in plain.values()])
    with torch.inference_mode():
        ours_ND = mean_pool(model.eval().hidden(torch.from_numpy(np.concatenate(list(plain.values()))), packing), packing)
    return float(np.abs(theirs_ND - ours_ND.numpy()).max())


def padded(documents: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A batch of documents of different lengths: ids_NT and its attention mask."""
    longest = max(len(d) for d in documents)
    ids_NT = np.full((len(documents), longest), PAD, dtype=np.int64)
    mask_NT = np.zeros_like(ids_NT)
    for i, document in enumerate(documents):
        ids_NT[i, : len(document)], mask_NT[i, : len(document)] = document, 1
    return ids_NT, mask_NT
