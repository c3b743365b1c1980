"""Cuts any recipe down to seconds: sizes shrink; shapes, methods, masks, temperatures and the tree stay."""

from __future__ import annotations

import copy
from typing import Any

from tests.pipeline import TINY_LANGUAGES

Data = dict[str, Any]
BUCKETS = {"dclm": "eng_Latn", "dolmino-dclm": "eng_Latn", "starcoder": "zul_Latn", "code-repos": "zul_Latn"}
"""Sources of the mmBERT recipes that have a stand-in; the shares of the others go to the languages."""
WAVE_SIZES = (2, 4, 6)
CONSTANT, DECAY = 24_000, 10_000
PEAK = 1e-2
BATCH = 512


def cut_down(recipe: Data, source: str = "", hidden: int = 32, heads: int = 2) -> Data:
    """Take a loaded recipe as plain data (`model_dump(mode="json", by_alias=True)`); `source` is the release to start from."""
    small = copy.deepcopy(recipe)
    stand_in = _languages(small)
    small["validate"] = {"expectations": small["validate"]["expectations"], "waivers": []}
    small["tokenizer"] |= {"vocab_size": 1024, "sample_bytes": 200_000}
    small["tokenize"] |= {"min_tokens": min(8, small["tokenize"]["min_tokens"])}
    small["model"] |= {"hidden": hidden, "layers": 4, "heads": heads, "intermediate": 48, "window": 32}
    small["model"] |= {"initializer_range": 0.1, "dtype": "float32"}
    for section in ("tokenizer", "model"):
        if small[section].get("source", "random") not in ("random", "train"):
            assert source, f"{section}.source needs a release"
            small[section]["source"] = source
    peak = max(p["lr"]["peak"] for p in small["phases"].values())
    for phase in small["phases"].values():
        _phase(phase, peak, stand_in)
    small["merge"] |= {"densities": [0.5, 1.0], "decays": small["merge"]["decays"][-2:], "dev_tokens": 4_000}
    small["evaluate"] |= {"tokens_per_language": 600, "bootstrap": 50}
    small["compute"] |= {"threads": 2, "device": "cpu", "micro_batch_tokens": 2048, "checkpoint_seconds": 1, "counts": ""}
    return small


def _languages(recipe: Data) -> dict[str, str]:
    """Put the six languages in place of the recipe's; return which folder stands for which."""
    folders = recipe["ingest"]["languages"]
    if folders != "all":  # a few languages: one stand-in each, English for itself
        others = iter([t for t in TINY_LANGUAGES if t != "eng_Latn"])
        stand_in = {f: "eng_Latn" if f == "eng_Latn" or len(folders) == 1 else next(others) for f in folders}
        recipe["ingest"]["languages"] = list(stand_in.values())
        recipe["languages"] = {n: [stand_in[t] for t in w] if isinstance(w, list) else w for n, w in recipe["languages"].items()}
        return stand_in
    for (name, wave), size in zip(recipe["languages"].items(), WAVE_SIZES, strict=False):
        if wave != "all":
            recipe["languages"][name] = list(TINY_LANGUAGES[:size]) if isinstance(wave, list) else {"top": size}
    return {t: t for t in TINY_LANGUAGES} | BUCKETS


def _phase(phase: Data, peak: float, stand_in: dict[str, str]) -> None:
    context = 64 if phase["context"] <= 1024 and phase["rope_theta"] == 10_000 else 128
    phase |= {
        "tokens": CONSTANT if phase["lr"]["shape"] == "constant" else DECAY,
        "context": context,
        "batch_tokens": BATCH,
        "min_piece": min(phase["min_piece"], context // 4),
        "evaluations": 2,
        "checkpoints": min(2, phase["checkpoints"]),
    }
    phase["lr"] |= {"peak": PEAK * phase["lr"]["peak"] / peak, "warmup": 4_000 if phase["lr"]["warmup"] else 0}
    if "batch_warmup" in phase:
        phase["batch_warmup"] = {"start": 2 * context, "tokens": 8_000}
    buckets: Data = {}
    for name, bucket in phase["buckets"].items():
        folder = stand_in.get(bucket["source"])
        if folder and folder not in [b["source"] for b in buckets.values()]:
            buckets[name] = {**bucket, "source": folder}
    phase["buckets"] = buckets
