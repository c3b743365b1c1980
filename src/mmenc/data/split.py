"""Train, dev and test: a pure function of a document's id and group, the same for every language (contract "Splits").

Decision: hashes, not a random draw, so a document keeps its side when others come or go; and groups, not documents,
are split where texts are translations of each other, so a sentence held out in one language is held out in all.

* Documents with a group: the n groups that share a prefix (`udhr/` of `udhr/art-7`; no slash: the empty prefix) are
  ordered by sha256; the first min(ceil(n/7), max(5, ceil(n/20))) are test, the next min(ceil(n/10), max(3, ceil(n/20)))
  dev. n = 30 gives 5 + 3, n = 1,000 gives 50 + 50. A prefix with one group is test only, with two has no train.
* All others: u = the first 8 bytes of sha256(id) / 2^64; test below 0.05, dev below 0.10.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Literal

from mmenc.data.shards import languages, read_lines, shard_paths

Split = Literal["train", "dev", "test"]
TEST_BELOW = 0.05
DEV_BELOW = 0.10


def prefix_of(group: str) -> str:
    """Return the part of a group up to and including its first slash; empty without one."""
    head, slash, _ = group.partition("/")
    return head + slash if slash else ""


def by_prefix(groups: Iterable[str]) -> dict[str, set[str]]:
    """Sort group names into sets that share a prefix."""
    found: dict[str, set[str]] = {}
    for group in groups:
        found.setdefault(prefix_of(group), set()).add(group)
    return found


def held_out(count: int) -> tuple[int, int]:
    """How many of `count` groups are test and dev; whole-number arithmetic, -(-a // b) is ceil(a / b)."""
    test = min(-(-count // 7), max(5, -(-count // 20)))
    dev = min(-(-count // 10), max(3, -(-count // 20)), count - test)
    return test, dev


def _sides(groups: AbstractSet[str]) -> dict[str, Split]:
    ordered = sorted(groups, key=lambda g: hashlib.sha256(g.encode()).hexdigest())
    test, dev = held_out(len(ordered))
    return {g: "test" if i < test else "dev" if i < test + dev else "train" for i, g in enumerate(ordered)}


class Splitter:
    """Says the side of a document; built once from the groups of *all* languages."""

    def __init__(self, groups: Mapping[str, AbstractSet[str]]) -> None:
        self.sides: dict[str, Split] = {g: side for members in groups.values() for g, side in _sides(members).items()}

    def of(self, id: str, group: str | None = None) -> Split:
        """Side of a document; KeyError for a group that the splitter was not built with (a bug of the caller)."""
        if group:
            return self.sides[group]
        u = int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big") / 2**64
        return "test" if u < TEST_BELOW else "dev" if u < DEV_BELOW else "train"


def read_groups(root: Path) -> set[str]:
    """All groups in an artifact's shards, over all languages."""
    found: set[str] = set()
    for language in languages(root):
        for shard in shard_paths(root, language):
            lines = (line for _, line in read_lines(shard) if '"group"' in line)
            found.update(str(row["group"]) for row in map(json.loads, lines) if row.get("group"))
    return found


def splitter_of(root: Path) -> Splitter:
    """Build the splitter of an artifact with `shards/` (one pass; only lines that hold the word "group" are parsed)."""
    return Splitter(by_prefix(read_groups(root)))
