"""Real text for the tests: a slice of the default corpus, and one finished run of the whole pipeline over it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

import mmenc  # noqa: F401  before torch: it sets how OpenMP's threads wait
from tests.pipeline import REPO, run_all, slice_corpus, workplace

settings.register_profile("mmenc", deadline=None)  # the first example may pay for an import on a busy machine
settings.load_profile("mmenc")


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default corpus: data/ of this checkout if `make run` made it, else written anew."""
    if (REPO / "data").is_dir():
        return REPO / "data"
    from mmenc.data.sample import write_sample

    folder = tmp_path_factory.mktemp("sample") / "data"
    write_sample(folder)
    return folder


@pytest.fixture(scope="session")
def corpus(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slice of it in six languages."""
    folder = tmp_path_factory.mktemp("corpus")
    slice_corpus(sample, folder)
    return folder


@pytest.fixture(scope="session")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run; tests only read it."""
    folder = workplace(tmp_path_factory.mktemp("finished"), corpus)
    with pytest.MonkeyPatch.context() as patch:
        run_all(folder, patch)
    return folder
