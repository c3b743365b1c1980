"""The gate between text and training: Great Expectations over one small table, one row per language.

Decision: the figures are computed here, one pass per language over the clean shards, and only the table of languages
(1,833 rows for mmBERT's set) goes to Great Expectations: raw documents would cost it 2 GB and 5 s per 300,000. One suite
holds all expectations for all languages; COMPLETE results name the languages that fail. Importing it costs 3 to 11 s,
validating 0.1 s, so nothing but this step imports it, and it writes no files and sends nothing.
A failure that no waiver with a reason covers refuses the step; the page is then kept in `.runs/`.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import statistics
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmenc.artifact import Json, write_json
from mmenc.data.clean import fingerprint
from mmenc.data.scripts import script_share
from mmenc.data.shards import languages, read_documents, shard_paths
from mmenc.data.split import Splitter, splitter_of
from mmenc.errors import Refused, nearest
from mmenc.job import Job
from mmenc.page import Cell, Marked, details, figures, number, page, table, tag
from mmenc.progress import bar
from mmenc.sections import Validate, Waiver

SAMPLE = 200
"""At most this many documents of a shard, evenly spaced, are asked for their script."""
SHOWN_SHARDS = 500
RULES: dict[str, tuple[str, bool]] = {
    "documents": ("min_documents", True),
    "kept_share": ("min_kept_share", True),
    "duplicate_share": ("max_duplicate_share", False),
    "script_share": ("min_script_share", True),
    "mean_chars": ("min_mean_chars", True),
    "test_overlap": ("max_test_overlap", False),
    "duplicate_ids": ("", False),
}
"""Expectation: its key in `validate` (duplicate_ids has none, it is always 0) and whether that is a least value."""
NEED_TEXT = ("script_share", "mean_chars")
"""Not asked of a language without a document: `documents` says it already."""


class _Language:
    """What is gathered of one language: 8 bytes per hash, so 100 million documents are 2.4 GB."""

    def __init__(self) -> None:
        self.ids, self.train, self.held = array("Q"), array("Q"), array("Q")
        self.lengths = array("L")
        self.sides: Counter[str] = Counter()
        self.replaced = 0


def _shard(path: Path, language: str, splitter: Splitter, whole: _Language) -> Json:
    """Read one shard into `whole` and return its row."""
    texts: list[str] = []
    for document in read_documents(path):
        text, side = document["text"], splitter.of(document["id"], document.get("group"))
        whole.ids.append(int.from_bytes(hashlib.sha256(document["id"].encode()).digest()[:8], "big"))
        (whole.train if side == "train" else whole.held).append(int.from_bytes(fingerprint(text)[:8], "big"))
        whole.sides[side] += 1
        texts.append(text)
    lengths, replaced = [len(t) for t in texts], sum(t.count("\ufffd") for t in texts)
    whole.lengths.extend(lengths)
    whole.replaced += replaced
    sample = texts[:: max(1, -(-len(texts) // SAMPLE))]
    return {
        "language": language,
        "shard": path.name.split(".")[0],
        "documents": len(texts),
        "mean_chars": statistics.fmean(lengths) if lengths else 0.0,
        "script_share": statistics.fmean(script_share(t, language) for t in sample) if sample else 0.0,
        "replacement_share": replaced / max(1, sum(lengths)),
    }


def _rejected(path: Path) -> Counter[str]:
    return Counter(str(dict(d)["reason"]) for d in read_documents(path)) if path.is_file() else Counter()


def measure(clean: Path, language: str, facts: Json, splitter: Splitter) -> tuple[Json, list[Json]]:
    """Row of a language and rows of its shards; `facts` is its row in the manifest of the clean step."""
    whole, shards = _Language(), list[Json]()
    for path in shard_paths(clean, language):
        row = _shard(path, language, splitter, whole)
        reasons = _rejected(clean / "rejected" / language / path.name)
        total = max(1, row["documents"] + reasons.total())
        shards.append({**row, "kept_share": row["documents"] / total, "duplicate_share": reasons["duplicate"] / total})
    count, seen = len(whole.ids), max(1, facts["documents"])
    held = np.asarray(whole.held, dtype=np.uint64)
    overlap = np.isin(held, np.asarray(whole.train, dtype=np.uint64))
    row = {
        "language": language,
        "documents": count,
        **{side: whole.sides[side] for side in ("train", "dev", "test")},
        "kept_share": facts["kept"] / seen,
        "duplicate_share": facts["rejected"].get("duplicate", 0) / seen,
        "mean_chars": sum(whole.lengths) / max(1, count),
        "median_chars": float(np.median(np.asarray(whole.lengths))) if count else 0.0,
        "script_share": sum(r["script_share"] * r["documents"] for r in shards) / max(1, count),
        "replacement_share": whole.replaced / max(1, sum(whole.lengths)),
        "duplicate_ids": count - len(np.unique(np.asarray(whole.ids, dtype=np.uint64))),
        "test_overlap": float(overlap.mean()) if len(held) else 0.0,
    }
    return row, shards


def thresholds(settings: Validate) -> dict[str, float]:
    """Return the limit of every expectation."""
    return {name: getattr(settings, key) if key else 0 for name, (key, _) in RULES.items()}


def expect(rows: list[Json], limits: Mapping[str, float]) -> list[Json]:
    """Let Great Expectations judge the table; return its failures, sorted by language, then in the order of RULES."""
    import great_expectations as gx
    import pandas as pd
    from great_expectations import expectations as gxe
    from great_expectations.data_context.types import base

    frame = pd.DataFrame(rows)
    frame[list(NEED_TEXT)] = frame[list(NEED_TEXT)].where(frame["documents"] > 0, math.nan)
    stores, bars = base.InMemoryStoreBackendDefaults(init_temp_docs_sites=False), base.ProgressBarsConfig(globally=False)
    config = base.DataContextConfig(store_backend_defaults=stores, analytics_enabled=False, progress_bars=bars)
    context = gx.get_context(mode="ephemeral", project_config=config)
    asset = context.data_sources.add_pandas("clean").add_dataframe_asset("languages")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    suite = gx.ExpectationSuite(name="gate")
    for name, limit in limits.items():
        bound = {"min_value" if RULES[name][1] else "max_value": limit}
        suite.add_expectation(gxe.ExpectColumnValuesToBeBetween(column=name, **bound))
    form = {"result_format": "COMPLETE", "unexpected_index_column_names": ["language"]}
    return _failures(batch.validate(suite, result_format=form).results, rows, limits)


def _failures(results: Iterable[Any], rows: list[Json], limits: Mapping[str, float]) -> list[Json]:
    by_language, found = {row["language"]: row for row in rows}, []
    judged: set[str] = set()
    for result in results:
        name = result.expectation_config.kwargs["column"]
        failing = result.result.get("unexpected_index_list")
        if not result.success and not failing:
            raise RuntimeError(f"Great Expectations could not judge {name}: {result.exception_info}")
        judged.add(name)
        for index in failing or []:
            tag_ = index["language"]
            found.append({"language": tag_, "expectation": name, "found": by_language[tag_][name], "threshold": limits[name]})
    if judged != set(limits):
        raise RuntimeError(f"Great Expectations judged {sorted(judged)}, asked were {sorted(limits)}")
    order = list(RULES)
    return sorted(found, key=lambda f: (f["language"], order.index(f["expectation"])))


def check_waivers(waivers: Iterable[Waiver], names: list[str]) -> None:
    """Refuse a waiver for what does not exist: it would hide that the one which was meant is missing."""
    for number_, waiver in enumerate(waivers):
        here = f"validate.waivers.{number_}"
        if waiver.language not in names:
            raise Refused(f"{here}: no language is called {waiver.language!r} in the data{nearest(waiver.language, names)}")
        if waiver.expectation not in RULES:
            hint = nearest(waiver.expectation, RULES) or f"; expectations: {', '.join(RULES)}"
            raise Refused(f"{here}: no expectation is called {waiver.expectation!r}{hint}")


def _plain(row: Json) -> Json:
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}


def sentence(failures: list[Json], rejected: Mapping[str, int], saved: Path) -> str:
    """Name the first language that fails, its figure, the threshold, what else fails, and how to proceed."""
    first = failures[0]
    key, least = RULES[first["expectation"]]
    limit = f"validate.{key} {first['threshold']:g}" if key else "0"
    also = [f["expectation"] for f in failures[1:] if f["language"] == first["language"]]
    others = len({f["language"] for f in failures}) - 1
    notes = [f"so {'does' if len(also) == 1 else 'do'} {', '.join(also)}"] if also else []
    notes += [f"{others} more language{'s fail' if others > 1 else ' fails'}"] if others else []
    more = f" ({'; '.join(notes)})" if notes else ""
    if rejected and first["expectation"] in ("documents", "kept_share"):
        why, count = max(rejected.items(), key=lambda item: (item[1], item[0]))
        more += f"; clean rejected {count} documents as {why!r}"
    with contextlib.suppress(ValueError):
        saved = saved.relative_to(Path.cwd())
    what = f"{first['language']}: {first['expectation']} is {first['found']:g}, {'below' if least else 'above'} {limit}{more}"
    return f"{what}; mend the data, or add a waiver with a reason under validate.waivers; the page is {saved}"


def run(job: Job) -> Json:
    """Write verdict.json, statistics.json and report.html, or refuse with the page kept in `.runs/`."""
    settings, clean = job.recipe.validation, job.inputs["clean"]
    shard_root = clean.local()
    names = languages(shard_root)
    check_waivers(settings.waivers, names)
    splitter = splitter_of(shard_root)
    rows, shards = list[Json](), list[Json]()
    with bar("validate", len(names), "languages") as shown:
        for language in names:
            row, parts = measure(shard_root, language, clean.facts["languages"][language], splitter)
            rows.append(row)
            shards += parts
            shown.advance(1, language)
    limits = thresholds(settings)
    reasons = {(w.language, w.expectation): w.reason for w in settings.waivers}
    failures = [{**_plain(f), "waived": reasons.get((f["language"], f["expectation"]), "")} for f in expect(rows, limits)]
    rows, shards = [_plain(r) for r in rows], [_plain(r) for r in shards]
    open_ = [f for f in failures if not f["waived"]]
    html = report(rows, shards, failures, limits)
    if open_:
        saved = job.resume.parent.parent / ".runs" / job.request.digest / "validate.html"
        saved.parent.mkdir(parents=True, exist_ok=True)
        saved.write_text(html, encoding="utf-8")
        raise Refused(sentence(open_, clean.facts["languages"][open_[0]["language"]]["rejected"], saved))
    return _write(job, rows, shards, failures, html)


def _write(job: Job, rows: list[Json], shards: list[Json], failures: list[Json], html: str) -> Json:
    """Write the three files of a passed gate and return the facts."""
    waivers = [{k: v for k, v in f.items() if k != "waived"} | {"reason": f["waived"]} for f in failures]
    verdict: Json = {row["language"]: {"ok": True, "failed": []} for row in rows}
    for failure in failures:
        verdict[failure["language"]]["failed"].append({k: v for k, v in failure.items() if k != "language"})
    write_json(job.out / "verdict.json", {"ok": True, "languages": verdict, "waivers": waivers})
    write_json(job.out / "statistics.json", {"languages": rows, "shards": shards})
    (job.out / "report.html").write_text(html, encoding="utf-8")
    used = {(w["language"], w["expectation"]) for w in waivers}
    for waiver in job.recipe.validation.waivers:
        if (waiver.language, waiver.expectation) not in used:
            job.say(f"the waiver of {waiver.expectation} for {waiver.language} is not needed any more: it passes")
    job.say(f"{len(rows)} languages pass, {len(waivers)} expectations waived")
    figures_ = {row["language"]: {k: v for k, v in row.items() if k != "language"} for row in rows}
    return {"ok": True, "languages": len(rows), "waivers": waivers, "statistics": figures_}


def _language_rows(rows: list[Json], failures: list[Json]) -> list[list[Cell]]:
    """Rows for the page: failing languages first, then waived ones, then the rest by tag; the figure at fault is marked."""
    kinds = {(f["language"], f["expectation"]): "waived" if f["waived"] else "bad" for f in failures}
    table_rows: list[tuple[int, str, list[Cell]]] = []
    for row in rows:
        mine = {name: kind for (language, name), kind in kinds.items() if language == row["language"]}
        kind = "bad" if "bad" in mine.values() else "waived" if mine else "ok"
        cells: list[Cell] = [Marked({"bad": "fails", "waived": "waived", "ok": "passes"}[kind], kind), row["language"]]
        cells += [Marked(v, mine[k]) if k in mine else v for k, v in row.items() if k != "language"]
        table_rows.append((("bad", "waived", "ok").index(kind), row["language"], cells))
    return [cells for _, _, cells in sorted(table_rows, key=lambda r: r[:2])]


def report(rows: list[Json], shards: list[Json], failures: list[Json], limits: Mapping[str, float]) -> str:
    """Return the page that a person reads: verdict, what fails or is waived and why, all languages, thresholds, shards."""
    failing = {f["language"] for f in failures if not f["waived"]}
    summary: dict[str, Cell] = {
        "verdict": Marked("refused", "bad") if failing else Marked("passed", "ok"),
        "languages": len(rows),
        "documents": sum(r["documents"] for r in rows),
        "languages that fail": len(failing),
        "figures waived": sum(bool(f["waived"]) for f in failures),
        "languages without test documents": sum(not r["test"] for r in rows),
    }
    parts = [figures(summary)]
    if failures:
        listed = table(["language", "figure", "found", "threshold", "verdict"], _verdicts(failures))
        parts += [tag("h2", "What fails or is waived"), listed]
    headers = ["verdict", *(k.replace("_", " ") for k in rows[0])] if rows else []
    parts += [tag("h2", "Languages"), table(headers, _language_rows(rows, failures))]
    bounds = [
        [n, "at least" if RULES[n][1] else "at most", v, f"validate.{RULES[n][0]}" if RULES[n][0] else ""]
        for n, v in limits.items()
    ]
    parts += [tag("h2", "Thresholds"), table(["figure", "", "threshold", "key in params.yaml"], bounds, sortable=False)]
    if untested := [r["language"] for r in rows if not r["test"]]:
        parts.append(details(f"{len(untested)} languages without test documents", tag("p", ", ".join(untested))))
    rest = f", the first {SHOWN_SHARDS}; statistics.json has all" if len(shards) > SHOWN_SHARDS else ""
    inner = table([k.replace("_", " ") for k in shards[0]], [list(s.values()) for s in shards[:SHOWN_SHARDS]]) if shards else ""
    parts.append(details(f"{number(len(shards))} shards{rest}", inner))
    return page("Data validation", parts)


def _verdicts(failures: list[Json]) -> list[list[Cell]]:
    """Unwaived failures first."""
    ordered = sorted(failures, key=lambda f: bool(f["waived"]))
    return [
        [
            f["language"],
            f["expectation"],
            f["found"],
            f["threshold"],
            Marked(f"waived: {f['waived']}", "waived") if f["waived"] else Marked("fails", "bad"),
        ]
        for f in ordered
    ]
