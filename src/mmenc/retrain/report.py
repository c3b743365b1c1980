"""`mmenc retrain plan`: everything about a change in two files, plan.md for people and plan.json for the workflow.

The workflow goes by plan.env: `runs` (any artifact gets a new digest), `trains` (a phase does), and `release_key`, which names
the release that a revision asks for before it is made, so that a tag finds what a merge has trained. Where `continue` is offered
its recipe lies beside them as continue.yaml. A recipe that is refused is a comment too, and exit code 1.
"""

from __future__ import annotations

from pathlib import Path

from mmenc.artifact import Json, write_json
from mmenc.errors import Refused
from mmenc.recipe import parse
from mmenc.retrain import carry_on, comment, cost, dvc
from mmenc.retrain.changes import between
from mmenc.retrain.released import Missing, Released, read


def describe(
    base: str, head: str, params: str, *, last: str = "", counts: Path | None = None, status: Path | None = None
) -> Json:
    """All that is known of a change; the repository is the one that we stand in."""
    _, after, found = between(Path(), base, head, params)
    recipe = parse(after.recipe, params)
    release: Released | None = None
    found["release"] = last or recipe.release.previous
    if found["release"]:
        try:
            release = read(found["release"])
        except Missing:  # before the first release
            found["release"] += ", where nothing is released yet"
    available = cost.counts(recipe, Path(params), counts, release, found)
    found["runs"] = any(n["new"] for n in found["nodes"].values())
    found["trains"] = any(n["new"] for n in found["nodes"].values() if n["step"] == "train")
    found["release_key"] = after.keys()["release"]
    found["costs"] = cost.costs(recipe, found)
    found["plan"] = cost.plan(recipe, available)
    found["continue"] = carry_on.offer(recipe, found, found["costs"], available, release)
    if status is not None:
        found["dvc"] = dvc.opinion(status, after, found)
    return found


def write_plan(
    base: str, head: str, params: str, out: Path, *, last: str = "", counts: Path | None = None, status: Path | None = None
) -> None:
    """Write plan.md and plan.json."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("continue.yaml", "plan.env"):
        (out / name).unlink(missing_ok=True)
    try:
        found = describe(base, head, params, last=last, counts=counts, status=status)
    except Refused as error:
        (out / "plan.md").write_text(comment.refused(str(error)), encoding="utf-8")
        write_json(out / "plan.json", {"schema": 1, "refused": str(error), "runs": False, "trains": False})
        raise
    words = {key: str(found[key]).lower() for key in ("runs", "trains")} | {"release_key": found["release_key"][:32]}
    (out / "plan.env").write_text("".join(f"{k}={v}\n" for k, v in words.items()), encoding="utf-8")
    text = comment.render(found)
    (out / "plan.md").write_text(text, encoding="utf-8")
    write_json(out / "plan.json", found)
    if found["continue"]["offered"]:
        (out / "continue.yaml").write_text(carry_on.as_text(found["continue"]["recipe"]), encoding="utf-8")
    print(text, flush=True)
    if refused := found["plan"]["refused"]:
        raise Refused(refused)
