"""A ModernBERT with a byte-level tokenizer of ours in one folder, made in a second: for tests that need no trained weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from mmenc.data.tokenizer import train_bpe
from mmenc.evaluate.models import Subject, open_subject
from mmenc.model.config import EncoderConfig
from mmenc.model.head import MaskedLM
from mmenc.model.hf import save_checkpoint


def small_encoder(folder: Path, texts: Sequence[str], context: int = 64) -> Subject:
    """Weights are drawn wide enough that vectors of different texts differ."""
    folder.mkdir(parents=True)
    tokenizer = train_bpe([*texts] * 3, 300, 2, True)
    tokenizer.save(str(folder / "tokenizer.json"))
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "hidden": 32, "layers": 4, "heads": 2, "intermediate": 48}
    model = MaskedLM(EncoderConfig(**sizes, window=16, max_position=context))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.copy_(0.15 * torch.randn(weight.shape, generator=generator))
    save_checkpoint(folder, model)
    return open_subject(str(folder), None, torch.device("cpu"), False)
