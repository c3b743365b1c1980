"""Parameter counts against the published figures, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmenc.errors import Refused
from mmenc.model.config import EncoderConfig, encoder_config, parameter_counts
from mmenc.model.head import MaskedLM
from mmenc.model.hf import save_checkpoint
from mmenc.model.init import build
from mmenc.recipe import parse
from mmenc.train.state import load_model
from tests.pipeline import tiny_recipe

MMBERT = [
    (384, 6, (140_897_536, 140_493_696, 42_189_696)),
    (768, 12, (307_786_240, 306_939_648, 110_331_648)),
]


@pytest.mark.parametrize(("hidden", "heads", "expected"), MMBERT)
def test_counts_are_mmberts(hidden: int, heads: int, expected: tuple[int, int, int]) -> None:
    cfg = EncoderConfig(vocab_size=256_000, hidden=hidden, layers=22, heads=heads, intermediate=1152)
    assert tuple(parameter_counts(cfg).values()) == expected
    with torch.device("meta"):
        model = MaskedLM(cfg)
    backbone = sum(p.numel() for p in model.model.parameters())
    counted = (sum(p.numel() for p in model.parameters()), backbone, backbone - model.tied_weight.numel())
    assert counted == expected


@pytest.mark.parametrize(
    ("change", "word"),
    [({"heads": 5}, "heads"), ({"window": 7}, "window"), ({"layers": 0}, "layers"), ({"mask_id": 300}, "mask_id"),
     ({"attn_out_dropout": 1.0}, "dropout")],
)  # fmt: skip
def test_refuses(change: dict[str, float], word: str) -> None:
    sizes = {"vocab_size": 300, "hidden": 64, "layers": 2, "heads": 4, "intermediate": 64} | change
    with pytest.raises(Refused, match=word):
        EncoderConfig(**sizes)  # type: ignore[arg-type]


def test_local_layers_may_have_a_rope_base_of_their_own(tmp_path: Path) -> None:
    """mmBERT: one base for all; ModernBERT leaves its local layers at 10,000."""
    plain = tiny_recipe()
    plain["phases"]["extend"] |= {"rope_theta": 160_000, "rope_theta_local": 10_000}
    recipe = parse(plain)
    cfg = encoder_config(recipe, recipe.phases["extend"])
    assert [cfg.theta(i) for i in range(4)] == [160_000, 10_000, 10_000, 160_000]
    decay = encoder_config(recipe, recipe.phases["decay-all"])
    assert (decay.rope_theta_global, decay.rope_theta_local) == (160_000, 160_000)
    save_checkpoint(tmp_path, build(encoder_config(recipe), 0))
    for name in ("extend", "decay-all"):
        found = load_model(tmp_path, recipe.model, recipe.phases[name]).cfg
        assert found == encoder_config(recipe, recipe.phases[name])
