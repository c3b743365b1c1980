"""Every recipe loads, says what it should, and runs through the whole graph with its sizes cut."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from mmenc.artifact import read_json
from mmenc.data.mixture import Mixture, mix, resolve_waves
from mmenc.model.config import encoder_config, parameter_counts
from mmenc.recipe import Recipe, load, parse
from tests.overlay import cut_down
from tests.pipeline import REPO, run_all, workplace

RECIPES = sorted((REPO / "recipes").glob("*.yaml"))
TREES = {
    "continue": {"learn": "init", "decay": "learn"},
    "laptop-evening": {"pretrain": "init", "extend": "pretrain", "decay-all": "extend"},
    "mmbert-base": {
        "pretrain": "init",
        "extend": "pretrain",
        "decay-english": "extend",
        "decay-continued": "extend",
        "decay-all": "extend",
    },
    "mmbert-small": {"pretrain": "init", "pretrain-2": "pretrain", "extend": "pretrain-2", "decay-all": "extend"},
    "monolingual": {"pretrain": "init", "extend": "pretrain", "decay": "extend"},
}

# Published figures, from arXiv 2509.06888, its training files and its counts per language; written here once more, by hand.
PARAMETERS = {"mmbert-base": 307_786_240, "mmbert-small": 140_897_536}
TOTALS = {"extend": 600.815e9, "decay-english": 104.398e9, "decay-continued": 103.308e9, "decay-all": 114.226e9}
TABLE_1 = {  # percent
    "pretrain": {
        "dclm": 30.2,
        "starcoder": 5.1,
        "arxiv": 1.4,
        "pes2o": 0.4,
        "stackexchange-dolma": 0.9,
        "stackexchange-dolmino": 0.1,
        "tulu-flan": 0.8,
        "dolmino-math": 0.6,
        "books": 0.2,
        "megawika": 0.2,
    },
    "extend": {
        "dclm": 1.7,
        "dolmino-dclm": 6.7,
        "starcoder": 2.9,
        "arxiv": 0.9,
        "pes2o": 0.5,
        "stackexchange-dolma": 0.5,
        "stackexchange-dolmino": 0.5,
        "tulu-flan": 0.5,
        "dolmino-math": 0.7,
        "books": 0.7,
        "megawika": 0.2,
    },
    "decay-continued": {
        "dolmino-dclm": 2.0,
        "starcoder": 0.5,
        "code-repos": 2.7,
        "arxiv": 3.2,
        "tulu-flan": 1.0,
        "dolmino-math": 0.5,
        "books": 2.1,
        "textbooks": 3.0,
        "megawika": 9.2,
    },
}
FINEWEB_2 = {"pretrain": 60.2, "extend": 84.3, "decay-continued": 76.0}
ENGLISH = {"pretrain": 0.3451, "extend": 0.1214, "decay-english": 0.1789, "decay-continued": 0.1319, "decay-all": 0.1015}
CODE = {"pretrain": 0.0513, "extend": 0.0333, "decay-english": 0.0312, "decay-continued": 0.0315, "decay-all": 0.0551}
RUSSIAN = {"pretrain": 0.0580, "extend": 0.0502, "decay-english": 0.0272, "decay-continued": 0.0298, "decay-all": 0.0261}
CODE_SOURCES = {"starcoder", "code-repos", "stackexchange-dolmino"}  # as the published counts per language have it


def mmbert(name: str) -> Recipe:
    return load(REPO / "recipes" / f"{name}.yaml")


@pytest.fixture(scope="module")
def counts() -> dict[str, int]:
    with (REPO / "recipes" / "mmbert-counts.csv").open(encoding="utf-8") as stream:
        return {row["language"]: int(row["tokens"]) for row in csv.DictReader(stream)}


def mixtures(recipe: Recipe, counts: dict[str, int]) -> dict[str, Mixture]:
    waves = resolve_waves(recipe.languages, counts)
    return {name: mix(p, name, waves[p.languages], counts) for name, p in recipe.phases.items()}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_loads_with_the_tree_that_it_should_have(path: Path):
    recipe = load(path)
    assert {name: phase.init for name, phase in recipe.phases.items()} == TREES[path.stem]
    text = path.read_text(encoding="utf-8")
    for section in ("languages", "ingest", "clean", "validate", "tokenizer", "tokenize", "model", "phases", "merge", "evaluate"):
        assert f"\n{section}:" in text, "complete files: DVC refuses a missing section"


def test_there_are_the_recipes_that_are_promised():
    assert {p.stem for p in RECIPES} == set(TREES)


@pytest.mark.parametrize("name", PARAMETERS)
def test_sizes_of_mmbert(name):
    recipe = mmbert(name)
    model = recipe.model
    assert parameter_counts(encoder_config(recipe))["parameters"] == PARAMETERS[name]
    assert (model.layers, model.intermediate, model.window, model.global_every) == (22, 1152, 128, 3)
    assert model.hidden == 64 * model.heads == {"mmbert-base": 768, "mmbert-small": 384}[name]
    assert (model.norm_eps, model.attn_out_dropout, model.initializer_range) == (1e-5, 0.1, 0.02)
    assert recipe.tokenizer.vocab_size == 256_000
    assert recipe.tokenize.min_tokens == 32


@pytest.mark.parametrize("name", PARAMETERS)
def test_schedule_of_mmbert(name):
    recipe = mmbert(name)
    base = name == "mmbert-base"
    for key, phase in recipe.phases.items():
        first, decay = key.startswith("pretrain"), key.startswith("decay")
        assert phase.batch_tokens == 4608 * 1024 == 576 * 8192
        assert phase.context == (1024 if first else 8192)
        assert phase.rope_theta == (10_000 if first else 160_000)
        assert phase.min_piece == 512
        assert phase.temperature == (0.7 if first else 0.3 if decay else 0.5)
        assert phase.mask == (0.20 if key == "pretrain-2" else 0.30 if first else 0.05 if decay else 0.15)
        halved = not base and key != "pretrain"
        assert phase.lr.peak == (4e-4 if halved else 8e-4)
        optimizer = phase.optimizer
        assert (optimizer.beta1, optimizer.beta2, optimizer.eps) == (0.9, 0.95, 1e-8)
        assert optimizer.weight_decay == (4e-5 if halved else 8e-5)
        if decay:
            assert phase.lr.shape == "one_minus_sqrt"
            assert phase.lr.peak * phase.lr.end == pytest.approx(1.6e-5)
            assert phase.checkpoints > 0
        else:
            assert phase.lr.shape == "constant"
        if key == "pretrain":
            assert phase.lr.warmup == (3e9 if base else 4e9)
            assert phase.batch_warmup is not None
            assert (phase.batch_warmup.start, phase.batch_warmup.tokens) == (8 * 48 * 1024, 60e9 if base else 100e9)
        else:
            assert phase.lr.warmup == 0
            assert phase.batch_warmup is None
    assert sum(p.tokens for k, p in recipe.phases.items() if k.startswith("pretrain")) == pytest.approx(1989.020e9, rel=1e-6)
    assert {k: recipe.phases[k].tokens for k in TOTALS if k in recipe.phases} == pytest.approx(
        {k: t for k, t in TOTALS.items() if k in recipe.phases}, rel=1e-5
    )
    assert recipe.phases["decay-all"].epoch_cap == 1.0


def test_small_changes_its_rates_at_1200_billion_tokens_and_starts_from_base():
    small = mmbert("mmbert-small")
    assert small.phases["pretrain"].tokens == 1.2e12
    assert small.model.resize == "stride"
    assert small.merge.method == "exponential"
    assert small.merge.branches == ["decay-all"]


def test_base_merges_the_best_checkpoints_with_ties():
    merge = mmbert("mmbert-base").merge
    assert (merge.method, merge.checkpoint, merge.base) == ("ties", "best", "extend")
    assert merge.branches == ["decay-english", "decay-continued", "decay-all"]


@pytest.mark.parametrize("name", PARAMETERS)
def test_waves_of_mmbert(name, counts):
    waves = resolve_waves(mmbert(name).languages, counts)
    assert {k: len(v) for k, v in waves.items()} == {"high": 60, "middle": 109, "tail": 1833}
    assert {"eng_Latn", "cmn_Hani", "arb_Arab", "khk_Cyrl", "xho_Latn"} <= set(waves["high"])
    assert {"srp_Cyrl", "yue_Hani", "mww_Latn", "hif_Latn"} <= set(waves["middle"]) - set(waves["high"])
    assert {"fao_Latn", "tir_Ethi", "uig_Arab"} <= set(waves["tail"]) - set(waves["middle"])


@pytest.mark.parametrize("name", PARAMETERS)
def test_buckets_are_table_1(name):
    phases = mmbert(name).phases
    table = TABLE_1 | {"pretrain-2": TABLE_1["pretrain"]}
    for key in table.keys() & phases.keys():
        shares = {b.source: 100 * b.share for b in phases[key].buckets.values()}
        assert shares == pytest.approx(table[key], abs=0.1)
        assert 100 - sum(shares.values()) == pytest.approx(FINEWEB_2[key.removesuffix("-2")], abs=0.15)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_mixture_from_the_counts_is_mmberts(name, counts):
    recipe = mmbert(name)
    for key, found in mixtures(recipe, counts).items():
        phase = recipe.phases[key]
        assert len(found.languages) == {"high": 60, "middle": 109, "tail": 1833}[phase.languages]
        assert sum(found.languages.values()) + sum(found.buckets.values()) == phase.tokens
        for tag, tokens in found.languages.items():
            assert tokens <= phase.epoch_cap * counts[tag] + 1, tag
        for bucket, tokens in found.buckets.items():
            assert tokens <= phase.epoch_cap * counts[phase.buckets[bucket].source] + 1
        published = key.removesuffix("-2")
        # English pages of MegaWika are in its bucket, 1.5 % of a decay: so much is missing here.
        english = found.languages["eng_Latn"] + sum(
            t for b, t in found.buckets.items() if phase.buckets[b].source not in {*CODE_SOURCES, "megawika"}
        )
        code = sum(t for b, t in found.buckets.items() if phase.buckets[b].source in CODE_SOURCES)
        assert english / phase.tokens == pytest.approx(ENGLISH[published], abs=0.015 if "decay" in key else 0.002)
        assert code / phase.tokens == pytest.approx(CODE[published], abs=0.001)
        assert found.languages["rus_Cyrl"] / phase.tokens == pytest.approx(RUSSIAN[published], abs=0.005)


def test_buckets_keep_their_share_when_languages_are_capped(counts):
    recipe = mmbert("mmbert-base")
    phase, found = recipe.phases["decay-all"], mixtures(recipe, counts)["decay-all"]
    assert len(found.capped) > 1700
    for name, bucket in phase.buckets.items():
        assert found.buckets[name] / phase.tokens == pytest.approx(bucket.share, rel=1e-6), name


def test_the_new_languages_of_decay_all_are_what_mmbert_read_of_them(counts):
    recipe = mmbert("mmbert-base")
    waves = resolve_waves(recipe.languages, counts)
    found = mixtures(recipe, counts)["decay-all"].languages
    new = set(waves["tail"]) - set(waves["middle"])
    assert len(new) == 1724
    assert sum(found[t] for t in new) == pytest.approx(11.0e9, rel=0.05)
    assert found["pbc_Latn"] == pytest.approx(216, abs=1)
    assert found["tir_Ethi"] == pytest.approx(97e6, rel=0.01)


def plain(path: Path) -> dict:
    return load(path).model_dump(mode="json", by_alias=True)


def run_cut(folder: Path, corpus: Path, recipe: dict) -> Path:
    parse(recipe)
    with pytest.MonkeyPatch.context() as patch:
        run_all(workplace(folder, corpus, recipe), patch, upto="release")
    return folder / "artifacts"


@pytest.fixture(scope="module")
def base_run(corpus, tmp_path_factory) -> Path:
    """The cut-down base, twice as wide as the others: small is strided down from its release."""
    recipe = cut_down(plain(REPO / "recipes" / "mmbert-base.yaml"), hidden=64, heads=4)
    return run_cut(tmp_path_factory.mktemp("mmbert-base"), corpus, recipe)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_runs_with_its_sizes_cut(path: Path, corpus, finished, tmp_path, request):
    if path.stem == "mmbert-base":
        artifacts = request.getfixturevalue("base_run")
    else:
        source = ""
        if path.stem == "mmbert-small":
            source = str(request.getfixturevalue("base_run") / "release")
        elif path.stem == "continue":
            source = str(finished / "artifacts" / "release")
        artifacts = run_cut(tmp_path / "run", corpus, cut_down(plain(path), source=source))
    recipe = load(path)
    for name, phase in recipe.phases.items():
        kept = list((artifacts / "train" / name).glob("checkpoints/*/model.safetensors"))
        assert len(kept) == min(2, phase.checkpoints), name
        config = read_json(artifacts / "train" / name / "manifest.json")["config"]
        assert config[f"phases.{name}"]["mask"] == phase.mask
    merged = read_json(artifacts / "merge" / "manifest.json")["facts"]
    assert merged["method"] == recipe.merge.method
    assert (artifacts / "release" / "model.safetensors").exists()


def test_small_begins_better_than_random(base_run, corpus, tmp_path):
    """Striding takes something over: the first held-out loss is below that of random weights of the same size."""
    losses = {}
    for source in (str(base_run / "release"), "random"):
        recipe = cut_down(plain(REPO / "recipes" / "mmbert-small.yaml"), source=str(base_run / "release"))
        if source == "random":
            recipe["model"] |= {"source": source, "resize": "none"}
        folder = workplace(tmp_path / Path(source).name, corpus, recipe)
        with pytest.MonkeyPatch.context() as patch:
            run_all(folder, patch, upto="train@pretrain")
        facts = read_json(folder / "artifacts" / "train" / "pretrain" / "manifest.json")["facts"]
        losses[Path(source).name] = [loss for _, loss in facts["heldout"]]
    assert losses["release"][0] < losses["random"][0]
    assert losses["release"][-1] < losses["release"][0]
