"""What the arms' sentence vectors hold, without fine-tuning: SIB-200 by a linear probe, Tatoeba by nearest neighbours.

Decision: fine-tuning every arm's models in each language would take days on a CPU and adds noise of its own; a logistic
regression on frozen mean vectors (standardised, C fixed beforehand) and cosines of centred vectors take less than a minute
a model and draw nothing. Languages: the first five of each tier, in alphabetical order, that SIB-200 has; all pairs of
Tatoeba whose language is in the corpus, their first 300 sentences. What counts: docs/log.md, "Experiment: annealing".

    python -m experiments.probe OUT --data DIR [--jobs 2]

OUT is that of `experiments.annealing`; DIR holds `sib200/` and `tatoeba/`. Writes `probe/END/scores.json` beside each arm's
`evaluate/`; `python -m experiments.figures OUT --folder probe --metric NAME` compares them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from experiments.annealing import arms
from experiments.figures import BITS, TIERS, scores
from mmenc.artifact import Json, replace_json
from mmenc.downstream.bitext import cosines, find_pairs, hits, tag_of
from mmenc.downstream.classify_suites import sib_languages, sib_read
from mmenc.downstream.sources import Data
from mmenc.evaluate.models import Subject, open_subject

PER_TIER, SENTENCES = 5, 300
STRENGTH = 0.1
"""C of the regression, below the usual 1 because a language has 701 sentences; fixed before any arm was probed."""


def topics(subject: Subject, data: Data, tags: Sequence[str]) -> dict[str, float]:
    """Accuracy of the probe in each language, in per cent."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = {}
    for tag in tags:
        parts = sib_read(data, tag)
        train, test = ([(e.text, e.label) for e in parts[p]] for p in ("train", "test"))
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=2000))
        probe.fit(subject.embed([t for t, _ in train]), [label for _, label in train])
        found[tag] = 100 * float(probe.score(subject.embed([t for t, _ in test]), [label for _, label in test]))
    return found


def translations(subject: Subject, data: Data, known: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    """Share of sentences whose nearest neighbour is the translation, both directions, in per cent: plain, centred."""
    found = {}
    for root in data.folders("tatoeba"):
        for pair in find_pairs(root):
            sides = None if pair.missing else pair.read(data)
            if sides is None or (tag := tag_of(pair.code, sides[0])) not in known:
                continue
            x_ND, y_ND = (subject.embed(side[:SENTENCES]) for side in sides)
            plain = hits(cosines(x_ND, y_ND)).mean.mean()
            centred = hits(cosines(x_ND - x_ND.mean(0), y_ND - y_ND.mean(0))).mean.mean()
            found[tag] = (100 * float(plain), 100 * float(centred))
    return found


def one(out: Path, arm: Path, end: str, root: Path) -> None:
    """Probe one model, unless it is done."""
    target = arm / "artifacts/probe" / end / "scores.json"
    if target.exists():
        return
    torch.set_num_threads(1)
    _, known = scores(arm / "artifacts/evaluate" / end / "scores.json", BITS)
    data = Data(root)
    both = {t: known[t] for t in sib_languages(data) if t in known}
    tags = [t for tier in TIERS[1:] for t in sorted(k for k, v in both.items() if v == tier)[:PER_TIER]]
    model = "merge" if end == "merge" else f"train/{end}"
    with torch.inference_mode():
        subject = open_subject(str(arm / "artifacts" / model), out / "shared/artifacts", torch.device("cpu"), bf16=False)
        rows = [_row(end, "sib200", t, known[t], "accuracy", v) for t, v in topics(subject, data, tags).items()]
        for tag, values in translations(subject, data, known).items():
            rows += [_row(end, "tatoeba", tag, known[tag], m, v) for m, v in zip(("plain", "centred"), values, strict=True)]
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_json(target, {"rows": rows})


def _row(model: str, task: str, tag: str, tier: str, metric: str, value: float) -> Json:
    name = f"{task}.{metric}"
    return {"model": model, "task": task, "language": tag, "tier": tier, "metric": name, "mean": value, "status": "ok"}


def main() -> None:
    """Probe every model that is evaluated and not yet probed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    names: dict[str, Any] = {arm: ends for arm, (_, ends) in arms().items()}
    places = [(s / arm, end) for s in sorted(given.out.absolute().glob("seed-*")) for arm, ends in names.items() for end in ends]
    ready = [(arm, end) for arm, end in places if (arm / "artifacts/evaluate" / end / "scores.json").exists()]
    with ProcessPoolExecutor(given.jobs) as pool:
        done = [pool.submit(one, given.out.absolute(), arm, end, given.data.absolute()) for arm, end in ready]
        for each in done:
            each.result()
    print(f"{len(ready)} models probed")


if __name__ == "__main__":
    main()
