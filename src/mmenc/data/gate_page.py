"""The page of the gate: verdict first, then what fails or is waived and why, then every language, suite and shard."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from mmenc.artifact import Json
from mmenc.data.measure import COLUMNS, DRIFT
from mmenc.page import Cell, Marked, details, figures, number, page, table, tag
from mmenc.suites import Suite

SHOWN_SHARDS = 500
FIRST = ("documents", "test", "kept_share", "duplicate_share", "language_agreement", "mean_chars", "script_share", "test_overlap")
"""Columns of the main table; the rest opens on a click: nineteen columns do not fit on a screen."""
WORDS = {"bad": "fails", "waived": "waived", "ok": "passes"}


def _kind(failure: Json) -> str:
    return "waived" if failure["waived"] or failure["severity"] == "warning" else "bad"


def _language_rows(rows: list[Json], failures: list[Json], columns: list[str]) -> list[list[Cell]]:
    """Failing languages first, then waived ones, then the rest, each sorted by name; what fails is marked in its cell."""
    kinds: dict[tuple[str, str], str] = {}
    for f in failures:
        at = (f["language"], f["expectation"])
        kinds[at] = "bad" if "bad" in (kinds.get(at), _kind(f)) else "waived"
    ordered: list[tuple[int, str, list[Cell]]] = []
    for row in rows:
        mine = {name: kind for (language, name), kind in kinds.items() if language == row["language"]}
        kind = "bad" if "bad" in mine.values() else "waived" if mine else "ok"
        cells: list[Cell] = [Marked(WORDS[kind], kind), row["language"]]
        cells += [Marked(row[c], mine[c]) if c in mine else row[c] for c in columns]
        ordered.append((("bad", "waived", "ok").index(kind), row["language"], cells))
    return [cells for _, _, cells in sorted(ordered, key=lambda r: r[:2])]


def _verdicts(failures: list[Json]) -> list[list[Cell]]:
    """What stops first, then what is waived, then warnings."""

    def verdict(f: Json) -> Marked:
        if f["waived"]:
            return Marked(f"waived: {f['waived']}", "waived")
        return Marked("warning", "waived") if f["severity"] == "warning" else Marked("fails", "bad")

    ordered = sorted(failures, key=lambda f: (_kind(f) != "bad", not f["waived"]))
    return [
        [f["language"], f["expectation"], f["found"], f"{f['relation']} {f['threshold']}", f["suite"], verdict(f), f["why"]]
        for f in ordered
    ]


def _suites(suites: Mapping[str, Suite], rows: list[Json], folder: str) -> list[str]:
    parts: list[str] = [tag("h2", "What is expected")]
    for name, suite in suites.items():
        meta = suite.meta
        mine = [r for r in rows if r["bytes"] >= meta.min_bytes and any(fnmatchcase(r["language"], p) for p in meta.languages)]
        least = f" with {number(meta.min_bytes)} bytes or more" if meta.min_bytes else ""
        head = f"{folder}/{name}.yaml: {number(len(mine))} languages and buckets ({', '.join(meta.languages)}{least})"
        listed: list[list[Cell]] = [
            [
                e.column,
                ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in e.kwargs.items() if k != "column"),
                "" if e.type == "expect_column_values_to_be_between" else e.type,
                "warning" if e.severity == "warning" else "",
                COLUMNS[e.column],
            ]
            for e in suite.expectations
        ]
        parts.append(details(head, table(["figure", "expected", "other than between", "", "what it is"], listed, sortable=False)))
    return parts


def report(rows: list[Json], shards: list[Json], failures: list[Json], suites: Mapping[str, Suite], folder: str) -> str:
    """Return the page that a person reads."""
    failing = {f["language"] for f in failures if _kind(f) == "bad"}
    summary: dict[str, Cell] = {
        "verdict": Marked("refused", "bad") if failing else Marked("passed", "ok"),
        "languages": len(rows),
        "documents": sum(r["documents"] for r in rows),
        "languages that fail": len(failing),
        "figures waived": sum(bool(f["waived"]) for f in failures),
        "warnings": sum(_kind(f) == "waived" and not f["waived"] for f in failures),
        "languages without test documents": sum(not r["test"] for r in rows),
    }
    parts: list[str] = [figures(summary)]
    if failures:
        head = ["language", "figure", "found", "limit", "suite", "verdict", "why it is asked"]
        parts += [tag("h2", "What fails or is waived"), table(head, _verdicts(failures))]
    compared = any(r[c] is not None for r in rows for c in DRIFT)
    first = [*FIRST, *(DRIFT if compared else ())]
    headers = ["verdict", "language", *(k.replace("_", " ") for k in first)]
    parts += [tag("h2", "Languages"), table(headers, _language_rows(rows, failures, first), find="find a language or verdict")]
    rest = [c for c in COLUMNS if c not in first and (compared or c not in DRIFT)]
    headers = ["verdict", "language", *(k.replace("_", " ") for k in rest)]
    parts.append(details("Other figures of the languages", table(headers, _language_rows(rows, failures, rest))))
    parts += _suites(suites, rows, folder)
    if untested := [r["language"] for r in rows if not r["test"]]:
        parts.append(details(f"{len(untested)} languages without test documents", tag("p", ", ".join(untested))))
    more = f", the first {SHOWN_SHARDS}; statistics.json has all" if len(shards) > SHOWN_SHARDS else ""
    inner = table([k.replace("_", " ") for k in shards[0]], [list(s.values()) for s in shards[:SHOWN_SHARDS]]) if shards else ""
    parts.append(details(f"{number(len(shards))} shards{more}", inner))
    return page("Data validation", parts)
