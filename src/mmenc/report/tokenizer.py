"""The report on the tokenizer: how well it serves each language, its worst twenty with examples, waivers of its gate.

Decision: bytes per token ranks the languages, because it needs no words; parity (tokens against the pivot's translation of
the same documents, and against another tokenizer on the same text) stands beside it, because scripts differ in bytes per
character.
"""

from __future__ import annotations

from collections.abc import Mapping

from mmenc.artifact import Json
from mmenc.page import Cell, Html, Marked, details, number, table, tag
from mmenc.report.story import Story, fixed

WORST = 20
PIECES = 24
"""Tokens of an example."""
SHADES = ("rgba(0,114,178,.16)", "rgba(230,159,0,.22)")
COLUMNS = {
    "bytes_per_token": ("bytes per token", 1, 2),
    "single_byte_share": ("lone bytes, %", 100, 1),
    "parity": ("tokens per token of the pivot", 1, 2),
    "compared": ("tokens per token of the compared", 1, 2),
    "tokens_per_word": ("tokens per word", 1, 2),
}
"""Facts per language: heading, factor, decimals."""


def _shown(rows: Mapping[str, Json]) -> dict[str, tuple[str, int, int]]:
    """Columns that any language has."""
    return {k: c for k, c in COLUMNS.items() if any(k in r for r in rows.values())}


def _cells(row: Json, columns: Mapping[str, tuple[str, int, int]]) -> list[Cell]:
    return [fixed(scale * row[k], digits) if k in row else None for k, (_, scale, digits) in columns.items()]


def _cut(pieces: list[str]) -> Html:
    """A text as its tokens on two shades in turn; no margins, so that Arabic letters join across them."""
    spans = [
        # A line may break behind bytes, which have no spaces.
        tag("span", p.replace("\n", "↵") + ("\u200b" if p.endswith("›") else ""), style=f"background:{SHADES[i % 2]}")
        for i, p in enumerate(pieces[:PIECES])
    ]
    return tag("bdi", *spans, "…" if len(pieces) > PIECES else "")


def _worst(facts: Json) -> list[str]:
    rows, columns = facts["languages"], _shown(facts["languages"])
    names = sorted(rows, key=lambda t: (rows[t]["bytes_per_token"], t))[:WORST]
    examples = facts.get("examples", {})
    listed: list[list[Cell]] = [[t, *_cells(rows[t], columns), _cut(examples[t]) if t in examples else None] for t in names]
    heading = f"The {len(names)} languages with the fewest bytes per token" if len(names) > 1 else "The language"
    words = f"{heading}; the example shows the beginning of a held-out document cut into tokens, bytes that are no whole "
    words += "character in hexadecimal. The pivot's tokens are those of the same documents in its language. Tokens per word "
    words += "mean little where words are not spaced."
    return [words, table(["language", *(c[0] for c in columns.values()), "example"], listed)]


def _made(facts: Json) -> str:
    nbytes = sum(facts["sample_bytes"].values()) / 1e6
    kind = {"BPE": "BPE", "Unigram": "Unigram"}.get(facts.get("kind", "BPE"), "BPE")
    text = f"{number(facts['vocab_size'])} entries, {kind}, " + (f"trained on {nbytes:.1f} MB; " if nbytes else "taken over; ")
    if "old_text" in facts:
        old = facts["old_text"]
        text = f"{number(facts['vocab_size'])} entries, {kind}, taken over and extended on {nbytes:.1f} MB of new languages; "
        text += f"{number(old['unchanged'])} of {number(old['documents'])} held-out documents of the others keep their tokens; "
    return text


def tokenizer(story: Story) -> list[str]:
    """Vocabulary, mean figures, the languages that it serves worst, all languages folded away."""
    facts = story.facts("tokenizer")
    rows = facts["languages"]
    if not rows:
        return ["There is no held-out text to measure the tokenizer on."]
    mean = sum(r["bytes_per_token"] for r in rows.values()) / len(rows)
    text = f"{_made(facts)}{mean:.2f} bytes per token on held-out text, the mean over {len(rows)} languages."
    lost = [t for t, r in rows.items() if r.get("exact_share", 1) < 1]
    text += f" Documents come back normalised in {len(lost)} languages, byte for byte in all others." if lost else ""
    parts: list[str] = [text, *_worst(facts)]
    if waivers := facts.get("waivers"):
        listed: list[list[Cell]] = [[w["language"], w["found"], w["threshold"], Marked(w["reason"], "waived")] for w in waivers]
        parts.append(table(["language", "bytes per token", "at least", "let through because"], listed))
    if len(rows) > WORST:
        columns = _shown(rows)
        every: list[list[Cell]] = [[t, *_cells(r, columns)] for t, r in rows.items()]
        parts.append(details(f"All {len(rows)} languages", table(["language", *(c[0] for c in columns.values())], every)))
    return parts
