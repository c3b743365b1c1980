"""Markdown of the model card: tables, folded parts, and text of documents that must not be read as Markdown or HTML."""

from __future__ import annotations


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table; columns of numbers are set to the right."""
    numeric = [bool(rows) and all(row[i][:1].isdigit() or row[i][:1] in "–−-" for row in rows) for i in range(len(header))]
    lines = ["| " + " | ".join(header) + " |", "|" + "".join(" ---: |" if n else " --- |" for n in numeric)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def plain(text: str) -> str:
    """Text of documents inside of a table: one line, nothing that Markdown or HTML would read."""
    for sign, name in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ("|", "&#124;"),
        ("`", "&#96;"),
        ("*", "&#42;"),
        ("_", "&#95;"),
    ):
        text = text.replace(sign, name)
    for sign in "[]\\~$":
        text = text.replace(sign, f"&#{ord(sign)};")
    return " ".join(text.replace("\n", " ↵ ").split())


def fold(title: str, text: str) -> str:
    """A part that is closed until it is clicked."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"
