"""The same logits and gradients as transformers' ModernBertForMaskedLM, and checkpoints without loss of a bit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from mmenc.errors import Refused
from mmenc.model.attention import Packing
from mmenc.model.head import MaskedLM, mean_pool
from mmenc.model.hf import config_from_hf, from_hf_state, hf_config, load_checkpoint, save_checkpoint, to_hf_state
from tests.model.conftest import lively, small, tokens

if TYPE_CHECKING:
    from pathlib import Path

    from mmenc.model.config import EncoderConfig

transformers = pytest.importorskip("transformers")

LENGTHS = [1, 2, 17, 33, 34, 64, 129, 200, 515, 1100]
THETAS = [(10_000.0, 10_000.0), (160_000.0, 160_000.0), (160_000.0, 10_000.0)]


def theirs(folder: Path, attention: str = "sdpa") -> Any:
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder, attn_implementation=attention)
    assert type(model).__name__ == "ModernBertForMaskedLM"
    return model.eval()


def close(mine: Tensor, right: Tensor, relative: float = 1e-4) -> None:
    assert mine.shape == right.shape
    assert (mine - right).abs().max() <= relative * right.abs().max(), (mine - right).abs().max() / right.abs().max()


@pytest.mark.parametrize(("window", "thetas"), [(32, THETAS[0]), (128, THETAS[1]), (10, THETAS[2])], ids=str)
def test_logits_and_gradients_equal_transformers(tmp_path: Path, window: int, thetas: tuple[float, float]) -> None:
    cfg = small(window=window, rope_theta_global=thetas[0], rope_theta_local=thetas[1])
    ours = lively(cfg)
    save_checkpoint(tmp_path, ours)
    hf = theirs(tmp_path)
    packing, ids = Packing.of(LENGTHS), tokens(sum(LENGTHS), cfg.vocab_size)
    index = torch.arange(0, len(ids), 3)
    target = tokens(len(index), cfg.vocab_size, seed=1)
    with torch.no_grad():
        packed = ours.logits(ids, packing)
    loss, _ = ours(ids, packing, index, target)
    loss.backward()
    labels = torch.full_like(ids, -100).index_put((index,), target)
    for document, label, mine in zip(ids.split(LENGTHS), labels.split(LENGTHS), packed.split(LENGTHS), strict=True):
        logits = hf(input_ids=document[None]).logits[0]
        close(mine, logits)
        torch.nn.functional.cross_entropy(logits, label, ignore_index=-100, reduction="sum").backward()
        alone = ours.logits(document, Packing.of([len(document)]))
        close(mine, alone)
    their_grads = {name: p.grad for name, p in hf.named_parameters()}
    assert set(their_grads) == {name for name, _ in ours.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        close(parameter.grad, their_grads[name])


def test_equals_padded_eager_batch(tmp_path: Path) -> None:
    cfg, lengths = small(window=16, rope_theta_local=5_000.0), [70, 3, 41]
    ours = lively(cfg, seed=3)
    save_checkpoint(tmp_path, ours)
    hf = theirs(tmp_path, "eager")
    ids = tokens(sum(lengths), cfg.vocab_size)
    batch = torch.nn.utils.rnn.pad_sequence(list(ids.split(lengths)), batch_first=True, padding_value=cfg.pad_id)
    with torch.no_grad():
        logits = hf(input_ids=batch, attention_mask=(batch != cfg.pad_id).long()).logits
        mine = ours.logits(ids, Packing.of(lengths)).split(lengths)
        hidden = hf.model(input_ids=batch, attention_mask=(batch != cfg.pad_id).long()).last_hidden_state
        pooled = mean_pool(ours.hidden(ids, Packing.of(lengths)), Packing.of(lengths))
    for n, length in enumerate(lengths):
        close(mine[n], logits[n, :length])
        close(pooled[n], hidden[n, :length].mean(0))


def test_round_trip_is_bitwise(tmp_path: Path) -> None:
    model = lively(small(rope_theta_local=160_000.0, attn_out_dropout=0.25, mask_id=9))
    save_checkpoint(tmp_path / "a", model)
    again = load_checkpoint(tmp_path / "a")
    assert again.cfg == model.cfg
    for name, tensor in to_hf_state(model).items():
        assert torch.equal(to_hf_state(again)[name], tensor)
    save_checkpoint(tmp_path / "b", again)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert "decoder.weight" not in to_hf_state(model)
    theirs(tmp_path / "a").save_pretrained(tmp_path / "c")  # through transformers and back
    third = load_checkpoint(tmp_path / "c")
    assert third.cfg == model.cfg
    assert all(torch.equal(third.state_dict()[n], t) for n, t in model.state_dict().items())


def test_bf16_file_is_read_exactly(tmp_path: Path) -> None:
    model = lively(small()).bfloat16()
    save_checkpoint(tmp_path, model)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    wide = load_checkpoint(tmp_path)
    assert wide.tied_weight.dtype == torch.float32
    assert torch.equal(wide.tied_weight.bfloat16(), model.tied_weight)
    assert load_checkpoint(tmp_path, dtype=None).tied_weight.dtype == torch.bfloat16


def test_loading_reports_nothing_missing(tmp_path: Path) -> None:
    model = lively(small())
    save_checkpoint(tmp_path, model)
    hf, info = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert hf.decoder.weight is hf.model.embeddings.tok_embeddings.weight
    assert hf.config.classifier_pooling == "mean"
    assert hf.config.sliding_window == model.cfg.reach


@pytest.mark.parametrize("cfg", [small(layers=4), small(layers=2), small(layers=1), small(layers=7, global_every=2)])
@pytest.mark.parametrize("thetas", THETAS)
def test_config_is_read_from_both_generations(cfg: EncoderConfig, thetas: tuple[float, float]) -> None:
    from dataclasses import replace

    cfg = replace(cfg, rope_theta_global=thetas[0], rope_theta_local=thetas[1])
    written = hf_config(cfg)
    assert config_from_hf(json.loads(json.dumps(written))) == cfg
    new = transformers.ModernBertConfig(**written).to_dict()
    assert config_from_hf(new) == cfg
    assert new["rope_parameters"]["full_attention"]["rope_theta"] == thetas[0]
    assert new["rope_parameters"]["sliding_attention"]["rope_theta"] == thetas[1]
    old = {key: value for key, value in written.items() if key not in ("rope_parameters", "layer_types", "dtype")}
    assert config_from_hf(old) == cfg  # as released with transformers 4.48
    five = {k: v for k, v in written.items() if not k.startswith("global_") and k != "local_rope_theta"}
    read = config_from_hf(five)
    assert [read.is_global(i) for i in range(cfg.layers)] == [cfg.is_global(i) for i in range(cfg.layers)]
    assert [read.theta(i) for i in range(cfg.layers)] == [cfg.theta(i) for i in range(cfg.layers)]


def test_refusals(tmp_path: Path) -> None:
    model = lively(small())
    config, state = hf_config(model.cfg), to_hf_state(model)
    changes = [
        ({"norm_bias": True}, "norm_bias"),
        ({"layer_types": ["sliding_attention"] * 5}, "layer_types"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_type"),
    ]
    for change, word in changes:
        with pytest.raises(Refused, match=word):
            config_from_hf(config | change)
    with pytest.raises(Refused, match=r"decoder\.weight differs"):
        from_hf_state(state | {"decoder.weight": torch.zeros_like(model.tied_weight)}, model.cfg)
    with pytest.raises(Refused, match=r"head\.norm\.weight"):
        from_hf_state({k: v for k, v in state.items() if k != "head.norm.weight"}, model.cfg)
    with pytest.raises(Refused, match="shape"):
        from_hf_state(state | {"decoder.bias": torch.zeros(3)}, model.cfg)
    with pytest.raises(Refused, match="checkpoint directory"):
        load_checkpoint(tmp_path / "nowhere")
    assert isinstance(from_hf_state(state | {"decoder.weight": model.tied_weight.clone()}, model.cfg), MaskedLM)
