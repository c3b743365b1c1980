"""MediaWiki XML dumps: articles of namespace 0, no redirects, markup stripped by mwparserfromhell.

Decision: expat hands out the file in pieces and only the page at hand is kept; text beyond the limit is counted, not kept.
Files, categories and links to other languages go by the names that the dump's own site table has for them; tables,
references, galleries and formulas are no running text and go too. The standard library's expat (2.4.1 on) refuses entity
bombs itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

from mmenc.data.sources import Item, Made, Maker
from mmenc.data.sources.stream import damage, open_bytes
from mmenc.errors import Refused
from mmenc.sections_data import Ingest

NO_TEXT = {"ref", "references", "table", "gallery", "math", "chem", "score", "timeline", "imagemap", "syntaxhighlight", "source"}
NO_TEXT |= {"templatedata", "graph", "mapframe", "maplink", "hiero", "style", "script"}
FILES, CATEGORIES = ("-2", "6"), "14"
LANGUAGE_LINK = re.compile(r"^[a-z]{2,3}(-[a-z-]+)?$")


class _Pages:
    """Collects one page after the other from expat's calls."""

    def __init__(self, limit: int) -> None:
        self.limit, self.ready = limit, []  # type: tuple[int, list[dict[str, Any]]]
        self.page: dict[str, Any] = {}
        self.path: list[str] = []
        self.text: list[str] = []
        self.size = 0
        self.key = ""
        self.namespaces: dict[str, str] = {"file": "6", "image": "6", "media": "-2", "category": CATEGORIES}
        self.database = ""
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.data

    def start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(":")[2]
        self.path.append(name)
        if len(self.path) > 50:
            raise Refused("is nested deeper than any dump")
        self.text, self.size = [], 0
        if name == "page":
            self.page = {}
        elif name == "redirect":
            self.page["redirect"] = True
        elif name == "namespace":
            self.key = attributes.get("key", "")

    def data(self, text: str) -> None:
        if self.size <= self.limit:
            self.text.append(text[: self.limit])
        self.size += len(text.encode())

    def end(self, name: str) -> None:
        name = name.rpartition(":")[2]
        parent = self.path[-2] if len(self.path) > 1 else ""
        text = "".join(self.text)
        if name == "namespace":
            self.namespaces[text.strip().lower()] = self.key
        elif name == "dbname":
            self.database = text.strip()
        elif parent == "page" and name in ("id", "ns", "title"):
            self.page[name] = text.strip()
        elif parent == "revision" and name in ("text", "model"):
            self.page[name] = text
            if name == "text":
                self.page["size"] = self.size
        elif name == "page":
            self.ready.append(self.page)
        self.path.pop()
        self.text, self.size = [], 0


def documents(file: Path, item: Item, settings: Ingest) -> Iterator[Made]:
    """Yield a document per article."""
    maker = Maker(file, item, settings)
    pages = _Pages(settings.max_document_bytes)
    for page in _read(file, pages, settings):
        plain = page.get("model", "wikitext") == "wikitext"
        if page.get("ns", "0") != "0" or "redirect" in page or not plain or not page.get("size"):
            continue
        number = page.get("id", "")
        where = f"page {number} ({page.get('title', '')[:80]})"
        if page["size"] > settings.max_document_bytes:
            yield maker.too_long(where, page["size"], page["text"])
            continue
        row = {maker.columns["id"]: f"{pages.database}/{number}"} if pages.database and number else {}
        if text := strip(page["text"], pages.namespaces):
            yield maker.document(number, text, row, where)


def _read(file: Path, pages: _Pages, settings: Ingest) -> Iterator[dict[str, Any]]:
    with open_bytes(file, settings.max_expansion) as stream:
        while True:
            with damage(file):
                data = stream.read1(2**18)
            try:
                pages.parser.Parse(data, not data)
            except expat.ExpatError as error:
                raise Refused(f"{file}: not a whole MediaWiki dump ({error}); fetch the file again") from None
            except Refused as error:
                raise Refused(f"{file}: {error}") from None
            yield from pages.ready
            pages.ready.clear()
            if not data:
                return


def strip(text: str, namespaces: dict[str, str]) -> str:
    """The running text of an article."""
    try:
        import mwparserfromhell as mw
    except ModuleNotFoundError:
        raise Refused("wiki sources need mwparserfromhell; `pip install 'mmenc[sources]'` brings it") from None
    code = mw.parse(text)
    for tag in code.filter_tags(recursive=True, matches=lambda t: str(t.tag).strip().lower() in NO_TEXT):
        _drop(code, tag)
    for link in code.filter_wikilinks(recursive=True):
        prefix, colon, _ = str(link.title).strip().partition(":")
        prefix = prefix.strip().lower()
        if not colon or not prefix:
            continue
        if namespaces.get(prefix) in (*FILES, CATEGORIES) or (prefix not in namespaces and LANGUAGE_LINK.match(prefix)):
            _drop(code, link)
    plain = str(code.strip_code(normalize=True, collapse=True))
    lines = [line.strip() for line in plain.splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _drop(code: Any, node: Any) -> None:
    try:
        code.remove(node)
    except ValueError:  # went away with what it stood in
        return
