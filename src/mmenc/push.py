"""`mmenc push DIR TARGET`: publish a release with the records of every run that it descends from.

Decisions: the artifact is verified first and goes as it is; what is added lies under `lineage/`: `runs/<digest>.json` (time,
host, versions and memory of each ancestor's run) and `push.json` (git revisions, hours, energy, cost, the hash of every file). A
target holds a release when it has a `manifest.json`, so this is written last and, when another release is replaced, removed
first: who reads meanwhile finds a whole release or none. On a hub everything is one commit. Pushing again does nothing; another
release at the target is refused without `--replace`.

Energy is hours × accelerators × `compute.watts`, cost hours × accelerators × `compute.price_per_hour`, both of the run's
record; where the recipe trains on accelerators only training counts, since the other steps do not run on them.
A watt or price of 0 is unknown, not free. What is not known is missing, never guessed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmenc.artifact import Artifact, Json, payload, read_json, sha256_file, write_json
from mmenc.errors import Refused
from mmenc.store import Store, is_remote

PUSH, MANIFEST = "lineage/push.json", "manifest.json"
SCHEMA = 1
PUBLISHED = ("device", "threads", "accelerator", "accelerators", "nodes", "watts", "price_per_hour", "currency")
"""Of a run's `compute`: what energy and cost need; addresses, stores and clusters are nobody else's business."""


@dataclass(frozen=True)
class Bundle:
    """What goes out: every file by its path at the target."""

    name: str
    digest: str
    content: str
    files: Mapping[str, Path]
    """Without manifest.json, which is written last."""
    manifest: Path
    record: Json
    """`lineage/push.json`."""


def used(record: Json) -> Json:
    """Hours, energy and cost of one run, as far as its record tells."""
    compute, hours = record["compute"], record["seconds"] / 3600
    cuda = compute.get("device") == "cuda"
    if cuda and record["step"] != "train":
        return {"hours": hours}
    accelerators = compute.get("accelerators", 1) * compute.get("nodes", 1) if cuda else 1
    found: Json = {"hours": hours, "accelerator_hours": hours * accelerators}
    if compute.get("watts"):
        found["kwh"] = found["accelerator_hours"] * compute["watts"] / 1000
    if compute.get("price_per_hour"):
        found["cost"] = found["accelerator_hours"] * compute["price_per_hour"]
    return found


def add_up(records: Mapping[str, Json]) -> Json:
    """Sums over all runs; a figure that some run lacks says how many have it."""
    rows = {digest: used(r) for digest, r in sorted(records.items())}
    total: Json = {}
    for key in ("hours", "accelerator_hours", "kwh", "cost"):
        known = [row[key] for row in rows.values() if key in row]
        if known:
            total[key] = {"sum": round(sum(known), 6), "of_runs": len(known)}
    currencies = sorted({r["compute"]["currency"] for r in records.values() if r["compute"].get("currency")})
    if "cost" in total:
        total["cost"]["currency"] = ", ".join(currencies)
    return total


def run_records(artifact: Artifact, runs: str) -> tuple[dict[str, Json], list[str]]:
    """Records of the artifact and its ancestors that made these very results, and the digests that have none."""
    store = Store(runs)
    found: dict[str, Json] = {}
    for digest, node in sorted({**artifact.lineage, artifact.manifest.digest: artifact.manifest.json()}.items()):
        record, _ = store.read_json(f"{digest}/run.json")
        if record is not None and record.get("content") == node["content"]:
            found[digest] = record
    known = {**artifact.lineage, artifact.manifest.digest: None}
    return found, sorted(set(known) - set(found))


def checks(directory: Path) -> Json:
    """What loads the release here, beyond the gates that it has passed: `loaded`, or why that was not tried."""
    found: Json = {}
    gates = {g["name"] for g in read_json(directory / MANIFEST)["facts"].get("gates", [])}
    try:
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError:
        found["sentence-transformers"] = (
            "passed as a gate" if any("sentence" in g for g in gates) else "not checked: not installed"
        )
    else:
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        size = SentenceTransformer(str(directory), device="cpu").encode(["one", "two words"], show_progress_bar=False).shape
        hidden = read_json(directory / "config.json")["hidden_size"]
        if size != (2, hidden):
            raise Refused(f"{directory}: sentence-transformers gives embeddings of shape {size}, expected (2, {hidden})")
        found["sentence-transformers"] = "loaded"
    return found


def bundle(directory: Path, runs: str, staging: Path) -> Bundle:
    """Verify a release and gather what goes with it; `staging` gets the files that are made here."""
    artifact = Artifact.read(directory)
    manifest = artifact.manifest
    if manifest.step != "release":
        raise Refused(f"{directory}: is an artifact of the step {manifest.step}; `mmenc push` publishes a release")
    if bad := next(iter(artifact.broken()), None):
        raise Refused(f"{directory / bad[0]}: {bad[1]}; run the step again")
    records, missing = run_records(artifact, runs)
    files = {name: directory / name for name in payload(directory)} | {"lineage.json": directory / "lineage.json"}
    for digest, run in records.items():
        path = staging / "runs" / f"{digest}.json"
        write_json(path, {**run, "compute": {k: v for k, v in run["compute"].items() if k in PUBLISHED}})
        files[f"lineage/runs/{digest}.json"] = path
    hashes = {name: sha256_file(path) for name, path in sorted(files.items())} | {MANIFEST: sha256_file(directory / MANIFEST)}
    record: Json = {
        "schema": SCHEMA,
        "name": manifest.facts["name"],
        "digest": manifest.digest,
        "content": manifest.content,
        "git_revisions": sorted({r["git_revision"] for r in records.values() if r.get("git_revision")}),
        "used": add_up(records),
        "runs_without_record": missing,
        "checks": checks(directory),
        "files": hashes,
    }
    write_json(staging / "push.json", record)
    files[PUSH] = staging / "push.json"
    return Bundle(manifest.facts["name"], manifest.digest, manifest.content, files, directory / MANIFEST, record)


def refuse_other(found: Json | None, made: Bundle, target: str, replace: bool) -> None:
    """Refuse to write over another release."""
    there = None if found is None else (found.get("digest"), found.get("content"))
    if found is None or there == (made.digest, made.content) or replace:
        return
    name, same = (found.get("facts") or {}).get("name", "another release"), found.get("digest") == made.digest
    more = " with other content" if same else ""
    raise Refused(
        f"{target}: holds {name} {str(found.get('digest', ''))[:12]}{more}, this is {made.name} {made.digest[:12]}; "
        f"choose another place, or give --replace"
    )


def push_to_store(made: Bundle, target: str, replace: bool) -> int:
    """Write a bundle to a folder or s3://…; return the number of files that were written."""
    store = Store(target)
    there, _ = store.read_json(MANIFEST)
    refuse_other(there, made, target, replace)
    before, _ = store.read_json(PUSH)
    old: Json = before["files"] if before else {}
    if there is None and before is None and (other := _listed(store)):
        raise Refused(f"{target}: holds {other[0]} and is no release; choose an empty place")
    wanted = made.record["files"]
    size = {name: path.stat().st_size for name, path in made.files.items()}
    # Without a manifest a push was broken off: the list says what was meant, a file of equal size may be the old release's.
    whole = there is not None
    stale = [n for n in made.files if n != PUSH and not (whole and old.get(n) == wanted[n] and store.size(n) == size[n])]
    if there == read_json(made.manifest) and old == wanted and not stale:
        return 0
    leftovers = sorted({*old, *((before or {}).get("replaces", []))} - set(wanted))
    if whole:
        store.remove(MANIFEST)
    # What is meant goes first, with what it replaces: after a broken push the next one knows which files to remove.
    begun = made.files[PUSH].with_name("begun.json")
    write_json(begun, {**made.record, "replaces": leftovers})
    store.put(begun, PUSH)
    store.each(lambda name: store.put(made.files[name], name), stale)
    for name in leftovers:
        store.remove(name)
    store.put(made.files[PUSH], PUSH)
    store.put(made.manifest, MANIFEST)
    return len(stale) + 2


def _listed(store: Store) -> list[str]:
    """A few names at a target."""
    try:
        return [str(p) for p in store.attempt(lambda: store.fs.find(store.root, maxdepth=2))][:1]
    except FileNotFoundError:
        return []


def push_to_hub(made: Bundle, target: str, replace: bool, private: bool) -> str:
    """One commit to a repository of the Hugging Face hub; the token is the library's own affair. Return the commit's address."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    api = HfApi()
    try:
        api.create_repo(target, repo_type="model", private=private, exist_ok=True)
        present = set(api.list_repo_files(target))
        refuse_other(_hub_json(api, target, MANIFEST) if MANIFEST in present else None, made, target, replace)
        before = _hub_json(api, target, PUSH) if PUSH in present else None
        old: Json = before["files"] if before else {}
        if old == made.record["files"] and present >= set(old):
            return ""
        files = {**made.files, MANIFEST: made.manifest}
        changed = {n: p for n, p in files.items() if n == PUSH or n not in present or old.get(n) != made.record["files"][n]}
        ours: list[Any] = [CommitOperationAdd(name, str(path)) for name, path in sorted(changed.items())]
        ours += [CommitOperationDelete(name) for name in sorted((set(old) - set(files)) & present)]
        done = api.create_commit(target, ours, commit_message=f"{made.name} {made.digest[:12]}")
    except HfHubHTTPError as error:
        hint = "; is the token set (`hf auth login`)?" if error.response.status_code in (401, 403) else ""
        raise Refused(f"{target}: the hub refuses: {str(error).splitlines()[0][:200]}{hint}") from None
    return str(done.commit_url)


def _hub_json(api: Any, target: str, name: str) -> Json:
    found: Json = json.loads(Path(api.hf_hub_download(target, name)).read_text(encoding="utf-8"))
    return found


def is_hub(target: str) -> bool:
    """`org/name` is a hub's repository unless such a folder exists; `./org/name` is always a folder."""
    parts = target.split("/")
    return not is_remote(target) and len(parts) == 2 and all(parts) and parts[0] not in (".", "..") and not Path(target).exists()


def describe(made: Bundle) -> list[str]:
    """What the person is told."""
    record = made.record
    total = sum(p.stat().st_size for p in made.files.values()) / 1e6
    lines = [f"{made.name} {made.digest[:12]}: {len(made.files) + 1} files, {total:.1f} MB"]
    words = {"hours": "hours of work", "accelerator_hours": "accelerator-hours", "kwh": "kWh (declared watts)", "cost": "cost"}
    lines += [f"  {words[k]}: {v['sum']:.3g} {v.get('currency', '')}".rstrip() for k, v in record["used"].items()]
    lines += [f"  git revisions: {', '.join(r[:12] for r in record['git_revisions']) or 'not recorded'}"]
    lines += [f"  {name}: {result}" for name, result in record["checks"].items()]
    if record["runs_without_record"]:
        lines.append(f"  {len(record['runs_without_record'])} of its ancestors have no run record here")
    return lines


def push(
    directory: Path, target: str, *, runs: str = "", replace: bool = False, dry_run: bool = False, private: bool = True
) -> None:
    """Publish a release; `runs`: where the records of the runs lie, by default beside the artifacts."""
    with tempfile.TemporaryDirectory(prefix="mmenc-push.") as staging:
        made = bundle(directory, runs or str(directory.absolute().parent / ".runs"), Path(staging))
        hub = is_hub(target)
        print("\n".join(describe(made)), flush=True)
        if dry_run:
            print("\n".join(f"  would write {name}" for name in [*sorted(made.files), MANIFEST]), flush=True)
        elif hub:
            url = push_to_hub(made, target, replace, private)
            print(f"{target}: {url or 'already there'}", flush=True)
        else:
            written = push_to_store(made, target, replace)
            print(f"{target}: {written} files written" if written else f"{target}: already there", flush=True)
