"""The report on what went in: sources, cleaning, validation, examples of the model's guesses, lineage."""

from __future__ import annotations

from collections.abc import Iterable

from mmenc.artifact import Json
from mmenc.lineage import describe, tree_lines
from mmenc.page import Cell, Html, Marked, details, figures, number, table, tag
from mmenc.report.story import Story, fixed

WORST = 20


def _sources(story: Story) -> Html:
    found: dict[tuple[str, str], list[int]] = {}
    spoken: dict[tuple[str, str], set[str]] = {}
    for s in story.facts("ingest")["sources"]:
        key = (s["source"], s["license"])
        entry = found.setdefault(key, [0, 0, 0])
        spoken.setdefault(key, set()).add(s["language"])
        for i, n in enumerate((1, s["documents"], s["bytes"])):
            entry[i] += n
    rows: list[list[Cell]] = [
        [source, license_, n[0], len(spoken[source, license_]), n[1], fixed(n[2] / 1e6, 2)]
        for (source, license_), n in sorted(found.items(), key=lambda item: -item[1][2])
    ]
    return table(["source", "licence", "files", "languages", "documents", "MB of text"], rows)


def _cleaning(story: Story) -> list[str]:
    facts = story.facts("clean")
    total = facts["total"]
    rows: list[list[Cell]] = [["kept", total["kept"], fixed(100 * total["kept"] / max(1, total["documents"]), 2)]]
    rows += [[f"rejected: {r}", n, fixed(100 * n / max(1, total["documents"]), 2)] for r, n in total["rejected"].items()]
    parts: list[str] = [tag("h3", "Cleaning"), table(["what became of it", "documents", "%"], rows, sortable=False)]
    if lines := total.get("boilerplate_lines"):
        parts.append(f"{number(lines)} boilerplate lines were dropped from documents that stayed.")
    if masked := total.get("masked"):
        parts.append(f"Personal data was masked in {number(masked)} places.")
    parts += _rejections(facts)
    if examples := facts.get("examples"):
        parts.append(details("Examples of what was rejected, one per language", _examples(examples)))
    return parts


def _rejections(facts: Json) -> list[str]:
    """Languages by the share that they lose, a column for each reason that occurs."""
    losing = {t: row for t, row in facts["languages"].items() if row["kept"] < row["documents"]}
    if not losing:
        return []
    reasons = list(facts["total"]["rejected"])
    worst = sorted(losing.items(), key=lambda item: (item[1]["kept"] / item[1]["documents"], item[0]))
    listed: list[list[Cell]] = [
        [t, r["documents"], r["kept"], fixed(100 * (1 - r["kept"] / r["documents"]), 1), *(r["rejected"].get(w) for w in reasons)]
        for t, r in worst
    ]
    title = f"{len(listed)} languages that lose anything, those that lose most first"
    return [details(title, table(["language", "documents", "kept", "rejected %", *reasons], listed, find="find a language"))]


def _examples(examples: Json) -> Html:
    rows: list[list[Cell]] = [
        [why, e["language"], e["text"], e["detail"], e["id"]] for why, found in examples.items() for e in found
    ]
    return table(["reason", "language", "beginning of the text", "detail", "document"], rows, find="find a reason or language")


def _validation(story: Story) -> list[str]:
    facts = story.facts("validate")
    splits = story.facts("tokenize")["total"]
    waivers = facts["waivers"]
    tiles: dict[str, Cell] = {
        "validation": Marked("passed" if facts["ok"] else "refused", "ok" if facts["ok"] else "bad"),
        "languages and buckets": facts["languages"],
        "waivers": len(waivers),
        **{f"{split} tokens": splits[split] for split in ("train", "dev", "test") if split in splits},
    }
    parts: list[str] = [tag("h3", "Validation"), figures(tiles)]
    if waivers:
        rows: list[list[Cell]] = [
            [w["language"], w["expectation"].replace("_", " "), w["found"], w["threshold"], Marked(w["reason"], "waived")]
            for w in waivers
        ]
        parts.append(table(["language", "figure", "found", "threshold", "waived because"], rows))
    if warned := facts.get("warnings"):
        listed: list[list[Cell]] = [
            [w["language"], w["expectation"].replace("_", " "), w["found"], w["threshold"]] for w in warned
        ]
        parts.append(details(f"{len(warned)} warnings", table(["language", "figure", "found", "threshold"], listed)))
    if untested := story.facts("tokenize")["without_test"]:
        parts.append(details(f"{len(untested)} without test documents", tag("p", ", ".join(untested))))
    return parts


def data(story: Story) -> list[str]:
    """Show sources with licences, cleaning, validation."""
    return [_sources(story), *_cleaning(story), *_validation(story)]


def _piece(text: str) -> str:
    """Make a word piece visible: line ends and lone spaces have a sign of their own."""
    return text.replace("\n", "↵").strip(" ") or "␣"


def _guesses(answer: str, guesses: Iterable[str]) -> Html:
    shown = [tag("bdi", tag("b", f"✓\u00a0{_piece(g)}") if g == answer else _piece(g)) for g in guesses]
    return Html(" · ".join(shown))


def examples(story: Story) -> list[str]:
    """Held-out text with one piece masked, and what the released model puts there."""
    found = story.facts("release")["examples"]
    if not found:
        return ["The recipe asks for no examples (release.examples is 0)."]
    rows: list[list[Cell]] = []
    for e in found:
        # One cell in one direction, no isolation around the answer: Arabic letters join across it.
        text = tag("span", e["before"], tag("mark", e["answer"]), e["after"])
        rows.append([e["language"], text, _piece(e["answer"]), _guesses(e["answer"], e["guesses"])])
    right = sum(e["answer"] in e["guesses"] for e in found)
    words = "Test text in several scripts with one token hidden (underlined here). The true token is among the three guesses in "
    words += f"{right} of {len(found)}; ↵ is a line end, � a part of a character."
    return [words, table(["language", "text", "hidden", "guesses, likeliest first"], rows, sortable=False)]


def lineage(story: Story) -> list[str]:
    """Show the tree of ancestors of the release, and how to check it."""
    described = describe(story.release)
    sources = described["sources"]
    languages = len({s["language"] for s in sources})
    rows: list[list[Cell]] = [
        [key.replace(":", " "), m["version"], m["digest"][:16], m["content"][:16]] for key, m in story.steps.items()
    ]
    text = f"The release descends from {len(described['nodes']) - 1} steps and {number(len(sources))} raw files of {languages} "
    text += "languages and buckets, each known by its sha256. A digest names what was asked for, content what came out."
    return [
        text,
        tag(
            "pre",
            "mmenc lineage artifacts/release --verify   # compares every hash that can be reached\n"
            "mmenc lineage artifacts/release --json     # the tree and all raw files",
        ),
        details("Tree of ancestors", tag("pre", "\n".join(tree_lines(described)))),
        details("Digests of all steps", table(["step", "version", "digest", "content"], rows, sortable=False)),
    ]
