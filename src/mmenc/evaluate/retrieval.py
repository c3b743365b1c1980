"""Bitext retrieval on the held-out parallel documents: how often a text finds its translation among the others.

For a language and a pivot with n parallel test documents, each document looks for its translation by cosine of the
mean-pooled last layer; accuracy is the mean of both directions, chance 1/n. `centred` first subtracts each language's
mean embedding, which removes what merely tells the language (Libovický et al. 2020, arXiv 2004.05160).
All pairs of languages are measured, one language against all others at a time: 448 languages with 5 documents take 2.7 s of
processor time, and memory grows with L·n² (1,833 languages with 50 documents: 0.02 GB, where all at once would be 34).
`retrieval.npz` holds the hits of every pair; people read the means over pairs of scripts and of tiers.

Shapes: L languages, N parallel documents of each, D width.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mmenc.artifact import Json
from mmenc.data.tokens import Split, is_language
from mmenc.evaluate.rows import mean_interval, row, skipped
from mmenc.model.attention import Packing
from mmenc.model.head import MaskedLM, mean_pool
from mmenc.sections import Evaluate

BATCH_TOKENS = 8192
PLAIN, CENTRED = "accuracy", "accuracy_centred"
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Parallel:
    """Documents that are translations of each other: per language one per group, in the order of `groups`."""

    groups: list[str]
    documents: dict[str, list[int]]

    @property
    def possible(self) -> bool:
        """Whether there is anything to find."""
        return len(self.groups) >= 2 and len(self.documents) >= 2

    @property
    def flat(self) -> list[int]:
        """All documents, language by language."""
        return [d for tag in sorted(self.documents) for d in self.documents[tag]]


def parallel(groups: Mapping[str, Mapping[str, int]], prefix: str) -> Parallel:
    """Pick the groups below a prefix, for the languages that have every group; `groups` are {language: {group: document}}."""
    inside = {t: {g: d for g, d in found.items() if g.startswith(prefix + "/")} for t, found in groups.items()}
    every = sorted({g for found in inside.values() for g in found})
    return Parallel(every, {t: [f[g] for g in every] for t, f in inside.items() if every and len(f) == len(every)})


def groups_of(test: Split) -> dict[str, dict[str, int]]:
    """The first test document of each group, per language."""
    found: dict[str, dict[str, int]] = {}
    for language, (first, last) in test.ranges.items():
        if is_language(language):
            groups = found.setdefault(language, {})
            for index in range(first, last):
                if group := test.documents[index]["group"]:
                    groups.setdefault(group, index)
    return found


def embed(model: MaskedLM, texts: Sequence[NDArray[np.int64]]) -> Floats:
    """Mean-pooled last layer of each text (N, D), packed with others of its length."""
    device = next(model.parameters()).device
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = np.empty((len(texts), model.cfg.hidden), dtype=np.float32)
    model.eval()
    with torch.inference_mode():
        batch: list[int] = []
        for position, i in enumerate(order):
            batch.append(i)
            chosen = [texts[j] for j in batch]
            if position + 1 < len(order) and sum(len(t) for t in chosen) < BATCH_TOKENS:
                continue
            packing = Packing.of([len(t) for t in chosen], device)
            x_TD = model.hidden(torch.from_numpy(np.concatenate(chosen)).to(device), packing)
            out[batch] = mean_pool(x_TD, packing).float().cpu().numpy()
            batch = []
    return out


@dataclass(frozen=True)
class Hits:
    """How many of the n documents of the row's language find theirs in the column's, and which with the pivot."""

    count_LL: NDArray[np.int64]
    with_pivot_LN: NDArray[np.float64]
    """Per document the mean of both directions."""
    n: int

    def both(self) -> NDArray[np.float64]:
        """Accuracy of each pair, the mean of both directions: (L, L)."""
        share: NDArray[np.float64] = self.count_LL / self.n
        return (share + share.T) / 2


def search(x_LND: Floats, pivot: int) -> Hits:
    """Nearest by cosine, every language in every other."""
    languages, n, width = x_LND.shape
    u_LND = x_LND / np.maximum(np.linalg.norm(x_LND, axis=-1, keepdims=True), 1e-12)
    flat_SD, own_N = u_LND.reshape(languages * n, width), np.arange(n)
    count_LL = np.empty((languages, languages), dtype=np.int64)
    with_pivot_LN = np.zeros((languages, n))
    for i in range(languages):
        hit_NL = (u_LND[i] @ flat_SD.T).reshape(n, languages, n).argmax(2) == own_N[:, None]
        count_LL[i] = hit_NL.sum(0)
        with_pivot_LN[i] += hit_NL[:, pivot] / 2
        if i == pivot:
            with_pivot_LN += hit_NL.T / 2
    return Hits(count_LL, with_pivot_LN, n)


def pair_means(both_LL: NDArray[np.float64], kinds: Sequence[str], order: Sequence[str]) -> dict[str, list[float | None]]:
    """Means over the pairs of two different languages, by what kind they are of (script, tier); None where there is none."""
    at_L = np.array([order.index(k) for k in kinds])
    member_KL = (at_L == np.arange(len(order))[:, None]).astype(np.float64)
    apart_LL = 1 - np.eye(len(kinds))
    total, count = member_KL @ (both_LL * apart_LL) @ member_KL.T, member_KL @ apart_LL @ member_KL.T
    rows = (
        [round(float(t / c), 4) if c else None for t, c in zip(*pair, strict=True)] for pair in zip(total, count, strict=True)
    )
    return dict(zip(order, rows, strict=True))


def _matrices(tags: list[str], tiers: Mapping[str, str], both: Mapping[str, NDArray[np.float64]]) -> Json:
    """Means over pairs of scripts and of tiers, for people."""
    scripts = [t.split("_")[1] for t in tags]
    found: Json = {}
    for name, kinds in (("scripts", scripts), ("tiers", [tiers[t] for t in tags])):
        sizes = {k: kinds.count(k) for k in dict.fromkeys(kinds)}
        order = sorted(sizes, key=lambda k: (-sizes[k], k)) if name == "scripts" else sorted(sizes, key=lambda k: (sizes[k], k))
        found[name] = {"names": order, "languages": [sizes[k] for k in order]}
        found[name] |= {metric: pair_means(both_LL, kinds, order) for metric, both_LL in both.items()}
    return found


def write_npz(file: Path, **arrays: NDArray[np.generic]) -> None:
    """What `np.savez` writes, byte for byte the same everywhere: its zip headers differ between 3.11.2 and 3.11.7."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue())


def retrieval_rows(
    x_SD: Floats, name: str, digest: str, text: Parallel, tiers: Mapping[str, str], settings: Evaluate, file: Path | None = None
) -> tuple[list[Json], Json]:
    """Rows per language against the pivot and against all others, and facts; `x_SD` are the embeddings of `text.flat`."""
    facts: Json = {"documents": len(text.groups), "languages": len(text.documents)}
    if not text.possible:
        reason = f"fewer than two parallel test documents or languages with groups {settings.retrieval_group}/…"
        return [skipped(name, digest, "retrieval", "", "all", reason)], {**facts, "chance": 0.0}
    tags, n = sorted(text.documents), len(text.groups)
    x_LND = x_SD.reshape(len(tags), n, -1)
    pivot = settings.retrieval_pivot if settings.retrieval_pivot in text.documents else tags[0]
    at = tags.index(pivot)
    found = {PLAIN: search(x_LND, at), CENTRED: search(x_LND - x_LND.mean(1, keepdims=True), at)}
    rows: list[Json] = []
    for metric, hits in found.items():
        both_LL = hits.both()
        for i, tag in enumerate(tags):
            others = np.delete(both_LL[i], i).tolist()
            figures = mean_interval(others, settings.bootstrap, settings.seed, "pairs", tag)
            rows.append(row(name, digest, "retrieval", tag, tiers[tag], metric + "_all_pairs", figures, len(others) * n))
            if i != at:
                figures = mean_interval(hits.with_pivot_LN[i].tolist(), settings.bootstrap, settings.seed, "pivot", tag)
                rows.append(row(name, digest, "retrieval", tag, tiers[tag], metric, figures, n))
    if file is not None:
        plain, centred = (found[m].count_LL.astype(np.min_scalar_type(n)) for m in (PLAIN, CENTRED))
        write_npz(file, languages=np.array(tags), groups=np.array(text.groups), accuracy=plain, accuracy_centred=centred)
    facts |= {"chance": 1 / n, "pivot": pivot, **_matrices(tags, tiers, {m: h.both() for m, h in found.items()})}
    return rows, facts
