"""What `make run` does around `dvc repro`: check the recipe, fetch the default corpus, tidy up; and the closing screen."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from mmenc.artifact import clear_stale, read_json
from mmenc.errors import Refused
from mmenc.recipe import load

ARTIFACTS = Path("artifacts")
DEFAULT_DATA = Path("data")
LOCK = Path("dvc.lock")


def prepare(params: Path) -> None:
    """Leave everything ready for `dvc repro`; removes instances that the recipe no longer names."""
    recipe = load(params)
    root = Path(recipe.ingest.root)
    if not root.exists():
        if root != DEFAULT_DATA:
            raise Refused(
                f"{params}: ingest.root is {str(root)!r}, there is no such directory; expected one folder per language in it"
            )
        from mmenc.data.sample import write_sample

        write_sample(root)
    for kind in ("train", "mixture", "evaluate"):
        folder = ARTIFACTS / kind
        if folder.is_dir():
            clear_stale(folder)
            for instance in folder.iterdir():
                if instance.is_dir() and instance.name not in {*recipe.phases, "init", "merge"}:
                    print(f"removing {instance}: the recipe no longer names it")
                    shutil.rmtree(instance)
    if ARTIFACTS.is_dir():
        clear_stale(ARTIFACTS)
    _set_cut_lock_aside()


def _set_cut_lock_aside() -> None:
    """DVC writes dvc.lock in place, a tenth of a second for each stage: killed then, it cannot read its own file any more."""
    if not LOCK.exists():
        return
    try:
        plain = yaml.safe_load(LOCK.read_text(encoding="utf-8"))
        whole = "schema" in plain and all("cmd" in stage for stage in plain.get("stages", {}).values())
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, AttributeError):
        whole = False
    if not whole:
        aside = LOCK.replace(LOCK.with_suffix(".lock.broken"))
        print(f"{LOCK}: was cut while DVC wrote it, set aside as {aside}; finished steps are found again by their digests")


def closing_screen(params: Path) -> None:
    """One screen: the figures that count, and where the report and the model are."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table

    recipe = load(params)
    release = ARTIFACTS / "release"
    if not (ARTIFACTS / "report").is_dir() or not (release / "manifest.json").is_file():
        raise Refused(f"{release}: nothing is released here yet; `make run` goes there")
    facts = read_json(ARTIFACTS / "evaluate" / "merge" / "manifest.json")["facts"]
    tiers, chance = facts["tiers"], facts["retrieval"]["chance"]
    retrieval = f"retrieval (chance {100 * chance:.0f} %)" if chance else "retrieval"
    table = Table("tier", title=f"{recipe.release.name} on held-out text", title_justify="left", box=None)
    for name in ("bits per byte", "unigram's", "masked right", retrieval):
        table.add_column(name, justify="right")
    for tier, models in tiers.items():
        mine, base = models.get("merge", {}), models.get("unigram", {})
        found = mine.get("retrieval.accuracy")
        table.add_row(
            tier,
            f"{mine['mlm.bits_per_byte']:.3f}" if "mlm.bits_per_byte" in mine else "-",
            f"{base['mlm.bits_per_byte']:.3f}" if "mlm.bits_per_byte" in base else "-",
            f"{100 * mine['mlm.accuracy']:.1f} %" if "mlm.accuracy" in mine else "-",
            f"{100 * found:.1f} %" if found is not None else "-",
        )
    runs = [ARTIFACTS / ".runs" / read_json(path)["digest"] / "run.json" for path in ARTIFACTS.rglob("manifest.json")]
    seconds = sum(float(read_json(run)["seconds"]) for run in runs if run.is_file())
    console = Console()
    console.print(table)
    lines = [
        f"[bold]report[/bold]   {ARTIFACTS / 'report' / 'report.html'} (open it in a browser)",
        f"[bold]model[/bold]    {release} (for transformers, sentence-transformers)",
        f"[bold]lineage[/bold]  .venv/bin/mmenc lineage {release}",
        f"[bold]time[/bold]     {seconds / 60:.1f} minutes of work in all steps",
    ]
    console.print(Panel("\n".join(lines), title="done", title_align="left", width=78))
