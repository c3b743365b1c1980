"""The words of the model card that are the same for every model: how to use it, where not to."""

from __future__ import annotations

from collections.abc import Sequence


def usage(name: str, onnx: bool) -> str:
    """How to load it."""
    text = f"""`{name}` stands for the folder of this release, or for `ORG/{name}` once it is pushed to a hub.

```python
from transformers import pipeline

pipeline("fill-mask", model="{name}")("All human beings are born <mask> and equal.")
```

Embeddings are the mean over all tokens:

```python
from sentence_transformers import SentenceTransformer

SentenceTransformer("{name}").encode(["Øll menniskju eru fødd fræls og jøvn."])
```"""
    if not onnx:
        return text
    return f"""{text}

With ONNX Runtime, without torch (`onnx/model.onnx`):

```python
import numpy as np, onnxruntime
from tokenizers import Tokenizer

ids = np.array([Tokenizer.from_file("{name}/tokenizer.json").encode("All human beings are born <mask>.").ids])
session = onnxruntime.InferenceSession("{name}/onnx/model.onnx")
logits = session.run(["logits"], {{"input_ids": ids, "attention_mask": np.ones_like(ids)}})[0]
```"""


def limits(tiers: Sequence[str], worst: str, filters: Sequence[str]) -> str:
    """Where not to use it; `worst` names the languages with the most bits per byte, `filters` why documents were left out."""
    told = f"Languages of the tier `{tiers[-1]}` were read least; some have a few thousand tokens or fewer. " if tiers[1:] else ""
    taken = f"filtered ({', '.join(filters)}), not by content" if filters else "not filtered by content"
    return f"""- Figures are of text like the training data (see its sources): other kinds of text will do worse.
- {told}The languages with the most bits per byte are {worst}. Where the unigram
  model of the language itself needs fewer bits than this model, use it for nothing.
- The model repeats what its sources say and how they say it. It was **not** evaluated for social bias, and its training
  text was {taken}.
- It fills gaps and gives embeddings; it generates no text, and its embeddings were not trained for similarity."""
