"""Parts of speech and named entities: where the published layouts put their files, and the suites over them.

`udpos/<treebank>/{train,dev,test}.txt` (two columns), `udpos/UD_*/*-ud-{train,dev,test}.conllu`, XTREME's
`udpos/{train,dev,test}-<lang>.tsv`; WikiANN `panx/<lang>/{train,dev,test}` and `panx/{split}-<lang>.tsv`; MasakhaNER
`masakhaner2/data/<lang>/{train,dev,test}.txt`; CoNLL `conll/<lang>/{train,dev,test}.txt`.
All also as .gz and .zst. Treebanks of one language are taken together, as XTREME does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from mmenc.data import tags
from mmenc.downstream import conll
from mmenc.downstream.sources import Data
from mmenc.downstream.tables import plain, tag_of
from mmenc.downstream.task import PARTS, Missing, Parts, Recipe, Suite
from mmenc.downstream.tokens import ACCURACY, ENTITY_F1, Tagging

UPOS = tuple("ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split())  # noqa: SIM905
ENDINGS = ("", ".txt", ".tsv", ".conll", ".conllu")
Files = dict[str, dict[str, list[Path]]]
"""{language: {part: files}}"""


def bio(*types: str) -> tuple[str, ...]:
    """O, B- and I- of every type."""
    return ("O", *(f"{p}-{t}" for t in types for p in "BI"))


def _place(path: Path, root: Path) -> tuple[str, str]:
    """Language and part that a file's place names; empty where it is none of the layouts."""
    name = plain(path)
    stem = next((name.removesuffix(e) for e in ENDINGS if e and name.endswith(e)), name)
    folder = path.parent.name if path.parent != root else ""
    treebank, ud, part = stem.partition("-ud-")
    if ud and part in PARTS:
        return treebank.split("_")[0], part
    part, dash, language = stem.partition("-")
    if dash and part in PARTS:
        return language, part
    return (folder if tags.TAG.match(folder) else folder.split("_")[0], stem) if folder and stem in PARTS else ("", "")


def files_below(data: Data, folders: tuple[str, ...]) -> Files:
    """Every labelled file of a data set."""
    roots = data.folders(*folders)
    if not roots:
        raise Missing(f"no folder {' or '.join(folders)} in --data")
    found: Files = {}
    for path in sorted(p for p in roots[0].rglob("*") if p.is_file()):
        language, part = _place(path, roots[0])
        if part:
            found.setdefault(tag_of(language), {}).setdefault(part, []).append(path)
    if not found:
        raise Missing(f"the folder {roots[0].name} in --data holds no file of a known layout")
    return found


def _languages(data: Data, folders: tuple[str, ...]) -> list[str]:
    return sorted(files_below(data, folders))


def _read(data: Data, language: str, folders: tuple[str, ...]) -> Parts:
    found = files_below(data, folders)[language]
    return {part: [s for path in found.get(part, []) for s in conll.read(data, path)] for part in PARTS}


def tagging(name: str, labels: tuple[str, ...], folders: tuple[str, ...], recipe: Recipe, entity: bool = True) -> Tagging:
    """A task over the files of one of some folders."""
    lister: Callable[[Data], list[str]] = partial(_languages, folders=folders)
    reader: Callable[[Data, str], Parts] = partial(_read, folders=folders)
    return Tagging(name, labels, lister, reader, ENTITY_F1 if entity else ACCURACY, recipe)


TRANSFER = ("zero-shot",)
POS = tagging("udpos", UPOS, ("udpos",), Recipe(epochs=3, modes=TRANSFER), entity=False)
WIKIANN = tagging("wikiann", bio("PER", "ORG", "LOC"), ("panx", "wikiann"), Recipe(epochs=3, modes=TRANSFER))
NER = tagging(
    "masakhaner", bio("PER", "ORG", "LOC", "DATE"), ("masakhaner2", "masakhaner"), Recipe(epochs=5, modes=("language",))
)
CONLL = tagging("conll", bio("PER", "ORG", "LOC", "MISC"), ("conll",), Recipe(epochs=5, modes=("language",)))
UDPOS = Suite("udpos", [POS])
WIKIANN_SUITE = Suite("wikiann", [WIKIANN])
MASAKHANER = Suite("masakhaner", [NER])
CONLL_SUITE = Suite("conll", [CONLL])
