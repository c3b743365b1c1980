"""Both sides of benchmarks/gpu.py: the same global batch as ours packs it and as transformers pads (or packs) it.

Weights are the same, float32 under bf16 autocast, dropout 0; every side takes all documents of a step, in micro-batches of
its own size, and steps an optimizer (ours StableAdamW, theirs torch's fused AdamW). Ids go to the device in each step, and
what a packing needs is made in each step, as in training.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmenc.data.masking import mask_tokens
from mmenc.data.order import cut
from mmenc.data.packing import pack
from mmenc.data.tokens import BOS, EOS, PAD, SPECIALS
from mmenc.model.attention import Packing
from mmenc.model.config import EncoderConfig
from mmenc.model.head import MaskedLM
from mmenc.model.hf import hf_config, to_hf_state
from mmenc.sections import Optimizer
from mmenc.train.state import make_optimizer

IGNORED = -100
RATE = 1e-4


@dataclass(frozen=True)
class Document:
    """A piece of a document as the model sees it."""

    input_T: np.ndarray
    labels_T: np.ndarray


@dataclass(frozen=True, eq=False)
class Batch:
    """A global batch, piece by piece, in the order of its packed rows."""

    documents: list[Document]
    rows: list[int]
    """Pieces in each row."""

    @property
    def tokens(self) -> int:
        """Tokens without padding."""
        return sum(len(d.input_T) for d in self.documents)


def lengths_of(real: bool, context: int, tokens: int, random: np.random.Generator) -> np.ndarray:
    """Whole rows, or documents as the corpus has them (log-normal, median 147, mean 555; performance.md section 4)."""
    if not real:
        return np.full(tokens // context, context)
    drawn = np.clip(random.lognormal(np.log(147), np.sqrt(2 * np.log(555 / 147)), tokens // 8), 8, 50_000).astype(np.int64)
    ends = np.cumsum(drawn)
    last = int(np.searchsorted(ends, tokens))  # it is cut so that there are `tokens` tokens
    drawn[last] -= ends[last] - tokens
    return drawn[: last + 1] if drawn[last] > 2 else drawn[:last]


def make_batch(real: bool, context: int, mask: float, tokens: int, vocab: int, seed: int) -> Batch:
    """Random ids of documents with such lengths, cut, packed and masked as training does it."""
    random = np.random.default_rng(seed)
    lengths = lengths_of(real, context, tokens, random)
    pieces = cut(np.arange(len(lengths)), lengths, context)
    sizes = pieces.stop - pieces.start + 2
    placed, row = pack(sizes, context)
    order = np.argsort(row, kind="stable")
    sizes, ends = sizes[placed[order]], np.cumsum(sizes[placed[order]])
    ids_T = random.integers(len(SPECIALS), vocab, ends[-1])
    ids_T[ends - sizes], ids_T[ends - 1] = BOS, EOS
    input_T, index_M, target_M = mask_tokens(ids_T, mask, vocab, seed, "mask")
    labels_T = np.full(len(ids_T), IGNORED)
    labels_T[index_M] = target_M
    edges = [0, *ends.tolist()]
    documents = [Document(input_T[a:b], labels_T[a:b]) for a, b in itertools.pairwise(edges)]
    return Batch(documents, np.bincount(row).tolist())


@dataclass
class Side:
    """A model with its optimizer, and how it computes a global batch."""

    name: str
    version: str
    ours: bool
    model: Any
    optimizer: torch.optim.Optimizer
    split: Callable[[Batch, int], list[Any]]
    """Micro-batches of at most so many tokens (padding counted), on the host."""
    loss: Callable[[Any, torch.device], Tensor]
    """Sum of the losses of a micro-batch."""
    micro: int = 0
    speed: float = 0.0
    _ready: dict[tuple[Batch, int], tuple[list[Any], int]] = field(default_factory=dict)

    def parts(self, batch: Batch) -> tuple[list[Any], int]:
        """Micro-batches on the host and masked tokens, made once: in training they are made ahead."""
        key = (batch, self.micro)
        if key not in self._ready:
            masked = sum(int((d.labels_T != IGNORED).sum()) for d in batch.documents)
            self._ready[key] = self.split(batch, self.micro), masked
        return self._ready[key]

    def total(self, batch: Batch, device: torch.device, learn: bool) -> float:
        """Mean loss of a global batch; with `learn` its gradients and a step of the optimizer."""
        parts, masked = self.parts(batch)
        total = torch.zeros((), device=device)
        for part in parts:
            with torch.set_grad_enabled(learn), torch.autocast(device.type, torch.bfloat16):
                loss = self.loss(part, device)
            if learn:
                (loss / masked).backward()
            total += loss.detach()
        if learn:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return float(total) / masked

    def steps(self, batches: list[Batch], device: torch.device) -> Iterator[int]:
        """Steps, round and round; `total` waits for the device."""
        for batch in itertools.cycle(batches):
            self.total(batch, device, learn=True)
            yield batch.tokens


def _joined(documents: list[Document]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    ids_T, labels_T = (np.concatenate([getattr(d, key) for d in documents]) for key in ("input_T", "labels_T"))
    return ids_T, labels_T, [len(d.input_T) for d in documents]


def packed(batch: Batch, tokens: int) -> list[Any]:
    """Whole rows together, at most so many tokens."""
    parts: list[list[Document]] = [[]]
    at = size = 0
    for count in batch.rows:
        row = batch.documents[at : at + count]
        length = sum(len(d.input_T) for d in row)
        if parts[-1] and size + length > tokens:
            parts.append([])
            size = 0
        parts[-1] += row
        at, size = at + count, size + length
    return [_joined(part) for part in parts]


def padded(by_length: bool) -> Callable[[Batch, int], list[Any]]:
    """Documents in random order side by side, padded to the longest; `by_length`: those of like length, hardly any padding."""

    def split(batch: Batch, tokens: int) -> list[Any]:
        shuffled = [batch.documents[i] for i in np.random.default_rng(0).permutation(len(batch.documents))]
        documents = sorted(shuffled, key=lambda d: len(d.input_T)) if by_length else shuffled
        parts: list[list[Document]] = [[]]
        for document in documents:
            width = max([len(document.input_T), *(len(d.input_T) for d in parts[-1])])
            if parts[-1] and width * (len(parts[-1]) + 1) > tokens:
                parts.append([])
            parts[-1].append(document)
        return [_pad(part) for part in parts]

    return split


def _pad(documents: list[Document]) -> dict[str, np.ndarray]:
    width = max(len(d.input_T) for d in documents)
    ids_BT, labels_BT = np.full((len(documents), width), PAD), np.full((len(documents), width), IGNORED)
    for i, d in enumerate(documents):
        ids_BT[i, : len(d.input_T)], labels_BT[i, : len(d.labels_T)] = d.input_T, d.labels_T
    return {"input_ids": ids_BT, "labels": labels_BT, "attention_mask": (ids_BT != PAD).astype(np.int64)}


def ours(cfg: EncoderConfig, state: dict[str, Tensor], backend: str, device: torch.device, *, compiled: bool) -> Side:
    """Our engine with one attention backend; compiled layer by layer (all layers share the code)."""
    model = MaskedLM(cfg).to(device)
    model.load_state_dict(state)
    model.model.backend = backend
    if compiled:
        for layer in model.model.layers:
            # On a CPU only the tracing is tried: what the compiler writes there takes minutes to build.
            layer.compile(dynamic=True, backend="inductor" if device.type == "cuda" else "eager")

    def loss(part: Any, device: torch.device) -> Tensor:
        ids_T, labels_T, lengths = part
        index_M = np.flatnonzero(labels_T != IGNORED)
        tensors = [torch.from_numpy(x).to(device) for x in (index_M, labels_T[index_M])]
        found: Tensor = model(torch.from_numpy(ids_T).to(device), Packing.of(lengths, device), *tensors, None)[0]
        return found

    name = f"mmenc {backend}{', compiled' if compiled else ''}"
    return Side(name, torch.__version__, True, model, make_optimizer(model, Optimizer(), RATE), packed, loss)


def theirs(cfg: EncoderConfig, state: dict[str, Tensor], kind: str, device: torch.device, *, sparse: bool, varlen: bool) -> Side:
    """ModernBertForMaskedLM of transformers, with attention of a kind: padded as its Trainer does it, or packed where it can."""
    import transformers
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    config = ModernBertConfig(**hf_config(cfg), sparse_prediction=sparse, attn_implementation=kind)
    model = ModernBertForMaskedLM(config).to(device)
    model.load_state_dict({**state, "decoder.weight": state["model.embeddings.tok_embeddings.weight"]})
    model.tie_weights()
    model.train()

    def on_rows(part: Any, device: torch.device) -> Tensor:
        ids_T, labels_T, lengths = part
        packing = Packing.of(lengths, device)
        edges, longest = packing.cu_seqlens_N1, packing.max_len
        where = {"cu_seq_lens_q": edges, "cu_seq_lens_k": edges, "max_length_q": longest, "max_length_k": longest}
        ids, labels = (torch.from_numpy(x).to(device)[None] for x in (ids_T, labels_T))
        found: Tensor = model(input_ids=ids, labels=labels, position_ids=packing.position_T[None], **where).loss
        return found * int((labels_T != IGNORED).sum())

    def on_padded(part: Any, device: torch.device) -> Tensor:
        count = int((part["labels"] != IGNORED).sum())
        if not count:
            return model(**{k: torch.from_numpy(x).to(device) for k, x in part.items() if k != "labels"}).logits.sum() * 0
        found: Tensor = model(**{k: torch.from_numpy(x).to(device) for k, x in part.items()}).loss
        return found * count

    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    head = "head on masked tokens" if sparse else "head on all tokens (Trainer)"
    name = f"ModernBertForMaskedLM {kind}, {'packed' if varlen else 'padded'}, {head}"
    how = packed if varlen else padded(by_length=sparse)
    return Side(name, transformers.__version__, False, model, optimizer, how, on_rows if varlen else on_padded)


def weights(cfg: EncoderConfig, device: torch.device, seed: int) -> dict[str, Tensor]:
    """One set of weights for all sides; drawn on the device, since nothing here depends on their values."""
    generator = torch.Generator(device=device).manual_seed(seed)
    with torch.device(device):
        state = to_hf_state(MaskedLM(cfg))
    for name, tensor in state.items():
        if name.endswith("norm.weight"):
            tensor.fill_(1.0)
        else:
            std = cfg.initializer_range / (2 * cfg.layers) ** (0.5 if name.endswith("Wo.weight") else 0.0)
            tensor.copy_(torch.empty(tensor.shape, device=device).normal_(0.0, std, generator=generator).cpu())
    return state
