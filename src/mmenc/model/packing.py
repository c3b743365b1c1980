"""Where the documents of a packed row lie; masks and index plans are made once per packing and kept with it.

Shapes: T packed tokens, N documents.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmenc.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, eq=False)
class Packing:
    """Where the documents of a packed row lie; masks and index plans are made once per packing and kept here."""

    lengths: npt.NDArray[np.int64]  # N document lengths, in order
    cu_seqlens_N1: Tensor  # int32: 0 and the running sums
    position_T: Tensor  # int64: 0 at the start of every document
    doc_T: Tensor  # int64: which document
    max_len: int
    _made: dict[Any, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, lengths: Sequence[int] | npt.NDArray[np.integer[Any]], device: torch.device | str = "cpu") -> Packing:
        """Lay documents of these lengths one after the other."""
        lens = np.asarray(lengths, dtype=np.int64)
        if lens.ndim != 1 or not len(lens) or lens.min() < 1:
            raise Refused(f"packing: found document lengths {lens.tolist()[:8]}, expected one or more positive numbers")
        ends = np.cumsum(lens)
        doc = np.repeat(np.arange(len(lens)), lens)
        position = np.arange(ends[-1]) - (ends - lens)[doc]
        cu = torch.from_numpy(np.concatenate(([0], ends)).astype(np.int32))
        place = [x.to(device, non_blocking=True) for x in (cu, torch.from_numpy(position), torch.from_numpy(doc))]
        return cls(lens, place[0], place[1], place[2], int(lens.max()))

    @property
    def tokens(self) -> int:
        """T, the number of packed tokens."""
        return len(self.position_T)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what ``make`` gives, made at most once for this packing."""
        if key not in self._made:
            with torch.inference_mode(False), torch.no_grad():
                self._made[key] = make()
        return self._made[key]
