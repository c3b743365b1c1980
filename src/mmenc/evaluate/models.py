"""Models to be evaluated: our directories, and any encoder of Hugging Face, behind one face.

Decisions: ModernBERTs run through our packed encoder, which pads nothing; all others through transformers, padded, in
batches of like length, with the head on the masked positions only (a hook on the base model: full logits of 8,192 tokens
at XLM-R's vocabulary would be 8 GB). A model counts as a masked LM only when its checkpoint holds the head: transformers
would draw the missing weights at random without a word. Everything runs in fp32 unless the recipe says bfloat16.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmenc.artifact import Artifact, Json, Manifest, sha256_file, sha256_json
from mmenc.errors import Refused
from mmenc.evaluate.retrieval import embed as embed_packed
from mmenc.evaluate.score import Piece, packed_logits
from mmenc.evaluate.words import Ints, Words, ours, theirs
from mmenc.external import Cache
from mmenc.model.hf import load_checkpoint

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
FETCHED = ["*.json", "*.txt", "*.model", *WEIGHTS, "1_Pooling/*"]
HEADS = ("ForMaskedLM", "ForPreTraining", "WithLMHeadModel")
BATCH_TOKENS = 8192
Floats = NDArray[np.float32]


@dataclass
class Subject:
    """One model: what it is called, what it can do."""

    name: str
    digest: str
    kind: str
    parameters: int
    vocab: int
    context: int
    words: Words
    reason: str = ""
    """Why there are no masked-LM figures; empty where there are."""

    @property
    def about(self) -> Json:
        """What a page says of it."""
        keys = ("kind", "parameters", "vocab", "context", "reason")
        return {**{k: getattr(self, k) for k in keys}, "note": self.words.note}

    def rows(self, texts: Sequence[str]) -> list[Ints]:
        """Ids of texts with special tokens, cut at the context."""
        before, behind = self.words.outer
        return [np.array([*before, *self.words.of(t).ids_N, *behind], dtype=np.int64)[: self.context] for t in texts]

    def logits(self, batch: list[Piece]) -> torch.Tensor:
        """z_MV of the masked tokens, fp32."""
        raise NotImplementedError

    def embed(self, texts: Sequence[str]) -> Floats:
        """One vector per text (N, D)."""
        raise NotImplementedError


class Packed(Subject):
    """A ModernBERT, through our own encoder."""

    def __init__(self, name: str, digest: str, folder: Path, words: Path, device: torch.device, bf16: bool) -> None:
        self.model = load_checkpoint(folder).to(device).eval()
        cfg = self.model.cfg
        super().__init__(
            name,
            digest,
            "ModernBERT, packed",
            sum(p.numel() for p in self.model.parameters()),
            cfg.vocab_size,
            cfg.max_position,
            ours(words) or theirs(words, cfg.vocab_size),
        )
        if (largest := int(self.words.ordinary.max())) >= cfg.vocab_size:
            raise Refused(f"{words}: has an id {largest}, the model {name} a vocabulary of {cfg.vocab_size}")
        self.packed = packed_logits(self.model, bf16)

    def logits(self, batch: list[Piece]) -> torch.Tensor:
        """All pieces in one row, the head on the masked positions."""
        return self.packed(batch)

    def embed(self, texts: Sequence[str]) -> Floats:
        """Mean over the tokens of each text."""
        return embed_packed(self.model, self.rows(texts))


class Padded(Subject):
    """Any encoder, through transformers."""

    def __init__(self, name: str, digest: str, folder: Path, device: torch.device, bf16: bool) -> None:
        self.model, reason = _load(folder)
        self.model.to(device).eval()
        self.device, self.bf16, self.sentences = device, bf16, None
        config = self.model.config
        words = theirs(folder, config.vocab_size)
        kind = f"{config.model_type}, padded"
        if (folder / "modules.json").is_file():
            self.sentences, kind = _sentence_model(folder, device), f"{config.model_type}, sentence-transformers"
        if not reason and words.mask_id < 0:
            reason = "its tokenizer has no mask token"
        count = sum(p.numel() for p in self.model.parameters())
        super().__init__(name, digest, kind, count, config.vocab_size, _context(self.model, words), words, reason)

    def _padded(self, rows: Sequence[Ints]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(len(r) for r in rows)
        ids_BT = np.full((len(rows), longest), self.words.pad_id, dtype=np.int64)
        mask_BT = np.zeros_like(ids_BT)
        for i, row in enumerate(rows):
            ids_BT[i, : len(row)], mask_BT[i, : len(row)] = row, 1
        return torch.from_numpy(ids_BT).to(self.device), torch.from_numpy(mask_BT).to(self.device)

    def logits(self, batch: list[Piece]) -> torch.Tensor:
        """The base model on whole rows, the head on the masked positions."""
        ids_BT, mask_BT = self._padded([p.input_T for p in batch])
        row_M = torch.from_numpy(np.repeat(np.arange(len(batch)), [len(p.index_M) for p in batch]))
        column_M = torch.from_numpy(np.concatenate([p.index_M for p in batch]))

        def select(_module: object, _args: object, output: Any) -> Any:
            output.last_hidden_state = output.last_hidden_state[row_M, column_M][None]
            return output

        handle = self.model.base_model.register_forward_hook(select)
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                found: torch.Tensor = self.model(input_ids=ids_BT, attention_mask=mask_BT).logits
        finally:
            handle.remove()
        return found.reshape(len(row_M), -1).float()

    def embed(self, texts: Sequence[str]) -> Floats:
        """What sentence-transformers says, or else the mean over the tokens of each text."""
        if self.sentences is not None:
            return np.asarray(self.sentences.encode(list(texts), show_progress_bar=False), dtype=np.float32)
        rows = self.rows(texts)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        size = max(1, BATCH_TOKENS // max(len(r) for r in rows))
        out: dict[int, Floats] = {}
        with torch.inference_mode():
            for start in range(0, len(order), size):
                chosen = order[start : start + size]
                ids_BT, mask_BT = self._padded([rows[i] for i in chosen])
                x_BTD = self.model.base_model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state.float()
                mean_BD = (x_BTD * mask_BT[..., None]).sum(1) / mask_BT.sum(1, keepdim=True)
                out |= dict(zip(chosen, mean_BD.cpu().numpy(), strict=True))
        return np.stack([out[i] for i in range(len(rows))])


def _load(folder: Path) -> tuple[Any, str]:
    """The model of a directory, and why it is no masked LM (empty if it is one)."""
    from transformers import AutoModel, AutoModelForMaskedLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    names = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or ["no architecture"]
    reason = "" if names[0].endswith(HEADS) else f"no masked-LM head: its config.json names {names[0]}"
    try:
        if not reason:
            model, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
            if not info["missing_keys"]:
                return model, ""
            reason = f"no masked-LM head: its weights lack {min(info['missing_keys'])}"
        return AutoModel.from_pretrained(folder, dtype=torch.float32), reason
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise Refused(f"{folder}: transformers cannot load it as an encoder ({str(error).splitlines()[0]})") from None


def _sentence_model(folder: Path, device: torch.device) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError:
        raise Refused(f"{folder}: is a sentence-transformers model; `pip install 'mmenc[eval]'` brings what loads it") from None
    return SentenceTransformer(str(folder), device=str(device))


def _context(model: Any, words: Words) -> int:
    """Tokens that a row may have: positions of the model (RoBERTa counts from behind its padding id), and the tokenizer's say."""
    most = int(getattr(model.config, "max_position_embeddings", None) or BATCH_TOKENS)
    positions = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    if positions is not None and getattr(positions, "padding_idx", None) is not None:
        most -= int(positions.padding_idx) + 1
    return min(most, words.longest, BATCH_TOKENS)


def _fetch(name: str) -> Path:
    """A directory with the files of a model on the hub."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=FETCHED))
    except (OSError, ValueError) as error:
        why = str(error).strip().splitlines()[0]
        raise Refused(f"{name}: no such directory, and the hub does not give a model of that name ({why})") from None


def _identity(given: str, folder: Path, manifest: Manifest | None) -> tuple[str, str]:
    """What a model is called (never a path) and its digest."""
    if manifest is not None:
        return str(manifest.facts.get("name") or manifest.name or manifest.step), manifest.digest
    files = sorted({p for pattern in ("config.json", "tokenizer.json", *WEIGHTS) for p in folder.glob(pattern)})
    name = folder.resolve().name if Path(given).is_dir() else given
    return name, sha256_json({p.name: sha256_file(p) for p in files})


def _words_folder(artifact: Artifact, root: Path | None) -> Path:
    """Where the tokenizer of our artifact lies: in a release, or, for a checkpoint, in the artifact that it was made with."""
    if (artifact.path / "tokenizer.json").is_file():
        return artifact.path
    used = root / "tokenizer" if root else None
    if used is None or not (used / "manifest.json").is_file():
        raise Refused(
            f"{artifact.path}: a checkpoint has no tokenizer; expected its run's artifacts/tokenizer (--params, --data)"
        )
    made = [d for d, m in artifact.lineage.items() if m["step"] == "tokenizer"]
    found = Artifact.read(used).manifest.digest
    if found not in made:
        known = made[0][:12] if made else "?"
        raise Refused(f"{artifact.path}: was made with the tokenizer {known}…, {used} is {found[:12]}…; give --data of its run")
    return used


def open_subject(given: str, root: Path | None, device: torch.device, bf16: bool, cache: Cache | None = None) -> Subject:
    """Load `MODEL` or `NAME=MODEL`; `root` are the artifacts whose tokenizer a bare checkpoint takes."""
    label, place = ("", given) if Path(given).is_dir() or "=" not in given else given.split("=", 1)
    folder = Path(place) if Path(place).is_dir() else _fetch(place)
    artifact = Artifact.read(folder, cache=cache) if (folder / "manifest.json").is_file() else None
    words = folder if artifact is None else _words_folder(artifact, root)
    folder = artifact.local("model.safetensors") if artifact else folder
    if not (folder / "config.json").is_file():
        raise Refused(f"{folder}: has no config.json; expected a model's directory (release, checkpoint) or a hub name")
    if not any(p for pattern in WEIGHTS for p in folder.glob(pattern)):
        raise Refused(f"{folder}: has no weights ({' or '.join(WEIGHTS)})")
    name, digest = _identity(place, folder, artifact.manifest if artifact else None)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    whole = (folder / "model.safetensors").is_file() and "ModernBertForMaskedLM" in (config.get("architectures") or [])
    if config.get("model_type") == "modernbert" and whole:
        return Packed(label or name, digest, folder, words, device, bf16)
    return Padded(label or name, digest, folder, device, bf16)
