"""Who read a document: the tokenizer's sample, the token shards, and each phase; recomputed exactly, never guessed.

Decision: all three are functions of names and counts (survey.choose, the split, order.Stream), so the artifacts need not have
noted it. The sample is drawn again from the sizes of the language's train documents (its bytes are a fact of the tokenizer);
the document is found in the token shard by its own tokens; a phase's pieces follow from what its ancestors had read
(`state.json`). What a person may not conclude: a phase that read no token of it may still have seen a copy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmenc.artifact import Artifact, Json, read_json
from mmenc.data.encoders import reference
from mmenc.data.shards import shard_paths
from mmenc.data.split import Splitter, splitter_of
from mmenc.data.stream import documents
from mmenc.data.survey import choose
from mmenc.data.tokenize import framed
from mmenc.data.tokens import Split, open_split
from mmenc.forget.trace import Document
from mmenc.sections import Phase
from mmenc.train.batches import make_streams

Chain = dict[str, Artifact]
"""Artifacts by digest."""


def split_and_sample(clean: Path, tokenizer: Artifact | None, found: list[Document]) -> None:
    """Fill in the side of the split, and whether the tokenizer was trained on it."""
    kept = [d for d in found if d.kept]
    splitter = splitter_of(clean) if kept else Splitter({})
    for tag in dict.fromkeys(d.language for d in kept):
        mine = {d.id: d for d in kept if d.language == tag}
        sizes: list[int] = []
        at: dict[str, int] = {}
        for row in documents(shard_paths(clean, tag)):
            side = splitter.of(row["id"], row.get("group"))
            if row["id"] in mine:
                mine[row["id"]].split = side
                at[row["id"]] = len(sizes)
            if side == "train":
                sizes.append(len(row["text"].encode()))
        if tokenizer is None:
            continue
        limit = tokenizer.facts["sample_bytes"].get(tag, 0)
        seed = tokenizer.manifest.config["seed"]
        taken = set(choose([np.array(sizes, "<u4")], limit, seed, "tokenizer", tag)[0].tolist()) if limit else set()
        for name, document in mine.items():
            document.in_sample = document.split == "train" and at[name] in taken


def in_tokens(tokens: Path, tokenizer: Path, found: list[Document]) -> None:
    """Fill in the number of each document in its split; None: it was too short."""
    splits = {side: open_split(tokens, side) for side in dict.fromkeys(d.split for d in found if d.split)}
    # An id is unique within its language only.
    named = {
        (side, tag, split.documents[i]["id"]): i
        for side, split in splits.items()
        for tag, (first, last) in split.ranges.items()
        for i in range(first, last if split.documents else first)
    }
    words = reference(tokenizer / "tokenizer.json")
    for document in (d for d in found if d.split):
        split = splits[document.split]
        first = split.ranges[document.language][0]
        if split.documents:
            document.token_index = named.get((document.split, document.language, document.id))
            continue
        ids = np.array(words.encode(document.text, add_special_tokens=False).ids, np.uint32)
        whole, _ = framed(ids, np.array([0, len(ids)], np.int64))
        alike = (np.flatnonzero(split.lengths(document.language) == len(whole)) + first).tolist()
        document.token_index = next((i for i in alike if np.array_equal(split.document(i), whole)), None)


def in_phase(phase: Artifact, chain: Chain, split: Split, found: list[Document]) -> str:
    """Fill in how many tokens of each document a phase read; why it cannot be known, or an empty string."""
    parents = {p.role: chain.get(p.digest) for p in phase.manifest.parents}
    mixture, before = parents["mixture"], parents["init"]
    name = phase.manifest.name
    if mixture is None or before is None:
        return f"what phase {name} read: its mixture or the checkpoint before it is not there"
    settings = Phase.model_validate(phase.manifest.config[f"phases.{name}"])
    read: Json = read_json(before.path / "state.json").get("streams", {})
    streams = make_streams(split, read_json(mixture.path / "mixture.json"), read, phase.manifest.config["seed"], name, settings)
    for stream in streams:
        mine = {d.token_index - split.ranges[d.language][0]: d for d in found if d.token_index is not None and d.split == "train"
                and d.language == stream.folder}  # fmt: skip
        if not mine:
            continue
        pieces, _ = stream.windows(0, 1, 1)
        stored = pieces.stored()
        for at in np.flatnonzero(np.isin(pieces.document, list(mine))).tolist():
            document = mine[int(pieces.document[at])]
            document.phases[name] = document.phases.get(name, 0) + int(stored[at])
    return ""
