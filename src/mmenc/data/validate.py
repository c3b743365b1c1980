"""The gate between text and training: figures per language (measure.py), judged by suites of Great Expectations (gate.py).

A failure that no waiver with a reason covers refuses the step; the page is then kept in `.runs/`. Whether the mix of
languages is the planned one is not asked here: the plan is in tokens, which do not exist yet; the mixture step computes it
from measured counts and the report sets what was read beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from mmenc.artifact import Json, read_json, replace_json, write_json
from mmenc.data import measure
from mmenc.data.clean import BATCH, batches
from mmenc.data.gate import ALL, check_suites, check_waivers, expect
from mmenc.data.gate_page import report
from mmenc.data.shards import languages, shard_paths
from mmenc.data.split import Splitter, by_prefix
from mmenc.errors import Refused
from mmenc.job import Job
from mmenc.parts import Parts

MERGED = 4_000_000
"""Documents of a batch of languages that one process merges."""
HIDDEN = ("chars", "replaced", "length")
"""What a shard's row carries for its language alone."""


def measured(job: Job, names: list[str]) -> tuple[list[Json], list[Json], Json]:
    """Rows of the languages, rows of the shards, and the distributions of characters by language."""
    clean, before = job.inputs["clean"], previous(job)
    root = clean.local()
    shards = {(t, p, root / "rejected" / t / p.name): p.stat().st_size for t in names for p in shard_paths(root, t)}
    parts = {f"{i:05d}": (batch,) for i, batch in enumerate(batches(shards, BATCH))}
    made = Parts(job, "shards")
    results = made.run(measure.shard, parts)
    by_language: dict[str, list[Json]] = {t: [] for t in names}
    bases: dict[str, list[Path]] = {t: [] for t in names}
    for key, result in results.items():
        for row in result["rows"]:
            by_language[row["language"]].append(row)
            bases[row["language"]].append(made.folder(key) / row["language"] / row["shard"])
    sides = Splitter(by_prefix({g for r in results.values() for g in r["groups"]})).sides
    replace_json(job.resume / "groups.json", sides)
    weights = {t: sum(r["documents"] for r in rows) for t, rows in by_language.items()}
    groups = job.resume / "groups.json"
    split = {f"{i:05d}": ({t: bases[t] for t in batch}, groups) for i, batch in enumerate(batches(weights, MERGED))}
    merged = {t: row for r in Parts(job, "languages").run(measure.languages, split).values() for t, row in r.items()}
    rows, chars = list[Json](), {}
    for t in names:
        row, chars[t] = measure.table_row(t, by_language[t], merged[t], clean.facts["languages"][t], before.get(t))
        rows.append(row)
    plain = [{k: v for k, v in r.items() if k not in HIDDEN} for found in by_language.values() for r in found]
    return rows, plain, chars


def previous(job: Job) -> dict[str, Json]:
    """Rows by language of an earlier validate artifact, where `validate.previous` names one."""
    if "validate.previous" not in job.raw:
        return {}
    place = job.raw["validate.previous"]
    path = place if place.is_file() else place / "statistics.json"
    try:
        rows = read_json(path)["languages"]
        return {row["language"]: row for row in rows if row["documents"] >= 0 and row["chars"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise Refused(
            f"validate.previous: {path} is no statistics.json of validate (version 2 or later); expected such an artifact"
        ) from None


def _plain(row: Json) -> Json:
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}


def sentence(failures: list[Json], rejected: Mapping[str, int], saved: Path, folder: str) -> str:
    """Name the first language that fails, its figure, the threshold, what else fails, and how to proceed."""
    first = failures[0]
    limit = f"{first['threshold']:g}" if isinstance(first["threshold"], int | float) else first["threshold"]
    also = list(dict.fromkeys(f["expectation"] for f in failures[1:] if f["language"] == first["language"]))
    also = [name for name in also if name != first["expectation"]]
    others = len({f["language"] for f in failures}) - 1
    notes = [f"so {'does' if len(also) == 1 else 'do'} {', '.join(also)}"] if also else []
    notes += [f"{others} more language{'s fail' if others > 1 else ' fails'}"] if others else []
    more = f" ({'; '.join(notes)})" if notes else ""
    if rejected and first["expectation"] in ("documents", "kept_share"):
        why, count = max(rejected.items(), key=lambda item: (item[1], item[0]))
        more += f"; clean rejected {count} documents as {why!r}"
    with contextlib.suppress(ValueError):
        saved = saved.relative_to(Path.cwd())
    value = f"{first['found']:g}" if isinstance(first["found"], int | float) else first["found"]
    what = (
        f"{first['language']}: {first['expectation']} is {value}, {first['relation']} {limit} of {folder}/{first['suite']}.yaml"
    )
    return f"{what}{more}; mend the data, or add a waiver with a reason under validate.waivers; the page is {saved}"


def run(job: Job) -> Json:
    """Write verdict.json, statistics.json and report.html, or refuse with the page kept in `.runs/`."""
    settings, clean = job.recipe.validation, job.inputs["clean"]
    check_suites(settings.suites, settings.expectations)
    names = languages(clean.local())
    check_waivers(settings.waivers, [*names, ALL], settings.suites)
    rows, shards, chars = measured(job, names)
    beside = job.resume.parent.parent / ".runs" / job.request.digest
    docs = beside / "data_docs" if settings.data_docs else None
    reasons = {(w.language, w.expectation): w.reason for w in settings.waivers}
    failures = [
        {**_plain(f), "waived": reasons.get((f["language"], f["expectation"]), "")} for f in expect(rows, settings.suites, docs)
    ]
    if docs:
        job.say(f"Data Docs of Great Expectations: {docs / 'index.html'} (they need a network when opened)")
    rows, shards = [_plain(r) for r in rows], [_plain(r) for r in shards]
    open_ = [f for f in failures if not f["waived"] and f["severity"] == "critical"]
    html = report(rows, shards, failures, settings.suites, settings.expectations)
    if open_:
        saved = beside / "validate.html"
        saved.parent.mkdir(parents=True, exist_ok=True)
        saved.write_text(html, encoding="utf-8")
        first = clean.facts["languages"].get(open_[0]["language"], {"rejected": {}})
        raise Refused(sentence(open_, first["rejected"], saved, settings.expectations))
    return _write(job, rows, shards, chars, failures, html)


def _write(job: Job, rows: list[Json], shards: list[Json], chars: Json, failures: list[Json], html: str) -> Json:
    """Write the three files of a passed gate and return the facts."""
    waived = [f for f in failures if f["waived"]]
    told = ("language", "expectation", "found", "threshold")
    waivers = [{k: f[k] for k in told} | {"reason": f["waived"]} for f in waived]
    verdict: Json = {row["language"]: {"ok": True, "failed": []} for row in rows}
    for failure in failures:
        shown = {k: failure[k] for k in ("expectation", "found", "threshold", "suite", "severity", "waived")}
        verdict.setdefault(failure["language"], {"ok": True, "failed": []})["failed"].append(shown)
    write_json(job.out / "verdict.json", {"ok": True, "languages": verdict, "waivers": waivers})
    write_json(job.out / "statistics.json", {"languages": [r | {"chars": chars[r["language"]]} for r in rows], "shards": shards})
    (job.out / "report.html").write_text(html, encoding="utf-8")
    used = {(w["language"], w["expectation"]) for w in waivers}
    for waiver in job.recipe.validation.waivers:
        if (waiver.language, waiver.expectation) not in used:
            job.say(f"the waiver of {waiver.expectation} for {waiver.language} is not needed any more: it passes")
    warnings = [{k: f[k] for k in told} for f in failures if not f["waived"]]
    job.say(f"{len(rows)} languages pass, {len(waivers)} expectations waived, {len(warnings)} warnings")
    figures_ = {row["language"]: {k: v for k, v in row.items() if k != "language" and v is not None} for row in rows}
    return {"ok": True, "languages": len(rows), "waivers": waivers, "warnings": warnings, "statistics": figures_}
