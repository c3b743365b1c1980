"""Mixture: how many tokens of each language and bucket a phase reads, computed from measured counts.

p_i = n_i^τ / Σ n_j^τ over the phase's languages (mmBERT section 3; recipe.md section 3); buckets have fixed shares and
their folders take no part in the sampling. A language that would be read more often than `epoch_cap` is capped and the
surplus goes to the others, and that is said. Counts are of the train split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mmenc.artifact import Json, write_json
from mmenc.data.tokens import is_language
from mmenc.errors import Refused, nearest
from mmenc.job import Job
from mmenc.sections import LanguageSet, Phase, Top


@dataclass(frozen=True)
class Mixture:
    """Planned tokens of a phase; `languages` and `buckets` together are the phase's tokens."""

    languages: dict[str, int]
    buckets: dict[str, int]
    capped: list[str]
    warnings: list[str]


def resolve_waves(waves: Mapping[str, LanguageSet], counts: Mapping[str, int]) -> dict[str, list[str]]:
    """Turn each set of `languages` into sorted tags; refuses a tag without text and a set that loses a language."""
    present = {t: n for t, n in counts.items() if is_language(t) and n > 0}
    ranked = sorted(present, key=lambda t: (-present[t], t))
    resolved: dict[str, list[str]] = {}
    before = ""
    for name, wave in waves.items():
        if wave == "all":
            tags = ranked
        elif isinstance(wave, Top):
            # A fixed list before it is part of the set, whatever its rank: languages only grow.
            kept = resolved.get(before, [])
            rest = [t for t in ranked if t not in kept]
            tags = [*kept, *rest[: max(0, wave.top - len(kept))]]
            if wave.top > len(ranked):
                raise Refused(f"languages.{name}: asks for {wave.top} languages, the data has {len(ranked)}")
        else:
            missing = next((t for t in wave if t not in present), None)
            if missing:
                raise Refused(f"languages.{name}: there is no training text for {missing}{nearest(missing, present)}")
            tags = list(wave)
        lost = next((t for t in resolved.get(before, []) if t not in tags), None)
        if lost:
            raise Refused(f"languages.{name}: drops {lost}, which {before} before it has; each set contains the one before")
        resolved[name], before = sorted(tags), name
    return resolved


def tier_of(waves: Mapping[str, list[str]], tag: str) -> str:
    """Name of the first set that contains a language; `unseen` if none does."""
    return next((name for name, tags in waves.items() if tag in tags), "unseen")


def _largest_remainder(shares: np.ndarray, total: int) -> list[int]:
    exact = shares * total
    whole = np.floor(exact).astype(np.int64)
    rest = int(total - whole.sum())
    for i in np.argsort(-(exact - whole), kind="stable")[:rest]:
        whole[i] += 1
    return [int(x) for x in whole]


def mix(phase: Phase, name: str, tags: list[str], counts: Mapping[str, int]) -> Mixture:
    """Planned tokens per language and bucket of one phase."""
    here = f"phases.{name}"
    sources = {b.source for b in phase.buckets.values()}
    for key, bucket in phase.buckets.items():
        if not counts.get(bucket.source):
            raise Refused(
                f"{here}.buckets.{key}.source: there is no training text in {bucket.source!r}{nearest(bucket.source, counts)}"
            )
    sampled = [t for t in tags if t not in sources]
    if not sampled:
        raise Refused(f"{here}: no language is left beside its buckets")
    keys = [*sampled, *phase.buckets]
    folders = [*sampled, *(b.source for b in phase.buckets.values())]
    fixed = np.array([b.share for b in phase.buckets.values()])
    n = np.array([counts[t] for t in sampled], dtype=np.float64)
    weight = n**phase.temperature
    shares = np.concatenate([weight / weight.sum() * (1 - fixed.sum()), fixed])
    limits = phase.epoch_cap * np.array([counts[f] for f in folders], dtype=np.float64) / phase.tokens
    if limits.sum() < 1:
        raise Refused(
            f"{here}.tokens: {phase.tokens:,} asked for, its data has {int(limits.sum() * phase.tokens):,} within "
            f"epoch_cap {phase.epoch_cap:g}; lower tokens or raise epoch_cap"
        )
    capped = np.zeros(len(shares), dtype=bool)
    language = np.arange(len(shares)) < len(sampled)
    while (over := (shares > limits + 1e-15) & ~capped).any():
        surplus = float((shares - limits)[over].sum())
        shares[over], capped = limits[over], capped | over
        # Buckets keep their fixed share; only when every language is full do they take the rest.
        takers = ~capped & language if (~capped & language).any() else ~capped
        shares[takers] += surplus * shares[takers] / shares[takers].sum()
    tokens = _largest_remainder(shares / shares.sum(), phase.tokens)
    warnings = [
        f"{keys[i]} is capped at {phase.epoch_cap:g} epochs; its surplus goes to the others" for i in np.flatnonzero(capped)
    ]
    planned = dict(zip(keys, tokens, strict=True))
    return Mixture(
        {t: planned[t] for t in sampled},
        {b: planned[b] for b in phase.buckets},
        [keys[i] for i in np.flatnonzero(capped)],
        warnings,
    )


def run(job: Job) -> Json:
    """Write `mixture.json`: the plan of one phase."""
    counts = {folder: row["train"]["tokens"] for folder, row in job.inputs["tokens"].facts["folders"].items()}
    phase = job.recipe.phases[job.name]
    tags = resolve_waves(job.recipe.languages, counts)[phase.languages]
    mixture = mix(phase, job.name, tags, counts)
    table: Json = {
        "languages": {
            t: {"tokens": q, "share": q / phase.tokens, "available": counts[t], "epochs": q / counts[t]}
            for t, q in mixture.languages.items()
        },
        "buckets": {
            b: {
                "tokens": q,
                "share": q / phase.tokens,
                "source": phase.buckets[b].source,
                "available": counts[phase.buckets[b].source],
                "epochs": q / counts[phase.buckets[b].source],
            }
            for b, q in mixture.buckets.items()
        },
    }
    write_json(job.out / "mixture.json", table)
    most = max(table["languages"].values(), key=lambda r: r["epochs"])["epochs"]
    job.say(
        f"{len(mixture.languages)} languages, τ {phase.temperature:g}, at most {most:.2f} epochs, {len(mixture.capped)} capped"
    )
    return {**table, "capped": mixture.capped, "warnings": mixture.warnings, "tokens": phase.tokens}
