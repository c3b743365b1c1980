"""Where labelled data comes from: a local folder, a folder of a bucket (fetched first), or the Hugging Face hub by name.

Decision: local files come first; the hub is asked only with `--hub`, because a run must not depend on what a network gives.
Every file that was opened is remembered with its hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmenc.artifact import Json, sha256_file
from mmenc.data.shards import read_lines
from mmenc.errors import Refused

PACKED = ("", ".gz", ".zst")


@dataclass
class Data:
    """A folder of data sets."""

    root: Path
    hub: bool = False
    files: dict[str, str] = field(default_factory=dict)
    """sha256 of what was read, by path below the root (or `hub:NAME/CONFIG`: the version)."""

    def folders(self, *names: str) -> list[Path]:
        """Those folders of these names that are there; the root itself where it is called so."""
        return [p for name in names if (p := self.root if self.root.name == name else self.root / name).is_dir()]

    def find(self, stem: Path, *endings: str) -> Path | None:
        """The first file `stem + ending`, plain, .gz or .zst."""
        return next((p for e in endings for packed in PACKED if (p := stem.parent / f"{stem.name}{e}{packed}").is_file()), None)

    def lines(self, path: Path) -> Iterator[str]:
        """Lines of a text file without their ends, as UTF-8; only a line feed ends a line."""
        self.files[path.relative_to(self.root).as_posix()] = sha256_file(path)
        for _, line in read_lines(path):
            yield line.rstrip("\r\n")

    def inputs(self) -> list[Json]:
        """`[{path, sha256}]` of everything that was read."""
        return [{"path": p, "sha256": h} for p, h in sorted(self.files.items())]

    def fetch(self, name: str, config: str, split: str) -> list[Json]:
        """Rows of a data set of the hub (`datasets`), where that was asked for."""
        where = f"{name} ({config or 'no configuration'})"
        found = _asked(name, where, lambda library: library.load_dataset(name, config or None, split=split))
        self.files[f"hub:{name}/{config}/{split}"] = str(found._fingerprint)  # noqa: SLF001
        return [dict(row) for row in found]

    def configurations(self, name: str) -> list[str]:
        """Those of a data set of the hub."""
        return sorted(_asked(name, name, lambda library: library.get_dataset_config_names(name)))


def _asked(name: str, where: str, ask: Callable[[Any], Any]) -> Any:
    """What the library says, or one sentence about why it does not."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise Refused(f"--hub: {name} needs the library datasets; `pip install 'mmenc[sources]'` brings it") from None
    try:
        return ask(datasets)
    except Exception as error:  # noqa: BLE001 (a hub fails in many ways, all of them are one sentence)
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Refused(f"--hub: the data set {where} cannot be had: {why}") from None
