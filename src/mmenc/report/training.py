"""The report on training: the phases and their curves, the mix of languages, and what it all cost.

Decision: curves run along total tokens since the root, so branches lie side by side from the same start. Only held-out
loss is comparable between phases (always the same mask rate); the training loss falls by itself when less is masked.
"""

from __future__ import annotations

from mmenc.artifact import Json
from mmenc.charts import line_chart, short, stacked_shares
from mmenc.page import Cell, Marked, details, number, table, tag
from mmenc.report.results import duration
from mmenc.report.story import Story, fixed
from mmenc.train.schedule import mask_words


def _phase_row(story: Story, name: str) -> list[Cell]:
    phase, facts = story.recipe.phases[name], story.facts(f"train:{name}")
    run = story.runs.get(f"train:{name}", {})
    first, last = (facts["heldout"][i][1] for i in (0, -1))
    shape = phase.lr.shape.replace("one_minus_sqrt", "1−√")
    end = "" if shape == "constant" else f" to {facts['learning_rate_end']:.1g}"
    warm = f", warm-up {short(phase.lr.warmup)}" if phase.lr.warmup else ""
    warm += "".join(f", changed after {short(c.after)}" for c in phase.changes)
    row: list[Cell] = [name, phase.init, facts["tokens"], facts["languages"], phase.temperature, mask_words(phase)]
    row += [phase.context, short(phase.rope_theta), Marked(phase.lr.peak, note=f"{shape}{end}{warm}"), facts["steps"]]
    row += [fixed(100 * facts["fill"], 1), Marked(last, note=f"from {first:.3f}", digits=3)]
    speed = run.get("measured", {}).get("tokens_per_second")
    return [*row, fixed(run.get("seconds"), 0), round(speed) if speed else None]


def _curve(story: Story, kind: str) -> dict[str, list[tuple[float, float]]]:
    curves: dict[str, list[tuple[float, float]]] = {}
    for name in story.phases:
        facts = story.facts(f"train:{name}")
        start = facts["total_tokens"] - facts["tokens"]
        curves[name] = [(start + tokens, loss) for tokens, loss in facts[kind]]
    return curves


def phases(story: Story) -> list[str]:
    """Schedule table and both curves."""
    head = ["phase", "from", "tokens", "languages", "τ", "mask", "context", "RoPE base", "learning rate", "steps", "fill %"]
    head += ["held-out loss", "seconds", "tokens/s"]
    text = "Fill is the share of each row of the batch that holds text. Held-out loss (nats) is of dev text of the phase's own "
    text += "languages at 15 % masked: its start can jump where a phase brings new languages."
    return [
        text,
        table(head, [_phase_row(story, p) for p in story.phases], sortable=False),
        tag("h3", "Held-out loss"),
        line_chart(_curve(story, "heldout"), "tokens since the start", "held-out loss (nats)"),
        tag("h3", "Training loss (each phase at its own mask rate, so compare within a phase only)"),
        line_chart(_curve(story, "curve"), "tokens since the start", "training loss (nats)"),
    ]


def _planned(mixture: Json) -> dict[str, float]:
    buckets = {f"{name} (bucket)": row["share"] for name, row in mixture["buckets"].items()}
    return {**{t: row["share"] for t, row in mixture["languages"].items()}, **buckets}


def shares(story: Story) -> list[str]:
    """Planned shares as bars, and how near the batches came to them."""
    names = [p for p in story.phases if f"mixture:{p}" in story.steps]
    if not names:
        return ["No mixture is among the ancestors."]
    rows: list[list[Cell]] = []
    warnings: list[str] = []
    for name in names:
        mixture, facts = story.facts(f"mixture:{name}"), story.facts(f"train:{name}")
        folders = {**mixture["languages"], **mixture["buckets"]}
        most = max(folders, key=lambda t: folders[t]["epochs"])
        least, largest = (pick(folders, key=lambda t: folders[t]["share"]) for pick in (min, max))
        rows.append(
            [
                name,
                len(mixture["languages"]),
                sum(1 for t in mixture["languages"] if t not in facts["observed"]),
                len(mixture["buckets"]),
                f"{largest} {folders[largest]['share']:.2%}",
                f"{least} {folders[least]['share']:.2%}",
                f"{most} {folders[most]['epochs']:.2f}",
                len(mixture["capped"]),
                fixed(100 * facts["mix_distance"], 2),
            ]
        )
        warnings += [f"{name}: {w}" for w in mixture["warnings"]]
    head = [
        "phase",
        "languages planned",
        "of them not read",
        "buckets",
        "largest",
        "smallest",
        "most epochs",
        "capped",
        "off plan %",
    ]
    text = "Shares as planned from the measured token counts and τ. "
    text += "Off plan: share of the tokens read that would have to be of other languages to match."
    return [
        text,
        stacked_shares({name: _planned(story.facts(f"mixture:{name}")) for name in names}),
        table(head, rows, sortable=False),
        *([details(f"{len(warnings)} notes of the planner", tag("div", *(tag("p", w) for w in warnings)))] if warnings else []),
    ]


def _label(key: str) -> str:
    return key.replace(":", " ")


def cost(story: Story) -> list[str]:
    """Time, memory and speed per step, versions and place."""
    rows: list[list[Cell]] = []
    for key in story.steps:
        run = story.runs.get(key)
        if run is None:
            rows.append([_label(key), "not recorded", None, None, None])
            continue
        speed = run["measured"].get("tokens_per_second")
        row: list[Cell] = [
            _label(key),
            duration(run["seconds"]),
            fixed(run["seconds"], 1),
            round(run["peak_memory_bytes"] / 2**20),
        ]
        rows.append([*row, round(speed) if speed else None])
    seconds = sum(r["seconds"] for r in story.runs.values())
    peak = max((r["peak_memory_bytes"] for r in story.runs.values()), default=0)
    rows.append(["all recorded", duration(seconds), fixed(seconds, 1), round(peak / 2**20), None])
    text = "Times are of the process that finished a step: after an interruption, of the last part only. "
    text += "Money and energy follow from `compute.price_per_hour` and `compute.watts`; `mmenc push` publishes them."
    head = ["step", "time", "seconds", "peak memory, MiB", "tokens/s"]
    return [text, table(head, rows, sortable=False), *_place(story)]


def _place(story: Story) -> list[str]:
    if not story.runs:
        return ["Versions and machine were not recorded."]
    records = list(story.runs.values())
    seen: dict[str, list[str]] = {}
    for r in records:
        compute = {
            f"compute.{k}": number(v) if isinstance(v, (int, float)) else v for k, v in r["compute"].items() if k != "cluster"
        }
        for name, value in {**r["versions"], **compute, "git revision": r["git_revision"] or "unknown"}.items():
            if str(value) not in seen.setdefault(name, []):
                seen[name].append(str(value))
    rows: list[list[Cell]] = [[name, ", ".join(values)] for name, values in seen.items()]
    return [tag("h3", "Made with"), table(["what", "value or version"], rows, sortable=False)]
