"""What each artifact holds of some documents: their text, weights that read it, figures that may show it, or nothing.

Decision: one function per step, because what a step keeps is known of the step and not of its files; ids that stand in pages and
examples are found by looking (trace.mentions).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mmenc.artifact import Artifact, Json, Manifest
from mmenc.forget.reading import Chain
from mmenc.forget.trace import Document, mentions
from mmenc.lineage import label

SMALL = 50_000_000
"""Larger pages and tables are not searched for ids."""
TEXT, WEIGHTS, FIGURES, NOTHING = "text", "weights", "figures", "nothing"
Held = tuple[str, str]
"""What is held, and why."""


@dataclass(frozen=True)
class Case:
    """One artifact, what its parents hold, and the documents."""

    manifest: Manifest
    above: dict[str, str]
    found: list[Document]

    @property
    def kept(self) -> list[Document]:
        """Those that cleaning kept."""
        return [d for d in self.found if d.kept]

    def indexed(self, *splits: str) -> list[Document]:
        """Those in the token shards, of these splits."""
        return [d for d in self.found if d.token_index is not None and d.split in splits]


def some(items: Iterable[object]) -> str:
    """The first three of several names."""
    names = [str(x) for x in items]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _ingest(case: Case) -> Held:
    return TEXT, some(f"shards/{d.language}/{d.shard}.jsonl.zst line {d.line}" for d in case.found)


def _clean(case: Case) -> Held:
    return TEXT, some(
        f"shards/{d.kept[0]} line {d.kept[1]}" if d.kept else f"rejected/{d.language} ({d.rejected})" for d in case.found
    )


def _tokenizer(case: Case) -> Held:
    if not case.manifest.facts["sample_bytes"]:
        return NOTHING, "was taken over, not trained on this text"
    sampled = [d.id for d in case.kept if d.in_sample]
    held_out = [d.id for d in case.kept if d.split != "train"]
    measured = (FIGURES, "measured on it") if held_out else (NOTHING, "it was not in the sample")
    return (FIGURES, f"trained on {some(sampled)}") if sampled else measured


def _tokenize(case: Case) -> Held:
    lies = [f"{d.split}, document {d.token_index}" for d in case.indexed("train", "dev", "test")]
    return (TEXT, some(lies)) if lies else (NOTHING, "too short" if case.kept else "none of it was kept")


def _counts(case: Case) -> Held:
    return (FIGURES, "its counts") if case.kept else (NOTHING, "")


def _train(case: Case) -> Held:
    name = case.manifest.name
    read = {d.id: d.phases[name] for d in case.found if name in d.phases}
    if read:
        return WEIGHTS, f"read {sum(read.values())} tokens of {some(read)}"
    if case.above.get("init") == WEIGHTS:
        return WEIGHTS, "starts from weights that read it"
    return (FIGURES, "its held-out loss; read none of it") if case.indexed("dev") else (NOTHING, "read none of it")


def _merge(case: Case) -> Held:
    alone = f"branch:{case.manifest.facts.get('chosen', {}).get('branch', '')}"
    roles = [alone] if alone in case.above else list(case.above)
    mine = [role for role in roles if case.above[role] == WEIGHTS]
    if mine:
        return WEIGHTS, f"from {some(mine)}"
    return (FIGURES, "chosen on dev text") if case.indexed("dev") else (NOTHING, "")


def _release(case: Case) -> Held:
    return (WEIGHTS, "its model read it") if case.above.get("model") == WEIGHTS else _other(case)


def _evaluate(case: Case) -> Held:
    scored = [d.id for d in case.indexed("test")]
    return (FIGURES, f"test text: {some(scored)} may have been scored") if scored else _other(case)


def _other(case: Case) -> Held:
    return (FIGURES, "of a model that read it") if WEIGHTS in case.above.values() else (NOTHING, "")


STEPS: dict[str, Callable[[Case], Held]] = {
    "ingest": _ingest,
    "clean": _clean,
    "validate": _counts,
    "mixture": _counts,
    "tokenizer": _tokenizer,
    "tokenize": _tokenize,
    "train": _train,
    "merge": _merge,
    "release": _release,
    "evaluate": _evaluate,
}


def holdings(chain: Chain, found: list[Document], ids: list[str]) -> list[Json]:
    """What each artifact holds, ancestors first."""
    rows: dict[str, Json] = {}

    def of(digest: str) -> str:
        if digest not in chain:
            return NOTHING
        if digest not in rows:
            rows[digest] = _row(chain[digest], {p.role: of(p.digest) for p in chain[digest].manifest.parents}, found, ids)
        return str(rows[digest]["holds"])

    for digest in chain:
        of(digest)
    return list(rows.values())


def _row(artifact: Artifact, above: dict[str, str], found: list[Document], ids: list[str]) -> Json:
    m = artifact.manifest
    holds, why = STEPS.get(m.step, _other)(Case(m, above, found)) if found else (NOTHING, "")
    named = mentions(artifact.path, m.files, ids, lambda p: p.stat().st_size < SMALL) if ids else {}
    if named:
        why = "; ".join(filter(None, [why, f"{', '.join(named)} names it"]))
        holds = FIGURES if holds == NOTHING else holds
    return {"path": str(artifact.path), "artifact": label(m.json()), "holds": holds, "why": why}
