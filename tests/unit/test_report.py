"""The report from hand-made manifests: whole with a merge of two branches, and shrunk to one phase, one language."""

import copy
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from lxml import etree

from mmenc.artifact import Artifact, Manifest, Parent, merge_lineage, write_json
from mmenc.errors import Refused
from mmenc.recipe import parse
from mmenc.report.step import SECTIONS, run

PARAMS = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))
HOSTILE = '<script>alert("x")</script>'
TIERS = {"eng_Latn": "high", "arb_Arab": "tail", "tha_Thai": "tail"}


def phase(init, languages="tail", shape="constant", **more):
    return {**PARAMS["phases"]["pretrain"], "init": init, "languages": languages, "lr": {"peak": 1e-3, "shape": shape}, **more}


def make_recipe(phases, base, branches, languages):
    data = copy.deepcopy(PARAMS)
    data["validate"]["waivers"] = []
    return parse({**data, "languages": languages, "phases": phases, "merge": {"base": base, "branches": branches}})


class World:
    """Artifacts as manifests only; `add` links a step to its parents by role."""

    def __init__(self, recipe, tags, root, retrieval, chosen=None):
        self.chosen = chosen
        self.recipe, self.tags, self.root, self.retrieval = recipe, tags, root, retrieval
        self.made = {}
        self.build()

    def add(self, step, name, facts, path=None, inputs=(), **parents):
        digest = f"{step}{name}".encode().hex().ljust(64, "0")
        found = [self.made[key] for key in parents.values()]
        links = [Parent(role, a.manifest.digest, a.manifest.content) for role, a in zip(parents, found, strict=True)]
        manifest = Manifest(step, name, 1, {}, links, list(inputs), facts, {}, [], digest, digest[::-1])
        self.made[f"{step}:{name}" if name else step] = Artifact(path or self.root, manifest, merge_lineage(found))

    def build(self):
        tags, recipe = self.tags, self.recipe
        sources = [
            {"path": f"{t}/a.jsonl", "language": t, "bytes": 900, "documents": 9, "source": HOSTILE, "license": "CC0"}
            for t in tags
        ]
        self.add("ingest", "", {"sources": sources}, inputs=[{"path": s["path"], "sha256": "0" * 64} for s in sources])
        rows = {t: {"documents": 10, "kept": 9, "bytes": 900, "rejected": {"too short": 1}} for t in tags}
        total = {"documents": 10 * len(tags), "kept": 9 * len(tags), "bytes": 1, "rejected": {"too short": len(tags)}}
        self.add("clean", "", {"total": total, "languages": rows}, raw="ingest")
        waiver = {"language": tags[0], "expectation": "documents", "found": 1, "threshold": 5, "reason": "few there are"}
        self.add("validate", "", {"ok": True, "languages": len(tags), "waivers": [waiver]}, clean="clean")
        piece = {"bytes_per_token": 2.5, "tokens_per_word": 2.0, "single_byte_share": 0.01}
        served = {"vocab_size": 8192, "sample_bytes": dict.fromkeys(tags, 500), "languages": dict.fromkeys(tags, piece)}
        self.add("tokenizer", "", served, clean="clean", validate="validate")
        folders = {t: {s: {"documents": 5, "tokens": 300, "bytes": 800} for s in ("train", "dev", "test")} for t in tags}
        tokens = {"folders": folders, "total": {"train": 900, "dev": 90, "test": 90}, "without_test": []}
        self.add("tokenize", "", tokens, clean="clean", tokenizer="tokenizer", validate="validate")
        self.add("init", "", {"parameters": 1_600_000, "backbone": 1, "non_embedding": 1}, tokenizer="tokenizer")
        for name in recipe.phases:
            self.train(name)
        self.finish()

    def train(self, name):
        p = self.recipe.phases[name]
        share = {t: 1 / len(self.tags) for t in self.tags}
        languages = {t: {"share": s, "tokens": 100, "epochs": 0.3, "available": 300} for t, s in share.items()}
        mixture = {"languages": languages, "buckets": {}, "capped": [], "warnings": [], "tokens": p.tokens}
        self.add("mixture", name, mixture, tokens="tokenize")
        start = 0 if p.init == "init" else self.made[f"train:{p.init}"].facts["total_tokens"]
        facts = {
            "tokens": 100,
            "steps": 4,
            "total_tokens": start + 100,
            "fill": 0.9,
            "learning_rate_end": 1e-5,
            "observed": share,
        }
        curves = {"curve": [[50, 8.0], [100, 7.0]], "heldout": [[0, 9.0], [100, 7.5]], "mix_distance": 0.01}
        parent = "init" if p.init == "init" else f"train:{p.init}"
        self.add(
            "train",
            name,
            {**facts, **curves, "languages": len(self.tags)},
            tokens="tokenize",
            mixture=f"mixture:{name}",
            init=parent,
        )

    def scores(self, name, at):
        def row(model, metric, tier, language, mean):
            figures = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 3, "status": "ok"}
            task, _, short = metric.partition(".")
            return {"model": model, "task": task, "metric": short, "tier": tier, "language": language, **figures}

        places = [(TIERS[t], t) for t in self.tags] + [(t, "") for t in {TIERS[t] for t in self.tags} | {"all"}]
        rows = [
            row(m, "mlm.bits_per_byte", *p, b)
            for p in places
            for m, b in ((name, at), ("unigram", 3.0), ("unigram-language", 2.8))
        ]
        rows += [row(name, "mlm.accuracy", *p, 0.2) for p in places]
        if self.retrieval:
            rows += [row(name, "retrieval.accuracy", *p, 0.4) for p in places]
        write_json(self.root / name / "scores.json", {"schema": 1, "rows": rows})
        chance = {"documents": 5, "languages": 3, "chance": 0.2, "pivot": "eng_Latn"}
        facts = {"tiers": {}, "retrieval": chance if self.retrieval else {"documents": 0, "languages": 0, "chance": 0.0}}
        model = "merge" if name == "merge" else f"train:{name}"
        self.add("evaluate", name, facts, self.root / name, model=model, tokenizer="tokenizer", tokens="tokenize")

    def finish(self):
        merge = self.recipe.merge
        sweep = [{"density": d, "dev_loss": 7.0 + d, "sign_agreement": 0.7} for d in merge.densities]
        alone = dict.fromkeys(merge.branches, 7.4)
        branches = {f"branch:{b}": f"train:{b}" for b in merge.branches}
        sweep = [self.chosen, *sweep] if self.chosen else sweep
        facts = {"method": "ties", "criterion": "languages", "chosen": sweep[0], "sweep": sweep, "branches_alone": alone}
        losses = {t: [8.0, *(7.4 for _ in alone), 7.2] for t in self.tags}
        facts |= {"columns": [merge.base, *merge.branches, "merge"], "languages": losses}
        facts |= {"means": dict.fromkeys(("languages", "tokens"), losses[self.tags[0]])}
        self.add("merge", "", facts, base=f"train:{merge.base}", tokens="tokenize", **branches)
        for i, name in enumerate([*self.recipe.phases, "merge"]):
            self.scores(name, 2.9 - 0.1 * i)
        example = {
            "language": self.tags[0],
            "before": HOSTILE,
            "answer": " b\n",
            "after": "ש",
            "guesses": [" b\n", "x", "\ufffd"],
        }
        parents = {"model": "merge", "tokenizer": "tokenizer", "evaluate": "evaluate:merge", "validate": "validate"}
        gate = {"name": "logits equal transformers'", "ok": True, "found": 1e-6, "limit": 1e-4, "waived": []}
        facts = {"examples": [example], "name": "tiny", "max_logit_difference": 1e-6, "gates": [gate], "not_checked": []}
        self.add("release", "", facts, **parents)

    def inputs(self):
        return {key: a for key, a in self.made.items() if key == "release" or key.startswith("evaluate:")}

    def record(self, key, seconds):
        m = self.made[key].manifest
        run_ = {"digest": m.digest, "content": m.content, "seconds": seconds, "peak_memory_bytes": 2**20, "git_revision": ""}
        more = {"versions": {"python": "3.11"}, "compute": {"threads": 2}, "measured": {"tokens_per_second": 5000.0}}
        write_json(self.root / ".runs" / m.digest / "run.json", {**run_, **more})

    def report(self):
        job = SimpleNamespace(
            recipe=self.recipe, inputs=self.inputs(), out=self.root, resume=self.root / ".resume" / "d", say=print
        )
        facts = run(job)
        return facts, (self.root / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def merged(tmp_path):
    phases = {"pretrain": phase("init"), "left": phase("pretrain", shape="linear"), "right": phase("pretrain", shape="linear")}
    recipe = make_recipe(phases, "pretrain", ["left", "right"], {"high": ["eng_Latn"], "tail": "all"})
    return World(recipe, list(TIERS), tmp_path, retrieval=True)


@pytest.fixture
def single(tmp_path):
    recipe = make_recipe({"only": phase("init", "high")}, "only", ["only"], {"high": "all"})
    return World(recipe, ["eng_Latn"], tmp_path, retrieval=False)


def parsed(text):
    assert "&lt;t" not in text  # markup that was escaped by mistake
    root = etree.fromstring(text.encode())
    assert [h.text for h in root.iter("h2")] == list(SECTIONS)
    assert {a.get("href") for a in root.iter("a")} == {f"#{h.get('id')}" for h in root.iter("h2")}
    return root, " ".join("".join(root.find("body/main").itertext()).split())


def check_self_contained(root, text):
    assert len(root.findall(".//script")) == 1
    assert HOSTILE not in text
    assert "nan" not in re.sub(r"<(style|script)>.*?</\1>", "", text, flags=re.DOTALL).replace("planned", "").lower()
    for element in root.iter(etree.Element):
        assert element.tag not in ("link", "img", "iframe", "object", "embed")
        assert not [v for k, v in element.attrib.items() if k in ("src", "href") and not v.startswith("#")]
        assert "http" not in " ".join(element.attrib.values())
    assert "@import" not in text


def test_whole_report(merged):
    merged.record("train:left", 75.0)
    facts, text = merged.report()
    root, words = parsed(text)
    check_self_contained(root, text)
    assert facts == {"languages": 3, "phases": 3, "models": ["merge", "left", "right", "pretrain", "unigram", "unigram-language"]}
    assert "tiny is a masked language model" in words
    assert "★" in words
    assert "fewer bits per byte than the unigram of all text in 3 of 3 languages" in words
    assert "Alone, left" not in words  # 7.4 is more than the best merge's 7.2
    assert "retrieval; chance is 20.0 %" in words
    assert "1 min 15 s" in words
    assert "not recorded" in words
    assert HOSTILE in words
    assert "3 raw files of 3 languages" in words


def test_difference_to_the_base_is_paired_and_signed(merged):
    words = parsed(merged.report()[1])[1]
    # The merge is 0.3 bits below the base in every language, so it is better in all of them.
    assert "-0.300 3 of 3 better" in words
    assert "2.6" in words


def test_a_branch_alone_is_not_called_a_merge(merged):
    alone = {"branch": "left", "dev_loss": 7.0}
    words = parsed(World(merged.recipe, merged.tags, merged.root, retrieval=True, chosen=alone).report()[1])[1]
    assert "No merge was better on dev; what is released is the branch left." in words
    assert "released (= left)" in words
    assert "What is released is a merge" not in words
    assert "merged" not in words.replace("Nothing was merged", "")


def test_one_phase_one_language_no_retrieval(single):
    facts, text = single.report()
    root, words = parsed(text)
    check_self_contained(root, text)
    assert facts["models"] == ["merge", "only", "unigram", "unigram-language"]
    for sentence in (
        "Retrieval was not measured",
        "Nothing was merged",
        "nothing to sweep",
        "Versions and machine were not recorded",
    ):
        assert sentence in words
    assert "1 language;" in words


def test_record_of_another_content_is_not_shown(merged):
    merged.record("train:left", 75.0)
    path = next((merged.root / ".runs").rglob("run.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "content": "f" * 64}))
    assert "1 min 15 s" not in merged.report()[1]


def test_evaluations_of_another_run_are_refused(merged):
    other = merged.made["evaluate:left"]
    stale = copy.deepcopy(other.lineage)
    train = next(m for m in stale.values() if m["step"] == "train" and m["name"] == "left")
    train["digest"] = "e" * 64
    merged.made["evaluate:left"] = Artifact(other.path, other.manifest, stale)
    with pytest.raises(Refused, match="descends from another train:left"):
        merged.report()


def test_report_is_a_function_of_its_inputs(merged):
    assert merged.report() == merged.report()


def test_languages_can_be_filtered(merged):
    root, _ = parsed(merged.report()[1])
    box = root.find(".//input[@type='search']")
    rows = box.getnext().findall(".//tbody/tr")
    assert [row[0].text for row in rows] == sorted(TIERS)
