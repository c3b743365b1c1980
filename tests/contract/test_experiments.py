"""DVC's own commands on a finished run in a git repository: experiments, metrics, parameters, plots."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmenc.artifact import Manifest
from tests.pipeline import REPO

pytest.importorskip("dvc")


def test_an_experiment_is_run_shown_and_compared(finished: Path, tmp_path: Path):
    folder = shutil.copytree(finished, tmp_path / "copy")
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(REPO / name, folder)
    programs = tmp_path / "bin"
    programs.mkdir()
    # The mmenc of this checkout, wherever the installed one comes from.
    lines = [f"#!{sys.executable}", "import sys", f"sys.path.insert(0, {str(REPO / 'src')!r})", "from mmenc.cli import main"]
    script = "\n".join([*lines, "sys.exit(main())\n"])
    (programs / "mmenc").write_text(script)
    (programs / "mmenc").chmod(0o755)
    path = f"{programs}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "GIT_CONFIG_GLOBAL": os.devnull, "DVC_NO_ANALYTICS": "1"}

    def run(*words: str) -> str:
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    run("git", "init", "-q")
    run("git", "config", "user.email", "a@example.org")
    run("git", "config", "user.name", "a")
    run("dvc", "init", "-q")
    shutil.copy(REPO / ".dvc" / "config", folder / ".dvc" / "config")
    run("dvc", "add", "-q", "data")
    run("dvc", "commit", "-q", "-f")  # what lies there is what the stages have made
    run("git", "add", "-A")
    run("git", "commit", "-q", "-m", "a finished run")
    assert "artifacts/merge" in run("git", "ls-files", "--others", "--ignored", "--exclude-standard")
    run("dvc", "exp", "run", "-S", "phases.decay-all.mask=0.1", "-S", "phases.decay-all.tokens=4000", "train@decay-all")
    trained = Manifest.read(folder / "artifacts" / "train" / "decay-all")
    assert trained.config["phases.decay-all"]["mask"] == 0.1
    assert {Manifest.read(folder / "artifacts" / "train" / p).content for p in ("extend", "decay-english")} == {
        Manifest.read(finished / "artifacts" / "train" / p).content for p in ("extend", "decay-english")
    }
    changed = json.loads(run("dvc", "params", "diff", "--json"))["params.yaml"]
    assert changed["phases.decay-all.mask"] == {"old": 0.05, "new": 0.1, "diff": 0.05}
    shown = json.loads(run("dvc", "exp", "show", "--json"))
    assert any(row.get("experiments") for row in shown)
    # As the report would: another figure in the file that dvc.yaml names.
    metrics = folder / "artifacts" / "report" / "metrics.json"
    before = json.loads(metrics.read_text())
    assert set(before) == {"bits_per_byte", "accuracy", "retrieval", "bits_per_byte_after", "heldout_loss"}
    metrics.unlink()
    metrics.write_text(json.dumps(before | {"accuracy": 0.5}))
    compared = json.loads(run("dvc", "metrics", "diff", "--json"))["artifacts/report/metrics.json"]
    assert compared == {"accuracy": {"old": before["accuracy"], "new": 0.5, "diff": 0.5 - before["accuracy"]}}
    plots = json.loads(run("dvc", "plots", "show", "--json"))["data"]
    curve = plots["artifacts/report/curves/extend.csv"][0]["content"]["data"]["values"]
    facts = Manifest.read(finished / "artifacts" / "train" / "extend").facts
    assert [float(r["loss"]) for r in curve] == [loss for _, loss in facts["curve"]]
    assert float(curve[-1]["tokens"]) == facts["total_tokens"]
