"""`mmenc forget`: what holds a document, what can be known of it and what not, and what making everything without it costs.

Decision: it reads and says, it deletes nothing. Three kinds of holding are kept apart: the bytes of the *text* lie there; its
*weights* were trained on it (or start from weights that were); only *figures* (counts, statistics, a vocabulary) may show it. To
block it for good its id goes into `ingest.forget`, which `plan` prints: every step below ingest then runs without it. Everything
read is compared with its hash first: a shard that is lost or damaged must not answer "no such document".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from mmenc.artifact import Artifact, Json, Manifest, sha256_file
from mmenc.data.tokens import open_split
from mmenc.errors import Refused
from mmenc.external import Cache
from mmenc.forget.holdings import holdings
from mmenc.forget.reading import Chain, in_phase, in_tokens, split_and_sample
from mmenc.forget.rebuild import plan
from mmenc.forget.trace import Document, Wanted, find, trace_clean

SHOWN = 20
OUTSIDE = (
    "raw files, DVC's cache and remotes, old versions in buckets, .cache and .resume beside the artifacts, what was pushed",
    "copies in other languages, and near copies that cleaning did not find",
    "how much of the document a model could repeat: weights that read it hold it, nobody can say how much",
)
"""What no artifact knows."""


def collect(root: Path, cache: Cache) -> tuple[Chain, list[str]]:
    """Artifacts below a root that descend from the ingest there; and those that do not."""
    if not (root / "ingest" / "manifest.json").is_file():
        raise Refused(f"{root}: has no artifact ingest; documents are looked up in its shards (--artifacts DIR)")
    folders = [p.parent for p in sorted(root.rglob("manifest.json"))]
    shown = [f for f in folders if not any(part.startswith(".") for part in f.relative_to(root).parts)]
    found = [Artifact.read(folder, verify=False, cache=cache) for folder in shown]
    ingest = Manifest.read(root / "ingest")
    mine, others = {}, []
    for artifact in found:
        m = artifact.manifest
        same = m.digest == ingest.digest or artifact.lineage.get(ingest.digest, {}).get("content") == ingest.content
        if same:
            mine[m.digest] = artifact
        else:
            others.append(f"{artifact.path}: descends from another ingest and was not searched")
    return mine, others


READ = {"train": ("state.json",), "mixture": ("mixture.json",)}
"""Files that are read of steps with large ones; of all that is listed in DATA every file."""
DATA = ("ingest", "clean", "tokenizer", "tokenize")


def _intact(chain: Chain) -> None:
    """Refused with the first file that is missing or is not what its manifest says, of those that the answer rests on."""
    for artifact in chain.values():
        m = artifact.manifest
        listed = READ.get(m.step, ())
        rows = artifact.broken() if m.step in DATA else _differing(artifact, listed)
        if broken := next(iter(rows), None):
            raise Refused(f"{artifact.path / broken[0]}: {broken[1]}; what it holds cannot be known, make it again")


def _differing(artifact: Artifact, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name in names:
        path = artifact.path / name
        if not path.is_file():
            yield name, "is missing"
        elif sha256_file(path) != artifact.manifest.files.get(name):
            yield name, "was changed or cut"


def _only(chain: Chain, step: str) -> Artifact | None:
    return next((a for a in chain.values() if a.manifest.step == step), None)


def investigate(root: Path, wanted: Wanted, params: Path) -> Json:
    """Everything that can be found out."""
    cache = Cache(root / ".cache")
    try:
        chain, unknown = collect(root, cache)
        _intact(chain)
        ingest = _only(chain, "ingest")
        assert ingest is not None
        raw = ingest.local("shards/*/*")
        found = find(raw, wanted)
        lost = sorted(wanted.ids - {d.id for d in found})
        unknown += [f"{name}: no document of ingest has this id" for name in lost]
        unknown += _follow(chain, raw, found)
        ids = sorted({d.id for d in found})
        return {
            "schema": 1,
            "documents": [{k: v for k, v in asdict(d).items() if k != "text"} for d in found],
            "artifacts": holdings(chain, found, ids),
            "not_known": [*unknown, *OUTSIDE],
            "forget": ids,
            "plan": plan(root, chain, ids, params) if found else {},
        }
    finally:
        cache.close()


def _follow(chain: Chain, raw: Path, found: list[Document]) -> list[str]:
    """Trace documents from step to step as far as the artifacts are there; what could not be."""
    clean, tokenizer, tokens = (_only(chain, step) for step in ("clean", "tokenizer", "tokenize"))
    if clean is None or not found:
        return [] if not found else ["what came after ingest: there is no clean artifact of it"]
    text = clean.local("shards/*/*", "rejected/*/*")
    trace_clean(raw, text, found)
    split_and_sample(text, tokenizer, found)
    if tokens is None or tokenizer is None:
        return ["token shards and phases: there is no tokenize artifact of this ingest"]
    view = tokens.local()
    in_tokens(view, tokenizer.path, found)
    train = open_split(view, "train")
    problems = [in_phase(a, chain, train, found) for a in chain.values() if a.manifest.step == "train"]
    return [p for p in problems if p]


def show(ids: list[str], source: str, url: str, artifacts: Path, params: Path, *, as_json: bool) -> None:
    """Print what is found out; Refused (exit 1) when nothing matches."""
    if not (ids or source or url):
        raise Refused("forget: expected ids of documents, --source NAME or --url URL")
    data = investigate(artifacts, Wanted(frozenset(ids), source, url), params)
    if as_json:
        json.dump(data, sys.stdout, ensure_ascii=False, indent=1)
        print()
    elif data["documents"]:
        print("\n".join(_text(data)))
    if not data["documents"]:
        raise Refused(f"{artifacts}: no document of ingest has {', '.join([*ids, source, url]).strip(', ')}")


def _text(data: Json) -> list[str]:
    out = [f"{len(data['documents'])} documents, {sum(d['bytes'] for d in data['documents']):,} bytes"]
    for d in data["documents"][:SHOWN]:
        state = f"kept, {d['split']}" if d["kept"] else f"rejected: {d['rejected']}" if d["rejected"] else "not followed"
        sample = {True: ", in the tokenizer's sample", False: ", not in the tokenizer's sample", None: ""}[d["in_sample"]]
        read = ", ".join(f"{name} {n} tokens" for name, n in d["phases"].items()) or "no phase read it"
        out.append(f"  {d['id']}  {d['language']}  {state}{sample}; {read}")
        out += [f"     copy: {c['id']} {c['relation']}" for c in d["copies"]]
    if len(data["documents"]) > SHOWN:
        out.append(f"  … and {len(data['documents']) - SHOWN} more; --json lists all")
    out += ["", "held by"]
    wide = max(len(a["artifact"]) for a in data["artifacts"])
    out += [f"  {a['artifact']:{wide}}  {a['holds']:8} {a['why']}" for a in data["artifacts"]]
    out += ["", "not known", *(f"  {line}" for line in data["not_known"])]
    return out + _plan_lines(data)


def _plan_lines(data: Json) -> list[str]:
    made, ids = data["plan"], data["forget"]
    hours = (
        f"{made['gpu_hours']:,.2f} GPU hours of training, {made['cost']:,.2f} {made['currency']}"
        if made["gpu_hours"] is not None
        else ""
    )
    cost = hours or f"no cost: {made['no_cost']}"
    out = ["", f"to make everything without it: {len(made['steps'])} steps get new digests, {made['seconds'] / 60:.1f} minutes "]
    out[-1] += f"when they last ran ({made['steps_without_time']} without a record); {cost}"
    out += [f"  {s['step']:24} {s['digest'][:12]} -> {s['new_digest'][:12]}" for s in made["steps"]]
    copies = sorted({c["id"] for d in data["documents"] for c in d["copies"]} - set(ids))
    out += [
        "",
        "to block it for good, in params.yaml (then `make run`; also remove it from the raw files):",
        "ingest:",
        "  forget:",
    ]
    out += [f"    - {json.dumps(name, ensure_ascii=False)}" for name in ids]
    if copies:
        out.append("    # its copies, one of which takes its place otherwise:")
        out += [f"    - {json.dumps(name, ensure_ascii=False)}" for name in copies]
    return out
