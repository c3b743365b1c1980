"""Runs the whole graph in this process, from the very commands of dvc.yaml, on a tiny slice of the default corpus."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).parents[1]
TINY_LANGUAGES = ("eng_Latn", "deu_Latn", "fao_Latn", "heb_Hebr", "ell_Grek", "zul_Latn")


def tiny_recipe() -> dict[str, Any]:
    """Every feature of the default recipe at a size of seconds."""
    with (REPO / "params.yaml").open() as stream:
        recipe = yaml.safe_load(stream)
    recipe["languages"] = {"high": ["eng_Latn"], "middle": {"top": 4}, "tail": "all"}
    recipe["validate"]["waivers"] = []
    recipe["tokenizer"] |= {"vocab_size": 1024, "sample_bytes": 200_000}
    recipe["model"] |= {"hidden": 32, "layers": 4, "heads": 2, "intermediate": 48, "window": 32}
    recipe["model"] |= {"attn_out_dropout": 0.1, "initializer_range": 0.1}
    tokens = {"pretrain": 24_000, "extend": 32_000, "decay-english": 8_000, "decay-continued": 8_000, "decay-all": 16_000}
    for name, phase in recipe["phases"].items():
        phase |= {"tokens": tokens[name], "context": 64 if name == "pretrain" else 128, "batch_tokens": 512, "epoch_cap": 5}
        phase["lr"] |= {"warmup": 4_000 if name == "pretrain" else 0, "peak": 1e-2}
        phase["evaluations"] = 2
    recipe["merge"] |= {"densities": [0.5, 1.0], "dev_tokens": 4_000}
    recipe["evaluate"] |= {"tokens_per_language": 600, "bootstrap": 50}
    recipe["compute"] |= {"checkpoint_seconds": 1}
    return recipe


def slice_corpus(source: Path, target: Path, documents: int = 120) -> None:
    """Real text: the declaration and the first catalogue documents of six languages."""
    for language in TINY_LANGUAGES:
        for path in sorted((source / language).glob("*.jsonl")):
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            (target / language).mkdir(parents=True, exist_ok=True)
            (target / language / path.name).write_text("".join(lines[:documents]), encoding="utf-8")


def workplace(folder: Path, corpus: Path, recipe: dict[str, Any] | None = None) -> Path:
    """A folder with data/, expectations/, params.yaml and dvc.yaml."""
    shutil.copytree(corpus, folder / "data")
    shutil.copytree(REPO / "expectations", folder / "expectations")
    write_recipe(folder, recipe or tiny_recipe())
    shutil.copy(REPO / "dvc.yaml", folder / "dvc.yaml")
    return folder


def write_recipe(folder: Path, recipe: dict[str, Any]) -> None:
    """JSON is YAML, and keeps 8e-4 a number."""
    (folder / "params.yaml").write_text(json.dumps(recipe, indent=1), encoding="utf-8")


def commands(folder: Path) -> dict[str, list[str]]:
    """Words of every stage's command, `foreach` expanded, in an order that satisfies the dependencies."""
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    recipe = json.loads((folder / "params.yaml").read_text())
    found: dict[str, tuple[list[str], list[str], str]] = {}

    def add(name: str, stage: dict[str, Any], key: str = "", init: str = "") -> None:
        def fill(text: str) -> str:
            text = text.replace("${key}", key).replace("${item.init}", init)
            return text.replace("${ingest.root}", recipe["ingest"]["root"])

        out = next(iter(stage["outs"][0]))
        found[name] = (shlex.split(fill(stage["cmd"])), [fill(d) for d in stage["deps"]], fill(out))

    for name, stage in stages.items():
        if "foreach" in stage:
            for key, phase in recipe["phases"].items():
                add(f"{name}@{key}", stage["do"], key, phase["init"])
        else:
            add(name, stage)
    ordered: dict[str, list[str]] = {}
    while len(ordered) < len(found):
        for name, (words, deps, _) in found.items():
            waiting = [o for n, (_, _, o) in found.items() if n not in ordered and n != name]
            if name not in ordered and not any(o == d or o.startswith(d + "/") for d in deps for o in waiting):
                ordered[name] = words
    return ordered


def run_stage(folder: Path, words: list[str], monkeypatch: Any) -> int:
    """Run one command of dvc.yaml in this process; return its exit code."""
    from mmenc.cli import main

    assert words[0] == "mmenc"
    monkeypatch.chdir(folder)
    return main(words[1:])


def run_all(folder: Path, monkeypatch: Any, upto: str = "") -> None:
    """Run all stages (or those up to and including `upto`)."""
    for name, words in commands(folder).items():
        assert run_stage(folder, words, monkeypatch) == 0, name
        if name == upto:
            return


def contents(folder: Path) -> dict[str, tuple[str, str]]:
    """(digest, content) of every artifact by its path below artifacts/; the report shows times and is left out."""
    found = {}
    for path in sorted((folder / "artifacts").rglob("manifest.json")):
        manifest = json.loads(path.read_text())
        if manifest["step"] != "report":
            found[str(path.parent.relative_to(folder / "artifacts"))] = (manifest["digest"], manifest["content"])
    return found


def made(root: Path) -> dict[str, Path]:
    """Every artifact that a Kubeflow runner left below its root, verified, by its path below artifacts/."""
    from mmenc.artifact import Artifact
    from mmenc.steps import TABLE

    found: dict[str, Path] = {}
    for path in root.rglob("manifest.json"):
        manifest = Artifact.read(path.parent).manifest
        folder = TABLE[manifest.step].folder.format(name=manifest.name)
        assert folder not in found, f"{folder}: made twice"
        found[folder] = path.parent
    return found


def hashes(found: dict[str, Path]) -> dict[str, tuple[str, str]]:
    """What `contents` says, of what `made` found."""
    manifests = {k: json.loads((path / "manifest.json").read_text()) for k, path in found.items() if k != "report"}
    return {k: (m["digest"], m["content"]) for k, m in sorted(manifests.items())}
