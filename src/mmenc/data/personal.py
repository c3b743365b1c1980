"""Masks personal data when asked for (`clean.mask_personal`): e-mail and IP addresses, phone numbers, in any script.

Decision: a mask keeps the kind and shape of what it replaces, and belongs to nobody: `name@example.org`, addresses of the
ranges that RFC 5737 and 3849 keep for documentation, phone numbers with zeros for digits. Phone numbers are found by
phonenumbers (Google's rules) in international form, in any digits of Unicode; a number without its country's prefix cannot
be told from an order number and stays. Four one-digit fields (1.2.3.4) are taken for a version, not for an address.
"""

from __future__ import annotations

import ipaddress
import re

import regex

_NAME = r"[\p{L}\p{M}\p{N}._%+-]"
EMAIL = regex.compile(rf"(?<!{_NAME}){_NAME}{{1,64}}@(?:[\p{{L}}\p{{M}}\p{{N}}-]{{1,63}}\.)+[\p{{L}}\p{{M}}]{{2,24}}")
IP = re.compile(r"(?<![\w.:-])(?:\d{1,3}(?:\.\d{1,3}){3}(?!\.?[\w-])|(?:[0-9a-fA-F]{1,4}:){2,7}:?[0-9a-fA-F:]{0,39}(?![\w:]))")
PHONE = regex.compile(r"[+＋]\s?\(?\p{Nd}")
DIGIT = regex.compile(r"\p{Nd}")
MAIL_MASK, IP4_MASK, IP6_MASK = "name@example.org", "192.0.2.1", "2001:db8::1"


def _address(match: re.Match[str]) -> str:
    found = match[0]
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return found
    if not address.is_global or (address.version == 4 and all(len(part) == 1 for part in found.split("."))):
        return found
    return IP4_MASK if address.version == 4 else IP6_MASK


def _phones(text: str) -> tuple[str, int]:
    from phonenumbers import Leniency, PhoneNumberMatcher

    pieces, at, count = list[str](), 0, 0
    for match in PhoneNumberMatcher(text, None, leniency=Leniency.VALID, max_tries=10_000):
        shown = text[match.start : match.end]
        code = str(match.number.country_code)
        kept = 0
        masked = ""
        for char in shown:
            digit = DIGIT.match(char) is not None
            masked += "0" if digit and kept >= len(code) else char
            kept += digit
        pieces += [text[at : match.start], masked]
        at, count = match.end, count + 1
    return "".join(pieces) + text[at:], count


def mask(text: str) -> tuple[str, int]:
    """Return the text without personal data and how many places were masked."""
    count = 0
    if "@" in text:
        text, count = EMAIL.subn(MAIL_MASK, text)
    if "." in text or ":" in text:
        before = IP.findall(text)
        if before:
            masked = IP.sub(_address, text)
            count += sum(_address(m) != m[0] for m in IP.finditer(text))
            text = masked
    if PHONE.search(text):
        text, phones = _phones(text)
        count += phones
    return text, count
