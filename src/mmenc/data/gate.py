"""Great Expectations over the table of languages: its suites, its verdict, waivers.

Decision: only the small table goes to Great Expectations (raw documents would cost it 2 GB and 5 s per 300,000), one batch per
suite with the rows that the suite judges; COMPLETE results name the languages that fail. Importing it costs 3 to 11 s,
validating 0.1 s, so nothing but this step imports it, and it writes no files and sends nothing, unless Data Docs are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mmenc.artifact import Json
from mmenc.data.measure import COLUMNS, DRIFT, NEED_TEXT
from mmenc.errors import Refused, nearest
from mmenc.sections_data import Waiver
from mmenc.suites import Expectation, Suite

ALL = "all"
"""Language of a failure that is no single row's."""


def judged(suite: Suite, rows: list[Json]) -> list[Json]:
    """Rows that a suite judges."""
    return [
        r for r in rows if r["bytes"] >= suite.meta.min_bytes and any(fnmatchcase(r["language"], p) for p in suite.meta.languages)
    ]


def check_suites(suites: Mapping[str, Suite], folder: str) -> None:
    """Refuse a gate that expects nothing, and an expectation about a column that does not exist."""
    if not suites:
        raise Refused(f"validate.expectations: there are no suites in {folder!r}; expected files such as {folder}/all.yaml")
    for name, suite in suites.items():
        for e in suite.expectations:
            if e.column not in COLUMNS:
                hint = nearest(e.column, COLUMNS) or f"; columns: {', '.join(COLUMNS)}"
                raise Refused(f"{folder}/{name}.yaml: no column is called {e.column!r}{hint}")


def check_waivers(waivers: Iterable[Waiver], names: list[str], suites: Mapping[str, Suite]) -> None:
    """Refuse a waiver for what does not exist: it would hide that the one which was meant is missing."""
    asked = sorted({e.column for s in suites.values() for e in s.expectations})
    for number_, waiver in enumerate(waivers):
        here = f"validate.waivers.{number_}"
        if waiver.language not in names:
            raise Refused(f"{here}: no language is called {waiver.language!r} in the data{nearest(waiver.language, names)}")
        if waiver.expectation not in asked:
            hint = nearest(waiver.expectation, asked) or f"; expectations: {', '.join(asked)}"
            raise Refused(f"{here}: no expectation is called {waiver.expectation!r}{hint}")


def expect(rows: list[Json], suites: Mapping[str, Suite], docs: Path | None = None) -> list[Json]:
    """Let Great Expectations judge the table; return its failures, by language, in the order of suites and expectations."""
    import great_expectations as gx
    import pandas as pd
    from great_expectations.data_context.types import base

    stores, bars = base.InMemoryStoreBackendDefaults(init_temp_docs_sites=False), base.ProgressBarsConfig(globally=False)
    config = base.DataContextConfig(store_backend_defaults=stores, analytics_enabled=False, progress_bars=bars)
    context = gx.get_context(mode="ephemeral", project_config=config)
    asset = context.data_sources.add_pandas("clean").add_dataframe_asset("languages")
    whole = asset.add_batch_definition_whole_dataframe("all")
    found: list[Json] = []
    definitions: list[tuple[Any, Any]] = []
    for name, suite in suites.items():
        if not (mine := judged(suite, rows)):
            continue
        frame = pd.DataFrame(mine)
        frame[[*DRIFT]] = frame[[*DRIFT]].astype(float)
        frame[[*NEED_TEXT]] = frame[[*NEED_TEXT]].astype(float).where(frame["documents"] > 0, math.nan)
        theirs = gx.ExpectationSuite(name=name)
        for e in suite.expectations:
            theirs.add_expectation_configuration(_configuration(e, f"{name}.yaml"))
        form = {"result_format": "COMPLETE", "unexpected_index_column_names": ["language"]}
        results = whole.get_batch({"dataframe": frame}).validate(theirs, result_format=form).results
        if len(results) != len(suite.expectations):
            raise RuntimeError(f"Great Expectations judged {len(results)} of {len(suite.expectations)} expectations of {name}")
        found += _failures(results, suite, name, mine)
        definitions.append((theirs, frame))
    if docs:
        _data_docs(context, whole, definitions, docs)
    return sorted(found, key=lambda f: str(f["language"]))


def _configuration(e: Expectation, where: str) -> Any:
    from great_expectations.exceptions import GreatExpectationsError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    try:
        made = ExpectationConfiguration(type=e.type, kwargs=dict(e.kwargs), meta=dict(e.meta))
        made.to_domain_obj()
    except (GreatExpectationsError, ValueError, TypeError) as error:
        raise Refused(f"{where}: {e.type} of {e.column}: {' '.join(str(error).split())[:200]}") from None
    return made


def _failures(results: Iterable[Any], suite: Suite, name: str, rows: list[Json]) -> list[Json]:
    by_language, waiting, found = {row["language"]: row for row in rows}, list(suite.expectations), list[Json]()
    for result in results:
        asked = waiting.pop(_position(waiting, result.expectation_config))
        if result.success:
            continue
        if result.exception_info.get("raised_exception") or not result.result:
            raise RuntimeError(f"Great Expectations could not judge {asked.column}: {result.exception_info}")
        told = {"suite": name, "severity": asked.severity, "why": str(asked.meta.get("why", ""))}
        for language in [i["language"] for i in result.result.get("unexpected_index_list") or []] or [ALL]:
            value = by_language[language][asked.column] if language != ALL else result.result.get("observed_value")
            found.append({"language": language, "expectation": asked.column, "found": value, **_limit(asked, value), **told})
    return found


def _position(waiting: list[Expectation], judged_: Any) -> int:
    """Which of the expectations a result is of: results come back in another order."""
    given = judged_.kwargs
    same = (e.type == judged_.type and all(given.get(k) == v for k, v in e.kwargs.items()) for e in waiting)
    return list(same).index(True)


def _limit(asked: Expectation, value: Any) -> Json:
    """The bound that was crossed and how, in words."""
    low, high = asked.kwargs.get("min_value"), asked.kwargs.get("max_value")
    if low is not None and isinstance(value, int | float) and value < low:
        return {"threshold": low, "relation": "below"}
    if high is not None and isinstance(value, int | float) and value > high:
        return {"threshold": high, "relation": "above"}
    more = {k: v for k, v in asked.kwargs.items() if k != "column"}
    return {"threshold": str(more), "relation": f"against {asked.type}"}


def _data_docs(context: Any, whole: Any, definitions: list[tuple[Any, Any]], docs: Path) -> None:
    """Build Great Expectations' own pages; they fetch their styles from a network, so they are no part of the artifact."""
    import great_expectations as gx

    place = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.absolute())}
    site = {"class_name": "SiteBuilder", "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"}, "store_backend": place}
    context.add_data_docs_site("gate", site)
    for suite, frame in definitions:
        kept = context.suites.add(gx.ExpectationSuite(name=suite.name, expectations=suite.expectations))
        made = gx.ValidationDefinition(name=suite.name, data=whole, suite=kept)
        context.validation_definitions.add(made)
        check = gx.Checkpoint(name=suite.name, validation_definitions=[made])
        context.checkpoints.add(check).run(batch_parameters={"dataframe": frame})
    context.build_data_docs()
