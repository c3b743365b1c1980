"""Translation catalogues as text: two wheels hold the same interface in 57 and 98 locales.

Decisions, each taken from a look at Home Assistant 2024.3.3 and Django 5.2:

* A tag is ISO 639-3 + ISO 15924. Languages follow FineWeb2 (macro-languages resolved to one individual language, but
  ``fas`` kept), scripts are read from the text itself, so a mislabelled file cannot put Latin text under ``_Cyrl``.
* A string is kept if it reads like a sentence: 3 words, or 2 words of together 20 letters (Finnish, Hungarian), or,
  in scripts without spaces, 8 letters (Han, kana) or 12 (Thai, Lao, Khmer, Burmese, Tibetan); and if half of its
  letters are in the language's script and half of its characters are letters.
* A string equal to its English original is untranslated and is dropped from every language but English; a string
  without an English original is an obsolete key and is dropped too.
* A string counts once per language, digits set aside ("Button 1 pressed"), and lands in the first component whose
  *English* catalogue has it, so that translations of one sentence share a group and are held out together.
* A document is one component of one locale; beyond 16,000 characters it is split, below 40 bytes it is dropped.
"""

from __future__ import annotations

import ast
import functools
import gettext
import html
import io
import json
import re
import unicodedata
import zipfile
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from mmenc.errors import Refused, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIN_DOCUMENT_BYTES = 40
MAX_DOCUMENT_CHARACTERS = 16_000


class Document(NamedTuple):
    """One line of the corpus (without the language tag, which is the folder's name); key order is field order."""

    id: str
    text: str
    source: str
    license: str
    group: str


class Entry(NamedTuple):
    """One translated string of one locale."""

    component: str
    english: str
    text: str


# ---------------------------------------------------------------------------------------------- languages and scripts


def _table(pairs: str) -> dict[str, str]:
    """Read "key:value key:value …"."""
    return {key: value for key, _, value in (pair.partition(":") for pair in pairs.split())}


# Macro-language -> the individual language meant by it, as FineWeb2 writes it. FineWeb2 keeps ``fas`` for Persian, so
# ``pes`` goes there; ``zlm`` declarations are standard Malay; the one declaration under ``que`` is Unified Quichua.
INDIVIDUAL = _table(
    "ara:arb aze:azj est:ekk fas:fas grn:gug kur:kmr lav:lvs mlg:plt mon:khk msa:zsm nep:npi nor:nob orm:gaz ori:ory "
    "pes:fas pus:pbt que:qud sqi:als swa:swh uzb:uzn yid:ydd zho:cmn zlm:zsm iku:ike"
)

# Language subtag of a locale -> ISO 639-3 (macro codes are resolved by INDIVIDUAL).
_ISO639_3 = _table(
    "af:afr am:amh ar:ara ast:ast az:aze be:bel bg:bul bn:ben br:bre bs:bos ca:cat ckb:ckb cs:ces cy:cym da:dan de:deu "
    "dsb:dsb el:ell en:eng eo:epo es:spa et:est eu:eus fa:fas fi:fin fr:fra fy:fry ga:gle gd:gla gl:glg gsw:gsw he:heb "
    "hi:hin hr:hrv hsb:hsb hu:hun hy:hye ia:ina id:ind ig:ibo io:ido is:isl it:ita ja:jpn ka:kat kab:kab kk:kaz km:khm "
    "kn:kan ko:kor ku:kur ky:kir lb:ltz lt:lit lv:lav mk:mkd ml:mal mn:mon mr:mar ms:msa my:mya nb:nob ne:nep nl:nld "
    "nn:nno no:nor os:oss pa:pan pl:pol pt:por ro:ron ru:rus sk:slk sl:slv sq:sqi sr:srp sv:swe sw:swa ta:tam te:tel "
    "tg:tgk th:tha tk:tuk tr:tur tt:tat udm:udm ug:uig uk:ukr ur:urd uz:uzb vi:vie zh:zho"
)

# First word (or two) of a letter's Unicode name -> ISO 15924.
_SCRIPTS = _table(
    "LATIN:Latn CYRILLIC:Cyrl GREEK:Grek ARMENIAN:Armn GEORGIAN:Geor HEBREW:Hebr ARABIC:Arab SYRIAC:Syrc THAANA:Thaa "
    "ETHIOPIC:Ethi CHEROKEE:Cher CANADIAN:Cans MONGOLIAN:Mong TIFINAGH:Tfng NKO:Nkoo VAI:Vaii ADLAM:Adlm YI:Yiii "
    "DEVANAGARI:Deva BENGALI:Beng GURMUKHI:Guru GUJARATI:Gujr ORIYA:Orya TAMIL:Taml TELUGU:Telu KANNADA:Knda "
    "MALAYALAM:Mlym SINHALA:Sinh THAI:Thai LAO:Laoo TIBETAN:Tibt MYANMAR:Mymr KHMER:Khmr TAGALOG:Tglg JAVANESE:Java "
    "BALINESE:Bali GRANTHA:Gran CHAKMA:Cakm TAI-VIET:Tavt TAI-THAM:Lana TAI-LE:Tale CJK:Hani IDEOGRAPHIC:Hani "
    "HANGUL:Kore HIRAGANA:Jpan KATAKANA:Jpan BOPOMOFO:Bopo"
)
_CHINESE = frozenset(("cmn", "cjy", "gan", "hak", "hsn", "nan", "wuu", "yue"))
_SIMPLIFIED = frozenset("国权会们个这为与无应时对过从发来开设备连证该请错误输须")
_TRADITIONAL = frozenset("國權會們個這為與無應時對過從發來開設備連證該請錯誤輸須")
_UNSPACED = {"Hans": 8, "Hant": 8, "Jpan": 8, "Thai": 12, "Laoo": 12, "Khmr": 12, "Mymr": 12, "Tibt": 12}
_TAG = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")


@functools.cache
def _letter_script(letter: str) -> str:
    """Return the script of one character, or "" where it has none that tells languages apart."""
    if not letter.isalpha():
        return ""
    words = unicodedata.name(letter, "").split()
    return next((_SCRIPTS[key] for key in ("-".join(words[:2]), *words[:1]) if key in _SCRIPTS), "")


def scripts_of(text: str) -> Counter[str]:
    """Count the letters of ``text`` per script: Han ideographs apart as Hani, kana as Jpan."""
    counts: Counter[str] = Counter()
    for letter, n in Counter(text).items():
        if script := _letter_script(letter):
            counts[script] += n
    return counts


def tag_of(language: str, text: str) -> str:
    """Return the tag of ``text`` in ``language`` (ISO 639-3): the script is the one that most letters have.

    Han text is Jpan if a tenth or more is kana, Hans or Hant for Chinese languages by counting 26 telling pairs.
    """
    language = INDIVIDUAL.get(language, language)
    counts = scripts_of(text)
    script = max(sorted(counts), key=lambda name: counts[name], default="Zyyy")
    if script == "Hani" and counts["Jpan"] * 10 >= counts["Hani"]:
        script = "Jpan"
    if script == "Hani" and language in _CHINESE:
        simplified = sum(letter in _SIMPLIFIED for letter in text)
        script = "Hans" if simplified >= sum(letter in _TRADITIONAL for letter in text) else "Hant"
    tag = f"{language}_{script}"
    if not _TAG.fullmatch(tag):
        raise Refused(f"language {language!r} with script {script!r} gives the tag {tag!r}, expected one such as 'fao_Latn'")
    return tag


def language_of(locale: str) -> str:
    """Return the ISO 639-3 individual language of a locale such as ``pt_BR``, ``zh-Hans`` or ``es-419``."""
    subtag = re.split("[-_]", locale)[0].lower()
    if subtag not in _ISO639_3:
        raise Refused(f"locale {locale!r} has no ISO 639-3 code in catalogues.py{nearest(subtag, _ISO639_3)}")
    code = _ISO639_3[subtag]
    return INDIVIDUAL.get(code, code)


# ------------------------------------------------------------------------------------------------ cleaning and filter

_SPECIAL = re.compile(r"[<&\[`*\n]")
_FENCE = re.compile(r"```.*?```", re.DOTALL)
_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_LINK = re.compile(r"\[([^\]\n]*)\](?:\([^)\n]*\)| \([^)\s]*://[^)\s]*\))")
_MARKUP = re.compile(r"</?(?:a|abbr|b|br|cite|code|em|h\d|i|li|p|span|strong|ul)\b[^<>]*>")
_DIGITS = re.compile(r"\d+")
_PLACEHOLDER = re.compile(r"\{[^{}]*\}|%\([^)]*\)[a-z]|%[a-z]\b|`[^`]*`|\S+://\S+|\S+@\S+")


def clean(text: str) -> str:
    """Strip HTML tags, Markdown links, images, code blocks, emphasis; keep lines and placeholders such as {name}."""
    if not _SPECIAL.search(text):
        return " ".join(text.split())
    text = _MARKUP.sub(" ", html.unescape(_LINK.sub(r"\1", _IMAGE.sub("", _FENCE.sub("", text)))))
    lines = (" ".join(line.replace("**", "").split()) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def is_prose(text: str, script: str) -> bool:
    """Say whether a cleaned string is a sentence in ``script`` (thresholds at the top of this file)."""
    core = _PLACEHOLDER.sub(" ", text)
    counts = scripts_of(core)
    letters = sum(counts.values())
    own = counts[script]
    if script in ("Hans", "Hant", "Jpan"):
        own = counts["Hani"] + (counts["Jpan"] if script == "Jpan" else 0)
    if own * 2 < letters or letters * 2 < len("".join(core.split())):
        return False
    if script in _UNSPACED:
        return own >= _UNSPACED[script]
    words = sum(any(character.isalpha() for character in word) for word in core.split())
    return words >= 3 or (words == 2 and letters >= 20)


def _fold(text: str) -> str:
    """Return the key under which two strings count as one: case, digits and spacing set aside."""
    return " ".join(_DIGITS.sub("0", text).casefold().split())


@functools.lru_cache(maxsize=1 << 16)
def _key(english: str) -> str:
    """Return the folded, cleaned original: the identity of a sentence over all languages."""
    return _fold(clean(english))


# ---------------------------------------------------------------------------------------------------------- documents


def documents(
    source: str, license_: str, english: list[Entry], locales: Iterator[tuple[str, list[Entry]]]
) -> Iterator[tuple[str, Document]]:
    """Yield (tag, document) over all locales, English first; strings are filtered and deduplicated per tag."""
    owner: dict[str, str] = {}
    for entry in english:
        owner.setdefault(_key(entry.english), entry.component)
    seen: dict[str, set[str]] = {}
    for locale, entries in _with_english(english, locales):
        strings = [(owner[key], key, clean(e.text)) for e in entries if (key := _key(e.english)) in owner]
        if not locale.startswith("en"):
            strings = [(component, key, text) for component, key, text in strings if _fold(text) != key]
        if not any(scripts_of(text) for _, _, text in strings):
            continue
        tag = tag_of(language_of(locale), "\n".join(text for _, _, text in strings))
        kept: dict[str, list[str]] = {}
        known = seen.setdefault(tag, set())
        for component, _, text in strings:
            if (fold := _fold(text)) not in known and is_prose(text, tag[4:]):
                known.add(fold)
                kept.setdefault(component, []).append(text)
        for component in sorted(kept):
            for name, text in _parts(f"{source}/{locale}/{component}", kept[component]):
                yield tag, Document(name, text, source, license_, f"{source}/{component}")


def _with_english(english: list[Entry], locales: Iterator[tuple[str, list[Entry]]]) -> Iterator[tuple[str, list[Entry]]]:
    """Put the originals in front as locale ``en``."""
    yield "en", english
    yield from locales


def _parts(name: str, strings: list[str]) -> Iterator[tuple[str, str]]:
    """Join strings to documents of at most 16,000 characters (a longer string stays whole), numbered if several."""
    parts: list[list[str]] = [[]]
    size = 0
    for text in strings:
        if parts[-1] and size + len(text) > MAX_DOCUMENT_CHARACTERS:
            parts.append([])
            size = 0
        parts[-1].append(text)
        size += len(text) + 1
    for number, part in enumerate(parts, start=1):
        text = "\n".join(part)
        if len(text.encode()) >= MIN_DOCUMENT_BYTES:
            yield (f"{name}/{number}" if len(parts) > 1 else name), text


# ----------------------------------------------------------------------------------------------------- Home Assistant

_HA_FILE = re.compile(r"homeassistant/components/([^/]+)/translations/(?:(\w+)\.)?([a-zA-Z0-9-]+)\.json")


def home_assistant(wheel: Path) -> Iterator[tuple[str, Document]]:
    """Yield the documents of ``components/<component>/translations/[<platform>.]<locale>.json`` (Apache-2.0)."""
    with zipfile.ZipFile(wheel) as archive:
        files: dict[str, list[tuple[str, str, str]]] = {}
        for name in sorted(archive.namelist()):
            if match := _HA_FILE.fullmatch(name):
                files.setdefault(match[3], []).append((match[1], match[2] or "", name))
        keys: dict[tuple[str, str, str], str] = {}
        for component, platform, name in files.pop("en"):
            for key, text in _flat(json.loads(archive.read(name))):
                keys[component, platform, key] = text

        def locale_entries(locale: str) -> list[Entry]:
            return [
                Entry(component, keys[component, platform, key], text)
                for component, platform, name in files[locale]
                for key, text in _flat(json.loads(archive.read(name)))
                if (component, platform, key) in keys
            ]

        english = [Entry(component, text, text) for (component, _, _), text in keys.items()]
        locales = ((locale, locale_entries(locale)) for locale in sorted(files))
        yield from documents("homeassistant", "Apache-2.0", english, locales)


def _flat(node: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path, string) over a nested JSON object."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _flat(value, f"{path}/{key}")


# ------------------------------------------------------------------------------------------------------------- Django

_DJANGO_FILE = re.compile(r"django/(?:contrib/)?(\w+)/locale/(\w+)/LC_MESSAGES/(django|djangojs)\.(mo|po)")
_PO_STRING = re.compile(r'^(msgid|msgid_plural) ((?:"(?:[^"\\]|\\.)*"\n?)+)', re.MULTILINE)


def django(wheel: Path) -> Iterator[tuple[str, Document]]:
    """Yield the documents of the compiled catalogues of django/conf and django/contrib (BSD-3-Clause).

    English is read from the English ``.po`` (its compiled catalogue is empty); of plural forms only the last is kept.
    """
    with zipfile.ZipFile(wheel) as archive:
        english: list[Entry] = []
        files: dict[str, list[tuple[str, str]]] = {}
        for name in sorted(archive.namelist()):
            match = _DJANGO_FILE.fullmatch(name)
            if match and match[2] == "en" and match[4] == "po":
                texts = po_originals(archive.read(name).decode("utf-8"))
                english.extend(Entry(match[1], text, text) for text in texts)
            elif match and match[2] != "en" and match[4] == "mo":
                files.setdefault(match[2], []).append((match[1], name))
        locales = (
            (locale.replace("_", "-"), [entry for app, name in files[locale] for entry in _mo(app, archive.read(name))])
            for locale in sorted(files)
        )
        yield from documents("django", "BSD-3-Clause", english, locales)


def po_originals(text: str) -> list[str]:
    """Return the originals of a ``.po`` file in order, singulars and plurals."""
    found = ("".join(ast.literal_eval(line) for line in match[2].splitlines()) for match in _PO_STRING.finditer(text))
    return [original for original in found if original]


def _mo(app: str, data: bytes) -> Iterator[Entry]:
    """Yield the strings of a compiled catalogue in its order; the metadata and all but the last plural are left out."""
    catalogue: dict[object, str] = vars(gettext.GNUTranslations(io.BytesIO(data)))["_catalog"]
    for key, text in catalogue.items():
        original, form = key if isinstance(key, tuple) else (key, 0)
        if original and not (isinstance(key, tuple) and (original, form + 1) in catalogue):
            yield Entry(app, str(original).split("\x04")[-1], text)
