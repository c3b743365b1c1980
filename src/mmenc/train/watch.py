"""What a person watches while a phase trains: one line of JSON every few seconds, the same for TensorBoard, and the bar's note.

Decision: it lies in `.runs/<digest>/` (train.jsonl, languages.json, tensorboard/NAME), never in the artifact, because it holds
times. Curves run along the tokens since the root, so that the phases of a run lie one after the other in TensorBoard. After a
resume what was written beyond the state that training goes on from is dropped.

MFU is FLOPs that the recipe's model needs per token (`costs.phase_flops`) x tokens/s, over a peak that is measured here and now:
the fastest of a few large matrix products in the phase's dtype on this device and these threads.
"""

from __future__ import annotations

import json
import math
import resource
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmenc.artifact import Json, replace_json

if TYPE_CHECKING:
    from mmenc.train.loop import Loop

SIZE = {"cpu": 1024, "cuda": 8192}
"""Width of the square matrices: 20 ms on two CPU cores, 1.4 ms on an H200."""
STATM = Path("/proc/self/statm")


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of five products of two square matrices."""
    size = SIZE[device.type]
    # Not constants: a GPU draws less power on those, and runs faster.
    a, b = (torch.linspace(-1, 1, size * size, device=device).view(size, size).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):  # the first one warms up
        _finish(device)
        began = time.perf_counter()
        a @ b
        _finish(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _step(line: str) -> float:
    """The step of a line; infinity for one that was cut off or damaged."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def memory(device: torch.device) -> int:
    """Bytes in use: the most that CUDA had, or what this process holds now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(STATM.read_text().split()[1]) * resource.getpagesize() if STATM.exists() else 0


class Watch:
    """The log of one phase in one process; `step` is called after every optimizer step."""

    def __init__(self, folder: Path, name: str, device: torch.device, every: float, total: int) -> None:
        self.folder, self.name, self.device, self.every, self.total = folder, name, device, every, total
        self.flops_per_token = self.peak = 0.0
        self.before = 0
        """Tokens of the phases before this one."""
        self.waited = 0.0
        self.written = time.monotonic()
        self.since: list[float] = [0.0, 0.0, 0.0, 0.0]  # tokens, loss sum, masked tokens, seconds waited, since the last line
        self.board: Any = None

    def open(self, loop: Loop) -> None:
        """Go on with the log of an earlier process up to where its state was saved, or begin a new one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path, board = self.folder / "train.jsonl", self.folder / "tensorboard" / self.name
        kept: list[str] = []
        if loop.step and path.exists():
            kept = [x for x in path.read_text(encoding="utf-8").splitlines(keepends=True) if _step(x) <= loop.step]
        else:
            shutil.rmtree(board, ignore_errors=True)
        path.write_text("".join(kept), encoding="utf-8")
        from tensorboardX import SummaryWriter

        # The writer names its file by the second and truncates one that is there: a resume within it needs a name of its own.
        purge = self.before + loop.tokens + 1 if loop.step else None
        self.board = SummaryWriter(str(board), purge_step=purge, filename_suffix=f".{loop.step:09d}")

    def begin(self) -> None:
        """The first step begins now."""
        self.written = time.monotonic()

    def step(self, loop: Loop, tokens: int, loss: float, masked: int, waited: float, extra: Json, *, last: bool) -> str:
        """Count a step (a loss that is no number is left out); write a line when it is time; return the note beside the bar."""
        self.waited += waited
        taken = [tokens, loss, masked, waited] if math.isfinite(loss) else [tokens, 0.0, 0, waited]
        self.since = [a + b for a, b in zip(self.since, taken, strict=True)]
        now = time.monotonic()
        seconds = max(now - self.written, 1e-9)
        if seconds >= self.every or last:
            self._line(loop, seconds, extra)
            self.written, self.since = now, [0.0, 0.0, 0.0, 0.0]
        return f"loss {loss / max(1, masked):.3f}"

    def _line(self, loop: Loop, seconds: float, extra: Json) -> None:
        tokens, loss, masked, waited = self.since
        speed = tokens / seconds
        row = {
            "time": round(time.time(), 3),
            "phase": self.name,
            "step": loop.step,
            "tokens": loop.tokens,
            "total_tokens": self.before + loop.tokens,
            **({"loss": loss / masked} if masked else {}),
            **extra,
            "tokens_per_second": speed,
            "mfu": speed * self.flops_per_token / self.peak if self.peak else 0.0,
            "data_wait_share": waited / seconds,
            "memory_bytes": memory(self.device),
            "seconds_left": max(0, self.total - loop.tokens) / speed if speed else 0.0,
            "skipped": len(loop.skipped),
            **({"heldout_loss": loop.heldout[-1][1]} if loop.heldout else {}),
        }
        row = {k: v for k, v in row.items() if not isinstance(v, float) or math.isfinite(v)}
        with (self.folder / "train.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        replace_json(self.folder / "languages.json", loop.folders)
        for key in row.keys() - {"time", "phase", "tokens", "total_tokens", "heldout_loss"} if self.board else ():
            self.board.add_scalar(f"train/{key}", row[key], row["total_tokens"])
        if self.board:
            self.board.flush()  # a killed process loses what is not yet in the file

    def heldout(self, loop: Loop, loss: float) -> None:
        """A held-out loss, for TensorBoard."""
        if self.board:
            self.board.add_scalar("heldout/loss", loss, self.before + loop.tokens)

    def close(self) -> None:
        """Flush what TensorBoard still holds."""
        if self.board:
            self.board.close()
