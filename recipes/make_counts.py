"""Tokens available per language and source for the mmBERT recipes, derived from what mmBERT sampled; run by hand.

    pip install babel==2.18.0      # CLDR's table of scripts; no dependency of mmenc
    python recipes/make_counts.py PUBLISHED.csv > recipes/mmbert-counts.csv

PUBLISHED.csv is `language_counts.csv` of JHU-CLSP/mmBERT: tokens *sampled* per ISO 639-3 code in `pretrain` (τ 0.7),
`ext` (0.5) and the decays (0.3). What was *available* is unpublished; with p ∝ n^τ it is n ∝ t^(1/τ) up to a scale.

1. The 59 sampled languages of `pretrain` (English and code come from fixed buckets): n ∝ t^(1/0.7).
2. The 49 that `ext` adds: n ∝ t^(1/0.5), chained to 1 by the median of the ratio over the 59 that both have.
3. Scale: the languages that `ext` added are those with more than about 200M tokens (recipe notes section 3), so the
   smallest of the 49 is given 200M. (Russian then has about 660 billion, what FineWeb2 has of it to the order.)
4. `decay-all` was capped by its data, not n^0.3: its 1724 further languages have what it read of them, at one epoch; and
   no language has less than it read of it there (this raises two: Xhosa, which pretrain too had capped, and Narom).
5. English beside the buckets (MegaWika): what `pretrain` counts beyond Table 1's English sources, on the curve of 1.
6. Sources of the buckets: the most that one phase of mmbert-base.yaml reads (Table 1 where it has a row), hence ≤ 1 epoch.

Tags are FineWeb2's: code and script. Script: TAGS below where FineWeb2's folder is known to differ from CLDR or CLDR has
none; else the likely script of CLDR (babel); else `Zyyy` (undetermined, ISO 15924), said on standard error: never Latin by
silence. A code with two scripts in FineWeb2 is one row, as it is one in the published file.
"""

from __future__ import annotations

import csv
import statistics
import sys
from pathlib import Path

TAU = {"pretrain": 0.7, "ext": 0.5}
SMALLEST_MIDDLE = 200e6
ENGLISH_SOURCES = 1e9 * (600.0 + 27.8 + 8.4 + 18.6 + 15.3 + 11.2 + 4.3)
"""Table 1, pretrain: DCLM, ArXiv, PeS2o, StackExchange (Dolma), Tulu Flan, Dolmino Math, Books; Dolmino's StackExchange is
counted as code in the published file (100.6 + 1.4 = 102.0 there, 17.2 + 2.8 = 20.0 in `ext`)."""
SOURCES = {  # billions: the largest use in one phase of mmbert-base.yaml
    "dclm": 600.0,
    "dolmino-dclm": 40.0,
    "starcoder": 100.6,
    "code-repos": 5.8,
    "arxiv": 27.8,
    "pes2o": 8.4,
    "stackexchange-dolma": 18.6,
    "stackexchange-dolmino": 2.8,
    "tulu-flan": 15.3,
    "dolmino-math": 11.2,
    "books": 4.3,
    "textbooks": 3.1,
    "megawika": 9.5,
}
TAGS = (
    "cmn_Hani lzh_Hani wuu_Hani yue_Hani kor_Hang jpn_Jpan hak_Latn hif_Latn mww_Latn hnj_Latn "
    "ain_Latn blt_Latn bsq_Latn btd_Latn ccp_Latn ctd_Latn nnp_Latn non_Latn nst_Latn rhg_Latn tbk_Latn "
    "nod_Thai wsg_Telu suz_Deva grc_Grek abq_Cyrl sjo_Mong con_Latn eml_Latn nah_Latn oto_Latn quh_Latn swc_Latn tlh_Latn"
)


def script_of() -> dict[str, str]:
    """Likely script per ISO 639-3 code: CLDR's, under the code or the two-letter code that stands for it."""
    from babel.core import get_global

    likely, aliases = get_global("likely_subtags"), get_global("language_aliases")
    scripts = {code: tag.split("_")[1] for code, tag in likely.items() if "_" not in code}
    scripts |= {code: scripts[short] for code, short in aliases.items() if code not in scripts and short in scripts}
    return scripts | dict(tag.split("_") for tag in TAGS.split())


def available(sampled: dict[str, dict[str, int]]) -> dict[str, float]:
    """Tokens available per code (rules 1 to 5)."""
    languages = {code: row for code, row in sampled.items() if code not in ("eng", "code")}
    first = {c: r["pretrain"] ** (1 / TAU["pretrain"]) for c, r in languages.items() if r["pretrain"]}
    second = {c: r["ext"] ** (1 / TAU["ext"]) for c, r in languages.items() if r["ext"]}
    chain = statistics.median(first[c] / second[c] for c in first)
    added = {c: chain * n for c, n in second.items() if c not in first}
    scale = SMALLEST_MIDDLE / min(added.values())
    found = {c: scale * n for c, n in (first | added).items()}
    found |= {c: max(found.get(c, 0.0), r["decay-all"]) for c, r in languages.items()}
    found["eng"] = scale * (sampled["eng"]["pretrain"] - ENGLISH_SOURCES) ** (1 / TAU["pretrain"])
    return found


def main() -> None:
    """Write `language,tokens`: languages by tag, then sources."""
    with Path(sys.argv[1]).open(encoding="utf-8") as stream:
        rows = csv.DictReader(stream)
        sampled = {r["language"]: {k: int(v) for k, v in r.items() if k != "language"} for r in rows}
    scripts = script_of()
    counts = available(sampled)
    unknown = sorted(code for code in counts if code not in scripts)
    print("language,tokens")
    for code in sorted(counts):
        print(f"{code}_{scripts.get(code, 'Zyyy')},{round(counts[code])}")
    for source, billions in SOURCES.items():
        print(f"{source},{round(billions * 1e9 * 1.001)}")  # 0.1 %: shares in the recipes are rounded
    print(f"{len(counts)} languages; script unknown: {len(unknown)} {' '.join(unknown)}", file=sys.stderr)


if __name__ == "__main__":
    main()
