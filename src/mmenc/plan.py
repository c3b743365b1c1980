"""Plan before spending: what each phase reads, how often, what it costs and whether it fits (JSON in contract.md).

Decisions: the mixture is `data.mixture.mix` itself, so that the plan cannot differ from what training is given; costs
are in `costs.py`. Counts of tokens come from a file, the recipe's own file, or `artifacts/tokenize`, in this order.
Under `--counts-from` a column of tokens *sampled* in a phase is turned round: t ∝ n^τ, so n ∝ t^(1/τ), scaled to
Σn = Σt. This holds for sampled languages only: a fixed-share source of that phase, or a language outside its explicit
set, keeps the recipe's count. No epoch cap is applied then, because such an n is known up to its scale only.
More than four epochs over a language is warned of: up to four, repeated text is worth nearly as much as new text
(Muennighoff et al. 2023, arXiv 2305.16264). Merging, evaluation and preparing the data are not in the costs.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmenc.artifact import Json, read_json
from mmenc.costs import fit_warnings, phase_costs, tree_bytes
from mmenc.data.mixture import Mixture, mix, resolve_waves
from mmenc.data.tokens import is_language
from mmenc.errors import Refused, nearest
from mmenc.model.config import encoder_config, parameter_counts
from mmenc.recipe import Recipe

SCHEMA = 1
MANY_EPOCHS = 4.0
TOKENIZED = Path("artifacts/tokenize/manifest.json")


@dataclass(frozen=True)
class Counts:
    """Tokens available per folder (language tag or bucket source) and where the figures come from."""

    tokens: Mapping[str, int]
    source: str
    capped: bool = True
    """Whether epoch caps apply."""
    warnings: list[Json] = field(default_factory=list)
    unmatched: str = ""
    """For a refusal: what rows of the file no language of the recipe matches."""


def _number(text: object, where: str) -> int:
    try:
        value = float(str(text))
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0 or value != int(value):
        raise Refused(f"{where} is {text!r}; expected a whole number of tokens, zero or more")
    return int(value)


def read_counts(path: Path, column: str = "tokens") -> dict[str, int]:
    """Read one column of a CSV file with a column `language`; refuses what is not plain."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            header = list(rows.fieldnames or [])
            for name in ("language", column):
                if header.count(name) != 1:
                    found = ", ".join(header) or "nothing"
                    times = "twice" if header.count(name) else "no"
                    raise Refused(f"{path}: has {times} column {name!r}, found {found}{nearest(name, header)}")
            counts: dict[str, int] = {}
            for row in rows:
                language, where = (row["language"] or "").strip(), f"{path}: line {rows.line_num}"
                if None in row or not language:
                    raise Refused(f"{where}: expected one value for each of {', '.join(header)}")
                if language in counts:
                    raise Refused(f"{where}: {language} is there twice")
                counts[language] = _number(row[column], f"{where}: {column} of {language}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Refused(f"{path}: cannot be read as a table of counts ({getattr(error, 'strerror', None) or error})") from None
    if not any(counts.values()):
        raise Refused(f"{path}: column {column!r} has no number above zero")
    return counts


def _sources(recipe: Recipe) -> set[str]:
    return {b.source for phase in recipe.phases.values() for b in phase.buckets.values()}


def _match(recipe: Recipe, path: Path, rows: Mapping[str, int], base: Iterable[str], option: str = "--counts") -> Counts:
    """Give each row to its tag or folder, a bare ISO 639-3 code to every tag with that code (a row of its own wins)."""
    known = {t for wave in recipe.languages.values() if isinstance(wave, list) for t in wave} | {*base} | _sources(recipe)
    by_code: dict[str, list[str]] = {}
    for tag in sorted(known):
        if is_language(tag):
            by_code.setdefault(tag[:3], []).append(tag)
    found = {key: n for key, n in rows.items() if key in known or is_language(key)}
    lost, shared = [], []
    for key, n in rows.items():
        tags = [t for t in by_code.get(key, []) if t not in rows]
        found |= dict.fromkeys(tags, n)
        if n and key not in found and key not in by_code:
            lost.append(key)
        if len(tags) > 1 and n:
            shared.append(f"{key} ({', '.join(tags)})")
    warnings, hint = [], ""
    if lost:
        hint = f"rows of {path} that match no language of the recipe, {len(lost)} in all: {_some(lost)}{nearest(lost[0], known)}"
        warnings.append({"path": option, "message": hint})
    if shared:
        warnings.append({"path": option, "message": f"rows whose tokens are given to each of several tags: {_some(shared)}"})
    return Counts(found, str(path), warnings=warnings, unmatched=hint)


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _recipe_counts(recipe: Recipe, params: Path) -> Counts | None:
    """What the recipe itself says: its counts file (relative to here, then to the recipe), else the tokenized data."""
    if recipe.compute.counts:
        named = Path(recipe.compute.counts)
        path = next((p for p in (named, params.parent / named, params.parent.parent / named) if p.is_file()), None)
        if path is None:
            raise Refused(f"{params}: compute.counts: there is no file {recipe.compute.counts!r}, here or beside the recipe")
        return _match(recipe, path, read_counts(path), (), "compute.counts")
    if TOKENIZED.is_file():
        try:
            folders = read_json(TOKENIZED)["facts"]["folders"]
            return Counts({folder: int(row["train"]["tokens"]) for folder, row in folders.items()}, str(TOKENIZED.parent))
        except (ValueError, KeyError, TypeError):
            raise Refused(f"{TOKENIZED}: is not the manifest of a tokenize step; run it again") from None
    return None


def counts_for(recipe: Recipe, params: Path, counts_file: Path | None = None, counts_from: str = "") -> Counts:
    """Find the counts to plan with (module docstring); raise Refused if there are none."""
    if counts_from and counts_file is None:
        raise Refused(f"--counts-from {counts_from}: names a column of --counts, which is missing")
    if counts_from and counts_from not in recipe.phases:
        known = ", ".join(recipe.phases)
        raise Refused(
            f"--counts-from {counts_from}: no phase is called so{nearest(counts_from, recipe.phases) or '; found ' + known}"
        )
    base = _recipe_counts(recipe, params)
    if counts_file is None:
        if base is None:
            raise Refused(
                f"{params}: there is nothing to count; give --counts FILE.csv, name one in compute.counts, "
                f"or make artifacts/tokenize with `make run`"
            )
        return base
    own = base.tokens if base else {}
    given = _match(recipe, counts_file, read_counts(counts_file, counts_from or "tokens"), own)
    if not counts_from:
        fixed = {s: own[s] for s in _sources(recipe) if s in own and s not in given.tokens}
        return replace(given, tokens={**given.tokens, **fixed})
    available = _available(recipe, counts_from, given.tokens, own)
    return replace(given, tokens=available, source=f"{counts_file}, sampled in {counts_from}", capped=False)


def _available(recipe: Recipe, phase_name: str, sampled: Mapping[str, int], own: Mapping[str, int]) -> dict[str, int]:
    """Turn tokens sampled in a phase into tokens available."""
    phase = recipe.phases[phase_name]
    wave, fixed = recipe.languages[phase.languages], {b.source for b in phase.buckets.values()}
    power = {t: n ** (1 / phase.temperature) for t, n in sampled.items() if n}
    inside = [t for t in power if t not in fixed and (not isinstance(wave, list) or t in wave)]
    if not inside:
        raise Refused(f"--counts-from {phase_name}: the column names none of the languages of phases.{phase_name}")
    scale = sum(sampled[t] for t in inside) / sum(power[t] for t in inside)
    turned = {t: max(1, round(scale * power[t])) for t in inside}
    rest = {t: sampled[t] if t in fixed else max(1, round(scale * power[t])) for t in power if t not in inside}
    return {**rest, **{t: n for t, n in own.items() if n}, **turned}


def make_plan(recipe: Recipe, counts: Counts | Mapping[str, int]) -> Json:
    """The plan in the JSON form of contract.md, with a few more keys; refuses what the data cannot feed."""
    given = counts if isinstance(counts, Counts) else Counts(counts, "given")
    n = given.tokens
    try:
        waves = resolve_waves(recipe.languages, n)
    except Refused as error:
        raise Refused(f"{error}; {given.unmatched}" if given.unmatched else str(error)) from None
    model = parameter_counts(encoder_config(recipe))
    warnings, phases = list(given.warnings), {}
    read: dict[str, dict[str, int]] = {"init": {}}
    first: dict[str, dict[str, str]] = {"init": {}}
    for name in sorted(recipe.phases, key=lambda p: len(recipe.ancestors(p))):
        phase = recipe.phases[name]
        asked = phase if given.capped else phase.model_copy(update={"epoch_cap": math.inf})
        mixture = mix(asked, name, waves[phase.languages], n)
        folders = {t: q for t, q in mixture.languages.items() if q}
        for bucket, q in mixture.buckets.items():
            folders[phase.buckets[bucket].source] = folders.get(phase.buckets[bucket].source, 0) + q
        before = read[phase.init]
        read[name] = {**before, **{f: before.get(f, 0) + q for f, q in folders.items()}}
        first[name] = {**dict.fromkeys([*mixture.languages, *folders], name), **first[phase.init]}
        phases[name] = {
            **_mixed(recipe, name, mixture, n, read[name], first[name]),
            **phase_costs(recipe, phase, model["parameters"]),
        }
        warnings += _reading_warnings(recipe, name, mixture, n, read)
        warnings += fit_warnings(recipe, name, phases[name], model["parameters"])
    ordered = {name: phases[name] for name in recipe.phases}
    return {
        "schema": SCHEMA,
        "model": model,
        "phases": ordered,
        "totals": _totals(recipe, ordered, n, read, model["parameters"]),
        "warnings": warnings,
        "counts": {"source": given.source, "languages": sum(is_language(t) and c > 0 for t, c in n.items())},
        "compute": recipe.value("compute"),
    }


def _mixed(recipe: Recipe, name: str, mixture: Mixture, n: Mapping[str, int], read: Mapping[str, int], first: Json) -> Json:
    """What a phase reads; `total_epochs` are those since the root, read as a bucket included."""
    phase = recipe.phases[name]

    def row(folder: str, tokens: int) -> Json:
        own, total = tokens / n[folder], read.get(folder, 0) / n[folder]
        return {"share": tokens / phase.tokens, "tokens": tokens, "epochs": own, "available": n[folder], "total_epochs": total}

    return {
        "init": phase.init,
        "tokens": phase.tokens,
        "context": phase.context,
        "mask": phase.mask,
        "changes": [change.model_dump(mode="json") for change in phase.changes],
        "temperature": phase.temperature,
        "languages": {t: {**row(t, q), "first_phase": first[t]} for t, q in mixture.languages.items()},
        "buckets": {b: {**row(s := phase.buckets[b].source, q), "source": s} for b, q in mixture.buckets.items()},
        "capped": mixture.capped,
    }


def _reading_warnings(recipe: Recipe, name: str, mixture: Mixture, n: Mapping[str, int], read: Mapping[str, Json]) -> list[Json]:
    """Repetition, caps, and languages too small for a row."""
    phase, here = recipe.phases[name], f"phases.{name}"
    found: list[Json] = []

    def warn(key: str, message: str) -> None:
        found.append({"path": f"{here}.{key}", "message": message})

    def often(of: str) -> dict[str, float]:
        return {f: q / n[f] for f, q in read[of].items() if q > MANY_EPOCHS * n[f]}

    now = often(name)
    if len(now) > len(often(phase.init)):
        worst = max(now, key=lambda f: now[f])
        often_read = f"{_languages(len(now), 'is', 'are')} read more than {MANY_EPOCHS:g} times by its end"
        warn("tokens", f"{often_read}; most: {worst}, {now[worst]:.1f}")
    if mixture.capped:
        surplus = "what is over goes to the others"
        warn("epoch_cap", f"{len(mixture.capped)} capped at {phase.epoch_cap:g} epochs, {surplus}: {_some(mixture.capped)}")
    row = f"one row of {phase.context:,} tokens"
    least = sorted((q, t) for t, q in mixture.languages.items() if q < phase.context)
    if least:
        some = _some([f"{t} {q:,}" for q, t in least], 3)
        warn("languages", f"{_languages(len(least), 'gets', 'get')} less than {row}: {some}")
    small = sorted((n[t], t) for t, q in mixture.languages.items() if n[t] < phase.context <= q)
    if small:
        some = _some([f"{t} {q:,}" for q, t in small], 3)
        warn("languages", f"{_languages(len(small), 'has', 'have')} less text than {row}: {some}")
    return found


def _languages(number: int, one: str, several: str) -> str:
    return f"1 language {one}" if number == 1 else f"{number:,} languages {several}"


def _totals(recipe: Recipe, phases: Json, n: Mapping[str, int], read: Mapping[str, Json], parameters: int) -> Json:
    """Sums over the phases; disk also holds the tokens of all that is read, init, merge, release and resume states."""
    keys = ("tokens", "steps", "flops", "gpu_hours", "hours", "cost", "kwh", "disk_bytes")
    totals = {key: sum(phase[key] for phase in phases.values()) for key in keys}
    folders = {folder for name in recipe.phases for folder in read[name]}
    totals["disk_bytes"] += tree_bytes(
        parameters, recipe.tokenizer.vocab_size, sum(n[f] for f in folders), recipe.compute.keep_states
    )
    return {
        **totals,
        "memory_bytes": max(phase["memory_bytes"] for phase in phases.values()),
        "currency": recipe.compute.currency,
    }
