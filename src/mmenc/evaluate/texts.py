"""Test text for models with any tokenizer: the very documents that the `evaluate` step scores, or a folder of one's own.

Decision: text comes out of the test split's ids, which the tokenizer step proved to give every held-out document back byte
for byte; so nothing but `artifacts/{tokenize,tokenizer}` is needed, and documents and masks of one of our models are those
of the step. A folder of one's own has a folder per language, whose documents are all test: JSON lines with `text` (and
`group` for translations), or plain text, a document per paragraph; `.gz` and `.zst` too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmenc import rng
from mmenc.artifact import Artifact
from mmenc.data.mixture import resolve_waves, tier_of
from mmenc.data.shards import read_lines
from mmenc.data.tokenizer import load
from mmenc.data.tokens import is_language, open_split
from mmenc.errors import Refused
from mmenc.evaluate.retrieval import groups_of
from mmenc.evaluate.score import choose
from mmenc.external import Cache
from mmenc.recipe import Recipe

TOKEN_BYTES = 4
"""Bytes of text that stand for a token of `evaluate.tokens_per_language` where no tokenizer of ours cut the text."""


@dataclass(frozen=True)
class TestText:
    """Documents by number; those of a language lie in one range."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    ranges: dict[str, tuple[int, int]]
    chosen: dict[str, list[int]]
    """Documents to score, per language."""
    groups: dict[str, dict[str, int]]
    """Document of each group of translations, per language."""
    tiers: dict[str, str]
    text: Callable[[int], str]


def of_artifacts(root: Path, recipe: Recipe, cache: Cache | None) -> TestText:
    """The test split of a finished `tokenize`."""
    tokens, tokenizer = Artifact.read(root / "tokenize", cache=cache), load(root / "tokenizer")
    test, settings = open_split(tokens.local("test/*"), "test"), recipe.evaluate
    waves = resolve_waves(recipe.languages, {f: row["train"]["tokens"] for f, row in tokens.facts["folders"].items()})
    ranges = {t: test.ranges[t] for t in sorted(test.ranges) if is_language(t)}
    chosen = {t: choose(test, t, settings.tokens_per_language, settings.seed) for t in ranges}

    def text(document: int) -> str:
        found: str = tokenizer.decode(test.document(document)[1:-1].tolist())
        return found

    return TestText(ranges, chosen, groups_of(test), {t: tier_of(waves, t) for t in ranges}, text)


def _read(path: Path) -> Iterator[tuple[str, str]]:
    """Documents of a file: (group, text)."""
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    if name.endswith(".jsonl"):
        for number, line in read_lines(path):
            try:
                row = json.loads(line)
                yield str(row.get("group", "")), row["text"]
            except (ValueError, KeyError, AttributeError):
                raise Refused(f"{path}: line {number} is no JSON object with the key 'text'") from None
    elif name.endswith(".txt"):
        paragraphs = "".join(line for _, line in read_lines(path)).split("\n\n")
        yield from (("", p.strip()) for p in paragraphs)
    else:
        raise Refused(f"{path}: unknown kind of file; expected .jsonl or .txt, each also with .gz or .zst")


def tier(recipe: Recipe, tag: str) -> str:
    """The first set that names a language; sets by rank (`top`) cannot be told without counts of training text."""
    return next((n for n, w in recipe.languages.items() if w == "all" or (isinstance(w, list) and tag in w)), "unseen")


def of_folder(root: Path, recipe: Recipe) -> TestText:
    """Text of one's own."""
    settings = recipe.evaluate
    texts: list[str] = []
    found = TestText({}, {}, {}, {}, lambda document: texts[document])
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and is_language(p.name)):
        tag, first, size = folder.name, len(texts), 0
        documents = [d for path in sorted(folder.iterdir()) for d in _read(path) if d[1]]
        for group, text in documents:
            if group:
                found.groups.setdefault(tag, {}).setdefault(group, len(texts))
            texts.append(text)
        found.ranges[tag], found.tiers[tag], found.chosen[tag] = (first, len(texts)), tier(recipe, tag), []
        for i in rng.permutation(len(documents), settings.seed, "choose", tag):
            if size < TOKEN_BYTES * settings.tokens_per_language:
                found.chosen[tag].append(first + int(i))
                size += len(documents[i][1].encode())
    if not texts:
        raise Refused(f"{root}: holds no text; expected a recipe's artifacts, or folders such as {root}/fao_Latn with documents")
    return found


def open_text(root: Path, recipe: Recipe, limit: int, cache: Cache | None) -> TestText:
    """Test text of a folder; `limit` documents of a language at most are scored (0: as many as the recipe says)."""
    if not root.is_dir():
        raise Refused(f"{root}: no such folder; `make run` makes a recipe's artifacts, --data names another folder of test text")
    found = of_artifacts(root, recipe, cache) if (root / "tokenize" / "manifest.json").is_file() else of_folder(root, recipe)
    if limit:
        found.chosen.update({t: chosen[:limit] for t, chosen in found.chosen.items()})
    return found
