"""Tests of the images that `make test-containers` has just built. Nothing here is skipped: no engine, no success."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

REVISION = os.environ.get("MMENC_REVISION", "")
IMAGE, TEST_IMAGE = f"mmenc-cpu:{REVISION}", f"mmenc-test:{REVISION}"


def docker(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """One call of the client that images/engine.sh chose."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done


def inside(*words: str, options: tuple[str, ...] = (), check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run words in the image, without a network."""
    return docker("run", "--rm", "--network", "none", *options, IMAGE, *words, check=check)


@pytest.fixture(scope="session", autouse=True)
def image() -> dict[str, Any]:
    """The image, as the engine describes it."""
    if not REVISION or docker("image", "inspect", IMAGE, check=False).returncode:
        pytest.exit("tests/containers: no engine has the image of this revision; run `make test-containers`", returncode=1)
    return json.loads(docker("image", "inspect", IMAGE).stdout)[0]


@pytest.fixture
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that any user of a container may write to."""
    folder = tmp_path_factory.mktemp("shared")
    folder.chmod(0o777)
    return folder
