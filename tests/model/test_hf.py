"""The same logits and gradients as transformers' ModernBertForMaskedLM, and checkpoints without loss of a bit."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from mmenc.errors import Refused
from mmenc.model.attention import Packing
from mmenc.model.config import UNSET, parameter_counts
from mmenc.model.head import MaskedLM, mean_pool
from mmenc.model.hf import config_from_hf, from_hf_state, hf_config, load_checkpoint, save_checkpoint, to_hf_state
from tests.model.conftest import lively, small, tokens

if TYPE_CHECKING:
    from pathlib import Path

    from mmenc.model.config import EncoderConfig

transformers = pytest.importorskip("transformers")

LENGTHS = [1, 2, 63, 64, 65, 127, 128, 129, 512, 1024]
THETAS = [(10_000.0, 10_000.0), (160_000.0, 160_000.0), (160_000.0, 10_000.0)]


def theirs(folder: Path, attention: str = "sdpa") -> Any:
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder, attn_implementation=attention)
    assert type(model).__name__ == "ModernBertForMaskedLM"
    return model.eval()


def close(mine: Tensor, right: Tensor, relative: float = 1e-4) -> None:
    assert mine.shape == right.shape
    assert (mine - right).abs().max() <= relative * right.abs().max(), (mine - right).abs().max() / right.abs().max()


def compare(folder: Path, cfg: EncoderConfig, lengths: list[int], share: int = 3) -> None:
    """Packed against one document at a time: logits, and the gradient of every parameter, to 1e-4 of its largest."""
    ours = lively(cfg)
    save_checkpoint(folder, ours)
    hf = theirs(folder)
    packing, ids = Packing.of(lengths), tokens(sum(lengths), cfg.vocab_size)
    index = torch.arange(0, len(ids), share)
    target = tokens(len(index), cfg.vocab_size, seed=1)
    with torch.no_grad():
        packed = ours.logits(ids, packing)
    loss, _ = ours(ids, packing, index, target)
    loss.backward()
    labels = torch.full_like(ids, -100).index_put((index,), target)
    for document, label, mine in zip(ids.split(lengths), labels.split(lengths), packed.split(lengths), strict=True):
        logits = hf(input_ids=document[None]).logits[0]
        close(mine, logits)
        if (label >= 0).any():
            torch.nn.functional.cross_entropy(logits, label, ignore_index=-100, reduction="sum").backward()
        if len(document) <= 1024:
            with torch.no_grad():
                close(mine, ours.logits(document, Packing.of([len(document)])))
    their_grads = {name: p.grad for name, p in hf.named_parameters()}
    assert set(their_grads) == {name for name, _ in ours.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        assert their_grads[name] is not None
        close(parameter.grad, their_grads[name])


@pytest.mark.parametrize(("window", "thetas"), [(32, THETAS[0]), (128, THETAS[1]), (10, THETAS[2])], ids=str)
def test_logits_and_gradients_equal_transformers(tmp_path: Path, window: int, thetas: tuple[float, float]) -> None:
    compare(tmp_path, small(window=window, rope_theta_global=thetas[0], rope_theta_local=thetas[1]), LENGTHS)


def test_logits_and_gradients_at_8192(tmp_path: Path) -> None:
    """The released models' length and window with ModernBERT's two RoPE bases; one global layer, one local."""
    narrow = {"hidden": 16, "heads": 1, "layers": 2, "intermediate": 16, "vocab_size": 64, "window": 128}
    cfg = small(**narrow, max_position=8192, rope_theta_global=160_000.0, rope_theta_local=10_000.0)
    compare(tmp_path, cfg, [65, 8192, 1], share=7)


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


COMMON: dict[str, Any] = {  # what the released config.json of all three say
    "architectures": ["ModernBertForMaskedLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "classifier_activation": "gelu",
    "classifier_bias": False,
    "classifier_dropout": 0.0,
    "classifier_pooling": "mean",
    "decoder_bias": True,
    "deterministic_flash_attn": False,
    "embedding_dropout": 0.0,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "gradient_checkpointing": False,
    "hidden_activation": "gelu",
    "initializer_cutoff_factor": 2.0,
    "initializer_range": 0.02,
    "intermediate_size": 1152,
    "layer_norm_eps": 1e-05,
    "local_attention": 128,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "mlp_dropout": 0.0,
    "model_type": "modernbert",
    "norm_bias": False,
    "norm_eps": 1e-05,
    "num_hidden_layers": 22,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}
GEMMA = {"bos_token_id": 2, "eos_token_id": 1, "cls_token_id": 1, "sep_token_id": 1, "pad_token_id": 0, "mask_token_id": 4}
OLMO = {"bos_token_id": 50281, "eos_token_id": 50282, "cls_token_id": 50281, "sep_token_id": 50282, "pad_token_id": 50283}
RELEASED: dict[str, dict[str, Any]] = {
    "ModernBERT-base": COMMON | OLMO | {
        "hidden_size": 768, "num_attention_heads": 12, "vocab_size": 50368, "local_rope_theta": 10000.0,
        "position_embedding_type": "absolute", "transformers_version": "4.47.0.dev0",
    },
    "mmBERT-small": COMMON | GEMMA | {
        "hidden_size": 384, "num_attention_heads": 6, "vocab_size": 256000, "local_rope_theta": 160000.0,
        "position_embedding_type": "sans_pos", "transformers_version": "4.48.0",
    },
    "mmBERT-base": COMMON | GEMMA | {
        "hidden_size": 768, "num_attention_heads": 12, "vocab_size": 256000, "local_rope_theta": 160000.0,
        "position_embedding_type": "sans_pos", "transformers_version": "4.48.0",
    },
}  # fmt: skip


def written_by_transformers(folder: Path, plain: dict[str, Any], seed: int = 0) -> Any:
    """A checkpoint that transformers makes and saves, no weight at its start so that errors show; its config.json is today's."""
    from transformers.initialization import no_init_weights

    generator = torch.Generator().manual_seed(seed)
    with no_init_weights():  # drawing a truncated normal for 100 M weights takes longer than all the rest
        hf = transformers.ModernBertForMaskedLM(transformers.ModernBertConfig(**plain))
    hf.tie_weights()
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            parameter.uniform_(-0.1, 0.1, generator=generator)
            if name.endswith("norm.weight"):
                parameter.add_(1.0)
    hf.save_pretrained(folder)
    return hf.eval()


@pytest.mark.parametrize("name", ["ModernBERT-base", "mmBERT-small"])
def test_released_configurations_are_taken_over(tmp_path: Path, name: str) -> None:
    """Everything but the number of layers as released; read with the released config.json and with that of today."""
    plain = RELEASED[name] | {"num_hidden_layers": 4}
    hf = written_by_transformers(tmp_path, plain)
    today = load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(plain))
    model = load_checkpoint(tmp_path)
    assert model.cfg == (replace(today.cfg, mask_id=model.cfg.mask_id) if name == "ModernBERT-base" else today.cfg)
    lengths = [140, 3]
    ids = tokens(sum(lengths), model.cfg.vocab_size)
    with torch.no_grad():
        for document, mine in zip(ids.split(lengths), model.logits(ids, Packing.of(lengths)).split(lengths), strict=True):
            close(mine, hf(input_ids=document[None]).logits[0])
    for key, tensor in hf.state_dict().items():
        assert key == "decoder.weight" or torch.equal(tensor, model.state_dict()[key])


@pytest.mark.parametrize("name", RELEASED)
def test_released_configurations_have_the_published_sizes(name: str) -> None:
    cfg = config_from_hf(RELEASED[name])
    assert (cfg.layers, cfg.global_every, cfg.window, cfg.max_position) == (22, 3, 128, 8192)
    assert (cfg.rope_theta_global, cfg.rope_theta_local) == (160_000, 10_000 if name == "ModernBERT-base" else 160_000)
    ids = (cfg.pad_id, cfg.eos_id, cfg.bos_id, cfg.mask_id)
    assert ids == ((50283, 50282, 50281, UNSET) if name == "ModernBERT-base" else (0, 1, 2, 4))
    expected = {"ModernBERT-base": 149_655_232, "mmBERT-small": 140_897_536, "mmBERT-base": 307_786_240}
    with torch.device("meta"):
        theirs = transformers.ModernBertForMaskedLM(transformers.ModernBertConfig(**RELEASED[name]))
    assert parameter_counts(cfg)["parameters"] == expected[name] == sum(p.numel() for p in theirs.parameters())


TINY = COMMON | {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 99, "intermediate_size": 40, "local_rope_theta": None}
TINY |= {
    "num_hidden_layers": 5,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": [1, 3],
    "cls_token_id": 2,
    "sep_token_id": 1,
}


@pytest.mark.parametrize(
    "change",
    [
        {"global_attn_every_n_layers": 2, "local_attention": 16},
        {"global_attn_every_n_layers": 1},
        {"global_attn_every_n_layers": 4, "local_attention": 256, "global_rope_theta": 500.0},
        {"decoder_bias": False},
        {"attention_dropout": 0.1, "mlp_dropout": 0.1, "embedding_dropout": 0.1, "classifier_pooling": "cls"},
        {"norm_eps": 1e-3, "initializer_range": 0.1, "max_position_embeddings": 77},
        {"local_rope_theta": 777.0},
        {"layer_types": ["full_attention", "sliding_attention"] * 2 + ["full_attention"]},
    ],
    ids=str,
)
def test_variations_that_can_be_taken_over(tmp_path: Path, change: dict[str, Any]) -> None:
    plain = TINY | {"local_rope_theta": 10_000.0} | change
    hf = written_by_transformers(tmp_path, plain)
    for config in (None, plain):
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps(config))
        model = load_checkpoint(tmp_path)
        ids = tokens(70, 99)
        with torch.no_grad():
            close(model.logits(ids, Packing.of([70])), hf(input_ids=ids[None]).logits[0])
        assert model.decoder.bias.any() == plain["decoder_bias"]
        loss, _ = model(ids, Packing.of([70]), torch.arange(0, 70, 5), ids[::5])  # and can go on training
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_null_local_base_means_the_global_one() -> None:
    """transformers 4.x; 5.x writes what it has resolved."""
    assert config_from_hf(TINY).rope_theta_local == 160_000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"norm_bias": True}, r"norm_bias: found True, expected False \(norms have no bias here\)"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"classifier_bias": True}, "prediction head's dense layer has no bias"),
        ({"tie_word_embeddings": False}, "the decoder is the token embedding here"),
        ({"hidden_activation": "silu"}, "GeGLU"),
        ({"local_attention": 33}, "window: found 33, expected an even number"),
    ],
)
def test_variations_that_cannot_be_taken_over_are_said(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    written_by_transformers(tmp_path, TINY | {"local_rope_theta": 10_000.0} | change)
    with pytest.raises(Refused, match=words) as caught:
        load_checkpoint(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_other_kinds_of_checkpoint_are_said(tmp_path: Path) -> None:
    config = transformers.ModernBertConfig(**TINY | {"local_rope_theta": 10_000.0})
    for kind, words in [
        ("ModernBertModel", "has an encoder alone"),
        ("ModernBertForTokenClassification", r"has the unknown tensor classifier\.bias|lacks tensor decoder"),
    ]:
        getattr(transformers, kind)(config).save_pretrained(tmp_path / kind)
        with pytest.raises(Refused, match=words):
            load_checkpoint(tmp_path / kind)
    (tmp_path / "ModernBertModel" / "model.safetensors").rename(tmp_path / "ModernBertModel" / "pytorch_model.bin")
    with pytest.raises(Refused, match=r"found no such file beside pytorch_model\.bin"):
        load_checkpoint(tmp_path / "ModernBertModel")
    (tmp_path / "ModernBertModel" / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(Refused, match="is not a checkpoint"):
        load_checkpoint(tmp_path / "ModernBertModel")


def test_refusals(tmp_path: Path) -> None:
    model = lively(small())
    config, state = hf_config(model.cfg), to_hf_state(model)
    changes = [
        ({"norm_bias": True}, "norm_bias"),
        ({"layer_types": ["sliding_attention"] * 5}, "layer_types"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_type"),
        ({"rope_parameters": {"full_attention": {"partial_rotary_factor": 0.5}}}, "partial_rotary_factor: found 0.5"),
        ({"rope_parameters": {"full_attention": {"factor": 2.0}}}, "factor: found 2.0, expected plain RoPE"),
        ({"rope_parameters": {"rope_theta": 10_000.0}}, "full_attention and sliding_attention"),
        ({"rope_scaling": {"factor": 2.0}}, "RoPE is not scaled"),
        ({"quantization_config": {}}, "quantization_config"),
        ({"model_type": "modernbert-decoder"}, "other architectures"),
        ({"hidden_size": None}, "hidden_size: found None, expected a whole number above 0"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers: found 2.5"),
        ({"rope_parameters": None, "global_rope_theta": "10k"}, "global_rope_theta: found '10k', expected a number"),
        ({"layer_types": None, "global_attn_every_n_layers": 0}, "global_attn_every_n_layers: found 0"),
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
