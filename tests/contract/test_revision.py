"""Reading a git revision: what somebody broke in a pull request is a sentence, which CI posts, and no traceback."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mmenc.errors import Refused
from mmenc.retrain import revision
from tests.pipeline import REPO

GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
BROKEN = {
    "data.dvc": ["outs: []", "[", "outs:\n- path: data\n  files: [7]\n", "7"],
    "dvc.yaml": [
        "stages: 7",
        "stages: {a: {cmd: ls}}",
        "stages: {ingest: {cmd: mmenc run ingest@2 data=data}}",
        "stages: {a: 1}",
    ],
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_of_a_revision_is_a_sentence(name: str, tmp_path: Path) -> None:
    root = tmp_path / "repository"
    root.mkdir()
    for file in ("params.yaml", "dvc.yaml", "data.dvc"):
        shutil.copy(REPO / file, root / file)
    shutil.copytree(REPO / "expectations", root / "expectations")
    subprocess.run([*GIT, "init", "-q"], cwd=root, check=True)
    for number, text in enumerate(BROKEN[name]):
        (root / name).write_text(text)
        subprocess.run([*GIT, "add", "."], cwd=root, check=True)
        subprocess.run([*GIT, "commit", "-qm", "x"], cwd=root, check=True)
        scratch = tmp_path / str(number)
        scratch.mkdir()
        with pytest.raises(Refused, match=r"dvc\.yaml|not of DVC's"):
            revision.read(root, "HEAD", "params.yaml", scratch)
