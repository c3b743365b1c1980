"""SIB-200, XNLI and PAWS-X in their published layouts.

SIB-200: `sib200/<tag>/{train,dev,test}.tsv` (index_id, category, text). XNLI: XTREME's `xnli/{train,dev,test}-<lang>.tsv`, the
official `xnli.{dev,test}.tsv` with `multinli.train.<lang>.tsv`, or `xnli/<lang>/{train,dev,test}.jsonl`. PAWS-X: XTREME's
`pawsx/{train,dev,test}-<lang>.tsv`, or the official `x-final/<lang>/{train,dev_2k,test_2k}.tsv`. All also as .gz and .zst.
With `--hub`, what is missing comes from the Hugging Face hub by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmenc.downstream import metrics as counting
from mmenc.downstream.classify import Classification, Labelled
from mmenc.downstream.sources import Data
from mmenc.downstream.tables import by_language, jsonl, labelled, tag_of, tsv
from mmenc.downstream.task import PARTS, Missing, Parts, Recipe, Suite

TOPICS = ("science/technology", "travel", "politics", "sports", "health", "entertainment", "geography")
NLI = ("entailment", "neutral", "contradiction")
SAME = ("0", "1")
PAIR = ("premise", "hypothesis", "label")
PAWS = ("sentence1", "sentence2", "label")
XNLI_CODES = ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")
PAWSX_CODES = ("de", "en", "es", "fr", "ja", "ko", "zh")
HUB_PARTS = {"train": "train", "dev": "validation", "test": "test"}


def folder_of(data: Data, *names: str) -> Path | None:
    """The folder of a data set, or None where the hub is to be asked instead."""
    found = data.folders(*names)
    if not found and not data.hub:
        raise Missing(f"no folder {' or '.join(names)} in --data (--hub fetches it)")
    return found[0] if found else None


def _code(codes: tuple[str, ...], language: str) -> str:
    return next(c for c in codes if tag_of(c) == language)


def _sib_names(data: Data) -> dict[str, str]:
    """How SIB-200 calls each language: FLORES' tags are not all today's (est_Latn is ekk_Latn); of two for one tag both stay."""
    folder = folder_of(data, "sib200")
    if folder is None:
        names = data.configurations("Davlan/sib200")
    else:
        names = sorted(p.name for p in folder.iterdir() if p.is_dir() and data.find(p / "test", ".tsv"))
    found = {name: name for name in names if tag_of(name) == name}
    for name in names:
        found.setdefault(tag_of(name) if tag_of(name) not in found else name, name)
    return found


def sib_languages(data: Data) -> list[str]:
    """Those with a test part."""
    return sorted(_sib_names(data))


def sib_read(data: Data, language: str) -> Parts:
    """Three tables."""
    folder, name = folder_of(data, "sib200"), _sib_names(data)[language]
    found: dict[str, list[Any]] = {}
    for part in PARTS:
        if folder is None:
            rows = data.fetch("Davlan/sib200", name, HUB_PARTS[part])
        else:
            rows = tsv(data, data.find(folder / name / part, ".tsv"), ("category", "text"))
        found[part] = labelled(rows, "text", "", "category", str)
    return found


def nli(value: Any) -> str:
    """A label in words, as a number of the hub, or MultiNLI's `contradictory` of the translated training set."""
    text = str(value)
    return NLI[int(text)] if text.isdigit() else "contradiction" if text == "contradictory" else text


def _nli_rows(rows: list[dict[str, Any]], columns: tuple[str, str, str]) -> list[Labelled]:
    return [e for e in labelled(rows, *columns, nli) if e.label in NLI]  # `-`: the annotators did not agree


def _official(data: Data, folder: Path, language: str) -> dict[str, list[Labelled]]:
    """XNLI-1.0 and the training sets of XNLI-MT-1.0."""
    found: dict[str, list[Labelled]] = {}
    for part in ("dev", "test"):
        rows = tsv(data, data.find(folder / f"xnli.{part}", ".tsv"), ("language", "gold_label", "sentence1", "sentence2"))
        mine = [r for r in rows if tag_of(r["language"]) == language]
        found[part] = _nli_rows(mine, ("sentence1", "sentence2", "gold_label"))
    path = data.find(folder / f"multinli.train.{_code(XNLI_CODES, language)}", ".tsv")
    found["train"] = _nli_rows(tsv(data, path, ("premise", "hypo", "label")), ("premise", "hypo", "label"))
    return found


def xnli_languages(data: Data) -> list[str]:
    """Those of the files; of the official ones all fifteen."""
    folder = folder_of(data, "xnli")
    if folder is None or data.find(folder / "xnli.test", ".tsv"):
        return sorted(tag_of(c) for c in XNLI_CODES)
    folders = {tag_of(p.name) for p in folder.iterdir() if p.is_dir() and data.find(p / "test", ".jsonl")}
    return sorted({*by_language(folder, ".tsv"), *folders})


def xnli_read(data: Data, language: str) -> Parts:
    """In whichever layout it lies there."""
    folder = folder_of(data, "xnli")
    if folder is None:
        code = _code(XNLI_CODES, language)
        return {p: _nli_rows(data.fetch("facebook/xnli", code, HUB_PARTS[p]), PAIR) for p in PARTS}
    if data.find(folder / "xnli.test", ".tsv"):
        return _official(data, folder, language)
    files = by_language(folder, ".tsv").get(language, {})
    if files:
        return {p: _nli_rows(tsv(data, files.get(p), PAIR, header=False), PAIR) for p in PARTS}
    own = next(p for p in sorted(folder.iterdir()) if p.is_dir() and tag_of(p.name) == language)
    return {p: _nli_rows(jsonl(data, data.find(own / p, ".jsonl"), PAIR), PAIR) for p in PARTS}


def _paws_folders(folder: Path) -> dict[str, Path]:
    """The official layout: a folder per language, perhaps below x-final."""
    inner = folder / "x-final" if (folder / "x-final").is_dir() else folder
    return {tag_of(p.name): p for p in sorted(inner.iterdir()) if p.is_dir()}


def pawsx_languages(data: Data) -> list[str]:
    """Those of the files."""
    folder = folder_of(data, "pawsx", "paws-x", "x-final")
    if folder is None:
        return sorted(tag_of(c) for c in PAWSX_CODES)
    return sorted({*by_language(folder, ".tsv"), *_paws_folders(folder)})


def pawsx_read(data: Data, language: str) -> Parts:
    """In whichever layout it lies there."""
    folder = folder_of(data, "pawsx", "paws-x", "x-final")
    if folder is None:
        code = _code(PAWSX_CODES, language)
        got = {p: data.fetch("google-research-datasets/paws-x", code, HUB_PARTS[p]) for p in PARTS}
        return {p: labelled(rows, *PAWS, str) for p, rows in got.items()}
    if files := by_language(folder, ".tsv").get(language, {}):
        return {p: labelled(tsv(data, files.get(p), PAWS, header=False), *PAWS, str) for p in PARTS}
    own = _paws_folders(folder)[language]
    found: dict[str, list[Any]] = {}
    for part, names in {"train": ("train", "translated_train"), "dev": ("dev_2k",), "test": ("test_2k",)}.items():
        path = next((p for n in names if (p := data.find(own / n, ".tsv"))), None)
        found[part] = labelled(tsv(data, path, PAWS), *PAWS, str)
    return found


METRICS = {"accuracy": counting.ACCURACY, "macro_f1": counting.MACRO_F1}
TRANSFER = ("zero-shot",)
SIB = Classification("sib200", TOPICS, sib_languages, sib_read, METRICS, Recipe(epochs=10, modes=TRANSFER))
XNLI = Classification("xnli", NLI, xnli_languages, xnli_read, recipe=Recipe(epochs=3, modes=TRANSFER))
PAWSX = Classification("pawsx", SAME, pawsx_languages, pawsx_read, recipe=Recipe(epochs=2, modes=TRANSFER))
SIB200 = Suite("sib200", [SIB])
XNLI_SUITE = Suite("xnli", [XNLI])
PAWSX_SUITE = Suite("pawsx", [PAWSX])
