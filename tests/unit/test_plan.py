"""mmenc plan: mixture, steps, FLOPs, memory and counts against small calculations of their own, refusals, published figures."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmenc.cli import main
from mmenc.costs import LOGITS, memory, phase_flops, price, rows_of, steps_of
from mmenc.errors import Refused
from mmenc.model.config import encoder_config, parameter_counts
from mmenc.plan import Counts, counts_for, make_plan, read_counts
from mmenc.plan_show import differences
from mmenc.recipe import Recipe, load, parse
from mmenc.sections import Phase
from mmenc.train.schedule import batch_rows
from tests.pipeline import REPO, tiny_recipe, write_recipe

PUBLISHED = REPO.parent / "shared" / "mmbert" / "language_counts.csv"
BASE = REPO / "recipes" / "mmbert-base.yaml"
TAGS = ["eng_Latn", "deu_Latn", "fao_Latn", "heb_Hebr", "ell_Grek", "zul_Latn"]
COUNTS = dict(zip(TAGS, (90_000, 80_000, 30_000, 20_000, 10_000, 5_000), strict=True))


def recipe(**changes: object) -> Recipe:
    """The tiny recipe with dotted paths changed (`phases__pretrain__tokens=…`)."""
    data = tiny_recipe()
    for path, value in changes.items():
        *parents, last = path.replace("_____", "-").split("__")
        node = data
        for part in parents:
            node = node[part]
        node[last] = value
    return parse(data)


def sized(hidden: int, heads: int, **more: object) -> Recipe:
    model = {"hidden": hidden, "layers": 22, "heads": heads, "intermediate": 1152, "window": 128, "global_every": 3}
    data = tiny_recipe()
    data["model"] |= model | more
    data["tokenizer"]["vocab_size"] = 256_000
    for phase in data["phases"].values():
        phase |= {"context": 1024, "batch_tokens": 4_718_592, "tokens": 1_000_000_000, "epoch_cap": 1e9}
    return parse(data)


# ---- the contract


def test_json_has_the_keys_of_the_contract() -> None:
    plan = json.loads(json.dumps(make_plan(recipe(), COUNTS)))
    assert set(plan) == {"schema", "model", "phases", "totals", "warnings"} | {"counts", "compute"}
    assert plan["schema"] == 1
    assert set(plan["model"]) == {"parameters", "backbone", "non_embedding"}
    asked = "init tokens steps batch_tokens context mask temperature flops gpu_hours cost memory_bytes languages buckets"
    more = "changes rows flops_parts hours kwh memory fits disk_bytes capped"
    for phase in plan["phases"].values():
        assert set(phase) == {*asked.split(), *more.split()}
        for row in phase["languages"].values():
            assert set(row) == {"share", "tokens", "epochs", "available", "first_phase", "total_epochs"}
        for row in phase["buckets"].values():
            assert {"share", "tokens"} <= set(row)
    assert {"tokens", "flops", "gpu_hours", "cost"} <= set(plan["totals"])
    for key in ("tokens", "flops", "gpu_hours", "cost", "steps"):
        assert plan["totals"][key] == pytest.approx(sum(p[key] for p in plan["phases"].values()))
    assert all(set(w) == {"path", "message"} for w in plan["warnings"])


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from(TAGS[1:]), st.integers(300, 10**9), min_size=4),
    st.integers(40_000, 10**8),
    st.floats(0.05, 1),
    st.floats(0.3, 50),
    st.floats(0.01, 0.9),
)
def test_shares_sum_to_one_and_are_those_of_the_mixture(
    others: dict[str, int], english: int, temperature: float, cap: float, share: float
) -> None:
    data = tiny_recipe()
    for phase in data["phases"].values():
        phase |= {"temperature": temperature, "epoch_cap": cap}
    data["phases"]["decay-english"]["buckets"]["english"]["share"] = share
    counts = {"eng_Latn": english, **others}
    try:
        plan = make_plan(parse(data), counts)
    except Refused as error:
        assert "within epoch_cap" in str(error)  # noqa: PT017
        return
    for phase in plan["phases"].values():
        rows = [*phase["languages"].values(), *phase["buckets"].values()]
        assert sum(r["share"] for r in rows) == pytest.approx(1, abs=1e-9)
        assert sum(r["tokens"] for r in rows) == phase["tokens"]
        for r in rows:
            assert r["epochs"] == pytest.approx(r["tokens"] / r["available"])
            assert r["tokens"] <= cap * r["available"] + 1
    free = plan["phases"]["decay-continued"]
    if not free["capped"]:
        weights = {t: counts[t] ** temperature for t in free["languages"]}
        for tag, row in free["languages"].items():
            assert row["share"] == pytest.approx(weights[tag] / sum(weights.values()), abs=2 / free["tokens"])


def test_epochs_and_first_phase_follow_the_tree() -> None:
    plan = make_plan(recipe(), COUNTS)["phases"]
    english = [plan[p]["languages"]["eng_Latn"]["tokens"] for p in ("pretrain", "extend", "decay-all")]
    assert plan["decay-all"]["languages"]["eng_Latn"]["total_epochs"] == pytest.approx(sum(english) / COUNTS["eng_Latn"])
    bucket = plan["decay-english"]["buckets"]["english"]["tokens"]
    total = plan["decay-english"]["buckets"]["english"]["total_epochs"]
    assert total == pytest.approx((sum(english[:2]) + bucket) / COUNTS["eng_Latn"])
    first = {t: r["first_phase"] for t, r in plan["decay-all"]["languages"].items()}
    assert first == dict(zip(TAGS, ("pretrain", "extend", "extend", "extend", "decay-all", "decay-all"), strict=True))


# ---- parameters, steps, FLOPs


@pytest.mark.parametrize(
    ("hidden", "heads", "parameters", "backbone", "non_embedding"),
    [(384, 6, 140_897_536, 140_493_696, 42_189_696), (768, 12, 307_786_240, 306_939_648, 110_331_648)],
)
def test_parameters_are_the_published_ones(hidden: int, heads: int, parameters: int, backbone: int, non_embedding: int) -> None:
    plan = make_plan(sized(hidden, heads), dict.fromkeys(TAGS, 10**12))
    assert plan["model"] == {"parameters": parameters, "backbone": backbone, "non_embedding": non_embedding}


def simulated(phase: Phase, rows: int) -> int:
    """Training's loop (train/step.py and Batches.size), step by step."""
    row = steps = 0
    while row < rows:
        wanted, left = batch_rows(phase, int(row * (phase.tokens / rows))), rows - row
        row += left if left < wanted * 1.5 else wanted
        steps += 1
    return steps


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 400_000), st.integers(0, 500_000), st.integers(1, 9))
def test_steps_are_those_of_the_loop(batch: int, start: int, tokens: int, warm: int, context: int) -> None:
    context *= 32
    data = tiny_recipe()["phases"]["pretrain"] | {"context": context, "batch_tokens": batch * context}
    data["tokens"] = max(tokens, batch * context)
    if warm:
        data["batch_warmup"] = {"start": min(start, batch) * context, "tokens": warm}
    phase = Phase.model_validate(data)
    rows = rows_of(phase)
    assert rows * (context - 4) >= phase.tokens > (rows - 1) * (context - 4)
    assert steps_of(phase, rows) == simulated(phase, rows)


def test_a_million_steps_are_counted_at_once() -> None:
    data = tiny_recipe()["phases"]["pretrain"] | {"context": 1024, "batch_tokens": 4_718_592, "tokens": 2_300_000_000_000}
    plain = Phase.model_validate(data)
    warm = Phase.model_validate(data | {"batch_warmup": {"start": 49_152, "tokens": 60_000_000_000}})
    started = time.process_time()
    few, many = steps_of(plain), steps_of(warm)
    assert time.process_time() - started < 0.5
    assert few == pytest.approx(2.3e12 / 4_718_592, rel=0.005)
    assert many == simulated(warm, rows_of(warm)) > few


def by_hand(r: Recipe, phase: Phase) -> float:
    """FLOPs of a phase, one matrix product after the other."""
    m, vocab = r.model, r.tokenizer.vocab_size
    tokens, masked = phase.tokens * phase.context / (phase.context - 2), phase.mask * phase.tokens
    layers = 0.0
    for layer in range(m.layers):
        asking = masked if layer == m.layers - 1 else tokens  # of the last layer only masked positions are needed
        layers += 2 * m.hidden * 2 * m.hidden * tokens  # keys and values
        for columns, lines in (
            (m.hidden, m.hidden),
            (m.hidden, m.hidden),
            (m.hidden, 2 * m.intermediate),
            (m.intermediate, m.hidden),
        ):
            layers += 2 * columns * lines * asking
        keys = phase.context if layer % m.global_every == 0 else min(m.window + 1, phase.context)
        layers += (2 * keys * m.hidden + 2 * keys * m.hidden) * asking
    again = layers if r.compute.activation_checkpointing else 0.0
    head = 2 * m.hidden * m.hidden + 2 * m.hidden * vocab
    return 3 * layers + again + 3 * head * masked


@pytest.mark.parametrize("checkpointing", [False, True])
def test_flops_are_those_computed_by_hand(checkpointing: bool) -> None:
    for r in (recipe(compute__activation_checkpointing=checkpointing), sized(768, 12)):
        plan = make_plan(r, dict.fromkeys(TAGS, 10**12))
        for name, phase in r.phases.items():
            assert plan["phases"][name]["flops"] == pytest.approx(by_hand(r, phase), rel=1e-4)
            assert sum(plan["phases"][name]["flops_parts"].values()) == plan["phases"][name]["flops"]


def test_flops_agree_with_the_matrix_products_that_torch_counts() -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mmenc.model.attention import Packing
    from mmenc.model.init import build

    r = recipe(model__attn_out_dropout=0.0)
    phase = r.phases["extend"]
    cfg = encoder_config(r, phase)
    model = build(cfg, 0)
    ids, masked = torch.randint(5, cfg.vocab_size, (512,)), torch.arange(0, 512, 8)
    with FlopCounterMode(display=False) as counted:
        loss, _ = model(ids, Packing.of([128] * 4), masked, ids[masked])
        loss.backward()
    own = phase_flops(cfg, phase.model_copy(update={"tokens": 4 * 126, "mask": 64 / (4 * 126)}), False)
    # The twin's local layers compute 17 blocks of 32 queries with 3 x 32 keys each, where the window has 33.
    twin = 3 * 4 * cfg.hidden * 2 * (96 * 17 * 32 - 33 * 512)
    # torch does not count in-place products: one of the six of each attention, and the table's gradient.
    in_place = 2 * cfg.hidden * (2 * 17 * 32 * 96 + 4 * 128 * 128 + 64 * 128) + 2 * 64 * cfg.hidden * cfg.vocab_size
    assert counted.get_total_flops() == pytest.approx(sum(own.values()) + twin - in_place, rel=1e-6)


def test_money_energy_and_hours() -> None:
    r = recipe()
    compute = r.compute.model_copy(
        update={"peak_tflops": 989.0, "utilisation": 0.11, "accelerators": 8, "price_per_hour": 2.5, "watts": 700.0}
    )
    found = price(989 * 11 * 10**10 * 3600, compute)
    assert found.gpu_hours == pytest.approx(1)
    assert (found.hours, found.cost, found.kwh) == pytest.approx((1 / 8, 2.5, 0.7))


@pytest.mark.parametrize(
    ("change", "key", "grows"),
    [
        ({"phases__pretrain__tokens": 48_000}, "flops", True),
        ({"phases__pretrain__tokens": 48_000}, "steps", True),
        ({"phases__pretrain__mask": 0.6}, "flops", True),
        ({"phases__pretrain__context": 128}, "flops", True),
        ({"model__window": 16}, "flops", False),
        ({"phases__pretrain__batch_tokens": 1024}, "steps", False),
        ({"compute__utilisation": 0.8}, "gpu_hours", False),
        ({"compute__activation_checkpointing": True}, "flops", True),
        ({"compute__activation_checkpointing": True}, "memory_bytes", False),
        ({"compute__micro_batch_tokens": 128}, "memory_bytes", False),
        ({"model__hidden": 64}, "memory_bytes", True),
        ({"phases__pretrain__checkpoints": 3}, "disk_bytes", True),
    ],
)
def test_more_is_more(change: dict[str, object], key: str, grows: bool) -> None:
    plain, changed = (make_plan(r, COUNTS)["phases"]["pretrain"][key] for r in (recipe(), recipe(**change)))
    assert (changed > plain) if grows else (changed < plain)


# ---- memory


def test_memory_agrees_with_what_autograd_saves() -> None:
    import torch

    from mmenc.model import head
    from mmenc.model.attention import Packing
    from mmenc.model.init import build

    assert {"cpu": head.CHUNK_CPU, "cuda": head.CHUNK_CUDA} == LOGITS
    data = tiny_recipe()
    data["model"] |= {"hidden": 128, "intermediate": 192, "window": 64, "attn_out_dropout": 0.1}
    data["phases"]["extend"] |= {"context": 512, "batch_tokens": 2048}
    for name in ("decay-english", "decay-continued", "decay-all"):
        data["phases"][name] |= {"context": 512}
    data["compute"]["micro_batch_tokens"] = 2048
    r = parse(data)
    phase = r.phases["extend"]
    cfg = encoder_config(r, phase)
    model = build(cfg, 0).train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        if (store := x.untyped_storage()).data_ptr() not in weights:
            saved[store.data_ptr()] = store
        return x

    ids, masked = torch.randint(5, cfg.vocab_size, (2048,)), torch.arange(0, 2048, 7)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model(ids, Packing.of([512] * 4), masked, ids[masked], 3)
    parts = memory(r, phase, parameter_counts(cfg)["parameters"], checkpointing=False)
    assert parts["activations"] == pytest.approx(sum(s.nbytes() for s in saved.values()), rel=0.12)


def test_what_does_not_fit_is_said_with_the_line_to_change() -> None:
    base = sized(768, 12, dtype="bfloat16")
    plenty = dict.fromkeys(TAGS, 10**12)

    def warned(**compute: object) -> list[tuple[str, str]]:
        r = base.model_copy(update={"compute": base.compute.model_copy(update={"device": "cuda", **compute})})
        plan = make_plan(r, plenty)
        assert all(p["fits"] == (p["memory_bytes"] <= r.compute.memory_gb * 1e9) for p in plan["phases"].values())
        return [(w["path"], w["message"]) for w in plan["warnings"] if w["path"].startswith("compute.")]

    assert not warned(memory_gb=80.0, micro_batch_tokens=49_152)
    path, message = warned(memory_gb=24.0, micro_batch_tokens=49_152)[0]
    assert path == "compute.micro_batch_tokens"
    fitting = int(message.split(";")[1].split()[0])
    assert not warned(memory_gb=24.0, micro_batch_tokens=fitting)
    assert warned(memory_gb=24.0, micro_batch_tokens=fitting + 1024)
    assert warned(memory_gb=3.0)[0][0] == "compute.memory_gb"


# ---- counts


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def everything(languages: dict[str, int]) -> str:
    return "language,tokens\n" + "".join(f"{k},{v}\n" for k, v in languages.items())


def test_counts_by_tag_and_by_bare_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = tiny_recipe()
    data["languages"]["high"] = ["eng_Latn", "srp_Cyrl", "srp_Latn"]
    r = parse(data)
    path = table(tmp_path / "c.csv", "\ufefflanguage,tokens\neng,5\nsrp,7\nsrp_Latn,9\ndeu_Latn,1e3\nxxx,4\nyyy,0\n")
    found = counts_for(r, tmp_path / "params.yaml", path)
    assert found.tokens == {"eng_Latn": 5, "srp_Cyrl": 7, "srp_Latn": 9, "deu_Latn": 1000}
    assert ["xxx" in w["message"] and "yyy" not in w["message"] for w in found.warnings] == [True]
    twice = counts_for(r, tmp_path, table(tmp_path / "d.csv", "language,tokens\nsrp,7\n"))
    assert twice.tokens == {"srp_Cyrl": 7, "srp_Latn": 7}
    assert "srp (srp_Cyrl, srp_Latn)" in twice.warnings[0]["message"]


def test_counts_of_the_recipe_are_found_beside_it_and_feed_its_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    table(tmp_path / "recipes" / "own.csv", everything({**COUNTS, "dclm": 77_000}))
    bucket = {"web": {"share": 0.3, "source": "dclm"}}
    for named in ("own.csv", "recipes/own.csv"):
        r = recipe(compute__counts=named, phases__pretrain__buckets=bucket)
        assert counts_for(r, tmp_path / "recipes" / "r.yaml").tokens == {**COUNTS, "dclm": 77_000}
    given = counts_for(r, tmp_path / "recipes" / "r.yaml", table(tmp_path / "c.csv", everything({"eng": 3000, "deu": 4000})))
    assert given.tokens == {"eng_Latn": 3000, "deu_Latn": 4000, "dclm": 77_000}


def test_counts_from_turns_sampled_tokens_into_available_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "own.csv", everything({**COUNTS, "dclm": 77_000}))
    bucket = {"web": {"share": 0.3, "source": "dclm"}}
    r = recipe(compute__counts="own.csv", phases__extend__buckets=bucket, languages__middle=TAGS[:4])
    text = "language,pretrain,extend\neng_Latn,1,400\ndeu,1,200\nfao,1,0\ndclm,1,9\nzul,1,0\n"
    found = counts_for(r, tmp_path / "r.yaml", table(tmp_path / "s.csv", text), "extend")
    assert not found.capped
    power = {"eng_Latn": 400**2.0, "deu_Latn": 200**2.0}
    for tag, n in power.items():
        assert found.tokens[tag] == round(n * 600 / sum(power.values()))
    kept = {"fao_Latn", "heb_Hebr", "ell_Grek", "zul_Latn"}
    assert {t: n for t, n in found.tokens.items() if t not in power} == {**{t: COUNTS[t] for t in kept}, "dclm": 77_000}
    plan = make_plan(r, found)
    assert not any(phase["capped"] for phase in plan["phases"].values())
    assert plan["phases"]["extend"]["languages"]["deu_Latn"]["epochs"] > r.phases["extend"].epoch_cap


def test_what_was_sampled_is_what_is_planned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    r = recipe(languages__middle=TAGS[:4], languages__tail="all")
    planned = make_plan(r, Counts(COUNTS, "here", capped=False))["phases"]["decay-all"]
    text = "language,decay-all\n" + "".join(f"{t[:3]},{row['tokens']}\n" for t, row in planned["languages"].items())
    r = parse(tiny_recipe() | {"languages": {"high": ["eng_Latn"], "middle": TAGS[:4], "tail": TAGS}})
    again = make_plan(r, counts_for(r, tmp_path, table(tmp_path / "s.csv", text), "decay-all"))["phases"]["decay-all"]
    for tag, row in planned["languages"].items():
        assert again["languages"][tag]["share"] == pytest.approx(row["share"], rel=0.01)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("language,token\neng,1\n", ["no column 'tokens'", "did you mean 'token'"]),
        ("lang,tokens\neng,1\n", ["no column 'language'"]),
        ("language,tokens,tokens\neng,1,2\n", ["twice column 'tokens'"]),
        ("", ["no column 'language'", "found nothing"]),
        ("language,tokens\neng,-5\n", ["line 2", "tokens of eng is '-5'"]),
        ("language,tokens\neng,many\n", ["'many'", "whole number"]),
        ("language,tokens\neng,nan\n", ["'nan'"]),
        ("language,tokens\neng,1.5\n", ["'1.5'"]),
        ("language,tokens\neng\n", ["None"]),
        ("language,tokens\neng,1,000\n", ["line 2", "one value for each"]),
        ("language,tokens\neng,1\neng,2\n", ["line 3", "eng is there twice"]),
        ("language,tokens\neng,0\n", ["no number above zero"]),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(Refused) as refused:
        read_counts(table(tmp_path / "c.csv", text))
    assert all(word in str(refused.value) for word in [*words, "c.csv"]), refused.value
    assert "\n" not in str(refused.value)


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    monkeypatch.chdir(folder)
    code = main(["plan", *words])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "give --counts FILE.csv"),
        (["--counts", "none.csv"], "none.csv: cannot be read"),
        (["--counts-from", "pretrain"], "--counts, which is missing"),
        (["--counts", "c.csv", "--counts-from", "pretrian"], "did you mean 'pretrain'"),
        (["--counts", "c.csv", "--counts-from", "extend"], "no column 'extend'"),
        (["--counts", "c.csv"], "phases.pretrain.tokens: 24,000 asked for"),
        (["--counts", "c.csv", "--against", "other.yaml"], "phases.pretrain.tokens"),
        (["--counts", "few.csv"], "languages.middle: asks for 4 languages, the data has 2; rows of few.csv that match no"),
        (["--params", "prams.yaml"], "prams.yaml: no such recipe file"),
    ],
)
def test_refusals_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    write_recipe(tmp_path, tiny_recipe())
    table(tmp_path / "c.csv", everything(dict.fromkeys(TAGS, 100)))
    table(tmp_path / "few.csv", everything({"eng": 90_000, "deu_Latn": 90_000, "fao": 9}))
    code, out, err = run(tmp_path, monkeypatch, capsys, *words)
    assert (code, out) == (1, "")
    assert expected in err
    assert err.startswith("mmenc: ")
    assert len(err.splitlines()) == 1


def test_counts_file_of_the_recipe_that_is_missing() -> None:
    with pytest.raises(Refused, match=r"compute\.counts: there is no file 'nowhere\.csv'"):
        counts_for(recipe(compute__counts="nowhere.csv"), Path("params.yaml"))


# ---- warnings, tables, differences


def test_repetition_caps_and_small_languages_are_warned_of() -> None:
    counts = {**COUNTS, "zul_Latn": 100, "ell_Grek": 400}
    found = {(w["path"], w["message"]) for w in make_plan(recipe(phases__pretrain__epoch_cap=5), counts)["warnings"]}
    text = "\n".join(f"{p}: {m}" for p, m in found)
    assert "phases.decay-all.epoch_cap: 1 capped at 5 epochs, what is over goes to the others: zul_Latn" in text
    assert "phases.decay-all.tokens: 1 language is read more than 4 times by its end; most: zul_Latn, 5.0" in text
    assert "phases.decay-all.languages: 1 language has less text than one row of 128 tokens: zul_Latn 100" in text
    thin = make_plan(
        recipe(phases__extend__temperature=1.0), {**COUNTS, "heb_Hebr": 30_001, "fao_Latn": 700, "deu_Latn": 90_000_000}
    )
    assert any("get less than one row" in w["message"] or "gets less" in w["message"] for w in thin["warnings"])


def test_tables_and_differences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    write_recipe(tmp_path, tiny_recipe())
    table(tmp_path / "c.csv", everything(COUNTS))
    code, out, _ = run(tmp_path, monkeypatch, capsys, "--counts", "c.csv")
    assert code == 0
    assert all(word in out for word in ("pretrain", "decay-all", "GPU-hours", "epochs since the root", "fits into 8 GB"))
    assert "zul_Latn" in run(tmp_path, monkeypatch, capsys, "--counts", "c.csv", "--languages")[1]
    other = tiny_recipe()
    other["phases"]["extend"]["mask"] = 0.2
    del other["phases"]["decay-all"], other["merge"]["branches"][2]
    (tmp_path / "other.yaml").write_text(json.dumps(other))
    words = ("--counts", "c.csv", "--against", "other.yaml")
    out = run(tmp_path, monkeypatch, capsys, *words)[1]
    assert "phases.extend.mask" in out
    found = json.loads(run(tmp_path, monkeypatch, capsys, *words, "--json")[1])["against"]
    assert found["differs"]["phases.extend.mask"] == [0.15, 0.2]
    assert found["differs"]["phases.decay-all.mask"] == [0.05, None]
    assert found["phases"]["decay-all"]["tokens"] == [16_000, None]
    assert found["totals"]["tokens"] == [88_000, 72_000]
    r = recipe()
    plan = make_plan(r, COUNTS)
    assert differences(r, plan, r, plan)["differs"] == {}


# ---- the published mixture


def distance(plan: dict[str, object], published: list[dict[str, str]]) -> tuple[int, float]:
    """Languages that both columns have (English and code apart) and the total variation over them, both renormalised."""
    both = {r["language"]: int(r["ext"]) for r in published if int(r["ext"]) and int(r["pretrain"])}
    both = {k: v for k, v in both.items() if k not in ("eng", "code")}
    mine = dict.fromkeys(both, 0.0)
    for tag, row in plan["phases"]["extend"]["languages"].items():  # type: ignore[index]
        if tag[:3] in mine:
            mine[tag[:3]] += row["share"]
    assert all(mine.values())
    here, there = sum(mine.values()), sum(both.values())
    return len(both), sum(abs(mine[k] / here - both[k] / there) for k in both) / 2


@pytest.fixture(scope="module")
def published() -> list[dict[str, str]]:
    if not PUBLISHED.is_file():
        pytest.skip("the published counts are not beside this checkout")
    with PUBLISHED.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_published_mixture_from_a_recipe_of_its_own(
    published: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = [f"{r['language']}_Latn" for r in published if int(r["pretrain"]) and r["language"] not in ("eng", "code")]
    data = tiny_recipe()
    data["languages"] = {"high": first, "middle": first, "tail": first}
    data["phases"]["decay-english"]["buckets"] = {}
    total = {"pretrain": 1_989_020_000_000, "extend": 600_815_000_000}
    for name, phase in data["phases"].items():
        phase |= {"tokens": total.get(name, 100_000_000_000), "temperature": {"pretrain": 0.7, "extend": 0.5}.get(name, 0.3)}
    r = parse(data)
    counts = counts_for(r, Path("params.yaml"), PUBLISHED, "pretrain")
    assert sum(counts.tokens.values()) == pytest.approx(
        sum(int(x["pretrain"]) for x in published if x["language"] not in ("eng", "code")), rel=1e-6
    )
    languages, variation = distance(make_plan(r, counts), published)
    assert languages == 59
    assert variation < 0.003


@pytest.mark.skipif(not BASE.is_file(), reason="recipes/mmbert-base.yaml is not there")
def test_published_mixture_from_mmbert_base(published: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    r = load(BASE)
    plan = make_plan(r, counts_for(r, BASE, PUBLISHED, "pretrain"))
    languages, variation = distance(plan, published)
    assert languages == 59
    assert variation < 0.003
    columns = {"pretrain": "pretrain", "extend": "ext", "decay-english": "decay-eng", "decay-continued": "decay-mid"}
    for name, column in {**columns, "decay-all": "decay-all"}.items():
        total = sum(int(x[column]) for x in published)
        languages = sum(1 for x in published if int(x[column]) and x["language"] != "code")
        assert plan["phases"][name]["tokens"] == pytest.approx(total, rel=1e-3)
        assert len({t[:3] for t in plan["phases"][name]["languages"]}) == languages


@pytest.mark.skipif(not BASE.is_file(), reason="recipes/mmbert-base.yaml is not there")
def test_a_plan_of_all_languages_takes_no_time_and_no_torch() -> None:
    code = (
        "import sys, contextlib, io; from mmenc.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): code = main(['plan', '--params', 'recipes/mmbert-base.yaml'])\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'pandas', 'dvc', 'kfp'} & set(sys.modules)\n"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 3
