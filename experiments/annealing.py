"""Does annealed language learning help? Waves of languages, falling temperature and falling mask, each against its absence.

Decision: the default recipe's model (1.6 M parameters), phase lengths and learning rates; every arm sees 3.1 M tokens from
its first weights to its last, in the same contexts, and only what is asked about differs (the longer decay and the merge see
3.8 M in all). Seeds change weights, order and masks; text, split and tokenizer are one for all.

    make experiment CORPUS=DIR EVAL=DIR OUT=DIR        # all of it: runs, probe, tables and figure
    python -m experiments.annealing --corpus CORPUS --out OUT [--seeds 3] [--jobs 2] [--evaluation-texts EVAL]

CORPUS holds `TAG.jsonl.zst`, one document per line (`id`, `text`). Everything finished is left as it is: start again to go on.
What counts was written down before the runs: docs/log.md, "Experiment: annealing".
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
import zstandard

Json = dict[str, Any]
REPO = Path(__file__).parents[1]
STAGES = ("pretrain", "extend", "decay-all")
SHARED = {
    "ingest": {"data": "raw"},
    "clean": {"raw": "artifacts/ingest"},
    "validate": {"clean": "artifacts/clean"},
    "tokenizer": {"clean": "artifacts/clean", "validate": "artifacts/validate"},
    "tokenize": {n: f"artifacts/{n}" for n in ("clean", "validate", "tokenizer")},
}
"""Steps that are run once: their roles."""
TEMPERATURES = (0.3, 0.5, 0.7)
MASKS = (0.30, 0.15, 0.05)
LINEAR = {"pretrain": 4, "extend": 3, "decay-all": 1}
"""Pieces of each stage of the linear arm; temperature and mask are those of a piece's middle, the decay's mask falls in four."""
DECAY_PIECES = 4
OTHER_MASKS = (0.05, 0.30)
MASKED = {("annealed", "decay-all"), *((f"mask-{m}", "decay-all") for m in MASKS)}
"""Models that are also measured at the masks of the constant arms: a measure at 15 % may favour who trained at it."""
FEWEST = 5
"""Documents that the gate asks for (expectations/all.yaml)."""


def linear(base: Json) -> Json:
    """Mask 0.30 → 0.05 and temperature 0.7 → 0.3, falling in a line over all tokens of the path."""
    total, at, init = sum(base[n]["tokens"] for n in STAGES), 0, "init"
    phases: Json = {}

    def mask(tokens: float) -> float:
        return round(0.30 - 0.25 * tokens / total, 4)

    for name in STAGES:
        size = base[name]["tokens"] // LINEAR[name]
        for piece in range(LINEAR[name]):
            own = name if piece == LINEAR[name] - 1 else f"{name}-{piece}"
            middle = at + size / 2
            new = {**base[name], "init": init, "tokens": size, "mask": mask(middle)}
            new["temperature"] = round(0.7 - 0.4 * middle / total, 4)
            if init != "init":
                new["lr"] = {**new["lr"], "warmup": 0}
            if name == "decay-all":
                step = size // DECAY_PIECES
                new["mask"] = mask(at + step / 2)
                new["changes"] = [{"after": i * step, "mask": mask(at + (i + 0.5) * step)} for i in range(1, DECAY_PIECES)]
            phases[own] = new
            at, init = at + size, own
    return phases


def arms() -> dict[str, tuple[Json, tuple[str, ...]]]:
    """Phases of every arm, and what of it is evaluated."""
    base: Json = yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8"))["phases"]
    chain = {n: base[n] for n in STAGES}
    more = base["decay-english"]["tokens"] + base["decay-continued"]["tokens"]
    long = {**base["decay-all"], "tokens": base["decay-all"]["tokens"] + more}

    def everywhere(**changes: Any) -> Json:
        return {n: {**p, **changes} for n, p in chain.items()}

    last = ("decay-all",)
    found = {"annealed": ({**base, "decay-long": long}, ("decay-all", "decay-long", "merge"))}
    found["all-at-once"] = (everywhere(languages="tail"), last)
    found |= {f"temperature-{t}": (everywhere(languages="tail", temperature=t), last) for t in TEMPERATURES}
    found |= {f"mask-{m}": (everywhere(mask=m), last) for m in MASKS}
    found["linear"] = (linear(base), last)
    return found


def recipe(seed: int, phases: Json, evaluation_texts: str) -> Json:
    """The default recipe with an arm's phases."""
    whole: Json = yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8"))
    whole["seed"] = seed
    whole["languages"] = {"high": {"top": 12}, "middle": {"top": 60}, "tail": "all"}
    whole["ingest"] = {"root": "raw"}
    whole["clean"]["evaluation_texts"] = evaluation_texts
    whole["validate"]["waivers"] = []
    whole["phases"] = {name: {**phase, "evaluations": 2} for name, phase in copy.deepcopy(phases).items()}
    branches = [n for n in ("decay-english", "decay-continued", "decay-all") if n in phases]
    whole["merge"] = {**whole["merge"], "branches": branches, "alone": False}
    whole["evaluate"]["bootstrap"] = 20
    whole["compute"] = {**whole["compute"], "threads": 1, "keep_states": 1}
    return whole


def prepare(corpus: Path, out: Path) -> None:
    """Raw data: a folder per language; pieces of the declaration (`udhr-CODE-K`) are one group K in all languages."""
    for source in sorted(corpus.glob("*.jsonl.zst")):
        target = out / source.name.split(".")[0] / "text.jsonl.zst"
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        lines, seen = [], Counter[str]()
        with zstandard.open(source, "rt", encoding="utf-8") as stream:
            for line in stream:
                document = json.loads(line)
                if document["id"].startswith("udhr-"):
                    document["group"] = "udhr/" + document["id"].rsplit("-", 1)[1]
                seen[document["id"]] += 1
                if seen[document["id"]] > 1:  # the corpus has a few ids twice
                    document["id"] += f"#{seen[document['id']]}"
                lines.append(json.dumps(document, ensure_ascii=False) + "\n")
        half = target.with_suffix(".tmp")
        half.write_bytes(zstandard.compress("".join(lines).encode()))
        half.replace(target)


def mmenc(folder: Path, *words: str) -> None:
    """One step in a process of its own; its lines go to the folder's log."""
    with (folder / "log.txt").open("ab") as log:
        command = [sys.executable, "-m", "mmenc.cli", "run", *words]
        done = subprocess.run(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SystemExit(f"{folder}: mmenc run {' '.join(words)} ended with {done.returncode}; see log.txt there")


def one_arm(out: Path, seed: int, arm: str, texts: str) -> None:
    """Train and evaluate an arm with a seed."""
    phases, ends = arms()[arm]
    folder = out / f"seed-{seed}" / arm
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(json.dumps(recipe(seed, phases, texts), indent=1), encoding="utf-8")
    link(REPO / "expectations", folder / "expectations")
    tokens, tokenizer = (f"../../shared/artifacts/{n}" for n in ("tokenize", "tokenizer"))
    mmenc(folder, "init", "--out", "artifacts/train/init", f"tokenizer={tokenizer}")
    for name, phase in phases.items():
        mmenc(folder, "mixture", "--name", name, "--out", f"artifacts/mixture/{name}", f"tokens={tokens}")
        roles = [f"tokens={tokens}", f"mixture=artifacts/mixture/{name}", f"init=artifacts/train/{phase['init']}"]
        mmenc(folder, "train", "--name", name, "--out", f"artifacts/train/{name}", *roles)
    if "merge" in ends:
        mmenc(folder, "merge", "--out", "artifacts/merge", "train=artifacts/train", f"tokens={tokens}")
    for end in ends:
        model = "artifacts/merge" if end == "merge" else f"artifacts/train/{end}"
        roles = [f"model={model}", f"tokenizer={tokenizer}", f"tokens={tokens}"]
        mmenc(folder, "evaluate", "--name", end, "--out", f"artifacts/evaluate/{end}", *roles)
        for mask in OTHER_MASKS if (arm, end) in MASKED else ():
            settings = recipe(seed, phases, texts)
            settings["evaluate"]["mask"] = mask
            (folder / f"params-{mask}.yaml").write_text(json.dumps(settings, indent=1), encoding="utf-8")
            target = f"artifacts/evaluate-{mask}/{end}"
            mmenc(folder, "evaluate", "--params", f"params-{mask}.yaml", "--name", end, "--out", target, *roles)


def link(source: Path, target: Path) -> None:
    """A link to a folder, where there is none."""
    if not target.exists():
        target.symlink_to(os.path.relpath(source, target.parent), target_is_directory=True)


def main() -> None:
    """Prepare the text once, then train and evaluate every arm with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="arms at a time, one thread each")
    parser.add_argument("--evaluation-texts", type=Path, help="text that must not be trained on")
    given = parser.parse_args()
    out = given.out.absolute()
    shared = out / "shared"
    shared.mkdir(parents=True, exist_ok=True)
    prepare(given.corpus, shared / "raw")
    texts = str(given.evaluation_texts.absolute()) if given.evaluation_texts else ""
    settings = recipe(1, arms()["annealed"][0], texts)
    settings["compute"]["threads"] = given.jobs
    (shared / "params.yaml").write_text(json.dumps(settings, indent=1), encoding="utf-8")
    link(REPO / "expectations", shared / "expectations")
    for name, reads in SHARED.items():
        if name == "validate":
            languages = json.loads((shared / "artifacts/clean/manifest.json").read_text(encoding="utf-8"))["facts"]["languages"]
            few = [t for t, row in languages.items() if row["kept"] < FEWEST]
            reason = "fewer than five documents are all that the experiment corpus has"
            settings["validate"]["waivers"] = [{"language": t, "expectation": "documents", "reason": reason} for t in few]
            (shared / "params.yaml").write_text(json.dumps(settings, indent=1), encoding="utf-8")
        mmenc(shared, name, "--out", f"artifacts/{name}", *(f"{role}={place}" for role, place in reads.items()))
    with ThreadPoolExecutor(given.jobs) as pool:
        every = [pool.submit(one_arm, out, s, arm, texts) for s in range(1, given.seeds + 1) for arm in arms()]
        for done in every:
            done.result()


if __name__ == "__main__":
    main()
