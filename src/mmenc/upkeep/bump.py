"""`python -m mmenc.upkeep.bump STEP`: raise a step's version where it stands: the table, dvc.yaml and the Kubeflow face.

Decision: the number stands in three files because DVC and Kubeflow each decide by their own text whether to run a step again; a
test holds them equal, and this writes them together, so that a change of a step's result is one command beside the change.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mmenc.errors import Refused
from mmenc.steps import find


def bump(name: str, root: Path) -> dict[Path, str]:
    """The new text of every file that names the step's version."""
    step = find(name)
    new = step.version + 1
    patterns = {
        root / "src" / "mmenc" / "steps.py": rf'("{re.escape(step.function)}",\s+){step.version}(?=,)',
        root / "dvc.yaml": rf"(\bmmenc run {step.name}@){step.version}\b",
        **dict.fromkeys(sorted((root / "components").glob("*.py")), rf'(run_step\("{step.name}", ){step.version}(?=,)'),
    }
    texts = {path: path.read_text(encoding="utf-8") for path in patterns}
    changed = {path: re.sub(pattern, rf"\g<1>{new}", texts[path]) for path, pattern in patterns.items()}
    found = {path: text for path, text in changed.items() if text != texts[path]}
    if len(found) != 3:
        raise Refused(f"{name}: its version {step.version} was found in {len(found)} files, expected 3; change them by hand")
    return found


if __name__ == "__main__":
    try:
        for path, text in bump(sys.argv[1], Path.cwd()).items():
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(Path.cwd()))
    except (Refused, IndexError) as error:
        sys.exit(f"usage: python -m mmenc.upkeep.bump STEP ({error})")
