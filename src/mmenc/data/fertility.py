"""How well a tokenizer serves each language: measured on held-out text, and the proof that every held-out document comes back.

Decisions: all held-out documents are encoded and decoded, bundle by bundle in several processes; the figures are taken from
the first 50 kB of each language, parity from documents that are translations of each other (the same `group`). The gate asks
for bytes per token, because tokens per word mean nothing where words are not spaced: one byte per token is a language that
the vocabulary does not know, whatever its script. A tokenizer that we trained must give every document back; one that was
taken over says how many it does.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import regex
from tokenizers import Tokenizer

from mmenc.artifact import Json
from mmenc.data.encoders import limit_threads, load, reference
from mmenc.data.stream import Bundle, batches, bundles
from mmenc.data.survey import read_splitter
from mmenc.data.tokens import UNK
from mmenc.data.vocabulary import given_back, pieces_of, spec_of, token_bytes
from mmenc.errors import Refused, nearest
from mmenc.job import Job
from mmenc.parts import Parts
from mmenc.sections_data import TokenizerWaiver

WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")
REPORT_BYTES = 50_000
"""Held-out text per language under the figures."""
WORST = 20
EXAMPLE = 60
"""Characters of an example."""
BATCH_CHARS = 500_000
"""Smaller than for encoding alone: Hugging Face keeps about 100 bytes per token, twice."""


def heldout_part(folder: Path, bundle: Bundle, tokenizer: Path, splits: Path, old: Path | None, threads: int) -> Json:
    """Encode and decode the held-out documents of a bundle; keep what the figures are taken from.

    `old`: the tokenizer that was extended, to count the documents that it cuts as before.
    """
    limit_threads(threads)
    splitter, words = read_splitter(splits), reference(tokenizer)
    before = reference(old) if old else None
    spec, found = spec_of(words), {}
    with (folder / "report.jsonl").open("w", encoding="utf-8") as report:
        for language, paths in bundle:
            row: Json = {"documents": 0, "exact": 0, "unchanged": 0, "lost": "", "groups": Counter()}
            size = 0
            for batch in batches(paths, BATCH_CHARS):
                held = [d for d in batch if splitter.of(d["id"], d.get("group")) != "train"]
                texts = [d["text"] for d in held]
                ids = [e.ids for e in words.encode_batch_fast(texts, add_special_tokens=False)]
                backs = words.decode_batch(ids, skip_special_tokens=False)
                if before:
                    cut = before.encode_batch_fast(texts, add_special_tokens=False)
                    row["unchanged"] += sum(a.ids == b for a, b in zip(cut, ids, strict=True))
                for d, text, own, back in zip(held, texts, ids, backs, strict=True):
                    row["documents"] += 1
                    row["exact"] += text == back
                    if back != given_back(spec, text):
                        row["lost"] = row["lost"] or text[:40]
                    if d.get("group"):
                        row["groups"][d["group"]] += len(own)
                    if size < REPORT_BYTES:
                        report.write(json.dumps([language, text]) + "\n")
                        size += len(text.encode())
            found[language] = row
    return {"languages": found}


def _report_texts(files: Iterable[Path]) -> dict[str, list[str]]:
    """The first REPORT_BYTES of held-out text of each language."""
    texts: dict[str, list[str]] = {}
    size: Counter[str] = Counter()
    for path in files:
        with path.open(encoding="utf-8") as stream:
            for language, text in map(json.loads, stream):
                if size[language] < REPORT_BYTES:
                    texts.setdefault(language, []).append(text)
                    size[language] += len(text.encode())
    return texts


def fertility(tokenizer: Tokenizer, texts: list[str], sizes: np.ndarray) -> Json:
    """Tokens per word, bytes per token and the share of tokens that are a lone byte of a longer character."""
    ids = np.array([i for e in tokenizer.encode_batch(texts, add_special_tokens=False) for i in e.ids], dtype=np.int64)
    ascii_ids = _ascii_ids(tokenizer)
    lone = (sizes[ids] == 1) & ~np.isin(ids, ascii_ids)
    words = sum(len(WORD.findall(t)) for t in texts)
    nbytes = sum(len(t.encode()) for t in texts)
    count = max(1, len(ids))
    return {
        "tokens": len(ids),
        "bytes_per_token": round(nbytes / count, 4),
        "tokens_per_word": round(len(ids) / max(1, words), 4),
        "single_byte_share": round(float(lone.sum()) / count, 6),
        "unknown_share": round(float((ids == UNK).sum()) / count, 6),
    }


def _ascii_ids(tokenizer: Tokenizer) -> list[int]:
    """Ids of tokens that are one whole character in one byte."""
    names = [chr(c) for c in range(33, 127)] + ["Ġ", "Ċ", "▁", "\n", " "]
    return [i for t in names if (i := tokenizer.token_to_id(t)) is not None]


def parity(groups: Mapping[str, Mapping[str, int]], pivot: str) -> dict[str, float]:
    """Tokens of each language per token of the pivot, over the documents that both have."""
    found: dict[str, float] = {}
    for language, own in groups.items():
        shared = [g for g in own if g in groups.get(pivot, {})]
        if shared:
            found[language] = round(sum(own[g] for g in shared) / max(1, sum(groups[pivot][g] for g in shared)), 4)
    return found


def gate(table: Mapping[str, Json], least: float, waivers: Iterable[TokenizerWaiver]) -> list[Json]:
    """Refuse languages with too few bytes per token; the waivers that were needed, with what was found."""
    excused = {w.language: w.reason for w in waivers}
    if unknown := sorted(set(excused) - set(table)):
        raise Refused(f"tokenizer.waivers: no held-out text in {unknown[0]!r}{nearest(unknown[0], table)}")
    poor = sorted((row["bytes_per_token"], t) for t, row in table.items() if row["bytes_per_token"] < least)
    failed = [(n, t) for n, t in poor if t not in excused]
    if failed:
        n, worst = failed[0]
        others = f" ({len(failed) - 1} more languages too: {', '.join(t for _, t in failed[1:6])})" if len(failed) > 1 else ""
        raise Refused(
            f"tokenizer: {worst} gets {n:.3g} bytes per token on held-out text, tokenizer.min_bytes_per_token is {least:g}"
            f"{others}; give it more of the sample (a lower tokenizer.temperature, more sample_bytes), more entries, or a waiver "
            f"with a reason"
        )
    return [{"language": t, "found": n, "threshold": least, "reason": excused[t]} for n, t in poor]


def _merged(results: Mapping[str, Json]) -> dict[str, Json]:
    """What the parts found, per language."""
    total: dict[str, Json] = {}
    for result in results.values():
        for language, row in result["languages"].items():
            into = total.setdefault(language, {"documents": 0, "exact": 0, "unchanged": 0, "lost": "", "groups": {}})
            for key in ("documents", "exact", "unchanged"):
                into[key] += row[key]
            into["lost"] = into["lost"] or row["lost"]
            for g, n in row["groups"].items():
                into["groups"][g] = into["groups"].get(g, 0) + n
    return dict(sorted(total.items()))


def measure(job: Job, clean: Path, splits: Path, old: Path | None) -> Json:
    """Prove the round trip, measure every language, ask the gate; facts of the step."""
    settings, trained = job.recipe.tokenizer, "tokenizer.source" not in job.raw
    path = job.out / "tokenizer.json"
    parts = bundles(clean)
    share = max(1, job.recipe.compute.threads // max(1, min(job.recipe.compute.threads, len(parts))))
    done = Parts(job, "heldout")
    # A killed step has another temporary folder: parts read a copy beside them.
    copy = job.resume / "words" / "tokenizer.json"
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(path.read_bytes())
    seen = _merged(done.run(heldout_part, {key: (bundle, copy, splits, old, share) for key, bundle in parts.items()}))
    lost = next(((t, row["lost"]) for t, row in seen.items() if row["lost"]), None)
    if lost and trained:
        raise Refused(f"tokenizer: a held-out document of {lost[0]} does not come back byte for byte: {lost[1]!r}")
    words = load(job.out)
    sizes = token_bytes(words)
    texts = _report_texts(done.folder(key) / "report.jsonl" for key in parts)
    table = {language: fertility(words, texts[language], sizes) for language in sorted(texts)}
    for language, ratio in parity({t: row["groups"] for t, row in seen.items()}, settings.pivot).items():
        table[language]["parity"] = ratio
    if "tokenizer.compare" in job.raw:
        _compare(job, table, texts)
    for language, row in table.items():
        row["exact_share"] = round(seen[language]["exact"] / max(1, seen[language]["documents"]), 6)
    waived = gate(table, settings.min_bytes_per_token, settings.waivers)
    worst = sorted(table, key=lambda t: (table[t]["bytes_per_token"], t))[:WORST]
    examples = {t: list(pieces_of(words, texts[t][0][:EXAMPLE])) for t in worst}
    facts: Json = {"languages": table, "waivers": waived, "examples": examples}
    if old:
        new = set(settings.extend.languages) if settings.extend else set()
        known = [row for t, row in seen.items() if t not in new]
        facts["old_text"] = {k: sum(row[k] for row in known) for k in ("documents", "unchanged")}
    return facts


def _compare(job: Job, table: dict[str, Json], texts: Mapping[str, list[str]]) -> None:
    """Our tokens per token of the comparison tokenizer, on the same text."""
    other = reference(job.raw["tokenizer.compare"])
    for language, row in table.items():
        theirs = sum(len(e.ids) for e in other.encode_batch_fast(texts[language], add_special_tokens=False))
        row["compared"] = round(row["tokens"] / max(1, theirs), 4)
