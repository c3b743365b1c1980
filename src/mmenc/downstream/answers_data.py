"""Questions in the layout of SQuAD (1.1 and 2.0) and where each data set keeps its files.

Decisions: transfer is trained on SQuAD 1.1, English, and chosen on one in twenty of its *training* articles, never on its dev
file: XQuAD's paragraphs are taken out of that, and it would be choosing on test. TyDiQA-GoldP has its own English training
questions, of which one in ten documents is dev. Languages are named in files by two letters (`xquad.de.json`,
`test-context-de-question-de.json`); tables of ISO 639 and CLDR give the tag. Sets of one language (TiQuAD, FoQA), whose authors
name their files now so, now so, are read whatever they are called: every `*.json` in SQuAD's layout in the set's folder, without
those called train; where some are called test, these alone, else those that are not called dev. An answer whose offset does
not point at its text is looked for near it; where it cannot be found the question trains nothing, yet is tested.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmenc.downstream.sources import Data
from mmenc.downstream.tables import tag_of
from mmenc.downstream.task import Missing, Parts
from mmenc.errors import Refused

NAMES = {
    "english": "en", "arabic": "ar", "bengali": "bn", "finnish": "fi", "indonesian": "id", "korean": "ko", "russian": "ru",
    "swahili": "sw", "telugu": "te",
}  # fmt: skip
"""How TyDiQA-GoldP's own files and ids name its languages."""
ENGLISH = "eng_Latn"
ENDING = re.compile(r"\.json(\.gz|\.zst)?$")


@dataclass(frozen=True)
class Question:
    """One question about a paragraph."""

    id: str
    title: str
    text: str
    context: str
    answers: tuple[str, ...]
    """All that are right; none: the paragraph does not answer it."""
    start: int = -1
    """Character where the first one begins; -1: nowhere."""

    def __repr__(self) -> str:
        """Short and telling: what a run on it depends on."""
        told = json.dumps([self.id, self.title, self.text, self.context, self.answers, self.start], ensure_ascii=False)
        return f"Question({hashlib.sha256(told.encode()).hexdigest()[:24]})"


def _start(context: str, text: str, near: int) -> int:
    """Where an answer begins, searched around its offset; -1 if the paragraph does not hold it."""
    if context[near : near + len(text)] == text:
        return near
    found = [m.start() for m in re.finditer(re.escape(text), context)] if text else []
    return min(found, key=lambda at: abs(at - near)) if found else -1


def questions(data: Data, path: Path) -> list[Question]:
    """The questions of a file."""
    try:
        return list(_questions(json.loads("\n".join(data.lines(path)))))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise Refused(f"{path}: is not in the layout of SQuAD, data/paragraphs/qas ({why})") from None


def _questions(content: Any) -> Iterator[Question]:
    for number, article in enumerate(content["data"]):
        title = str(article.get("title", number))
        for paragraph in article["paragraphs"]:
            context = paragraph["context"]
            for qa in paragraph["qas"]:
                given = [] if qa.get("is_impossible") else qa["answers"]
                start = _start(context, given[0]["text"], int(given[0]["answer_start"])) if given else -1
                texts = tuple(dict.fromkeys(a["text"] for a in given))
                yield Question(str(qa["id"]), title, qa["question"], context, texts, start)


def share(title: str) -> float:
    """A number in [0, 1) that an article keeps for ever."""
    return int.from_bytes(hashlib.sha256(title.encode()).digest()[:8], "big") / 2**64


def held_out(found: Sequence[Question], part: float) -> tuple[list[Question], list[Question]]:
    """Training questions and the dev questions that are taken out of them, by whole articles."""
    return [q for q in found if share(q.title) >= part], [q for q in found if share(q.title) < part]


def files(root: Path) -> list[Path]:
    """JSON files of a folder and the folders in it."""
    return sorted(p for p in root.rglob("*.json*") if ENDING.search(p.name))


def _test_files(paths: Sequence[Path]) -> list[Path]:
    """Of files of any name those to test on: called test, or else neither train nor dev, or else dev."""
    names = {p: p.name.lower() for p in paths if "train" not in p.name.lower()}
    dev = [p for p, n in names.items() if "dev" in n or "val" in n]
    other = [p for p in names if p not in dev]
    return [p for p in other if "test" in names[p]] or other or dev


@dataclass(frozen=True)
class Layout:
    """A data set: its folders' names, and which of its files are test of which language."""

    folders: tuple[str, ...]
    test: re.Pattern[str] | None = None
    """Matches a test file's name; the group is the language's code, without one it is `language`. None: any name."""
    language: str = ""
    train: re.Pattern[str] | None = None
    """English questions of its own to train on; None: SQuAD's."""
    dev: float = 0.05

    def tests(self, data: Data) -> dict[str, list[Path]]:
        """Test files of each language."""
        found: dict[str, list[Path]] = {}
        roots = data.folders(*self.folders)
        paths = [p for root in roots for p in files(root)]
        if self.test is None and (chosen := _test_files(paths)):
            return {self.language: chosen}
        for path in paths if self.test else ():
            if self.test and (match := self.test.search(ENDING.sub("", path.name))):
                code = next((g for g in match.groups() if g), "")
                found.setdefault(self.language or tag_of(NAMES.get(code, code)), [path])
        if not found:
            kind = "test file" if self.test else "*.json in SQuAD's layout to test on (train*.json is not)"
            what = f"no {kind} in that folder of --data" if roots else "no such folder in --data"
            raise Missing(f"{' or '.join(self.folders)}: {what}")
        return found

    def training(self, data: Data) -> tuple[list[Question], list[Question]]:
        """Train and dev; both empty where there is nothing to train on."""
        roots = data.folders(*(self.folders if self.train else SQUAD_FOLDERS))
        wanted = self.train or SQUAD_TRAIN
        paths = [p for root in roots for p in files(root) if wanted.search(ENDING.sub("", p.name))]
        found = questions(data, paths[0]) if paths else []
        others = tuple(f"{name}-" for name in NAMES if name != "english")
        return held_out([q for q in found if not q.id.startswith(others)], self.dev)

    def parts(self, data: Data, language: str) -> Parts:
        """Train, dev and test of a language; all but English have test alone."""
        train, dev = self.training(data) if language == ENGLISH else ([], [])
        paths = self.tests(data).get(language, [])
        return {"train": train, "dev": dev, "test": [q for path in paths for q in questions(data, path)]}


SQUAD_FOLDERS = ("squad", "SQuAD", "squad1.1")
SQUAD_TRAIN = re.compile(r"^train-v1\.1$")
LAYOUTS = {
    "xquad": Layout(("xquad",), re.compile(r"^xquad\.([a-z]{2,3})$")),
    "mlqa": Layout(("mlqa", "MLQA_V1"), re.compile(r"^test-context-([a-z]{2})-question-\1$")),
    "tydiqa": Layout(
        ("tydiqa", "tydiqa-goldp"),
        re.compile(r"^tydiqa(?:\.goldp)?\.([a-z]{2})\.dev$|^tydiqa-goldp-dev-([a-z]+)$"),
        train=re.compile(r"^tydiqa(?:\.goldp)?\.en\.train$|^tydiqa-goldp-v1\.1-train$"),
        dev=0.1,
    ),
    "tiquad": Layout(("tiquad", "TiQuAD"), language="tir_Ethi"),
    "foqa": Layout(("foqa", "FoQA"), language="fao_Latn"),
    "squad2": Layout(
        ("squad2", "squad_v2"),
        re.compile(r"^dev-v2\.0$"),
        "eng_Latn",
        train=re.compile(r"^train-v2\.0$"),
    ),
}


class Split:
    """XQuAD alone, cut by article into train (3/5), dev and test: shows that the machinery works; no published protocol."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def tests(self, data: Data) -> dict[str, list[Path]]:
        """Files by language."""
        return self.layout.tests(data)

    def parts(self, data: Data, language: str) -> Parts:
        """Parallel articles fall into the same part in all languages (they are numbered alike)."""
        found = [q for path in self.tests(data)[language] for q in questions(data, path)]
        titles = {t: i for i, t in enumerate(dict.fromkeys(q.title for q in found))}
        names = ("train", "train", "train", "dev", "test")
        return {p: [q for q in found if names[titles[q.title] % 5] == p] for p in ("train", "dev", "test")}
