"""Contrastive training of sentence vectors, as the paper trains for MTEB and CoIR: in-batch negatives and one hard negative.

Figures (recipe notes, retrieval): cosine × 20, softmax over all positives and negatives of the batch
(MultipleNegativesRankingLoss), gradients cached over mini-batches of 256 (GradCache, arXiv 2101.06983) so that memory does not
grow with the batch; 1 epoch, warm-up 0.05 and linear fall, learning rate 1e-4 (best for all but one of the paper's models), AdamW
without decay, gradients cut at norm 1 (sentence-transformers' defaults), no text twice in a batch. The batch is 1,024, the
default of Ettin's script that mmBERT's README points to (the paper does not say), or a twentieth of the triplets where
they are fewer than 20 batches. Decision: our own loop, because it trains the packed encoder; the test compares loss and
gradients with sentence-transformers' CachedMultipleNegativesRankingLoss. Triplets: JSON lines with query, positive, negative.
What was trained is kept as a directory that sentence-transformers and transformers load (mean over tokens).

Shapes: B triplets of a batch, K texts of each (2 or 3), T tokens, D width.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mmenc import rng
from mmenc.data.tokenizer import save_fast
from mmenc.downstream.backbone import Backbone, Body, PackedBody
from mmenc.downstream.classify import mean_rows
from mmenc.downstream.sources import Data
from mmenc.downstream.text import Row
from mmenc.errors import Refused
from mmenc.evaluate.models import Packed, Subject
from mmenc.evaluate.words import OurWords, TheirWords
from mmenc.model.hf import save_checkpoint, write_sentence_files

SCALE, BATCH, MINI, LEAST_STEPS = 20.0, 1024, 256, 20
RATE, WARMUP, CLIP = 1e-4, 0.05, 1.0
ROW = 512
"""Tokens of a text at most, as in MS MARCO's passages; longer contexts matter for evaluation only."""
KEYS = ("query", "positive", "negative")
EMBED_TOKENS = 8192
Triplet = tuple[str, ...]
Tick = Callable[[float, str], None]


def read_triplets(data: Data, limit: int = 0) -> list[Triplet]:
    """Triplets of `triplets/*.jsonl`; empty where there is no such folder."""
    found: list[Triplet] = []
    for path in sorted(p for root in data.folders("triplets") for p in root.glob("*.jsonl*")):
        for line in data.lines(path):
            found.append(_triplet(path, line))
            if limit and len(found) == limit:
                return found
    return found


def _triplet(path: Path, line: str) -> Triplet:
    try:
        row = json.loads(line)
        return tuple(str(row[k]) for k in KEYS if k in row or k != "negative")
    except (ValueError, KeyError, TypeError):
        raise Refused(f"{path}: a line is no JSON object with the keys query, positive and (if there is one) negative") from None


def batches(triplets: Sequence[Triplet], size: int, *names: object) -> list[list[int]]:
    """Batches in a drawn order in which no text stands twice; what is left over at the end is a batch too."""
    waiting = rng.permutation(len(triplets), *names, "order").tolist()
    found: list[list[int]] = []
    while waiting:
        chosen, seen, later = list[int](), set[str](), list[int]()
        for at, i in enumerate(waiting):
            if len(chosen) == size:
                later += waiting[at:]
                break
            if seen.isdisjoint(triplets[i]):
                chosen.append(i)
                seen.update(triplets[i])
            else:
                later.append(i)
        found.append(chosen)
        waiting = later
    return found


def batch_size(count: int) -> int:
    """Triplets of a batch."""
    return max(2, min(BATCH, count // LEAST_STEPS))


def ranking_loss(x_KBD: Tensor) -> Tensor:
    """Each query finds its positive among all positives and negatives of the batch."""
    u_KBD = F.normalize(x_KBD, dim=-1)
    score_BS = SCALE * u_KBD[0] @ u_KBD[1:].flatten(0, 1).T
    return F.cross_entropy(score_BS, torch.arange(len(score_BS), device=score_BS.device))


def embed_rows(body: Body, rows: Sequence[Row]) -> Tensor:
    """Mean over the tokens of each row: x_BD."""
    x_TD, lengths = body(rows)
    return mean_rows(x_TD, lengths)


def cached_backward(body: Body, rows_KB: Sequence[Sequence[Row]], mini: int = MINI) -> float:
    """Gradients of the loss of a whole batch while the encoder holds `mini` rows at a time; returns the loss."""
    flat = [r for rows in rows_KB for r in rows]
    parts = [flat[i : i + mini] for i in range(0, len(flat), mini)]
    with torch.no_grad():
        x_SD = torch.cat([embed_rows(body, part) for part in parts])
    x_SD.requires_grad_(True)
    loss = ranking_loss(x_SD.view(len(rows_KB), -1, x_SD.shape[1]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert x_SD.grad is not None
    for part, grad_BD in zip(parts, torch.split(x_SD.grad, mini), strict=True):
        embed_rows(body, part).backward(grad_BD)  # type: ignore[no-untyped-call]
    return float(loss.detach())


@dataclass
class Trained:
    """An encoder of sentences."""

    backbone: Backbone
    body: Body
    losses: list[float]

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One vector per text (N, D), texts of like length together."""
        rows = [self.backbone.texts.text(t) for t in texts]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids_T))
        found: dict[int, NDArray[np.float32]] = {}
        with torch.inference_mode():
            start = 0
            while start < len(order):
                end = start + 1
                while end < len(order) and (end + 1 - start) * len(rows[order[end]].ids_T) <= EMBED_TOKENS:
                    end += 1
                chosen = order[start:end]
                found |= dict(zip(chosen, embed_rows(self.body, [rows[i] for i in chosen]).cpu().numpy(), strict=True))
                start = end
        return np.stack([found[i] for i in range(len(rows))])


def save(trained: Trained, subject: Subject, folder: Path) -> None:
    """Write the encoder, its tokenizer and what sentence-transformers reads, for rows as long as its context."""
    shutil.rmtree(folder, ignore_errors=True)  # of other triplets, or cut off
    folder.mkdir(parents=True)
    body, words = trained.body, subject.words
    if isinstance(body, PackedBody):
        assert isinstance(subject, Packed)
        whole = copy.deepcopy(subject.model)
        whole.model.load_state_dict(body.encoder.state_dict())
        save_checkpoint(folder, whole)
    else:
        encoder: Any = body.encoder
        encoder.save_pretrained(folder)
    if isinstance(words, OurWords):
        save_fast(words.tokenizer, folder)
    else:
        assert isinstance(words, TheirWords)
        words.tokenizer.save_pretrained(folder)
    write_sentence_files(folder, subject.context, trained.backbone.hidden_size)


def train(
    backbone: Backbone, triplets: Sequence[Triplet], seed: int, tick: Tick = lambda _a, _n: None, rate: float = RATE
) -> Trained:
    """One epoch over the triplets, from a copy of the encoder."""
    if len({len(t) for t in triplets}) != 1 or len(triplets) < 4:
        raise Refused(f"triplets: found {len(triplets)} lines, expected four or more, all with a negative or all without")
    body = backbone.fresh()
    weights = list(body.parameters())
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    order = batches(triplets, batch_size(len(triplets)), seed, "contrastive")
    order = [b for b in order if len(b) > 1]  # one triplet alone has nothing to be told from but its negative
    if not order:
        raise Refused(
            f"triplets: all {len(triplets)} share a text, so no batch tells one from another; expected different queries"
        )
    trained, warm = Trained(backbone, body, []), max(1, round(WARMUP * len(order)))
    for step, chosen in enumerate(order):
        for group in optimizer.param_groups:
            fall = (len(order) - step) / max(1, len(order) - warm)
            group["lr"] = rate * ((step + 1) / warm if step < warm else fall)
        columns = zip(*(triplets[i] for i in chosen), strict=True)
        optimizer.zero_grad(set_to_none=True)
        loss = cached_backward(body, [[backbone.texts.text(t, most=ROW) for t in column] for column in columns])
        nn.utils.clip_grad_norm_(weights, CLIP)
        optimizer.step()
        trained.losses.append(loss)
        tick(1 / len(order), f"contrastive loss {loss:.2f}")
    return trained
