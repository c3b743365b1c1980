"""The experiment of docs/log.md compares what it says: equal tokens and rates, one difference per arm, a rule fixed before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import figures, probe
from experiments.annealing import STAGES, arms, recipe
from mmenc.recipe import parse

CHAIN = {name: phases for name, (phases, _) in arms().items()}


@pytest.mark.parametrize("name", CHAIN)
def test_every_arm_is_a_valid_recipe_of_equal_tokens_and_rates(name: str):
    parsed = parse(recipe(1, CHAIN[name], ""))
    trunk = [n for n in parsed.phases if n.split("-0")[0].split("-1")[0].split("-2")[0] in STAGES]
    assert sum(parsed.phases[n].tokens for n in trunk) == sum(CHAIN["annealed"][n]["tokens"] for n in STAGES)
    for stage in STAGES:  # batch, context and peak rate of a stage are those of the annealed arm
        mine, base = CHAIN[name][stage], CHAIN["annealed"][stage]
        assert {k: mine[k] for k in ("context", "batch_tokens", "rope_theta")} == {
            k: base[k] for k in ("context", "batch_tokens", "rope_theta")
        }
        assert mine["lr"]["peak"] == base["lr"]["peak"]


def test_arms_differ_in_what_they_ask_about_and_nothing_else():
    def apart(name: str) -> set[str]:
        return {k for s in STAGES for k, v in CHAIN[name][s].items() if v != CHAIN["annealed"][s].get(k)}

    assert apart("all-at-once") == {"languages"}
    assert apart("temperature-0.5") == {"languages", "temperature"}
    assert apart("mask-0.05") == {"mask"}


def test_the_linear_arm_falls_in_a_line_between_the_annealed_ends():
    masks = [p["mask"] for p in CHAIN["linear"].values()]
    heat = [p["temperature"] for p in CHAIN["linear"].values()]
    assert (masks, heat) == (sorted(masks, reverse=True), sorted(heat, reverse=True))
    assert 0.05 < masks[-1] < masks[0] < 0.30
    assert 0.3 < heat[-1] < heat[0] < 0.7


def write(out: Path, seed: int, arm: str, values: dict[str, float], metric: str = figures.BITS) -> None:
    """An evaluation of an arm's last phase."""
    target = out / f"seed-{seed}" / arm / "artifacts/evaluate/decay-all/scores.json"
    target.parent.mkdir(parents=True)
    tier = {"eng_Latn": "high", "fao_Latn": "tail", "udm_Cyrl": "tail"}
    rows = [
        {"model": "decay-all", "metric": metric, "status": "ok", "language": t, "tier": tier[t], "mean": v}
        for t, v in values.items()
    ]
    target.write_text(json.dumps({"rows": rows}))


@pytest.mark.parametrize(("metric", "words"), [(figures.BITS, "better"), ("sib200.accuracy", "no difference seen")])
def test_differences_are_paired_by_seed_and_judged_by_the_rule(tmp_path: Path, metric: str, words: str):
    for seed, shift in ((1, 0.0), (2, 1.0), (3, 2.0)):  # seeds differ much, arms by a fifth in every seed
        write(tmp_path, seed, "annealed", {"eng_Latn": 3.0 + shift, "fao_Latn": 4.0 + shift, "udm_Cyrl": 5.0 + shift}, metric)
        noise = 0.01 * seed
        arm = {"eng_Latn": 3.0 + shift, "fao_Latn": 3.7 + shift + noise, "udm_Cyrl": 4.7 + shift - noise}
        write(tmp_path, seed, "all-at-once", arm, metric)
    row = figures.compare(tmp_path, metric=metric)["all-at-once/decay-all"]
    assert row["all"]["difference"] == pytest.approx((-0.2, -0.2, -0.2))
    assert [row[g]["difference"][0] for g in ("high", "Cyrl")] == pytest.approx([0, -0.32])
    assert row["all"]["languages"] == 3
    assert figures.verdict(tuple(row["all"]["difference"]), metric) == words


@pytest.mark.parametrize(
    ("difference", "words"),
    [((-0.2, -0.3, 0.1), "no difference seen"), ((-0.009, -0.01, -0.008), "no difference seen"), ((0.02, 0.01, 0.03), "worse")],
)
def test_an_interval_over_zero_and_a_small_mean_do_not_count(difference: tuple[float, float, float], words: str):
    assert figures.verdict(difference) == words


def test_one_seed_has_no_interval():
    assert figures.verdict(figures.interval([-0.5])) == "no difference seen"


def test_the_probe_reads_models_and_data(finished: Path, tmp_path: Path):
    arm, data = tmp_path / "seed-1" / "annealed", tmp_path / "data"
    for folder, places in ((arm, ("train", "evaluate")), (tmp_path / "shared", ("tokenizer",))):
        (folder / "artifacts").mkdir(parents=True)
        for place in places:
            (folder / "artifacts" / place).symlink_to(finished / "artifacts" / place)
    topics = {"sport": "the team won the game {}", "food": "bread and soup with salt {}"}
    (data / "sib200/eng_Latn").mkdir(parents=True)
    for part, count in (("train", 20), ("dev", 4), ("test", 10)):
        rows = [f"{i}\t{label}\t{text.format(i)}" for i in range(count) for label, text in topics.items()]
        (data / f"sib200/eng_Latn/{part}.tsv").write_text("\n".join(["index_id\tcategory\ttext", *rows]) + "\n")
    (data / "tatoeba").mkdir()
    for side in ("deu", "eng"):  # equal sides: everything is found
        (data / f"tatoeba/tatoeba.deu-eng.{side}").write_text("".join(f"Nummer {i} ist {i * i}.\n" for i in range(8)))
    probe.one(tmp_path, arm, "decay-all", data)
    rows = json.loads((arm / "artifacts/probe/decay-all/scores.json").read_text())["rows"]
    found = {(r["language"], r["metric"]): r["mean"] for r in rows}
    assert found.pop(("eng_Latn", "sib200.accuracy")) > 80  # chance is 50
    assert found == {("deu_Latn", "tatoeba.plain"): 100, ("deu_Latn", "tatoeba.centred"): 100}
