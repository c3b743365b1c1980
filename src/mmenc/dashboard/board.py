"""`mmenc board`: a folder of links in which TensorBoard finds the phases of a model as one run.

Decision: each phase writes its own files under `.runs/<digest>/tensorboard/PHASE`, because a digest is all that training knows.
TensorBoard takes a folder of event files as one run and reads them by name, so a run here is the way from the root to one leaf
of the tree (pretrain, extend, decay-all): its curve is what that checkpoint has gone through, along the tokens since the root.
Branches share the links of their common past. Links, not copies: a phase that is still training goes on growing in the board.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mmenc import heartbeat
from mmenc.artifact import Manifest
from mmenc.errors import Refused
from mmenc.recipe import Recipe, load

MARK = ".mmenc-board"
"""Says that a folder was made here and may be emptied."""


def board(artifacts: Path, out: Path) -> None:
    """Make the folder anew for the recipe beside the artifacts."""
    recipe = load(artifacts.absolute().parent / "params.yaml")
    files = {phase: _events(artifacts, phase) for phase in recipe.phases}
    missing = [phase for phase, found in files.items() if not found]
    if len(missing) == len(files):
        raise Refused(f"{artifacts / '.runs'}: no phase has written TensorBoard files there; `make run` trains them")
    if out.exists() or out.is_symlink():
        if not out.is_dir() or out.is_symlink():
            raise Refused(f"{out}: is a file or a link; expected a folder that may be made, such as board (--out)")
        if not (out / MARK).exists() and any(out.iterdir()):
            raise Refused(f"{out}: is not empty and was not made by `mmenc board`; name another folder with --out")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / MARK).touch()
    for leaf in leaves(recipe):
        (out / leaf).mkdir()
        for number, phase in enumerate([*recipe.ancestors(leaf), leaf]):
            for path in files[phase]:
                link = out / leaf / f"{number:02}-{phase}.{path.name}"
                link.symlink_to(os.path.relpath(path, link.parent))
    print(f"{out}: {', '.join(leaves(recipe))}; `tensorboard --logdir {out}` shows them", flush=True)
    if missing:
        print(f"  not here yet, or trained elsewhere: {', '.join(missing)}", flush=True)


def leaves(recipe: Recipe) -> list[str]:
    """Phases from which no other starts."""
    parents = {phase.init for phase in recipe.phases.values()}
    return [name for name in recipe.phases if name not in parents]


def _events(artifacts: Path, phase: str) -> list[Path]:
    """The event files of a phase: of the process that trains it now, else of the artifact that is there."""
    alive = [b["digest"] for b in heartbeat.read_all(artifacts) if b["alive"] and (b["step"], b["name"]) == ("train", phase)]
    if not alive:
        try:
            alive = [Manifest.read(artifacts / "train" / phase).digest]
        except Refused:
            return []
    return sorted((artifacts / ".runs" / alive[0] / "tensorboard" / phase).absolute().glob("*tfevents*"))
