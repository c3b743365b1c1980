"""THE TABLE: every step's function, version, reads, parameters and place; `dvc.yaml` and the faces are tested against it.

Raise a step's `version` whenever the same input would give another result (tests/contract/test_golden.py notices when
it was forgotten). A role that ends in `*` is a folder of instances; the recipe says which of them count.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmenc.errors import Refused, nearest


@dataclass(frozen=True)
class Step:
    """One row: `function` is `module:function`, imported only when the step runs."""

    name: str
    function: str
    version: int
    reads: tuple[str, ...]
    params: tuple[str, ...]
    folder: str
    """Where its artifact lies below `artifacts/`; `{name}` for a step with instances."""
    image: str = "cpu"
    raw: tuple[str, ...] = ()
    """Roles that are plain directories, not artifacts; their files become `inputs`."""
    source: str = ""
    """Parameter that may name a released model to take over; its `source_files` become `inputs` too."""
    source_files: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    """Parameters that may name a file or folder to read (empty: none); what lies there becomes `inputs` too."""
    folders: tuple[str, ...] = ()
    """Folders beside params.yaml that are read with the recipe (mmenc.suites): in its values, and dependencies of `dvc.yaml`."""
    large: tuple[str, ...] = ()
    """Files that the store owns where the recipe names one (`compute.store`)."""

    @property
    def instances(self) -> bool:
        """Whether the step runs once per phase."""
        return "{name}" in self.folder

    def param_paths(self, name: str) -> list[str]:
        """Parameter paths with the instance's name filled in."""
        return [p.format(name=name) for p in self.params]


SHARDS = ("*.jsonl.zst",)
TENSORS = ("*.safetensors",)
TABLE: dict[str, Step] = {
    step.name: step
    for step in (
        Step("ingest", "mmenc.data.ingest:run", 2, (), ("ingest",), "ingest", raw=("data",), large=SHARDS),
        Step(
            "clean",
            "mmenc.data.clean:run",
            2,
            ("raw",),
            ("clean",),
            "clean",
            files=("clean.language_model", "clean.evaluation_texts"),
            large=SHARDS,
        ),
        Step(
            "validate",
            "mmenc.data.validate:run",
            2,
            ("clean",),
            ("validate",),
            "validate",
            files=("validate.previous",),
            folders=("expectations",),
        ),
        Step(
            "tokenizer",
            "mmenc.data.tokenizer:run",
            2,
            ("clean", "validate"),
            ("seed", "tokenizer"),
            "tokenizer",
            source="tokenizer.source",
            source_files=("tokenizer.json",),
            files=("tokenizer.compare",),
        ),
        Step(
            "tokenize",
            "mmenc.data.tokenize:run",
            2,
            ("clean", "validate", "tokenizer"),
            ("tokenize",),
            "tokenize",
            large=("*.bin", "*.npy", "*.jsonl"),
        ),
        Step(
            "init",
            "mmenc.train.init:run",
            1,
            ("tokenizer",),
            ("seed", "model", "tokenizer.vocab_size"),
            "train/init",
            source="model.source",
            source_files=("config.json", "model.safetensors", "tokenizer.json"),
            large=TENSORS,
        ),
        Step("mixture", "mmenc.data.mixture:run", 1, ("tokens",), ("languages", "phases.{name}"), "mixture/{name}"),
        Step(
            "train",
            "mmenc.train.step:run",
            3,
            ("tokens", "mixture", "init"),
            ("seed", "model", "tokenizer.vocab_size", "phases.{name}"),
            "train/{name}",
            image="gpu",
            large=TENSORS,
        ),
        Step("merge", "mmenc.merge:run", 2, ("train*", "tokens"), ("seed", "model", "merge"), "merge", large=TENSORS),
        Step(
            "evaluate",
            "mmenc.evaluate.step:run",
            5,
            ("model", "tokenizer", "tokens"),
            ("languages", "model", "evaluate"),
            "evaluate/{name}",
            files=("evaluate.task_data",),
        ),
        Step(
            "release",
            "mmenc.release:run",
            2,
            ("model", "tokenizer", "evaluate", "validate", "tokens"),
            ("seed", "model", "evaluate", "release"),
            "release",
            source="release.previous",
            source_files=("scores.json", "manifest.json"),
        ),
        Step(
            "report",
            "mmenc.report.step:run",
            3,
            ("release", "evaluate*"),
            ("languages", "model", "phases", "merge", "evaluate", "release"),
            "report",
        ),
    )
}


def find(text: str) -> Step:
    """Look up `STEP` or `STEP@VERSION`; another version than the table's is refused."""
    name, _, version = text.partition("@")
    if name not in TABLE:
        raise Refused(f"no step is called {name!r}{nearest(name, TABLE) or '; steps: ' + ', '.join(TABLE)}")
    step = TABLE[name]
    if version and version != str(step.version):
        raise Refused(f"{name}@{version}: this mmenc has version {step.version} of the step; update dvc.yaml or mmenc")
    return step


def artifacts_root(step: Step, out: Path) -> Path:
    """The folder `artifacts/` that an `--out` lies in: where `.runs` and `.resume` are."""
    return out.absolute().parents[step.folder.count("/")]
