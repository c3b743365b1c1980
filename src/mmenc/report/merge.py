"""The report on the merge and the gates: what was tried on dev, what each branch brings to which language, what a release passed.

Decisions: losses here are of dev text, by which the merge was chosen; test figures stand under "What the merge kept". A
language gains or loses by the released model against the base; only the ends of that list are shown.
"""

from __future__ import annotations

from mmenc.artifact import Json
from mmenc.card import settings_of_merge
from mmenc.page import Cell, Marked, number, table, tag
from mmenc.report.story import Story, fixed

ENDS = 8
"""Languages shown that gain most, and that lose most."""
CRITERIA = {"languages": "mean over languages, each counting the same", "tokens": "mean by each language's share of dev text"}


def merge_sweep(story: Story) -> list[str]:
    """Dev loss of everything that was tried, beside the base and each branch alone."""
    facts = story.facts("merge")
    alone, sweep = facts["branches_alone"], facts["sweep"]
    if len(alone) < 2 and facts["method"] in ("ties", "mean"):
        return ["One branch was passed on as it is: there is nothing to sweep."]
    best = min([*alone.values(), *(r["dev_loss"] for r in sweep)])

    def loss(value: float) -> Cell:
        return Marked(value, "best" if value == best else "", digits=4)

    rows: list[list[Cell]] = [[f"{facts['columns'][0]}, the base", loss(facts["means"][facts["criterion"]][0]), None, ""]]
    shown = {r["branch"] for r in sweep if "branch" in r}
    rows += [[f"{name} alone", loss(value), None, ""] for name, value in alone.items() if name not in shown]
    for r in sweep:
        agreement = fixed(100 * r["sign_agreement"], 1) if "sign_agreement" in r else None
        told = settings_of_merge(facts["method"], r)
        rows.append([told, loss(r["dev_loss"]), agreement, "released" if r == facts["chosen"] else ""])
    text = f"Loss on dev text ({CRITERIA[facts['criterion']]}; merge.criterion). What has least is released; nothing was "
    text += "chosen on test. Weights, density and scale were tried one after the other, each on top of the best before. Sign "
    text += "agreement is the share of the kept parameters on whose direction all branches agree."
    if "branch" in facts["chosen"]:
        text += f" No merge was better than {facts['chosen']['branch']} alone, so that is what is released."
    elif better := [name for name, value in alone.items() if value < facts["chosen"]["dev_loss"]]:
        text += f" Alone, {' and '.join(better)} {'has' if len(better) == 1 else 'have'} less dev loss than the best merge."
    return [text, table(["model", "dev loss", "sign agreement %", ""], rows, sortable=False), *_by_language(story, facts)]


def _by_language(story: Story, facts: Json) -> list[str]:
    """Means per tier, and the languages that the released model gained and lost most against the base."""
    losses: dict[str, list[float]] = facts["languages"]
    names = [f"{facts['columns'][0]} (base)", *facts["columns"][1:-1], "released"]
    rows: list[list[Cell]] = []
    for tier in story.tiers:
        members = [losses[t] for t, own in story.languages.items() if t in losses and tier in (own, "all")]
        if members:
            means = [sum(column) / len(members) for column in zip(*members, strict=True)]
            rows.append([tier, len(members), *(Marked(m, "best" if m == min(means) else "", digits=3) for m in means)])
    order = sorted(losses, key=lambda t: (losses[t][-1] - losses[t][0], t))
    ends = order if len(order) <= 2 * ENDS else [*order[:ENDS], *order[-ENDS:]]
    told: list[list[Cell]] = [
        [t, *(Marked(x, digits=2) for x in losses[t]), Marked(losses[t][0] - losses[t][-1], digits=2)] for t in ends
    ]
    words = (
        f"{len(ends)} of {number(len(order))} languages: those that gain most over the base, and those that gain least or lose."
    )
    return [
        tag("h3", "What each branch brings, dev loss by tier (nats per masked token, mean over languages)"),
        table(["tier", "languages", *names], rows, sortable=False),
        words,
        table(["language", *names, "gained"], told),
    ]


def passed_gates(story: Story) -> list[str]:
    """Every gate of the release."""
    facts = story.facts("release")
    rows: list[list[Cell]] = [
        [g["name"], "✓ passed" + (", waived" if g["waived"] else ""), f"{g['found']:.3g}", f"{g['limit']:.3g}"]
        for g in facts["gates"]
    ]
    parts = ["A release that does not pass is not made.", table(["gate", "result", "found", "limit"], rows, sortable=False)]
    if waived := [text for g in facts["gates"] for text in g["waived"]]:
        parts += [tag("h3", "Waived"), *waived]
    if facts["not_checked"]:
        parts.append(
            f"Not checked in this step: {', '.join(facts['not_checked'])}. Not checked is not passed; see docs/release.md."
        )
    return parts
