"""Encoders that can be fine-tuned: ours packed, any other one through transformers, behind one face.

Decisions: nothing is padded in ours (rows lie one after the other, `Packing` says where); transformers gets a padded batch,
whose padding is dropped at once, so that every task sees the same x_TD of real tokens. No dropout in either: with few hundred
examples and several seeds it only adds noise to what is compared, and the two paths would draw it differently. Each run
starts from a copy of the weights in memory. The same ModernBERT weights give the same first loss on both paths (1e-4, tested).

Shapes: T tokens of all rows together, B rows, L the longest row, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmenc.downstream.text import Row, Texts
from mmenc.evaluate import models
from mmenc.model.attention import Packing
from mmenc.model.encoder import Encoder


class Body(nn.Module):
    """The trainable encoder of one run."""

    def forward(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Return x_TD, fp32, of the real tokens of all rows one after the other, and the rows' lengths (on x's device)."""
        raise NotImplementedError


class PackedBody(Body):
    """Our encoder."""

    def __init__(self, encoder: Encoder, device: torch.device, bf16: bool) -> None:
        super().__init__()
        self.encoder, self.device, self.bf16 = encoder, device, bf16

    def forward(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Pack and encode."""
        lengths = [len(r.ids_T) for r in rows]
        packing = Packing.of(lengths, self.device)
        ids_T = torch.from_numpy(np.concatenate([r.ids_T for r in rows])).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            x_TD = self.encoder(ids_T, packing)
        return x_TD.float(), torch.tensor(lengths, device=self.device)


class PaddedBody(Body):
    """Any encoder of transformers."""

    def __init__(self, encoder: nn.Module, pad_id: int, device: torch.device, bf16: bool) -> None:
        super().__init__()
        self.encoder, self.pad_id, self.device, self.bf16 = encoder, pad_id, device, bf16
        config: Any = encoder.config
        self.types = int(getattr(config, "type_vocab_size", 0) or 0) > 1

    def forward(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Pad, encode, and leave the padding out."""
        lengths = [len(r.ids_T) for r in rows]
        ids_BL = np.full((len(rows), max(lengths)), self.pad_id, dtype=np.int64)
        mask_BL, types_BL = np.zeros_like(ids_BL), np.zeros_like(ids_BL)
        for i, row in enumerate(rows):
            ids_BL[i, : lengths[i]], mask_BL[i, : lengths[i]] = row.ids_T, 1
            if row.second:
                types_BL[i, row.second : lengths[i]] = 1
        real_BL = torch.from_numpy(mask_BL).to(self.device)
        more = {"token_type_ids": torch.from_numpy(types_BL).to(self.device)} if self.types else {}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            found = self.encoder(input_ids=torch.from_numpy(ids_BL).to(self.device), attention_mask=real_BL, **more)
        return found.last_hidden_state[real_BL.bool()].float(), torch.tensor(lengths, device=self.device)


@dataclass
class Backbone:
    """One model: what it is called, its tokenizer, and fresh copies of its weights."""

    name: str
    digest: str
    context: int
    hidden_size: int
    texts: Texts
    body: Body
    device: torch.device
    bf16: bool

    def fresh(self) -> Body:
        """A copy to train."""
        body = copy.deepcopy(self.body).eval()  # eval: no dropout
        for weight in body.parameters():
            weight.requires_grad_(True)
        return body


def of_subject(subject: models.Subject, bf16: bool) -> Backbone:
    """The trainable face of a model that is loaded."""
    body: Body
    if isinstance(subject, models.Packed):
        device = next(subject.model.parameters()).device
        body, width = PackedBody(subject.model.model, device, bf16), subject.model.cfg.hidden
    else:
        assert isinstance(subject, models.Padded)
        device, encoder = subject.device, subject.model.base_model
        body, width = PaddedBody(encoder, subject.words.pad_id, device, bf16), int(encoder.config.hidden_size)
    texts = Texts(subject.words, subject.context)
    return Backbone(subject.name, subject.digest, subject.context, width, texts, body, device, bf16)
