"""ONNX: the released model as onnx/model.onnx, and its outputs compared with torch's under ONNX Runtime.

Decision: torch.onnx.export through torch.export (`dynamo=True`), the exporter that torch keeps; optimum pins an older
transformers, and the TorchScript exporter (1 s instead of 14 s) is deprecated and stores the tied embedding twice. For the
default model (1.6 M parameters): 14 s, 7.0 MB, largest difference of logits 2e-5. Inputs are `input_ids` and `attention_mask` of
any batch and length, the output is `logits`. Notes of where an operator came from are removed: they hold this machine's paths.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmenc.errors import Refused
from mmenc.gates import largest, padded

FILE = "onnx/model.onnx"
NAMES = ("input_ids", "attention_mask")
MOST_BYTES = 1_500_000_000
"""Of weights inside of one ONNX file; protobuf ends at 2 GB. Larger ones lie in model.onnx.data beside it."""


class _Logits(nn.Module):
    """The model with two named inputs and one tensor out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def _needs() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise Refused(
            f"release.onnx: is true and {error.name} is not installed here; `pip install 'mmenc[onnx]'` brings it"
        ) from None


def _strip(graph: Any) -> None:
    """Remove what says where an operator came from, in a graph and the graphs inside of it."""
    for item in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)


def export_onnx(folder: Path) -> None:
    """Write onnx/model.onnx beside the model in `folder`."""
    _needs()
    import onnx
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids_NT = torch.full((2, 64), 5, dtype=torch.int64)
    mask_NT = torch.ones_like(ids_NT)
    mask_NT[1, 40:] = 0
    free = dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Logits(model),
            (ids_NT, mask_NT),
            dynamo=True,
            input_names=list(NAMES),
            output_names=["logits"],
            dynamic_shapes=dict.fromkeys(NAMES, free),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _strip(proto.graph)
    for function in proto.functions:
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""
    del proto.metadata_props[:]
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    apart = size > MOST_BYTES
    onnx.save(proto, folder / FILE, save_as_external_data=apart, location="model.onnx.data" if apart else None)


def onnx_difference(folder: Path, documents: Sequence[NDArray[np.int64]]) -> float:
    """Largest difference of logits on real text: each document alone, then all padded to one batch."""
    _needs()
    import onnxruntime
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(folder / FILE), options, providers=["CPUExecutionProvider"])
    found: list[float] = []
    for batch in [*([d] for d in documents), list(documents)]:
        ids_NT, mask_NT = padded(batch)
        with torch.inference_mode():
            ours = model(input_ids=torch.from_numpy(ids_NT), attention_mask=torch.from_numpy(mask_NT)).logits.numpy()
        theirs = session.run(None, {"input_ids": ids_NT, "attention_mask": mask_NT})[0]
        inside = mask_NT.astype(bool)
        found.append(float(np.abs(ours[inside] - theirs[inside]).max()))
    return largest(found)
