"""`mmenc evaluate MODEL …`: models side by side on one test text, ours and any encoder of Hugging Face.

Decisions: the same documents for all, masked at one rate with one seed over each model's own tokens, counted per byte; a
model without a masked-LM head is measured on retrieval only, and its other rows are `skipped` with the reason, so that they
enter no mean. So is a language of which a tokenizer knows less than nine tenths. The default recipe's 459 languages are
0.9 M tokens for each model, 0.4 M of them for retrieval.
"""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mmenc.artifact import Json, atomic_directory, write_json
from mmenc.compare import compare
from mmenc.data.masking import mask_tokens
from mmenc.downstream.options import Options
from mmenc.downstream.side import side_by_side
from mmenc.downstream.suite import INTRINSIC, Plan, make_plan, show, tuned_suites, units_folder
from mmenc.downstream.suite import score as score_tuned
from mmenc.downstream.units import Units
from mmenc.errors import Refused
from mmenc.evaluate import calibration
from mmenc.evaluate.intrinsic import language_rows
from mmenc.evaluate.models import Subject, open_subject
from mmenc.evaluate.pseudo import draw, pseudo_rows, rows_of
from mmenc.evaluate.retrieval import parallel, retrieval_rows
from mmenc.evaluate.rows import Pooled, aggregate, skipped
from mmenc.evaluate.score import Piece, Scores, cut_document, score_pieces
from mmenc.evaluate.texts import TestText, open_text
from mmenc.external import Cache
from mmenc.job import disk_errors
from mmenc.progress import bar, console
from mmenc.recipe import Recipe, load
from mmenc.sections import Evaluate
from mmenc.stop import signals
from mmenc.train.group import device_of

SCHEMA = 1
UNITS = "units"
SENTENCES = "sentences"
"""Folder of encoders that were trained on triplets."""
MOST_UNKNOWN = 0.1
PRINTED = {
    "bits per byte": ("mlm", "bits_per_byte", 1, 3),
    "accuracy %": ("mlm", "accuracy", 100, 1),
    "calibration error %": ("mlm", "calibration_error", 100, 1),
    "retrieval %": ("retrieval", "accuracy", 100, 1),
    "centred %": ("retrieval", "accuracy_centred", 100, 1),
}
"""Column of the printed table: task, metric, factor, decimals."""


def masked_pieces(subject: Subject, text: TestText, settings: Evaluate) -> tuple[list[Piece], dict[str, float]]:
    """Masked rows of the chosen documents, and the share of each language's text that the tokenizer does not know."""
    words, unknown = subject.words, dict[str, float]()
    found: list[Piece] = []
    for tag, chosen in text.chosen.items():
        pieces, shares = list[Piece](), list[float]()
        for document in chosen:
            tokens = words.of(text.text(document))
            ids_T = np.array([words.mask_id, *tokens.ids_N, words.mask_id], dtype=np.int64)
            names = (settings.seed, "score", document)
            masked = mask_tokens(ids_T, settings.mask, subject.vocab, *names, ordinary=words.ordinary, mask_id=words.mask_id)
            pieces += cut_document(masked, document, subject.context, words.outer, tokens.size_N[masked[1] - 1])
            shares.append(tokens.unknown)
        unknown[tag] = sum(shares) / max(1, len(shares))
        if unknown[tag] <= MOST_UNKNOWN:
            found += pieces
    return sorted(found, key=lambda p: len(p.input_T)), unknown


def _masked_rows(subject: Subject, text: TestText, settings: Evaluate) -> tuple[list[Json], Pooled]:
    name, digest = subject.name, subject.digest
    if subject.reason:
        return [skipped(name, digest, "mlm", t, tier, subject.reason) for t, tier in text.tiers.items()], {}
    pieces, unknown = masked_pieces(subject, text, settings)
    rows, gaps = language_rows(name, digest, score_pieces(pieces, subject.logits), text.ranges, text.tiers, settings)
    measured = {r["language"] for r in rows}
    for tag, tier in text.tiers.items():
        if tag not in measured:
            share = unknown.get(tag, 0.0)
            why = f"{100 * share:.0f} % of the text is unknown to its tokenizer" if share > MOST_UNKNOWN else "no test document"
            rows.append(skipped(name, digest, "mlm", tag, tier, why))
    return rows, calibration.pooled(name, gaps, settings.bootstrap)


def _pseudo(subject: Subject, text: TestText, settings: Evaluate, unknown: Collection[str]) -> list[Json]:
    """Rows of the languages that are not `unknown`; like masked tokens, unknown ones are never scored."""
    words = subject.words

    def encode(sentence: str, number: int) -> list[Piece]:
        tokens, room = words.of(sentence), subject.context - len(words.outer[0]) - len(words.outer[1])
        rows = rows_of(tokens.ids_N[:room], tokens.size_N[:room], number, words.outer, words.mask_id)
        return [p for p in rows if np.isin(p.target_M, words.ordinary).all()]

    known = {t: d for t, d in text.chosen.items() if t not in unknown}
    chosen = draw({t: map(text.text, d) for t, d in known.items()}, settings.pseudo_perplexity, settings.seed)
    scored: partial[Scores] = partial(score_pieces, logits=subject.logits)
    return pseudo_rows(subject.name, subject.digest, chosen, text.tiers, settings, encode, scored)


def score_subject(subject: Subject, text: TestText, settings: Evaluate, file: Path | None) -> tuple[list[Json], Pooled, Json]:
    """All rows of one model, how they are pooled, and facts of retrieval."""
    rows, pooled = _masked_rows(subject, text, settings)
    if settings.pseudo_perplexity and not subject.reason:
        unknown = {r["language"]: r for r in rows if r["status"] == "skipped" and "unknown" in r["reason"]}
        rows += _pseudo(subject, text, settings, unknown)
        rows += [skipped(subject.name, subject.digest, "pseudo", t, r["tier"], r["reason"]) for t, r in unknown.items()]
    pairs = parallel(text.groups, settings.retrieval_group)
    x_SD = subject.embed([text.text(d) for d in pairs.flat]) if pairs.possible else np.empty((0, 0), dtype=np.float32)
    found, facts = retrieval_rows(x_SD, subject.name, subject.digest, pairs, text.tiers, settings, file)
    return rows + found, pooled, facts


def _write_table(path: Path, rows: Sequence[Json]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _print(rows: Sequence[Json], about: Json, seconds: dict[str, float]) -> None:
    """One line per model, in the terminal."""
    from rich.table import Table

    table = Table(title="Means over languages on test, each counting the same", title_justify="left")
    table.add_column("model")
    for head in ("parameters", *PRINTED, "seconds"):
        table.add_column(head, justify="right")
    cells = {(r["model"], r["task"], r["metric"]): r["mean"] for r in rows if r["tier"] == "all" and r["status"] == "ok"}
    for name, facts in about.items():
        shown = [f"{facts['parameters']:,}"]
        for task, metric, scale, digits in PRINTED.values():
            mean = cells.get((name, task, metric))
            shown.append("–" if mean is None else f"{scale * mean:.{digits}f}")
        table.add_row(name, *shown, f"{seconds[name]:.1f}")
    console().print(table)


def retrieval_file(work: Path, name: str) -> Path:
    """Where the hits of every pair of languages go."""
    file = work / "retrieval" / f"{name.replace('/', '--')}.npz"
    file.parent.mkdir(exist_ok=True)
    return file


def _guard(out: Path) -> None:
    if out.exists() and not (out.is_dir() and ((out / "scores.json").is_file() or not any(out.iterdir()))):
        raise Refused(f"{out}: is there already and holds no evaluation; name a new folder for --out")
    if (out / "manifest.json").is_file():
        raise Refused(f"{out}: is an artifact of the pipeline; name a new folder for --out")


def evaluate(
    models: Sequence[str],
    params: Path,
    data: Path | str | None,
    out: Path,
    suite: str = INTRINSIC,
    options: Options | None = None,
) -> None:
    """Score the models and write scores.json, scores.csv and pages into `out`.

    `data` is labelled data for the suites of downstream tasks; where only `intrinsic` is asked for, its test text.
    """
    names, options = [n.strip() for n in suite.split(",")], options or Options()
    tuned = tuned_suites(names, "--suite")
    _guard(out)
    recipe = load(params)
    beside = params.parent / "artifacts"
    root = Path(data) if data and not tuned else beside
    torch.set_num_threads(recipe.compute.threads)
    cache = Cache(root / ".cache", recipe.compute.store_patience)
    try:
        text = open_text(root, recipe, options.limit, cache) if INTRINSIC in names else None
        used = root if (root / "tokenizer").is_dir() else beside if (beside / "tokenizer").is_dir() else None
        units = Units(units_folder(out), out / UNITS) if tuned else None
        plan = make_plan(tuned, data, recipe, options, cache.folder) if tuned else None
        with signals(), disk_errors(out), atomic_directory(out) as work:
            _all(models, Asked(text, plan, units), used, recipe, work, cache)
            if units:
                units.keep(work / UNITS)
                _keep_sentences([units.folder / SENTENCES, out / SENTENCES], work / SENTENCES)
        if units:
            units.remove()
    finally:
        cache.close()
    pages = [name for name, there in (("comparison.html", text), ("tasks.html", plan)) if there]
    print(f"{out / 'scores.json'}, scores.csv, {', '.join(pages)}", flush=True)


def _keep_sentences(sources: Sequence[Path], work: Path) -> None:
    """Encoders trained on triplets by this evaluation, or by the one whose finished units it took."""
    for folder in (f for source in sources if source.is_dir() for f in sorted(source.iterdir())):
        if not (work / folder.name).exists():
            shutil.copytree(folder, work / folder.name)


@dataclass(frozen=True)
class Asked:
    """Test text of the intrinsic suite, and what the others read and keep; None where it was not asked for."""

    text: TestText | None
    plan: Plan | None
    units: Units | None


def _all(models: Sequence[str], asked: Asked, root: Path | None, recipe: Recipe, work: Path, cache: Cache) -> None:
    settings, device, bf16 = recipe.evaluate, device_of(recipe.compute), recipe.model.dtype == "bfloat16"
    rows, fine = list[Json](), list[Json]()
    pooled: Pooled = {}
    about: Json = {}
    runs: Json = {}
    seconds, spent = dict[str, float](), dict[str, dict[str, float]]()
    with bar("evaluate", len(models), "models") if asked.text else nullcontext() as shown:
        for given in models:
            subject = open_subject(given, root, device, bf16, cache)
            name = subject.name
            if name in about:
                raise Refused(f"{given}: two models are called {name}; name one, such as other={given}")
            about[name] = subject.about
            if asked.text:
                began = time.monotonic()
                found, own, facts = score_subject(subject, asked.text, settings, retrieval_file(work, name))
                rows, pooled = rows + found, {**pooled, **own}
                about[name], seconds[name] = {**subject.about, "retrieval": facts}, time.monotonic() - began
            if asked.plan and asked.units:
                tuned = score_tuned(subject, bf16, asked.plan, asked.units, asked.units.folder / SENTENCES)
                fine, runs[name], spent[name] = fine + tuned.rows, tuned.runs, tuned.seconds
            if shown:
                shown.advance(1, name)
    totals = aggregate(rows, [*recipe.languages, "unseen"], settings.bootstrap, pooled)
    every = totals + rows + fine
    write_json(work / "scores.json", {"schema": SCHEMA, "rows": every})
    _write_table(work / "scores.csv", every)
    if asked.text:
        by_model = {m: [r for r in totals + rows if r["model"] == m] for m in about}
        (work / "comparison.html").write_text(compare(by_model, settings.bootstrap, about)[0], encoding="utf-8")
        _print(totals, about, seconds)
    if asked.plan:
        made = {"protocol": asked.plan.options.protocol, "inputs": asked.plan.data.inputs(), "seconds": spent, "runs": runs}
        write_json(work / "runs.json", made)
        (work / "tasks.html").write_text(side_by_side(fine, about, spent, asked.plan.names), encoding="utf-8")
        show(fine, spent, asked.plan.names)
