"""Report: one self-contained page, what a person opens first; every figure comes out of manifests and run records.

Decisions: the order is the reader's (what came out, whether it is any good, how it was made, from what, at what cost),
and a section without matter says so in one sentence instead of vanishing. It is the only artifact whose content may
show times (contract), because nothing descends from it; its facts stay deterministic.
"""

from __future__ import annotations

from mmenc.artifact import Json
from mmenc.job import Job
from mmenc.page import Html, page, tag
from mmenc.report import figures
from mmenc.report.data import data, examples, lineage
from mmenc.report.intrinsic import brought, calibration, pairs, scripts
from mmenc.report.merge import merge_sweep, passed_gates
from mmenc.report.results import all_languages, headline, kept_by_merge, results
from mmenc.report.story import Story, gather
from mmenc.report.tokenizer import tokenizer
from mmenc.report.training import cost, phases, shares

SECTIONS = {
    "Results by tier": results,
    "What each phase brought": brought,
    "What the merge kept": kept_by_merge,
    "By script": scripts,
    "Retrieval of all pairs": pairs,
    "Calibration": calibration,
    "Phases": phases,
    "Language shares": shares,
    "All languages": all_languages,
    "Data": data,
    "Tokenizer": tokenizer,
    "Fill-mask examples": examples,
    "Merge sweep": merge_sweep,
    "Gates": passed_gates,
    "Lineage": lineage,
    "Cost": cost,
}


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def render(story: Story) -> str:
    """Return the whole page."""
    parts: list[str] = [*headline(story)]
    parts.append(tag("nav", *(tag("a", title, href=f"#{_anchor(title)}") for title in SECTIONS)))
    for title, section in SECTIONS.items():
        parts += [tag("h2", title, id=_anchor(title)), *section(story)]
    return page(f"{story.facts('release')['name']}: report", [p if isinstance(p, Html) else tag("p", p) for p in parts])


def run(job: Job) -> Json:
    """Write report.html, and beside it the figures that DVC reads."""
    story = gather(job.recipe, job.inputs, job.resume.parent.parent / ".runs")
    text = render(story)
    (job.out / "report.html").write_text(text, encoding="utf-8")
    figures.write(story, job.out)
    missing = len(story.steps) - len(story.runs)
    without = f"; {missing} of {len(story.steps)} steps have no run record" if missing else ""
    job.say(f"report.html, {len(text.encode()) / 1e6:.1f} MB{without}")
    return {"languages": len(story.languages), "phases": len(story.phases), "models": story.models}
