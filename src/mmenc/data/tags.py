"""Language tags: ISO 639-3 code and ISO 15924 script (`fao_Latn`); other spellings go by published tables, never by a guess.

Decision: what is no such tag is turned into one only where a kept data source names exactly one answer, and every such answer
is reported. Codes, macro-languages and retired codes come from ISO 639-3 (iso639-lang: 7,923 codes); the language that stands
for a macro-language (ara: arb) and the scripts of a language from CLDR and the IANA registry (langcodes). Where they leave a
choice (nor: nno or nob; srp: Cyrl or Latn) the sentence lists it, and `ingest.aliases` says which; an alias to itself keeps
any name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from mmenc.errors import Refused, nearest

if TYPE_CHECKING:
    from mmenc.recipe import Recipe

TAG = re.compile(r"^[a-z]{3}_[A-Z][a-z]{3}$")
BUCKET = re.compile(r"^[a-z][a-z0-9-]*$")
FORM = re.compile(r"^([A-Za-z]{2,3})(?:[_-]([A-Za-z]{4}))?(?:[_-]([A-Z]{2}))?$")
"""Code, script and country, as locales and BCP 47 write them; `en-fr` with small letters is a bucket's name."""
PRIVATE = re.compile(r"^q[a-t][a-z]$")
KEPT = ("doi", "fas", "kpe", "san", "srd")
"""Macro-languages that FineWeb2 uses as labels, and mmBERT's counts with it."""


@dataclass(frozen=True)
class Resolved:
    """A tag or a bucket's name; `how` says why it is not the name that was found ("" when it is)."""

    name: str
    how: str = ""


def resolve(name: str, aliases: Mapping[str, str] | None = None) -> Resolved:
    """The tag or bucket that a folder's name (or any other name of a language) stands for; Refused when nobody can tell."""
    if aliases and name in aliases:
        return Resolved(aliases[name], "" if aliases[name] == name else "ingest.aliases")
    form = FORM.match(name)
    if form is None or (not form[2] and not form[3] and _code(form[1].lower()) is None):
        if BUCKET.match(name):
            return Resolved(name)
        raise Refused(f"{name!r} is neither a language tag such as fao_Latn nor a bucket's name such as code{_by_name(name)}")
    code, reasons = _language(form[1].lower(), name)
    script = _script(code, (form[2] or "").title(), form[3] or "", name, reasons)
    tag = f"{code}_{script}"
    if form[3]:
        reasons.append(f"the country {form[3]} is no part of a tag")
    return Resolved(tag, "" if tag == name else "; ".join(reasons) or f"written as {tag}")


@cache
def _code(code: str) -> Any:
    """The entry of ISO 639 for a code: a `Lang`, the exception that names a retired code's successor, or None."""
    from iso639 import Lang
    from iso639.exceptions import DeprecatedLanguageValue, InvalidLanguageValue

    try:
        return Lang(code)
    except DeprecatedLanguageValue as retired:
        return retired
    except InvalidLanguageValue:
        return None


def _language(code: str, name: str) -> tuple[str, list[str]]:
    """The ISO 639-3 code for a code, and what was done to get it."""
    found, reasons = _code(code), []
    if PRIVATE.match(code):
        return code, []
    if found is None:
        raise Refused(f"{name}: {code} is no ISO 639-3 code{_near_codes(code)}; a name of your own goes into ingest.aliases")
    if isinstance(found, Exception):
        successor = getattr(found, "change_to", "")
        if not successor:
            if len(code) == 3:  # split into several, or never replaced: labels of older data
                return code, []
            raise Refused(f"{name}: the code {code} was withdrawn without a successor; say what it is in ingest.aliases")
        reasons.append(f"{code} is a retired code of {successor}")
        found = _code(successor)
    final = str(found.pt3 or code)
    if final != code and not reasons:
        reasons.append(f"{code} is {final} in ISO 639-3")
    if found.scope() == "Macrolanguage" and final not in KEPT:
        members = sorted(m.pt3 for m in found.individuals())
        principal = [m for m in _principal().get(str(found.pt1 or final), ()) if m in members]
        if len(principal) != 1:
            raise Refused(
                f"{name}: {final} is a macro-language ({found.name}); name the language itself, one of "
                f"{_some(principal or members)}, or say which in ingest.aliases ({name}: {(principal or members)[0]}_…)"
            )
        reasons.append(f"{final} is a macro-language, whose main language is {principal[0]} (CLDR)")
        final = principal[0]
    return final, reasons


@cache
def _principal() -> dict[str, list[str]]:
    """Macro-language in BCP 47 -> the languages that CLDR lets stand for it, in ISO 639-3."""
    from langcodes.data_dicts import NORMALIZED_MACROLANGUAGES

    found: dict[str, list[str]] = {}
    for member, macro in NORMALIZED_MACROLANGUAGES.items():
        entry = _code(member)
        found.setdefault(macro, []).append(str(getattr(entry, "pt3", "") or member))
    return found


def scripts(code: str, country: str = "") -> list[str]:
    """Scripts that a language is written in: the registry's, where one is usual, else all that CLDR names."""
    from langcodes.data_dicts import DEFAULT_SCRIPTS, LIKELY_SUBTAGS, NORMALIZED_MACROLANGUAGES

    entry = _code(code)
    short = str(getattr(entry, "pt1", "") or "") or NORMALIZED_MACROLANGUAGES.get(code, code)
    if country and f"{short}-{country}" in LIKELY_SUBTAGS:
        return [LIKELY_SUBTAGS[f"{short}-{country}"].split("-")[1]]
    if short in DEFAULT_SCRIPTS:
        return [DEFAULT_SCRIPTS[short]]
    keys = re.compile(rf"^{short}(-[A-Z]{{2}})?$")
    return sorted({full.split("-")[1] for key, full in LIKELY_SUBTAGS.items() if keys.match(key)})


def _script(code: str, script: str, country: str, name: str, reasons: list[str]) -> str:
    from langcodes.data_dicts import ALL_SCRIPTS

    if script:
        if script not in ALL_SCRIPTS and not re.match(r"^Qa[ab][a-z]$", script):
            raise Refused(f"{name}: {script} is no ISO 15924 script{nearest(script, sorted(ALL_SCRIPTS))}")
        return script
    found = scripts(code, country)
    if len(found) != 1:
        tags = " or ".join(f"{code}_{s}" for s in found) or f"{code}_ and its script"
        why = f"{code} is written in {' and '.join(found)}" if found else f"no table names a script of {code}"
        raise Refused(f"{name}: {why}; expected {tags}, or say which in ingest.aliases")
    reasons.append(f"the script of {code} is {found[0]} ({'CLDR for ' + country if country else 'CLDR, IANA'})")
    return found[0]


def _near_codes(code: str) -> str:
    """Codes one letter away, languages with a two-letter code first, with their names."""
    from iso639 import iter_langs

    near = [
        x
        for x in iter_langs()
        if len(x.pt3) == len(code) == 3
        and (sorted(x.pt3) == sorted(code) or sum(a != b for a, b in zip(x.pt3, code, strict=True)) == 1)
    ]
    near.sort(key=lambda x: (not x.pt1, x.pt3))
    return "; did you mean " + ", ".join(f"{x.pt3} ({x.name})" for x in near[:3]) + "?" if near else ""


def _by_name(name: str) -> str:
    """The code of a language that is called so: `Faroese`."""
    found = _named(name.replace("_", " ").title())
    return f"; {found.name} is {found.pt3}_…" if found is not None else ""


def _named(name: str) -> Any:
    from iso639 import Lang
    from iso639.exceptions import DeprecatedLanguageValue, InvalidLanguageValue

    try:
        return Lang(name)
    except (DeprecatedLanguageValue, InvalidLanguageValue):
        return None


def _some(names: Iterable[str], most: int = 8) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def check_waves(recipe: Recipe, where: str) -> None:
    """Refuse a tag in `languages` that ingest would never make."""
    known = set(recipe.ingest.aliases.values())
    for wave, tags in recipe.languages.items():
        for tag in tags if isinstance(tags, list) else ():
            if tag in known:
                continue
            try:
                found = resolve(tag)
            except Refused as error:
                raise Refused(f"{where}: languages.{wave}: {error}") from None
            if found.name != tag:
                raise Refused(f"{where}: languages.{wave}: {tag} is called {found.name} here ({found.how}); write {found.name}")
