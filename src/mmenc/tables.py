"""One page per step, from its manifest alone: the tables per language that a person looks for beside a task in the UI.

Decision: Kubeflow stores and shows each page by itself, so it has to stay small (400 KB): a long table keeps its first
rows, in an order that puts what matters first, and says how many the artifact has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mmenc.artifact import Json, Manifest
from mmenc.card import settings_of_merge
from mmenc.charts import line_chart
from mmenc.page import Cell, Html, Marked, details, figures, page, table, tag
from mmenc.report.intrinsic import script_table

CELLS = 6_000
"""At most, in one table: about 330 KB."""
Parts = list[str]


def _long(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Parts:
    most = CELLS // max(1, len(head))
    parts: Parts = [table(head, rows[:most], find="find a language")]
    if len(rows) > most:
        parts.append(f"The first {most:,} of {len(rows):,} rows; manifest.json in the artifact has all.")
    return parts


def _share(part: float, whole: float) -> Cell:
    return Marked(100 * part / whole if whole else 0.0, digits=1)


def _ingest(f: Json) -> Parts:
    rows: list[list[Cell]] = [[t, r["documents"], r["chars"], r["bytes"]] for t, r in f["languages"].items()]
    rows.sort(key=lambda r: (-float(str(r[3])), str(r[0])))
    found: dict[tuple[str, str], list[int]] = {}
    for s in f["sources"]:
        entry = found.setdefault((s["source"], s["license"]), [0, 0, 0])
        for i, n in enumerate((1, s["documents"], s["bytes"])):
            entry[i] += n
    sources: list[list[Cell]] = [[source, license_, *n] for (source, license_), n in sorted(found.items())]
    total = f["total"]
    return [
        figures(
            {"languages and buckets": len(rows), "documents": total["documents"], "MB of text": round(total["bytes"] / 1e6, 2)}
        ),
        *_long(["language", "documents", "characters", "bytes"], rows),
        tag("h2", "Sources"),
        *_long(["source", "licence", "files", "documents", "bytes"], sources),
    ]


def _why(rejected: Json) -> str:
    return ", ".join(f"{reason} {n}" for reason, n in rejected.items() if n)


def _clean(f: Json) -> Parts:
    rows: list[list[Cell]] = [
        [t, r["documents"], r["kept"], _share(r["documents"] - r["kept"], r["documents"]), _why(r["rejected"])]
        for t, r in sorted(f["languages"].items(), key=lambda item: (item[1]["kept"] / max(1, item[1]["documents"]), item[0]))
    ]
    total = f["total"]
    return [
        figures({"documents": total["documents"], "kept": total["kept"], "rejected": total["documents"] - total["kept"]}),
        f"Rejected: {_why(total['rejected']) or 'nothing'}. The languages that lose most come first.",
        *_long(["language", "documents", "kept", "rejected %", "why"], rows),
    ]


def _tokenizer(f: Json) -> Parts:
    kinds = {"bytes_per_token": 2, "tokens_per_word": 2, "single_byte_share": 4, "unknown_share": 4}
    rows: list[list[Cell]] = [
        [t, *(Marked(r[k], digits=d) for k, d in kinds.items()), f["sample_bytes"].get(t, 0)]
        for t, r in sorted(f["languages"].items(), key=lambda item: (item[1]["bytes_per_token"], item[0]))
    ]
    return [
        figures({"entries": f["vocab_size"], "languages measured": len(rows)}),
        "On held-out text, the languages that are served worst first.",
        *_long(["language", *(k.replace("_", " ") for k in kinds), "bytes trained on"], rows),
    ]


def _tokenize(f: Json) -> Parts:
    splits = ("train", "dev", "test")
    rows: list[list[Cell]] = [
        [t, *(r[s]["tokens"] for s in splits), *(r[s]["documents"] for s in splits)]
        for t, r in sorted(f["folders"].items(), key=lambda item: (-item[1]["train"]["tokens"], item[0]))
    ]
    missing = f["without_test"]
    return [
        figures({f"{s} tokens": f["total"][s] for s in splits}),
        *([details(f"{len(missing)} without test documents", tag("p", ", ".join(missing)))] if missing else []),
        *_long(["language", *(f"{s} tokens" for s in splits), *(f"{s} documents" for s in splits)], rows),
    ]


def _mixture(f: Json) -> Parts:
    named = [*((b, r) for b, r in f["buckets"].items()), *f["languages"].items()]
    rows: list[list[Cell]] = [
        [t, Marked(100 * r["share"], digits=3), r["tokens"], Marked(r["epochs"], digits=2), r["available"]]
        for t, r in sorted(named, key=lambda item: (-item[1]["share"], item[0]))
    ]
    return [
        figures(
            {"tokens": f["tokens"], "languages": len(f["languages"]), "buckets": len(f["buckets"]), "capped": len(f["capped"])}
        ),
        *f["warnings"],
        *_long(["language or bucket", "share %", "tokens", "epochs", "available"], rows),
    ]


def _train(f: Json) -> Parts:
    rows: list[list[Cell]] = [
        [t, Marked(100 * n, digits=3)] for t, n in sorted(f["observed"].items(), key=lambda i: (-i[1], i[0]))
    ]
    curves = {"held-out (15 % masked)": f["heldout"], "training (the phase's own mask rate)": f["curve"]}
    apart = f"What was read differs from the plan by {100 * f['mix_distance']:.2f} % of the tokens; "
    return [
        figures({"tokens": f["tokens"], "steps": f["steps"], "held-out loss": f["heldout"][-1][1]}),
        line_chart({name: [(x, y) for x, y in line] for name, line in curves.items()}, "tokens of this phase", "loss (nats)"),
        apart + f"each row held {100 * f['fill']:.1f} % text.",
        *_long(["language or bucket", "share read %"], rows),
    ]


def _merge(f: Json) -> Parts:
    tried = {r["branch"] for r in f["sweep"] if "branch" in r}
    rows: list[list[Cell]] = [
        [f"{name} alone", Marked(loss, digits=4)] for name, loss in f["branches_alone"].items() if name not in tried
    ]
    for r in f["sweep"]:
        chosen = "best" if r == f["chosen"] else ""
        told = settings_of_merge(f["method"], r)
        rows.append([told, Marked(r["dev_loss"], chosen, "chosen" if chosen else "", 4)])
    losses: list[list[Cell]] = [
        [t, *(Marked(x, digits=3) for x in row)]
        for t, row in sorted(f["languages"].items(), key=lambda item: (item[1][-1] - item[1][0], item[0]))
    ]
    return [
        f"Loss on dev text by the criterion `{f['criterion']}`, by which the merge was chosen.",
        table(["model", "dev loss"], rows, sortable=False),
        "Dev loss per language; those that gain most over the base first.",
        *_long(["language", *f["columns"]], losses),
    ]


def _evaluate(f: Json) -> Parts:
    parts: Parts = ["Means over the languages of a tier; the unigram models know frequencies of the training text only."]
    for tier, models in f["tiers"].items():
        kinds = sorted({k for row in models.values() for k in row})
        rows: list[list[Cell]] = [[k, *(Marked(row.get(k), digits=4) for row in models.values())] for k in kinds]
        parts += [tag("h2", f"Tier {tier}"), table(["figure", *models], rows, sortable=False)]
    scripts = f["scripts"]
    told = [[name, *counts] for name, counts in zip(scripts["names"], scripts["matrix"], strict=True)]
    words = (
        f"Of the masked tokens that have a script, {100 * scripts['right']:.1f} % are answered in it. Rows: the masked token's; "
    )
    words += "columns: the guess's; bytes are pieces of a character, none are tokens without letters."
    parts += [tag("h2", "By script"), script_table(f["by_script"])]
    return [*parts, tag("h2", "Scripts"), words, table(["script", *scripts["names"]], told, sortable=False)]


PAGES: dict[str, Callable[[Json], Parts]] = {
    "ingest": _ingest,
    "clean": _clean,
    "tokenizer": _tokenizer,
    "tokenize": _tokenize,
    "mixture": _mixture,
    "train": _train,
    "merge": _merge,
    "evaluate": _evaluate,
}


def page_of(manifest: Manifest) -> str:
    """Return the page of a step."""
    parts = PAGES[manifest.step](manifest.facts)
    return page(f"{manifest.step} {manifest.name}".strip(), [p if isinstance(p, Html) else tag("p", p) for p in parts])
