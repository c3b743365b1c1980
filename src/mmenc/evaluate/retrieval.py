"""Bitext retrieval on the held-out parallel documents: how often a text finds its translation among the others.

For a language and a pivot with n parallel test documents, each document looks for its translation by cosine of the
mean-pooled last layer; accuracy is the mean of both directions, chance 1/n. `centred` first subtracts each language's
mean embedding, which removes what merely tells the language (Libovický et al. 2020, arXiv 2004.05160).
"""

from __future__ import annotations

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


def parallel_documents(test: Split, prefix: str) -> tuple[list[str], dict[str, list[int]]]:
    """Groups below a prefix, and per language one test document per group, for languages that have every group."""
    by_language: dict[str, dict[str, int]] = {}
    for language, (first, last) in test.ranges.items():
        if is_language(language):
            groups: dict[str, int] = {}
            for index in range(first, last):
                group = test.documents[index]["group"]
                if group.startswith(prefix + "/"):
                    groups.setdefault(group, index)
            by_language[language] = groups
    groups_all = sorted({g for groups in by_language.values() for g in groups})
    complete = {t: [g[k] for k in groups_all] for t, g in by_language.items() if groups_all and len(g) == len(groups_all)}
    return groups_all, complete


def embed(model: MaskedLM, split: Split, documents: list[int], context: int) -> NDArray[np.float32]:
    """Mean-pooled last layer of each document (N, D), cut at `context` tokens."""
    device = next(model.parameters()).device
    order = sorted(range(len(documents)), key=lambda i: len(split.document(documents[i])))
    out = np.empty((len(documents), model.cfg.hidden), dtype=np.float32)
    model.eval()
    with torch.inference_mode():
        batch: list[int] = []
        for position, i in enumerate(order):
            batch.append(i)
            texts = [split.document(documents[j])[:context].astype(np.int64) for j in batch]
            if position + 1 < len(order) and sum(len(t) for t in texts) < BATCH_TOKENS:
                continue
            packing = Packing.of([len(t) for t in texts], device)
            x_TD = model.hidden(torch.from_numpy(np.concatenate(texts)).to(device), packing)
            out[batch] = mean_pool(x_TD, packing).float().cpu().numpy()
            batch = []
    return out


def _unit(x_LND: NDArray[np.float32]) -> NDArray[np.float32]:
    norm: NDArray[np.float32] = np.linalg.norm(x_LND, axis=-1, keepdims=True)
    return np.asarray(x_LND / np.maximum(norm, 1e-12), dtype=np.float32)


def retrieval_rows(
    model: MaskedLM, name: str, digest: str, test: Split, tiers: dict[str, str], settings: Evaluate, context: int
) -> tuple[list[Json], Json]:
    """Rows per language against the pivot and against all others, and facts (n, chance, languages)."""
    groups, complete = parallel_documents(test, settings.retrieval_group)
    possible = len(groups) >= 2 and len(complete) >= 2
    facts: Json = {"documents": len(groups), "languages": len(complete), "chance": 1 / len(groups) if possible else 0.0}
    if not possible:
        reason = f"fewer than two parallel test documents or languages with groups {settings.retrieval_group}/…"
        return [skipped(name, digest, "retrieval", "", "all", reason)], facts
    tags = sorted(complete)
    flat = [d for t in tags for d in complete[t]]
    x_LND = embed(model, test, flat, context).reshape(len(tags), len(groups), -1)
    pivot = settings.retrieval_pivot if settings.retrieval_pivot in complete else tags[0]
    at = tags.index(pivot)
    rows: list[Json] = []
    for metric, x in (("accuracy", x_LND), ("accuracy_centred", x_LND - x_LND.mean(1, keepdims=True))):
        u_LND = _unit(x)
        sims = np.einsum("and,bmd->abnm", u_LND, u_LND)
        own = np.arange(len(groups))
        hit_AB = (sims.argmax(3) == own).mean(2)
        both_AB = (hit_AB + hit_AB.T) / 2
        for i, tag in enumerate(tags):
            others = [j for j in range(len(tags)) if j != i]
            figures = mean_interval([float(both_AB[i, j]) for j in others], settings.bootstrap, settings.seed, "pairs", tag)
            rows.append(
                row(name, digest, "retrieval", tag, tiers[tag], metric + "_all_pairs", figures, len(others) * len(groups))
            )
            if i != at:
                exact = float(both_AB[i, at])
                rows.append(row(name, digest, "retrieval", tag, tiers[tag], metric, (exact, exact, exact), len(groups)))
    return rows, {**facts, "pivot": pivot}
