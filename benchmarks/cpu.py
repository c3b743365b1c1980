"""Training on CPU: a whole step of ours against transformers' Trainer and its best paths, on the same pieces.

All sides train the default recipe's model (same weights, float32, AdamW-like optimizer) on the same documents of the default
corpus, cut at 512 tokens, masked at the recipe's rate; the losses of the first batch must agree. Each runs at its own best
batch size (tried before). Tokens are real ones: padding is not counted. Needs the artifacts of `make run`. Beside tokens per
second stand tokens per second of CPU time, which other load on the machine disturbs less.

What the peers are (transformers 5.23): unpadding needs its flash-attention kernel, so on a CPU there is none, and its
two-sided masks do not read position_ids; packing is possible by handing the model one mask per kind of layer, made by hand,
and is measured as such. "Batches of like lengths" draws batches of pieces that are neighbours in length: hardly any padding,
but no random order (a batch is all short or all long), which ours is.

Where the time goes: default model, 4,096 tokens, mask 15 %. Operations per token, forward and backward: layers 3.3 MFLOP, head
1.0, attention about 1.2 in blocks of 32 and buckets. At the 180 GFLOP/s that MKL reaches at these shapes on two idle cores,
5.5 MFLOP are 33,000 tokens/s, were nothing else to do; of a step then measured, 62 % was matrix products (profile). Changes:
* the last layer at masked positions only: expected 17 % fewer operations;
* rotations as complex products: 1.46 -> 0.13 ms alone (once, under load);
* attention and GeGLU with backward passes of their own, without copies and concatenations: with the rotations expected 25 %.
Together 1.24 times the tokens (CPU time of one thread, machine under load, medians: 531 -> 430 ms a step), less than expected;
products without alpha in the attention's backward pass and gelu kept came later, their gain is not separable from the load;
in the new step 71 % is matrix products.
Tried and left out: mallopt against page faults (2,600 to 5,000 fewer a step; no gain beyond the noise);
oneDNN's products in place of MKL's (10-15 % faster alone on idle cores, but reached by private operators only).
"""

from __future__ import annotations

import itertools
import statistics
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from torch.utils.data import IterableDataset
from transformers import ModernBertForMaskedLM, Trainer, TrainerCallback, TrainingArguments

from benchmarks.table import Row, main
from mmenc.artifact import read_json
from mmenc.data.masking import mask_tokens
from mmenc.data.packing import Rows, materialise
from mmenc.data.tokens import PAD, open_split
from mmenc.errors import Refused
from mmenc.model.attention import Packing
from mmenc.recipe import load
from mmenc.train.batches import Batches, Place, make_streams
from mmenc.train.state import load_model, make_optimizer

PHASE = "extend"
ARTIFACTS = Path("artifacts")
BATCHES = (2048, 4096, 8192)
"""Tokens in a batch that each side tries; larger ones gain nothing on two cores."""
PIECES = 6_000


class Data:
    """Pieces of the phase, packed as training packs them, and the same pieces one by one."""

    def __init__(self) -> None:
        if not (ARTIFACTS / "train" / PHASE / "manifest.json").is_file():
            raise Refused(f"{ARTIFACTS / 'train' / PHASE}: not there; run `make run` first")
        self.recipe = load(Path("params.yaml"))
        self.phase = self.recipe.phases[PHASE]
        self.split = open_split(ARTIFACTS / "tokenize", "train")
        mixture = read_json(ARTIFACTS / "mixture" / PHASE / "mixture.json")
        read = read_json(ARTIFACTS / "train" / self.phase.init / "state.json")["streams"]
        streams = make_streams(self.split, mixture, read, self.recipe.seed, PHASE, self.phase)
        self.batches = Batches(streams, self.split, self.phase, PHASE, self.recipe.seed)
        self.vocab = self.recipe.tokenizer.vocab_size

    def packed(self, tokens: int) -> Iterator[Rows]:
        """Batches of rows, round and round."""
        place = Place()
        while True:
            taken = self.batches.take(place, tokens // self.phase.context)
            if taken is None:
                place = Place()
                continue
            rows, place = taken
            yield rows

    def masked(self, rows: Rows, number: int) -> tuple[Any, Any, Any, list[int]]:
        """Input, masked positions and their targets of a batch, packed; the length of each piece."""
        ids_T, lengths = materialise(rows, self.split)
        return *mask_tokens(ids_T, self.phase.mask, self.vocab, self.recipe.seed, "mask", PHASE, number), lengths

    def sequences(self) -> list[dict[str, np.ndarray]]:
        """The pieces as transformers wants them: input_ids and labels, masked."""
        found: list[dict[str, np.ndarray]] = []
        for number, rows in enumerate(self.packed(BATCHES[-1])):
            input_T, index_M, target_M, lengths = self.masked(rows, number)
            labels_T = np.full(len(input_T), -100, dtype=np.int64)
            labels_T[index_M] = target_M
            at = np.cumsum([0, *lengths])
            found += [{"input_ids": input_T[a:b], "labels": labels_T[a:b]} for a, b in itertools.pairwise(at)]
            if len(found) >= PIECES:
                return found
        return found


def pad(pieces: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """A padded batch, as DataCollatorWithPadding makes it."""
    width = max(len(p["input_ids"]) for p in pieces)
    ids, labels = np.full((len(pieces), width), PAD), np.full((len(pieces), width), -100)
    for i, p in enumerate(pieces):
        ids[i, : len(p["input_ids"])], labels[i, : len(p["labels"])] = p["input_ids"], p["labels"]
    return {
        "input_ids": torch.from_numpy(ids),
        "labels": torch.from_numpy(labels),
        "attention_mask": torch.from_numpy((ids != PAD).astype(np.int64)),
    }


def ours(data: Data, tokens: int) -> Iterator[int]:
    """Steps of our engine: packing, masking, forward, backward, optimizer."""
    model = load_model(ARTIFACTS / "train" / PHASE, data.recipe.model, data.phase)
    model.train()
    optimizer = make_optimizer(model, data.phase.optimizer, data.phase.lr.peak)
    for number, rows in enumerate(data.packed(tokens)):
        input_T, index_M, target_M, lengths = data.masked(rows, number)
        packing = Packing.of(lengths, torch.device("cpu"))
        loss_sum, _ = model(torch.from_numpy(input_T), packing, torch.from_numpy(index_M), torch.from_numpy(target_M))
        (loss_sum / len(index_M)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield len(input_T)


def theirs() -> Any:
    """ModernBertForMaskedLM with our weights, trained as we do: no dropout beside the recipe's."""
    model = ModernBertForMaskedLM.from_pretrained(ARTIFACTS / "train" / PHASE, attn_implementation="sdpa")
    model.train()
    return model


def masked_head(data: Data, pieces: list[dict[str, np.ndarray]], tokens: int) -> Iterator[int]:
    """Steps of transformers' model with its head on masked tokens only, pieces in the order given, padded."""
    model = theirs()
    model.sparse_prediction = model.config.sparse_prediction = True
    optimizer = torch.optim.AdamW(model.parameters(), lr=data.phase.lr.peak, fused=True)
    batches, batch, width = [], [], 0
    for piece in pieces:
        width = max(width, len(piece["input_ids"]))
        if batch and width * (len(batch) + 1) > tokens:
            batches.append(batch)
            batch, width = [], len(piece["input_ids"])
        batch.append(piece)
    batches.append(batch)
    random = np.random.default_rng(0)
    while True:
        for at in random.permutation(len(batches)):
            loss = model(**pad(batches[at])).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            yield sum(len(p["input_ids"]) for p in batches[at])


def packed_by_hand(data: Data, tokens: int) -> Iterator[int]:
    """Steps of transformers' model on our packed rows, with masks made by hand and its head on masked tokens only."""
    model = theirs()
    model.sparse_prediction = model.config.sparse_prediction = True
    optimizer = torch.optim.AdamW(model.parameters(), lr=data.phase.lr.peak, fused=True)
    width, reach = data.phase.context, data.recipe.model.window // 2
    at = torch.arange(width)
    near = (at[:, None] - at).abs() <= reach
    for number, rows in enumerate(data.packed(tokens)):
        input_T, index_M, target_M, lengths = data.masked(rows, number)
        row = np.repeat(np.searchsorted(rows.ends, np.arange(len(lengths)), side="right"), lengths)
        starts = np.concatenate([[0], np.flatnonzero(np.diff(row)) + 1])
        place = np.arange(len(row)) - starts[row]
        ids, labels = np.full((len(rows), width), PAD), np.full((len(rows), width), -100)
        document, position = np.full((len(rows), width), -1), np.zeros((len(rows), width), dtype=np.int64)
        ids[row, place], labels[row[index_M], place[index_M]] = input_T, target_M
        document[row, place] = np.repeat(np.arange(len(lengths)), lengths)
        position[row, place] = np.concatenate([np.arange(n) for n in lengths])
        which = torch.from_numpy(document)
        same = (which[:, :, None] == which[:, None])[:, None]
        loss = model(
            input_ids=torch.from_numpy(ids),
            position_ids=torch.from_numpy(position),
            attention_mask={"full_attention": same, "sliding_attention": same & near},
            labels=torch.from_numpy(labels),
        ).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield len(input_T)


class _Stream(IterableDataset):
    def __init__(self, pieces: list[dict[str, np.ndarray]]) -> None:
        self.pieces = pieces

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return itertools.cycle(self.pieces)


def trainer(data: Data, pieces: list[dict[str, np.ndarray]], tokens: int) -> Iterator[int]:
    """Steps of transformers' own Trainer, in a thread of its own that waits for its turn at every step."""
    import threading

    turn, done = threading.Semaphore(0), threading.Semaphore(0)
    mean = sum(len(p["input_ids"]) for p in pieces) / len(pieces)
    size = max(1, round(tokens / mean / 2))  # padding doubles a batch
    counted: list[int] = []

    def collate(batch: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        counted.append(sum(len(p["input_ids"]) for p in batch))
        return pad(batch)

    class Turn(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turn.acquire()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            done.release()

    quiet = {"report_to": [], "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
    settings = TrainingArguments(
        output_dir=str(ARTIFACTS / ".bench"),
        per_device_train_batch_size=size,
        max_steps=1_000_000,
        use_cpu=True,
        remove_unused_columns=False,
        optim="adamw_torch_fused",
        learning_rate=data.phase.lr.peak,
        max_grad_norm=0.0,
        **quiet,
    )
    loop = Trainer(theirs(), settings, data_collator=collate, train_dataset=_Stream(pieces), callbacks=[Turn()])
    threading.Thread(target=loop.train, daemon=True).start()
    step = 0
    while True:
        turn.release()
        done.acquire()
        yield counted[step]
        step += 1


class Speed(NamedTuple):
    """Tokens per second of the clock, and of CPU time of all threads."""

    clock: float
    cpu: float


def in_turn(sides: dict[str, Iterator[int]], seconds: float, rounds: int) -> dict[str, Speed]:
    """Medians over `rounds` turns of `seconds` each."""
    found: dict[str, list[Speed]] = {name: [] for name in sides}
    for steps in sides.values():
        next(steps)  # warm-up: allocations, first use of kernels
    for _ in range(rounds):
        for name, steps in sides.items():
            done, start, cpu = 0, time.perf_counter(), time.process_time()
            while time.perf_counter() - start < seconds:
                done += next(steps)
            found[name].append(Speed(done / (time.perf_counter() - start), done / (time.process_time() - cpu)))
    return {name: Speed(*(statistics.median(column) for column in zip(*values, strict=True))) for name, values in found.items()}


def first_losses(data: Data, pieces: list[dict[str, np.ndarray]]) -> tuple[float, float]:
    """Mean loss per masked token of the first batch, ours packed and theirs padded; no dropout."""
    rows = next(data.packed(BATCHES[-1]))
    input_T, index_M, target_M, lengths = data.masked(rows, 0)
    model = load_model(ARTIFACTS / "train" / PHASE, data.recipe.model, data.phase).eval()
    with torch.no_grad():
        packing = Packing.of(lengths, torch.device("cpu"))
        ours_sum, _ = model(torch.from_numpy(input_T), packing, torch.from_numpy(index_M), torch.from_numpy(target_M))
        peer = theirs().eval()(**pad(pieces[: len(lengths)])).loss
    return float(ours_sum) / len(index_M), float(peer)


def run(options: Namespace) -> list[Row]:
    """Try batch sizes, then measure in turn."""
    data = Data()
    torch.set_num_threads(data.recipe.compute.threads)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    pieces = data.sequences()
    mine, peer = first_losses(data, pieces)
    print(f"loss of the first batch: ours {mine:.6f}, transformers {peer:.6f}")
    if abs(mine - peer) > 1e-4 * peer:
        raise Refused(f"the losses of the first batch differ: ours {mine:.6f}, transformers {peer:.6f}; nothing to compare")
    random = np.random.default_rng(0)
    shuffled = [pieces[i] for i in random.permutation(len(pieces))]
    by_length = sorted(pieces, key=lambda p: len(p["input_ids"]))
    sides: dict[str, tuple[int, Iterator[int]]] = {}
    for name, make in (
        ("ours", lambda n: ours(data, n)),
        ("trainer", lambda n: trainer(data, shuffled, n)),
        ("head", lambda n: masked_head(data, shuffled, n)),
        ("packed", lambda n: packed_by_hand(data, n)),
        ("sorted", lambda n: masked_head(data, by_length, n)),
    ):
        speeds = {n: in_turn({name: make(n)}, options.seconds / 2, 1)[name] for n in BATCHES}
        best = max(speeds, key=lambda n: speeds[n].clock)
        print(f"{name}: " + ", ".join(f"{n} tokens a batch {v.clock:,.0f} tokens/s" for n, v in speeds.items()))
        sides[name] = best, make(best)
    found = in_turn({name: steps for name, (_, steps) in sides.items()}, options.seconds, options.rounds)
    threads = data.recipe.compute.threads
    setting = f"1.6 M parameters, float32, {threads} cores, pieces up to {data.phase.context}, mask {data.phase.mask:g}"
    names = {
        "trainer": "transformers' Trainer, padded",
        "head": "transformers, masked-only head, padded",
        "packed": "transformers, masked-only head, packed with masks made by hand",
        "sorted": "transformers, masked-only head, batches of like lengths (no random order)",
    }
    return [
        Row(
            what,
            f"{setting}; batch {sides['ours'][0]} / {sides[k][0]}",
            unit,
            getattr(found["ours"], kind),
            getattr(found[k], kind),
            names[k],
            transformers.__version__,
        )
        for what, unit, kind in (("training step", "tokens/s", "clock"), ("training step, CPU time", "tokens/CPU s", "cpu"))
        for k in names
    ]


if __name__ == "__main__":
    main(__doc__, run)
