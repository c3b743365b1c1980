"""The comment on a pull request: what the change retrains, what that costs, and what `continue` would cost instead.

Decision: the sentence that decides comes first, figures in one table, the rest folded. Names of languages, paths and values come
from a pull request, so they are written as text that Markdown and HTML do not read.
"""

from __future__ import annotations

import json
from typing import Any

from mmenc.artifact import Json
from mmenc.markdown import fold, plain, table
from mmenc.plan_show import big
from mmenc.retrain.carry_on import REPEAT, as_text

SOME = 12
"""Rows of a table that stay open."""


def duration(time: float) -> str:
    """A time for people."""
    if time < 1:
        return f"{60 * time:.1f} min"
    return f"{time:,.1f} h" if time < 72 else f"{time / 24:,.1f} days"


def hours(number: float) -> str:
    """GPU-hours: two decimals, of less than a hundredth two figures."""
    return f"{number:,.2f}" if number >= 0.01 or not number else f"{number:.2g}"


def money(row: Json, costs: Json) -> str:
    """An amount, or that no price is declared."""
    return f"{row['cost']:,.2f} {plain(costs['currency'])}" if costs["price_per_hour"] else "no price"


def _value(found: Any) -> str:
    if found is None:
        return "–"
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    return plain(text if len(text) <= 60 else text[:57] + "…")


def _headline(found: Json) -> str:
    nodes, costs = found["nodes"], found["costs"]
    fresh = [n for n in nodes.values() if n["new"]]
    trained = [n["name"] for n in fresh if n["step"] == "train"]
    if not fresh:
        files = ", ".join(plain(f) for f in found["touched"])
        why = f"{files} differs as text only: comments, order or spelling." if files else "No input of any step differs."
        return f"**Nothing retrains.** {why} All {len(nodes)} artifacts keep their digest."
    if not trained:
        steps = ", ".join(dict.fromkeys(n["step"] for n in fresh))
        return f"**No phase retrains**; {len(fresh)} of {len(nodes)} artifacts are made anew ({steps})."
    new, whole = costs["new"], costs["all"]
    spent = f"{big(new['tokens'])} tokens, {hours(new['gpu_hours'])} GPU-hours, {money(new, costs)}"
    share = f"{100 * new['gpu_hours'] / whole['gpu_hours']:.0f} % of a whole training" if whole["gpu_hours"] else ""
    return (
        f"**{len(trained)} of {len(costs['phases'])} phases retrain: {', '.join(trained)}.** {spent}: {share}. "
        f"{len(fresh)} of {len(nodes)} artifacts get a new digest."
    )


def _recipe(found: Json) -> str:
    rows = []
    silent = set(found["recipe"]["silent"])
    for path, (old, new) in found["recipe"]["changed"].items():
        rows.append([plain(path), _value(old), _value(new), "no step (where and how fast)" if path in silent else "the graph"])
    if not rows:
        return ""
    head = ["value", "before", "now", "read by"]
    text = table(head, rows[:SOME])
    return "#### Recipe\n\n" + text + ("\n\n" + fold(f"{len(rows) - SOME} more", table(head, rows[SOME:])) if rows[SOME:] else "")


def _data(found: Json) -> str:
    data = found["data"]
    if not data["changed"]:
        return ""
    if not data["known"]:
        return "#### Raw text\n\nIt has changed; which languages cannot be told, since DVC's list of the files is out of reach."
    rows = []
    for folder, row in data["languages"].items():
        files = ", ".join(f"{n} {kind}" for kind, n in row["files"].items() if n)
        sizes = ["–" if b is None else f"{b / 1e6:,.2f} MB" for b in row["bytes"]]
        readers = [name for name, tags in found["plan"]["reads"].items() if folder in tags]
        rows.append([plain(folder), row["state"], files, *sizes, ", ".join(readers) or "–"])
    head = ["folder", "", "files", "before", "now", "read by the phases"]
    kept = table(head, rows[:SOME]) + ("\n\n" + fold(f"{len(rows) - SOME} more", table(head, rows[SOME:])) if rows[SOME:] else "")
    note = "Phases that do not read such a language retrain too: tokenizer and token files are made of all text."
    return f"#### Raw text\n\n{kept}\n\n{note}" if found["trains"] else f"#### Raw text\n\n{kept}"


def _costs(found: Json) -> str:
    costs, rows = found["costs"], list[list[str]]()
    for name, row in costs["phases"].items():
        why = found["nodes"][f"train {name}"]["why"]
        said = ", ".join(plain(w) for w in why[:3]) + (f" and {len(why) - 3} more" if why[3:] else "")
        rows.append([name, "**retrains**" if row["new"] else "kept", said or "–", *_figures(row, costs)])
    for part, word in (("new", "**retrains**"), ("kept", "kept")):
        rows.append(["**together**" if part == "new" else "together", word, "", *_figures(costs[part], costs)])
    head = ["phase", "", "because of", "tokens", "GPU-hours", "time", "money"]
    machine = f"On {costs['accelerators']} × {plain(costs['accelerator'])} by `mmenc plan`; only training is counted."
    return f"#### Training\n\n{table(head, rows)}\n\n{machine}"


def _figures(row: Json, costs: Json) -> list[str]:
    return [big(row["tokens"]), hours(row["gpu_hours"]), duration(row["hours"]), money(row, costs)]


def _continue(found: Json) -> str:
    other, costs = found["continue"], found["costs"]
    if not found["trains"] or not found["data"]["changed"]:
        return ""
    if not other["offered"]:
        return f"#### Continue instead?\n\nNot offered: {plain(other['reason'])}."
    rows = [["retrain", *_figures(costs["new"], costs)], ["continue", *_figures(other["costs"], costs)]]
    languages = ", ".join(plain(t) for t in other["languages"])
    text = (
        f"`continue` is cheaper: the release {plain(other['name'])} learns {languages} further, instead of a new training.\n\n"
        f"{table(['', 'tokens', 'GPU-hours', 'time', 'money'], rows)}\n\n"
        f"**It is another model.** Its `init` names the files of the release by their sha256, and there its chain of digests "
        f"begins: `mmenc lineage` ends at these hashes, not at the raw text of the release, which the release's own "
        f"lineage.json tells. The tokenizer stays as it is (no pieces for a new script), the other languages are read only "
        f"through {100 * REPEAT:g} % repeated text and may get worse, and its evaluation covers the languages that it reads. "
        f"It does not change what this pull request would retrain: commit the recipe below as a file and submit that one."
    )
    recipe = f"```yaml\n{as_text(other['recipe'])}```"
    return f"#### Continue instead?\n\n{text}\n\n{fold('recipe', recipe)}"


def _graph(found: Json) -> str:
    rows = [
        [label, "**new digest**" if n["new"] else "same", ", ".join(plain(w) for w in n["why"]) or "–"]
        for label, n in found["nodes"].items()
    ]
    parts = [fold("All artifacts", table(["artifact", "", "because of"], rows))]
    if found["gone"]:
        parts.append(f"No longer in the graph: {', '.join(plain(g) for g in found['gone'])}.")
    if found["unwatched"]:
        named = ", ".join(plain(u) for u in found["unwatched"])
        parts.append(f"Git does not hold what these name, so a change there is not seen: {named}.")
    if stages := found.get("dvc"):
        idle = f"; {len(stages['idle'])} of them would find their artifact up to date" if stages["idle"] else ""
        blind = ", ".join(f"`dvc repro -f {s}`" for s in stages["unseen"])
        rest = f" It does not notice that these are new: {blind}." if blind else ""
        parts.append(f"`dvc status`: {len(stages['run'])} stages would run{idle}.{rest}")
    return "\n\n".join(parts)


def _plan(found: Json) -> str:
    plan = found["plan"]
    if plan["refused"]:
        return f"> **Refused by `mmenc plan`**: {plain(plan['refused'])}"
    if not plan["source"]:
        return "Nobody has counted tokens yet (`--counts`, or a last release), so the mix of languages was not checked."
    warnings = "\n".join(f"* {plain(w['path'])}: {plain(w['message'])}" for w in plan["warnings"])
    said = f"The mix of languages was checked with the counts of {plain(plan['source'])}"
    return f"{said}." if not warnings else f"{said}; {len(plan['warnings'])} warnings.\n\n{fold('Warnings', warnings)}"


def render(found: Json) -> str:
    """The whole comment."""
    head = f"### Retraining: {found['base'][:12] or 'nothing'} → {found['head'][:12]}"
    parts = [head, _headline(found)]
    if found["base_refused"]:
        parts.append(f"The recipe before could not be read, so everything counts as new: {plain(found['base_refused'])}.")
    if found["release"]:
        parts.append(f"Last release: {plain(found['release'])}.")
    if found["runs"] or found["recipe"]["changed"]:
        parts += [_recipe(found), _data(found)]
    if found["trains"]:
        parts += [_costs(found), _continue(found)]
    if found["runs"]:
        parts += [_plan(found), _graph(found)]
    return "\n\n".join(p for p in parts if p) + "\n"


def refused(sentence: str) -> str:
    """The comment where the recipe of the pull request is no recipe."""
    return f"### Retraining\n\n**Refused.** {plain(sentence)}\n"
