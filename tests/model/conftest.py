"""Small encoders and documents for the model tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from mmenc.model.config import EncoderConfig
from mmenc.model.init import build

if TYPE_CHECKING:
    from mmenc.model.head import MaskedLM

SIZES: dict[str, Any] = {"vocab_size": 211, "hidden": 64, "layers": 5, "heads": 4, "intermediate": 96, "window": 32}


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def ready(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the phase reads, and the phase as one process trained it."""
    from tests.model.test_parallel import TRAIN, recipe
    from tests.pipeline import commands, run_stage, workplace

    folder = workplace(tmp_path_factory.mktemp("ready"), corpus, recipe())
    stages = commands(folder)
    needed = ("ingest", "clean", "validate", "tokenizer", "tokenize", "init", "mixture@pretrain", TRAIN)
    with pytest.MonkeyPatch.context() as patch:
        for name in sorted(needed, key=list(stages).index):
            assert run_stage(folder, stages[name], patch) == 0
    return folder


def small(**changes: Any) -> EncoderConfig:
    """Return a five-layer configuration (layers 0 and 3 global) for documents up to 1,200 tokens."""
    return EncoderConfig(**{**SIZES, "max_position": 1200, **changes})


def lively(cfg: EncoderConfig, seed: int = 0) -> MaskedLM:
    """Build a model whose every weight matters: 6 times the usual spread, norms off 1, so that errors show."""
    model, generator = build(cfg, seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
            elif parameter.ndim == 2:
                parameter.mul_(6.0)
    return model


def tokens(count: int, vocab_size: int, seed: int = 0) -> torch.Tensor:
    """Draw ids_T without the pad id (transformers gives its embedding no gradient)."""
    return torch.from_numpy(np.random.default_rng(seed).integers(5, vocab_size, count))
