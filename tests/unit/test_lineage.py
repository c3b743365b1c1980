"""The graph's layout and the comparison of two chains, on graphs that no tiny run has."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

from mmenc.artifact import Artifact, Manifest, Parent, Request, content_of
from mmenc.lineage import describe, tree_lines
from mmenc.lineage.against import compare, lines
from mmenc.lineage.graph import draw, implied, layout
from mmenc.lineage.verify import _lies
from mmenc.lineage.web import LIMIT, render


def chain(**asked: object) -> dict[str, Manifest]:
    """ingest -> clean -> train a -> train b, each with one setting of its own."""
    made: dict[str, Manifest] = {}

    def add(step: str, name: str, config: dict, version: int = 1, **parents: str) -> None:
        rows = [Parent(role, made[p].digest, made[p].content) for role, p in sorted(parents.items())]
        inputs = [{"path": "eng_Latn/a.txt", "sha256": str(asked.get("raw", "0"))}] if step == "ingest" else []
        request = Request(step, name, version, config, tuple(rows), tuple(inputs))
        files = {"x": request.digest}
        facts = {"sources": [], "languages": {}} if step == "ingest" else {}
        content = content_of(files, [])
        made[name or step] = Manifest(step, name, version, config, rows, inputs, facts, files, [], request.digest, content)

    add("ingest", "", {"ingest": {"root": "data"}})
    add("clean", "", {"clean": {"min_chars": asked.get("min_chars", 20)}}, asked.get("version", 1), raw="ingest")
    add("train", "a", {"seed": 1, "phases.a": {"mask": asked.get("mask", 0.3), "lr": {"peak": 1}}}, tokens="clean")
    add("train", "b", {"seed": 1, "phases.b": {"mask": 0.1, "lr": {"peak": asked.get("peak", 2)}}}, tokens="clean", init="a")
    return made


def artifact(made: dict[str, Manifest], name: str = "b") -> Artifact:
    own = made[name]
    return Artifact(Path(name), own, {m.digest: m.json() for m in made.values() if m.digest != own.digest})


def rows(left: Artifact, right: Artifact) -> dict[str, list]:
    return {f"{p.left} / {p.right}": p.rows for p in compare(left, right)}


def test_what_changed_is_where_two_chains_part_and_nothing_that_follows():
    one = artifact(chain())
    assert compare(one, artifact(chain())) == []
    assert lines(one, one) == ["the two are the same artifact"]
    assert rows(one, artifact(chain(mask=0.2))) == {"train a / train a": [("phases.*.mask", "0.3", "0.2")]}
    assert rows(one, artifact(chain(min_chars=9, version=2))) == {
        "clean / clean": [("version of the step", "1", "2"), ("clean.min_chars", "20", "9")]
    }
    assert rows(one, artifact(chain(raw="1"))) == {
        "ingest / ingest": [("inputs changed", "1: eng_Latn/a.txt", "1: eng_Latn/a.txt")]
    }


def test_two_phases_are_compared_by_their_settings_not_their_names():
    found = rows(artifact(chain(), "a"), artifact(chain(), "b"))
    assert found == {
        "train a / train b": [("parent init", "–", "train a"), ("phases.*.lr.peak", "1", "2"), ("phases.*.mask", "0.3", "0.1")]
    }


def test_one_request_with_two_results_is_named():
    one, other = chain(), chain()
    twin = other["b"]
    files = {"x": "ff"}
    other["b"] = Manifest(**{**twin.__dict__, "files": files, "content": content_of(files, [])})
    (row,) = rows(artifact(one), artifact(other))["train b / train b"]
    assert row[0] == "content, of one and the same request"


def test_a_changed_or_missing_manifest_in_lineage_json_is_named():
    good = artifact(chain())
    assert list(_lies(good)) == []
    (clean,) = [d for d, m in good.lineage.items() if m["step"] == "clean"]
    bad = {**good.lineage, clean: {**good.lineage[clean], "config": {"clean": {"min_chars": 1}}}}
    assert "the manifest of clean in it was changed: its digest" in next(iter(_lies(Artifact(good.path, good.manifest, bad))))
    bad = {**good.lineage, clean: {**good.lineage[clean], "files": {}}}
    assert "its content does not follow from its files" in next(iter(_lies(Artifact(good.path, good.manifest, bad))))
    bad = {d: m for d, m in good.lineage.items() if d != clean}
    assert any(
        "parent tokens" in line and "is missing from it" in line for line in _lies(Artifact(good.path, good.manifest, bad))
    )


def wide(phases: int = 60, evaluations: int = 90, languages: int = 1833) -> Artifact:
    """A run as large as any: many phases in a row, evaluations of all, tables and files of every language."""
    tags = [f"{chr(97 + i // 676)}{chr(97 + i // 26 % 26)}{chr(97 + i % 26)}_Latn" for i in range(languages)]
    table = {
        t: {"documents": 123_456, "bytes": 123_456_789, "kept": 1.5, "rejected": {"too short": 3, "duplicate": 7}} for t in tags
    }
    found: dict[str, dict] = {}

    def add(step: str, name: str, facts: dict, parents: dict[str, str], files: int = 1, inputs: list | None = None) -> str:
        digest = f"{step}-{name}".encode().hex().ljust(64, "0")[:64]
        names = {f"shards/{t}/00000.jsonl.zst": digest for t in tags} if files > 1 else {"model.safetensors": digest}
        found[digest] = {
            "step": step, "name": name, "version": 1, "config": {f"{step}.x": {"y": 1}}, "inputs": inputs or [], "facts": facts,
            "parents": [{"role": r, "digest": d, "content": d} for r, d in parents.items()],
            "files": names, "external": [], "digest": digest, "content": digest, "schema": 1,
        }  # fmt: skip
        return digest

    source = {"documents": 9, "bytes": 9, "license": "CC0", "source": "x"}
    sources = [{**source, "path": f"{t}/{i}.jsonl", "language": t} for t in tags for i in range(5)]
    raw = [{"path": s["path"], "sha256": "ab" * 32} for s in sources]
    top = add("ingest", "", {"languages": table, "sources": sources}, {}, 2, raw)
    clean = add("clean", "", {"languages": table}, {"raw": top}, 2)
    tokens = add("tokenize", "", {"folders": table}, {"clean": clean}, 2)
    before = add("init", "", {}, {"tokens": tokens})
    trained = []
    for i in range(phases):
        mixture = add("mixture", f"phase-{i}", {"languages": table, "buckets": {}}, {"tokens": tokens})
        before = add("train", f"phase-{i}", {"observed": table}, {"init": before, "mixture": mixture, "tokens": tokens})
        trained.append(before)
    scores = [add("evaluate", f"e{i}", {"languages": table}, {"model": trained[i % phases]}) for i in range(evaluations)]
    last = add("report", "", {}, {f"evaluate:{i}": d for i, d in enumerate(scores)})
    own = found.pop(last)
    own["parents"] = [Parent(**p) for p in own["parents"]]
    return Artifact(Path("report"), Manifest(**own), found)


def test_a_run_of_sixty_phases_and_all_languages_stays_a_small_page():
    page = render(wide())
    assert len(page.encode()) < LIMIT
    ET.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    assert "Tables and lists are cut to" in page
    assert "zzz_Latn" not in page
    assert page.count('class="node') == 60 * 2 + 90 + 5


def test_the_layout_goes_from_left_to_right_and_no_two_nodes_share_a_place():
    big = wide(phases=12, evaluations=30, languages=3)
    nodes = {**big.lineage, big.manifest.digest: big.manifest.json()}
    places = layout(nodes)
    assert len(set(places.values())) == len(nodes)
    for digest, node in nodes.items():
        assert all(places[p["digest"]][0] < places[digest][0] for p in node["parents"])
    assert draw(nodes, big.manifest.digest) == draw(dict(reversed(nodes.items())), big.manifest.digest)
    tokens = next(d for d, m in nodes.items() if m["step"] == "tokenize")
    trained = next(d for d, m in nodes.items() if m["step"] == "train")
    assert (tokens, trained) in implied(nodes), "its mixture says it too"


def test_a_history_with_a_hole_is_still_shown_and_compared():
    whole, other = artifact(chain()), artifact(chain(mask=0.2))
    (clean,) = [d for d, m in whole.lineage.items() if m["step"] == "clean"]
    holed = Artifact(whole.path, whole.manifest, {d: m for d, m in whole.lineage.items() if d != clean})
    assert any(f"tokens: {clean[:12]}  (its manifest is missing" in line for line in tree_lines(describe(holed)))
    assert rows(holed, other) == {"train a / train a": [("phases.*.mask", "0.3", "0.2")]}
    assert render(holed).startswith("<!DOCTYPE")
