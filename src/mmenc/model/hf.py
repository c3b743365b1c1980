"""Hugging Face layout: our checkpoint directory IS one (config.json + model.safetensors of ModernBertForMaskedLM).

Decision: no conversion. Our parameter names are transformers' names and the tied decoder weight is stored once, so a
checkpoint opens with AutoModelForMaskedLM.from_pretrained, and what we save is bit for bit what we hold.

config.json serves two generations: transformers >= 5 reads `layer_types` and `rope_parameters`, 4.48 and later 4.x read
`global_attn_every_n_layers`, `global_rope_theta` and `local_rope_theta` and ignore the rest. Equal logits were seen in
5.23.0 (a test), 4.57.3 and 4.48.3 (by hand).
`attention_dropout` is 0, since transformers would apply it to the attention weights too; our output dropout has a key
of its own that transformers keeps and ignores.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmenc.artifact import write_json
from mmenc.errors import Refused
from mmenc.model.config import UNSET, EncoderConfig
from mmenc.model.head import MaskedLM

if TYPE_CHECKING:
    from collections.abc import Mapping

TIED, EMBEDDING, BIAS = "decoder.weight", "model.embeddings.tok_embeddings.weight", "decoder.bias"
# what our encoder does and nothing else: key, the only value we can run, transformers' default for a missing key, and why
FIXED: dict[str, tuple[Any, Any, str]] = {
    "model_type": ("modernbert", None, "other architectures cannot be taken over"),
    "hidden_activation": ("gelu", "gelu", "the MLP is GeGLU"),
    "classifier_activation": ("gelu", "gelu", "the prediction head is GELU"),
    "norm_bias": (False, False, "norms have no bias here"),
    "attention_bias": (False, False, "attention has no bias here"),
    "mlp_bias": (False, False, "the MLP has no bias here"),
    "classifier_bias": (False, False, "the prediction head's dense layer has no bias here"),
    "tie_word_embeddings": (True, True, "the decoder is the token embedding here"),
    "quantization_config": (None, None, "its weights are no plain numbers"),
    "rope_scaling": (None, None, "RoPE is not scaled here"),
}
UNSAID = ("quantization_config", "rope_scaling")  # and therefore not written
SIZES = {  # our field: transformers' key
    "vocab_size": "vocab_size",
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "max_position": "max_position_embeddings",
    "window": "local_attention",
}
FLOATS = {  # our field: transformers' key, its default
    "norm_eps": ("norm_eps", 1e-5),
    "initializer_range": ("initializer_range", 0.02),
    "cutoff": ("initializer_cutoff_factor", 2.0),
    "attn_out_dropout": ("attn_out_dropout", 0.1),  # ours; mmBERT's value for a foreign model
}
IDS = {"pad_id": "pad_token_id", "bos_id": "bos_token_id", "eos_id": "eos_token_id", "unk_id": "unk_token_id",
       "mask_id": "mask_token_id"}  # fmt: skip
KINDS = {True: "full_attention", False: "sliding_attention"}


def hf_config(cfg: EncoderConfig, dtype: str = "float32") -> dict[str, Any]:
    """Return config.json's content: a ModernBertConfig with cls = bos, sep = eos and mean pooling (as mmBERT)."""
    out: dict[str, Any] = {key: value for key, (value, _, _) in FIXED.items() if key not in UNSAID}
    out |= {key: getattr(cfg, name) for name, key in SIZES.items()}
    out |= {key: getattr(cfg, name) for name, (key, _) in FLOATS.items()}
    out |= {key: getattr(cfg, name) for name, key in IDS.items() if getattr(cfg, name) != UNSET}
    same = (("cls_token_id", "bos_token_id"), ("sep_token_id", "eos_token_id"))
    out |= {new: out[old] for new, old in same if old in out}
    thetas = {KINDS[True]: cfg.rope_theta_global, KINDS[False]: cfg.rope_theta_local}
    return out | {
        "architectures": ["ModernBertForMaskedLM"],
        "decoder_bias": True,
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "mlp_dropout": 0.0,
        "classifier_dropout": 0.0,
        "classifier_pooling": "mean",
        "position_embedding_type": "sans_pos",
        "dtype": dtype,
        "torch_dtype": dtype,
        "global_attn_every_n_layers": cfg.global_every,
        "global_rope_theta": cfg.rope_theta_global,
        "local_rope_theta": cfg.rope_theta_local,
        "layer_types": [KINDS[cfg.is_global(i)] for i in range(cfg.layers)],
        "rope_parameters": {kind: {"rope_theta": theta, "rope_type": "default"} for kind, theta in thetas.items()},
    }


def _thetas(config: Mapping[str, Any]) -> tuple[float, float]:
    """Read the global and local RoPE base from either generation's keys; rope_parameters wins, as in transformers 5."""
    nested = config.get("rope_parameters") or {}
    plain = {"rope_theta", "rope_type", "partial_rotary_factor"}
    for kind, parameters in nested.items():
        if kind not in KINDS.values() or not isinstance(parameters or {}, dict):
            raise Refused(f"config.json: rope_parameters.{kind}: found {parameters!r}, expected {' and '.join(KINDS.values())}")
        rope = (parameters or {}).get("rope_type", "default")
        if rope != "default":
            raise Refused(f"config.json: rope_parameters.{kind}.rope_type: found {rope!r}, expected 'default'")
        other = sorted((parameters or {}).keys() - plain)
        if other or (parameters or {}).get("partial_rotary_factor", 1.0) != 1.0:
            key = other[0] if other else "partial_rotary_factor"
            raise Refused(f"config.json: rope_parameters.{kind}.{key}: found {parameters[key]!r}, expected plain RoPE")
    wide = (nested.get(KINDS[True]) or {}).get("rope_theta", config.get("global_rope_theta", 160_000.0))
    local = (nested.get(KINDS[False]) or {}).get("rope_theta", config.get("local_rope_theta", 10_000.0))
    local = wide if local is None else local  # 4.x: a null local base means the global one
    return float(_number("global_rope_theta", wide)), float(_number("local_rope_theta", local))


def _number(key: str, value: Any, whole: bool = False) -> float:
    """A number of config.json; refuses null, text and what is not above zero."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0 or (whole and value != int(value)):
        raise Refused(f"config.json: {key}: found {value!r}, expected a {'whole ' if whole else ''}number above 0")
    return value


def _global_every(config: Mapping[str, Any]) -> int:
    """Read how often a layer is global; ``layer_types``, where given, must be such a pattern."""
    kinds: list[str] | None = config.get("layer_types")
    every = int(_number("global_attn_every_n_layers", config.get("global_attn_every_n_layers", 3), whole=True))
    if kinds is None:
        return every
    places = [i for i, kind in enumerate(kinds) if kind == KINDS[True]]
    if len(places) > 1 or "global_attn_every_n_layers" not in config:
        every = [*places, len(kinds), len(kinds)][1]
    if [KINDS[i % every == 0] for i in range(len(kinds))] != kinds:
        raise Refused(f"config.json: layer_types: found {kinds}, expected every n-th one full_attention")
    return every


def config_from_hf(config: Mapping[str, Any]) -> EncoderConfig:
    """Read a ModernBertConfig of transformers 4.48 to 5.x; a special id that it does not state becomes UNSET (-1)."""
    for key, (value, default, why) in FIXED.items():
        if config.get(key, default) != value:
            raise Refused(f"config.json: {key}: found {config.get(key, default)!r}, expected {value!r} ({why})")
    defaults = {"max_position_embeddings": 8192, "local_attention": 128}
    missing = [key for key in SIZES.values() if key not in config and key not in defaults]
    if missing:
        raise Refused(f"config.json: found no {', '.join(missing)}, expected the sizes of a ModernBert model")
    fields: dict[str, Any] = {
        name: int(_number(key, config.get(key, defaults.get(key)), whole=True)) for name, key in SIZES.items()
    }
    fields |= {name: float(config.get(key, default)) for name, (key, default) in FLOATS.items()}
    for name, key in IDS.items():
        found = config.get(key)
        found = found[0] if isinstance(found, list) else found  # several end tokens: the first
        fields[name] = UNSET if found is None else int(found)
    wide, local = _thetas(config)
    return EncoderConfig(**fields, global_every=_global_every(config), rope_theta_global=wide, rope_theta_local=local)


def to_hf_state(model: MaskedLM) -> dict[str, Tensor]:
    """Return the tensors of a ModernBertForMaskedLM checkpoint, on the CPU and contiguous; decoder.weight is tied."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def from_hf_state(
    state: Mapping[str, Tensor],
    cfg: EncoderConfig,
    dtype: torch.dtype | None = torch.float32,
) -> MaskedLM:
    """Build a model from such tensors; ``dtype`` None keeps theirs (fp32 holds every bf16 and fp16 value exactly)."""
    state = dict(state)
    tied = state.pop(TIED, None)
    model = MaskedLM(cfg)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wrong = sorted(expected.keys() ^ state.keys())
    if "head.dense.weight" in wrong:
        which = "an encoder alone" if any(EMBEDDING.endswith(name) for name in state) else "no masked-LM head"
        raise Refused(f"checkpoint: has {which}, expected a ModernBertForMaskedLM with its prediction head and decoder")
    if wrong:
        kind = "lacks" if wrong[0] in expected else "has the unknown"
        more = f" (and {len(wrong) - 1} more)" if wrong[1:] else ""
        raise Refused(f"checkpoint: {kind} tensor {wrong[0]}{more}, expected a ModernBertForMaskedLM")
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise Refused(f"checkpoint: {name}: found shape {tuple(state[name].shape)}, expected {shape}")
    if tied is not None and not torch.equal(tied, state[EMBEDDING]):
        raise Refused(f"checkpoint: {TIED} differs from {EMBEDDING}, expected tied embeddings")
    model.to(dtype or state[EMBEDDING].dtype)
    model.load_state_dict(state)
    return model


def write_state(directory: Path | str, state: Mapping[str, Tensor], cfg: EncoderConfig) -> None:
    """Write model.safetensors and config.json; the same weights give the same bytes (no time, no version inside)."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(state), folder / "model.safetensors", metadata={"format": "pt"})
    config = hf_config(cfg, str(state[EMBEDDING].dtype).removeprefix("torch."))
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_sentence_files(out: Path, context: int, hidden: int) -> None:
    """The three small files with which sentence-transformers loads the directory with mean pooling."""
    types = ("sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling")
    modules = [{"idx": i, "name": str(i), "path": "1_Pooling" if i else "", "type": kind} for i, kind in enumerate(types)]
    write_json(out / "modules.json", modules)
    write_json(out / "sentence_bert_config.json", {"max_seq_length": context, "do_lower_case": False})
    write_json(out / "1_Pooling" / "config.json", {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True})


def save_checkpoint(directory: Path | str, model: MaskedLM) -> None:
    """Write a model's checkpoint."""
    write_state(directory, to_hf_state(model), model.cfg)


def load_checkpoint(directory: Path | str, dtype: torch.dtype | None = torch.float32) -> MaskedLM:
    """Read what save_checkpoint wrote, or any released ModernBertForMaskedLM in one safetensors file.

    A model without a decoder bias is taken over with a bias of 0: the same function, and one that training may move.
    """
    folder = Path(directory)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            others = sorted(p.name for p in folder.glob("*model*")) if folder.is_dir() else []
            beside = f" beside {others[0]}" if others else ""
            raise Refused(
                f"{folder / name}: found no such file{beside}, expected a checkpoint directory with one safetensors file"
            )
    try:
        plain = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        state = load_file(folder / "model.safetensors")
    except (ValueError, SafetensorError) as error:
        raise Refused(f"{folder}: is not a checkpoint ({error})") from None
    try:
        config = config_from_hf(plain)
        if plain.get("decoder_bias", True) is False and BIAS not in state and EMBEDDING in state:
            state[BIAS] = torch.zeros(config.vocab_size, dtype=state[EMBEDDING].dtype)
        return from_hf_state(state, config, dtype)
    except Refused as error:
        raise Refused(f"{folder}: {error}") from None
