"""`mmenc migrate`: a recipe of an earlier version is brought up to date, and the artifacts are judged, each with its reason.

Decision: the change is shown as a diff and made only if the result is a valid recipe; the file as it was stays beside it
(`params.yaml.bak`). Artifacts are never rewritten: their digests say what was asked for, and an answer of an older step is
another answer. They are told apart: what may stay, and what the next run makes anew and why.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml

from mmenc.artifact import temporary
from mmenc.dashboard.graph import stages, standings
from mmenc.errors import Refused
from mmenc.recipe import Recipe, load
from mmenc.strict import Loader
from mmenc.upkeep import edit
from mmenc.upkeep.rules import RULES, TOLD, Rule

SUITE = Path("all.yaml")


def migrate(params: Path, artifacts: Path, *, dry_run: bool = False) -> None:
    """Bring a recipe up to date and judge the artifacts."""
    before = {params: _text(params)}
    suite = _folder(before[params]) / SUITE
    if suite.is_file():
        before[suite] = _text(suite)
    after, said = _migrated(before, params, suite)
    changed = {path: text for path, text in after.items() if text != before[path]}
    for line in said:
        print(line)
    for path, text in changed.items():
        print("".join(_diff(path, before[path], text)), end="")
    recipe = _checked(after, params)
    if not changed:
        print(f"{params}: nothing in it is out of date")
    elif dry_run:
        print("nothing was changed (--dry-run)")
    for path in () if dry_run else changed:
        print(f"{path}: rewritten, as it was in {_replace(path, after[path], before[path])}", flush=True)
    if artifacts.is_dir():
        _judge(recipe, artifacts)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{path}: cannot be read ({error})") from None


def _plain(text: str, path: Path) -> Any:
    try:
        return yaml.load(text, Loader=Loader)  # noqa: S506 (a SafeLoader subclass)
    except (Refused, yaml.YAMLError) as error:
        raise Refused(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None


def _folder(text: str) -> Path:
    data = _plain(text, Path("params.yaml"))
    section = data.get("validate") if isinstance(data, dict) else None
    return Path(str(section.get("expectations", "expectations"))) if isinstance(section, dict) else Path("expectations")


def _migrated(before: dict[Path, str], params: Path, suite: Path) -> tuple[dict[Path, str], list[str]]:
    """The texts with all rules applied, and a line for each that did something."""
    after, said = dict(before), []
    for rule in RULES:
        value = _value(_plain(after[params], params), rule.path)
        place = edit.find(after[params], rule.path.split("."))
        if place is None or not rule.when(value):
            continue
        if rule.expectation[0]:
            said += _move(rule, value, after, suite)
        if rule.to:
            said.append(f"{rule.path}: {rule.to} takes its place; {rule.why}")
            after[params] = edit.rename(after[params], place, rule.to, rule.value(value))
        else:
            said.append(f"{rule.path}: removed; {rule.why}")
            after[params] = edit.remove(after[params], place)
    if after[params] != before[params]:
        data = _plain(after[params], params)
        said += [f"{path}: {text}" for path, text in TOLD if _value(data, path) is None]
    return after, said


def _move(rule: Rule, value: Any, after: dict[Path, str], suite: Path) -> list[str]:
    """Write a figure into the suite where it differs there."""
    column, limit = rule.expectation
    if suite not in after:
        raise Refused(f"{suite}: there is no such file; {rule.path} moves there: take the folder from the repository first")
    place = edit.find_limit(after[suite], column, limit)
    if place is None:
        raise Refused(f"{suite}: expects nothing of {column} ({limit}), where {rule.path} = {value!r} would move; write it there")
    if float(place[2].value) == float(value):
        return []
    after[suite] = edit.put(after[suite], place, value)
    return [f"{suite}: {column}.{limit} is {value!r} as in {rule.path}"]


def _value(data: Any, path: str) -> Any:
    for name in path.split("."):
        data = data.get(name) if isinstance(data, dict) else None
    return data


def _diff(path: Path, before: str, after: str) -> list[str]:
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    return list(difflib.unified_diff(old, new, f"{path} (before)", str(path), n=1))


def _checked(after: dict[Path, str], params: Path) -> Recipe:
    """The new recipe, read from a file beside the old one; Refused if it is still not valid."""
    draft = temporary(params.absolute().parent, params.name)
    draft.write_text(after[params], encoding="utf-8")
    try:
        return load(draft)
    except Refused as error:
        raise Refused(str(error).replace(str(draft), str(params)) + "; nothing was changed") from None
    finally:
        draft.unlink()


def _replace(path: Path, text: str, before: str) -> Path:
    """Write a file in one rename, the old one beside it under a name that is free."""
    names = (path.with_name(f"{path.name}.bak{n or ''}") for n in range(1000))
    backup = next(p for p in names if not p.exists())
    backup.write_text(before, encoding="utf-8")
    draft = temporary(path.absolute().parent, path.name)
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
    return backup


def _judge(recipe: Recipe, artifacts: Path) -> None:
    found = stages(recipe, artifacts.absolute().parent)
    known = standings(recipe, found)
    kept = [s.title for s in found if not known[s.out].why]
    print(f"artifacts that may stay ({len(kept)} of {len(found)}): {', '.join(kept) or 'none'}")
    anew = [(s, known[s.out]) for s in found if known[s.out].why]
    if anew:
        print(f"made anew by the next run ({len(anew)}):")
    for stage, standing in anew:
        print(f"  {stage.title}: {standing.why}")
