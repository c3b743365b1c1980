"""Fill-mask examples: held-out text in several scripts with one word piece masked, and what the released model puts there.

Decisions: a script per example, taken from the tiers in turn (the first tier's script with the most text, then the second
tier's …), so that the tail is shown as well as the head; the document whose start is most like running text; the piece
nearest to the middle. Nothing is drawn at random and nothing is chosen by its answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mmenc.artifact import Json
from mmenc.data.scripts import LETTER
from mmenc.data.tokenizer import load
from mmenc.data.tokens import BOS, EOS, MASK, Split, is_language

EXAMPLE_TOKENS = 24
"""Tokens of held-out text shown with one masked."""
EXAMPLE_CANDIDATES = 50
"""Documents looked at per script for an example."""


def by_script(split: Split, languages: Sequence[str] | None = None) -> dict[str, list[int]]:
    """Test documents per script (of the given languages), the language with the most text first."""
    tags = [t for t in split.ranges if is_language(t) and (languages is None or t in languages)]
    size = {t: int(split.offsets[split.ranges[t][1]] - split.offsets[split.ranges[t][0]]) for t in tags}
    found: dict[str, list[int]] = {}
    for tag in sorted(size, key=lambda t: (-size[t], t)):
        found.setdefault(tag.split("_")[1], []).extend(range(*split.ranges[tag]))
    return {script: documents for script, documents in found.items() if documents}


def choose_scripts(split: Split, tiers: Mapping[str, Sequence[str]], most: int) -> list[tuple[str, str, list[int]]]:
    """(tier, script, documents), tiers in turn, each script once."""
    left = {tier: list(by_script(split, tags).items()) for tier, tags in tiers.items()}
    chosen: list[tuple[str, str, list[int]]] = []
    for tier in cycle(left):
        if len(chosen) >= most or not any(left.values()):
            break
        taken = {script for _, script, _ in chosen}
        left[tier] = [(script, documents) for script, documents in left[tier] if script not in taken]
        if left[tier]:
            script, documents = left[tier].pop(0)
            chosen.append((tier, script, documents))
    return chosen


def _prose(tokenizer: Tokenizer, split: Split, documents: list[int]) -> int:
    """The document whose start has the largest share of letters: running text rather than lists and placeholders."""

    def letters(document: int) -> float:
        text = tokenizer.decode(split.document(document)[1 : EXAMPLE_TOKENS + 1].tolist())
        return len(LETTER.findall(text)) / max(1, len(text))

    long = [d for d in documents if len(split.document(d)) > EXAMPLE_TOKENS] or documents
    return max(long[:EXAMPLE_CANDIDATES], key=lambda d: (letters(d), -d))


def _gap(tokenizer: Tokenizer, content: NDArray[np.int64]) -> int:
    """Position to hide: the piece of at least two letters (else of one) that is nearest to the middle."""
    middle = len(content) // 2
    letters = [len(LETTER.findall(tokenizer.decode([int(t)]))) for t in content]
    whole = [i for i, n in enumerate(letters) if n >= 2] or [i for i, n in enumerate(letters) if n]
    return min(whole or range(len(content)), key=lambda i: (abs(i - middle), i))


def fill_mask_examples(folder: Path, split: Split, tiers: Mapping[str, Sequence[str]], most: int) -> list[Json]:
    """One example per script; `tiers` has the languages of each tier in the recipe's order."""
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = load(folder)
    tag_of = {d: t for t, (a, b) in split.ranges.items() for d in range(a, b)}
    examples: list[Json] = []
    for tier, script, documents in choose_scripts(split, tiers, most):
        document = _prose(tokenizer, split, documents)
        content = split.document(document).astype(np.int64)[1:-1][:EXAMPLE_TOKENS]
        at = _gap(tokenizer, content)
        ids = torch.from_numpy(np.concatenate([[BOS], content[:at], [MASK], content[at + 1 :], [EOS]]))
        with torch.inference_mode():
            top = model(input_ids=ids[None]).logits[0, at + 1].softmax(-1).topk(3)
        examples.append(
            {
                "language": tag_of[document],
                "script": script,
                "tier": tier,
                "before": tokenizer.decode(content[:at].tolist()),
                "answer": tokenizer.decode([int(content[at])]),
                "after": tokenizer.decode(content[at + 1 :].tolist()),
                "guesses": [tokenizer.decode([int(i)]) for i in top.indices],
            }
        )
    return examples
