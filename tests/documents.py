"""What README.md and docs/*.md tell a reader to type: fenced blocks with their markers, commands and paths named in a text.

The line above a block of commands says what the tests do with it, as a comment that no reader sees:
`<!-- run -->` runs it in a finished tiny run, `<!-- run: exit 1 -->` expects that exit code, `<!-- not run: REASON -->` only
checks its words, for one of REASONS. Output, trees and sketches are fenced as `text`.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.pipeline import REPO

SHELLS = ("", "bash", "console", "sh", "shell")
REASONS = (
    "needs a cluster",
    "needs a container engine",
    "needs a GPU",
    "needs a hub",
    "needs a server",
    "needs a bucket",
    "needs several machines",
    "needs your data",
    "takes minutes",
    "waits for you",
)
TOP = ["benchmarks", "components", "docs", "expectations", "images", "notebooks", "pipelines", "recipes", "src", "tests"]
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_MARKER = re.compile(r"<!-- (run|not run)(?:: (.+?))? -->$")
_PATH = re.compile(rf"(?<![\w/.}}-])(?:{'|'.join(TOP)})/[\w./*-]*")


@dataclass(frozen=True)
class Block:
    """One fenced block: where it stands, what it is, what its marker says."""

    page: str
    line: int
    language: str
    body: str
    marker: str
    detail: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def script(self) -> str:
        """The commands; of a console those behind `$ `."""
        if self.language != "console":
            return self.body
        return "".join(line[2:] for line in self.body.splitlines(keepends=True) if line.startswith("$ "))


def pages() -> list[Path]:
    """Every page that readers see."""
    return [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]


def blocks() -> list[Block]:
    """Every fenced block of every page, without its indentation."""
    found = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            before = text[: match.start()].rstrip("\n")
            marker = _MARKER.search(before.rpartition("\n")[2].strip())
            body = re.sub(rf"^{match['indent']}", "", match["body"], flags=re.MULTILINE)
            kind, detail = (marker[1], marker[2] or "") if marker else ("", "")
            name = page.relative_to(REPO).as_posix()
            found.append(Block(name, before.count("\n") + 2, match["language"], body, kind, detail))
    return found


def commands(script: str) -> list[list[str]]:
    """Words of every command of a script: comments, assignments, redirections and `…` are gone."""
    found: list[list[str]] = []
    for line in script.replace("\\\n", " ").splitlines():
        words: list[str] = []
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|()<>")
        lexer.whitespace_split = True
        for word in [*lexer, ";"]:
            if word and set(word) <= set("&;|()"):
                while words and re.match(r"[A-Za-z_]\w*=", words[0]):
                    words = words[1:]
                if words:
                    found.append(words)
                words = []
            elif word != "…":
                words.append(word)
    return [_unredirected(words) for words in found]


def _unredirected(words: list[str]) -> list[str]:
    at = next((i for i, word in enumerate(words) if set(word) <= set("<>&")), len(words))
    return words[:at]


def spans(page: Path) -> list[str]:
    """Inline code of a page, blocks aside."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [re.sub(r"\s+", " ", code) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]


def repository_paths(text: str) -> list[str]:
    """Paths of this repository that a text names; a folder's slash and a sentence's full stop are cut off."""
    return [path.rstrip("./") for path in _PATH.findall(text)]
