"""Finished runs on disk: one small file per (model, training, language, learning rate, seed); a killed evaluation goes on.

Decision: a unit's name is a hash of everything that its figures depend on (weights, examples, settings, the version below);
it holds the dev figure and the counts of every test example, 20 kB for 2,000 examples of accuracy. Raise VERSION whenever
the same names would give other figures.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from mmenc.artifact import Json, sha256_json

VERSION = 2
Counts = Mapping[str, NDArray[np.float64]]


class Units:
    """A folder of them."""

    def __init__(self, folder: Path, earlier: Path | None = None, saved: Callable[[], None] = lambda: None) -> None:
        """Keep units in a folder; `earlier` holds those of an evaluation that is finished."""
        self.folder, self.earlier, self.saved = folder, earlier, saved
        self.used: set[Path] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, names: Json) -> Path:
        """The file of a unit."""
        return self.folder / f"{sha256_json({**names, 'version': VERSION})[:24]}.npz"

    def get(self, names: Json) -> tuple[Json, Counts] | None:
        """Facts and counts of a finished unit; a damaged file counts as none."""
        path = self.path(names)
        for place in (path, *([self.earlier / path.name] if self.earlier else [])):
            with suppress(OSError, ValueError, KeyError, EOFError, BadZipFile), np.load(place) as found:
                both = json.loads(str(found["facts"])), {k: found[k] for k in found.files if k != "facts"}
                self.used.add(place)
                return both
        return None

    def put(self, names: Json, facts: Json, counts: Counts) -> None:
        """Keep a unit; it appears whole or not at all."""
        path = self.path(names)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        with part.open("wb") as stream:
            arrays: dict[str, Any] = {**counts, "facts": np.array(json.dumps({**names, **facts}))}
            np.savez_compressed(stream, **arrays)
        part.replace(path)
        self.used.add(path)
        self.saved()

    def keep(self, folder: Path) -> None:
        """Copy the units that were used or made to a finished evaluation, which a later one may take them from."""
        folder.mkdir()
        for path in sorted(self.used):
            shutil.copyfile(path, folder / path.name)

    def remove(self) -> None:
        """Remove the folder of the unfinished evaluation."""
        shutil.rmtree(self.folder, ignore_errors=True)
