"""Retraining from CI on a real git repository with a real DVC remote: what a change retrains; from trigger to metrics."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from mmenc.artifact import Manifest
from mmenc.cli import main
from mmenc.errors import Refused
from mmenc.recipe import load
from mmenc.retrain.metrics import compare, render
from mmenc.retrain.promote import collect
from mmenc.retrain.released import read
from mmenc.retrain.report import write_plan
from tests import forge
from tests.pipeline import REPO

SCRIPT = REPO / ".ci" / "retrain"
IDENTITY = {f"GIT_{who}_{what}": "ci" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
PRICE = {"price_per_hour": 2.5, "peak_tflops": 0.00002, "accelerator": "cpu"}
"""So slow that the tiny recipe costs something."""
BELOW_DECAY = ["evaluate decay-all", "evaluate merge", "merge", "mixture decay-all", "release", "report", "train decay-all"]


def env(**more: str) -> dict[str, str]:
    """A CI job's: our code and programs first, nothing of the machine's git settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "GITHUB_", "GITLAB_", "CI_", "KF_", "MMENC_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    known = {"PATH": path, "PYTHONPATH": f"{REPO / 'src'}{os.pathsep}{REPO}", "GIT_CONFIG_GLOBAL": os.devnull}
    return {**kept, **IDENTITY, **known, "MMENC_SRC": str(REPO / "src"), **more}


def call(folder: Path, *words: object, code: int = 0, **more: str) -> str:
    done = subprocess.run([str(w) for w in words], cwd=folder, env=env(**more), capture_output=True, text=True, check=False)
    assert done.returncode == code, (words, done.stdout[-3000:], done.stderr[-3000:])
    return done.stdout + done.stderr


def commit(folder: Path, branch: str, text: str) -> None:
    """What a pull request is: a branch from main with one commit."""
    call(folder, "git", "checkout", "-q", "-b", branch)
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "-q", "-m", text)


def recipe(folder: Path) -> dict:
    return yaml.safe_load((folder / "params.yaml").read_text())


def write(folder: Path, changed: dict, **options: object) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(changed, sort_keys=False, **options))


@pytest.fixture(scope="module")
def origin(finished: Path, tmp_path_factory) -> Path:
    """A repository whose pipeline is finished: git, DVC with a remote, artifacts committed to dvc.lock, a release published."""
    folder = tmp_path_factory.mktemp("retrain") / "repo"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns(".resume"))
    plain = json.loads((folder / "params.yaml").read_text())
    plain["compute"] |= PRICE
    write(folder, plain)
    (folder / ".dvc").mkdir()
    remote = folder.parent / "remote"
    (folder / ".dvc" / "config").write_text(
        f"[core]\n analytics = false\n check_update = false\n remote = store\n['remote \"store\"']\n url = {remote}\n"
    )
    (folder / ".gitignore").write_text("/data\n/artifacts\n/.dvc/cache\n/.dvc/tmp\n/ci-out\n")
    shutil.copy(REPO / ".dvcignore", folder)
    call(folder, "git", "init", "-q", "-b", "main")
    call(folder, "dvc", "add", "-q", "data")
    call(folder, "dvc", "commit", "-q", "-f")
    call(folder, "dvc", "push", "-q")
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "-q", "-m", "a finished run")
    shutil.copytree(folder / "artifacts" / "release", folder.parent / "releases" / "latest")
    return folder


@pytest.fixture
def work(origin: Path, tmp_path: Path) -> Path:
    """A fresh clone, as CI has it: neither data nor artifacts nor a cache, only the remote."""
    folder = tmp_path / "work"
    call(tmp_path, "git", "clone", "-q", origin, folder)
    call(folder, "git", "checkout", "-q", "main")
    return folder


def plan(folder: Path, base: str = "main", *, releases: str = "", refused: str = "") -> tuple[dict, str]:
    """The same as the script does, in this process and without asking DVC."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Refused, match=refused) if refused else nullcontext():
        patch.chdir(folder)
        write_plan(base, "HEAD", "params.yaml", Path("ci-out"), last=releases and f"{releases}/latest")
    return read_plan(folder)


def script_plan(folder: Path, base: str = "main", **more: str) -> tuple[dict, str]:
    """As CI does it."""
    call(folder, SCRIPT, "plan", base, **more)
    return read_plan(folder)


def read_plan(folder: Path) -> tuple[dict, str]:
    return json.loads((folder / "ci-out" / "plan.json").read_text()), (folder / "ci-out" / "plan.md").read_text()


def new(found: dict) -> list[str]:
    return [label for label, node in found["nodes"].items() if node["new"]]


def test_a_comment_or_the_order_of_keys_retrains_nothing(work: Path):
    text = (work / "params.yaml").read_text()
    (work / "params.yaml").write_text("# what the team decided on Monday\n" + text.replace("mask: 0.05", "mask: 5.0e-2"))
    commit(work, "comment", "say why")
    found, said = script_plan(work)
    assert not new(found)
    assert found["touched"] == ["params.yaml"]
    assert "**Nothing retrains.** params.yaml differs as text only" in said
    assert (work / "ci-out" / "plan.env").read_text().startswith("runs=false\ntrains=false\nrelease_key=")
    key = found["release_key"]
    write(work, dict(reversed(recipe(work).items())))
    call(work, "git", "commit", "-qam", "order")
    assert plan(work)[0]["release_key"] == key
    assert found["dvc"] == {"run": [], "idle": [], "unseen": []}


def test_where_it_runs_is_no_part_of_what_comes_out(work: Path):
    changed = recipe(work)
    changed["compute"] |= {"price_per_hour": 4.0, "threads": 1}
    write(work, changed)
    commit(work, "price", "a dearer machine")
    found, said = plan(work)
    assert not new(found)
    assert found["recipe"]["silent"] == ["compute.threads", "compute.price_per_hour"]
    assert "no step (where and how fast)" in said


def test_a_new_version_of_a_step_or_another_suite_is_noticed(work: Path):
    path = work / "dvc.yaml"
    path.write_text(path.read_text().replace("mmenc run release@2", "mmenc run release@3"))
    commit(work, "version", "a release of another version")
    found, _ = plan(work)
    assert new(found) == ["release", "report"]
    assert found["nodes"]["release"]["why"] == ["version 2 → 3 of the step"]
    suite = next((work / "expectations").glob("*.yaml"))
    suite.write_text("# a comment\n" + suite.read_text())
    call(work, "git", "commit", "-qam", "suite")
    assert new(plan(work)[0]) == ["release", "report"]
    changed = yaml.safe_load(suite.read_text())
    changed["expectations"][0]["severity"] = "warning"
    suite.write_text(yaml.safe_dump(changed))
    call(work, "git", "commit", "-qam", "suite")
    found, _ = plan(work)
    assert "validate" in new(found)
    assert "clean" not in new(found)
    assert found["trains"]


@pytest.fixture(scope="module")
def with_language(origin: Path, sample: Path) -> Path:
    """A branch on which Swedish is added, pushed to the remote as a person does it."""
    call(origin, "git", "checkout", "-q", "main")
    shutil.copytree(origin / "data", origin.parent / "before")
    (origin / "data" / "swe_Latn").mkdir()
    for path in sorted((sample / "swe_Latn").glob("*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        (origin / "data" / "swe_Latn" / path.name).write_text("".join(lines[:12]), encoding="utf-8")
    call(origin, "dvc", "add", "-q", "data")
    status = json.loads(call(origin, "dvc", "status", "--json"))
    call(origin, "dvc", "push", "-q", "data.dvc")
    commit(origin, "swedish", "Swedish")
    call(origin, "git", "checkout", "-q", "main")
    (origin / "data" / "swe_Latn").rename(origin.parent / "after")
    shutil.rmtree(origin / "data")
    (origin.parent / "before").rename(origin / "data")
    (origin.parent / "status.json").write_text(json.dumps(status))
    return origin


def test_a_language_is_added(with_language: Path, work: Path):
    """The list of files comes from the remote; everything depends on text, and `continue` is offered with both costs."""
    call(work, "git", "checkout", "-q", "swedish")
    found, said = plan(work, releases=f"{with_language.parent}/releases")
    row = found["data"]["languages"]["swe_Latn"]
    assert list(found["data"]["languages"]) == ["swe_Latn"]
    assert row["state"] == "new"
    assert row["files"] == {"new": len(list((with_language.parent / "after").iterdir())), "changed": 0, "gone": 0}
    assert row["bytes"][1] > 1000
    assert new(found) == list(found["nodes"])
    assert found["nodes"]["ingest"]["why"] == ["raw text"]
    # DVC itself, where the data is: only ingest has changed, and all reads it in the end.
    status = json.loads((with_language.parent / "status.json").read_text())
    assert list(status) == ["ingest"]
    assert "5 of 5 phases retrain" in said
    assert "| swe&#95;Latn | new | " in said
    other = found["continue"]
    assert other["offered"], other
    assert other["languages"] == ["swe_Latn"]
    assert 0 < other["costs"]["gpu_hours"] < found["costs"]["new"]["gpu_hours"]
    assert "**It is another model.**" in said
    shutil.copytree(REPO / "expectations", work / "ci-out" / "expectations")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work / "ci-out")
        checked = load(Path("continue.yaml"))
    assert checked.model.source == checked.tokenizer.source == f"{with_language.parent}/releases/latest"
    assert checked.ingest.languages == ["swe_Latn", "eng_Latn"]


def test_text_that_nobody_reads_retrains_nothing(with_language: Path, work: Path):
    chosen = recipe(work)
    chosen["ingest"]["languages"] = ["eng_Latn", "deu_Latn", "fao_Latn", "heb_Hebr", "ell_Grek", "zul_Latn"]
    write(work, chosen)
    commit(work, "chosen", "the six")
    call(work, "git", "merge", "-q", "--no-edit", "origin/swedish")
    found, _ = plan(work, "chosen~1")
    assert found["touched"] == ["data.dvc"]
    assert not new(found)


def test_what_cannot_be_known_is_said(with_language: Path, work: Path):
    call(work, "git", "checkout", "-q", "swedish")
    (work / ".dvc" / "config.local").write_text("['remote \"store\"']\n url = nowhere\n")
    found, said = plan(work)
    assert found["data"] == {"changed": True, "known": False, "languages": {}}
    assert new(found) == list(found["nodes"])
    assert "which languages cannot be told" in said
    assert not found["continue"]["offered"]


def test_a_recipe_that_is_refused_is_a_comment_and_a_failure(work: Path):
    changed = recipe(work)
    changed["phases"]["extend"]["maks"] = 0.2
    write(work, changed)
    commit(work, "typo", "typo")
    found, said = plan(work, refused="unknown key 'maks'")
    assert not found["runs"]
    assert "**Refused.** params.yaml: phases.extend: unknown key 'maks'; did you mean 'mask'?" in said
    assert not (work / "ci-out" / "plan.env").exists()
    assert "no such revision" in call(work, SCRIPT, "plan", "gone", code=1)


def test_from_trigger_to_posted_metrics_and_a_tag(origin: Path, finished: Path, tmp_path: Path):
    """A mask is changed: plan, comment, DVC's opinion, the retraining itself, exactly the artifacts that were named, comment."""
    folder = tmp_path / "runner"
    shutil.copytree(origin, folder, symlinks=True)
    releases = str(tmp_path / "releases")
    shutil.copytree(origin.parent / "releases", releases)
    changed = recipe(folder)
    changed["phases"]["decay-all"]["mask"] = 0.1
    write(folder, changed)
    commit(folder, "mask", "more to guess")
    outputs = tmp_path / "outputs"
    found, said = script_plan(
        folder, MMENC_RELEASES=releases, GITHUB_OUTPUT=str(outputs), GITHUB_STEP_SUMMARY=str(tmp_path / "summary")
    )
    assert new(found) == BELOW_DECAY
    assert "**1 of 5 phases retrain: decay-all.**" in said
    assert found["continue"]["reason"] == "no raw text has changed"
    assert found["costs"]["new"]["tokens"] == 16_000
    assert found["costs"]["new"]["cost"] == pytest.approx(2.5 * found["costs"]["new"]["gpu_hours"])
    assert found["dvc"]["run"] == sorted(found["nodes"][label]["stage"] for label in BELOW_DECAY)
    assert found["dvc"]["idle"] == found["dvc"]["unseen"] == []
    words = dict(line.split("=") for line in outputs.read_text().splitlines())
    assert words["trains"] == "true"
    assert (tmp_path / "summary").read_text() == said
    before = digests(folder)
    with forge.running() as server:
        hub = server.github()
        call(folder, SCRIPT, "post", "plan", "ci-out/plan.md", "7", **hub)
        call(folder, SCRIPT, "run", words["release_key"], MMENC_RELEASES=releases)
        after = digests(folder)
        assert [label for label in found["nodes"] if before[label] != after[label]] == BELOW_DECAY
        again = call(folder, SCRIPT, "run", words["release_key"], MMENC_RELEASES=releases)
        assert "is there already, nothing is trained" in again
        call(folder, SCRIPT, "metrics", words["release_key"], MMENC_RELEASES=releases)
        call(folder, SCRIPT, "post", "metrics", "ci-out/metrics.md", "7", **hub)
        assert [c["body"].splitlines()[1][:14] for c in server.comments] == ["### Retraining", "### Retrained:"]
        told = server.comments[1]["body"]
    metrics = json.loads((folder / "ci-out" / "metrics.json").read_text())
    assert metrics["comparable"]
    assert {r["tier"] for r in metrics["tiers"]} == {"high", "middle", "tail", "all"}
    assert all(r["low"] <= r["difference"] <= r["high"] for r in metrics["tiers"])
    assert "tokenize" in told
    kept = [line for line in metrics["lineage"] if line.endswith("= last release")]
    assert [line for line in kept if "train extend" in line]
    assert not [line for line in kept if "train decay-all" in line]
    call(folder, "git", "tag", "v2")
    call(folder, SCRIPT, "promote", "v2", MMENC_RELEASES=releases)
    for name in ("v2", "latest"):
        assert read(f"{releases}/{name}").manifest["digest"] == after["release"]
        assert (Path(releases) / name / "model.safetensors").is_file()
        assert list((Path(releases) / name / "lineage" / "runs").glob("*.json"))
    assert "is no tag of a release" in call(folder, SCRIPT, "promote", "v2;x", code=1, MMENC_RELEASES=releases)
    call(folder, "git", "checkout", "-q", "-f", "main")
    assert "has no manifest.json" in call(folder, SCRIPT, "promote", "v3", code=1, MMENC_RELEASES=releases)


def test_a_finished_release_is_collected_from_the_store_and_nothing_is_computed(finished: Path, tmp_path: Path, monkeypatch):
    folder = tmp_path / "ci"
    shutil.copytree(finished, folder)
    plain = json.loads((folder / "params.yaml").read_text())
    write(folder, plain | {"compute": plain["compute"] | {"store": str(tmp_path / "store")}})
    before = digests(folder)
    shutil.rmtree(folder / "artifacts" / "release")
    monkeypatch.chdir(folder)
    with pytest.raises(Refused, match=r"release: [0-9a-f]{12} is not finished in the store"):
        collect(Path("params.yaml"), "")
    assert not (folder / "artifacts" / "release").exists()
    words = next(w for name, w in yaml.safe_load((folder / "dvc.yaml").read_text())["stages"].items() if name == "release")
    assert main(words["cmd"].split()[1:]) == 0
    shutil.rmtree(folder / "artifacts" / "release")
    assert collect(Path("params.yaml"), "") == Path("artifacts/release")
    assert digests(folder) == before


def digests(folder: Path) -> dict[str, str]:
    found = [Manifest.read(path.parent) for path in (folder / "artifacts").rglob("manifest.json")]
    return {f"{m.step} {m.name}".strip(): m.digest for m in found}


def test_metrics_say_what_became_worse(finished: Path):
    """A release against itself, and against one whose scores were worse by a known amount."""
    one = read(str(finished / "artifacts" / "release"))
    same = compare(one, one)
    assert {r["verdict"] for r in same["tiers"]} == {"unclear"}
    assert all(r["difference"] == 0 for r in same["tiers"])
    assert all(line.endswith("= last release") for line in same["lineage"])
    worse = [
        dict(r, mean=r["mean"] + 1, low=r["low"] + 1, high=r["high"] + 1) if isinstance(r["mean"], float) else r
        for r in one.scores
    ]
    other = compare(one, type(one)(one.place, one.manifest, one.lineage, worse))
    whole = next(r for r in other["tiers"] if (r["metric"], r["tier"]) == ("mlm.bits_per_byte", "all"))
    assert whole["difference"] == pytest.approx(1)
    assert whole["verdict"] == "worse"
    assert {r["clear"] for r in other["languages"]} - {""} == {"worse"}
    assert "**Lost most**" in render(other)
    accuracy = next(r for r in other["tiers"] if (r["metric"], r["tier"]) == ("mlm.accuracy", "all"))
    assert accuracy["verdict"] == "better"
    settings = {
        **one.manifest,
        "config": {**one.manifest["config"], "evaluate": {**one.manifest["config"]["evaluate"], "mask": 0.3}},
    }
    apart = compare(one, type(one)(one.place, settings, one.lineage, one.scores))
    assert apart["reason"] == "the evaluation has changed (mask 0.15 → 0.3)"
    assert "**Not compared**" in render(apart)
    assert compare(None, one)["reason"] == "there is no last release"
