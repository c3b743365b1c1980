"""What the sections of a recipe must know of each other: checked when it is loaded, before anything is spent."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from mmenc import cluster
from mmenc.errors import Refused, nearest
from mmenc.recipe import Recipe
from mmenc.sections import Masking, Phase, Top
from mmenc.train.schedule import schedules

RESERVED = ("init", "merge")
Refuse = Callable[[str, str], NoReturn]


def check(recipe: Recipe, where: str) -> None:
    """Raise Refused with one sentence at the first contradiction."""

    def refuse(path: str, message: str) -> NoReturn:
        raise Refused(f"{where}: {path}: {message}")

    _waves(recipe, refuse)
    _tree(recipe, refuse)
    for name, phase in recipe.phases.items():
        _phase(recipe, name, phase, refuse)
    _merge(recipe, refuse)
    _release(recipe, refuse)
    cluster.check(recipe, refuse)
    model = recipe.model
    if model.hidden % model.heads or (model.hidden // model.heads) % 2:
        refuse("model.heads", f"{model.heads} heads do not divide hidden {model.hidden} into even head sizes")
    if (model.layers - 1) % model.global_every:
        refuse(
            "model.layers",
            f"{model.layers} layers with a global one every {model.global_every} do not end on a global layer; "
            f"expected 1 + a multiple of {model.global_every}",
        )
    if recipe.tokenizer.vocab_size < 512:
        refuse("tokenizer.vocab_size", f"{recipe.tokenizer.vocab_size} is too small: 256 bytes and the special tokens need 512")
    if recipe.tokenizer.extend and recipe.tokenizer.source == "train":
        refuse("tokenizer.extend", "there is nothing to extend: tokenizer.source is 'train'; expected the directory of a release")
    if recipe.tokenizer.extend and recipe.tokenizer.extend.entries >= recipe.tokenizer.vocab_size:
        refuse("tokenizer.extend.entries", f"{recipe.tokenizer.extend.entries} new of {recipe.tokenizer.vocab_size} in all")


def _waves(recipe: Recipe, refuse: Refuse) -> None:
    """Each set of `languages` contains the one before it (what cannot be known before counting is checked later)."""
    before: tuple[str, object] | None = None
    for name, wave in recipe.languages.items():
        if isinstance(wave, list) and len(set(wave)) != len(wave):
            refuse(f"languages.{name}", f"{next(t for t in wave if wave.count(t) > 1)} is listed twice")
        if before is not None:
            old_name, old = before
            lost = _lost(old, wave)
            if lost:
                refuse(f"languages.{name}", f"drops {lost}, which {old_name} before it has; each set contains the one before")
        before = (name, wave)


def _lost(old: object, new: object) -> str:
    """What the set `old` has and `new` has not, as far as it can be told without counts; empty if nothing."""
    if new == "all":
        return ""
    if isinstance(old, list) and isinstance(new, list):
        return next((t for t in old if t not in new), "")
    if old == "all":
        return "languages of 'all'"
    size = old.top if isinstance(old, Top) else len(old) if isinstance(old, list) else 0
    room = new.top if isinstance(new, Top) else len(new) if isinstance(new, list) else 0
    return f"{size - room} of {size} languages" if size > room else ""


def _tree(recipe: Recipe, refuse: Refuse) -> None:
    names = recipe.phases.keys()
    for name, phase in recipe.phases.items():
        if name in RESERVED:
            refuse(f"phases.{name}", f"the name {name!r} is reserved")
        if phase.init != "init" and phase.init not in names:
            refuse(f"phases.{name}.init", f"no phase is called {phase.init!r}{nearest(phase.init, [*names, 'init'])}")
        if phase.languages not in recipe.languages:
            refuse(
                f"phases.{name}.languages",
                f"no language set is called {phase.languages!r}{nearest(phase.languages, recipe.languages)}",
            )
    for name in names:
        seen = [name]
        while (parent := recipe.phases[seen[-1]].init) != "init":
            if parent in seen:
                refuse(f"phases.{name}.init", f"the phases form a cycle: {' -> '.join([*seen, parent])}")
            seen.append(parent)
    roots = [n for n, p in recipe.phases.items() if p.init == "init"]
    if len(roots) != 1:
        refuse("phases", f"{len(roots)} phases start from init ({', '.join(roots)}); expected one root")


def _phase(recipe: Recipe, name: str, phase: Phase, refuse: Refuse) -> None:
    here = f"phases.{name}"
    if phase.context % recipe.model.window:
        refuse(f"{here}.context", f"{phase.context} is not a multiple of model.window {recipe.model.window}")
    if phase.batch_tokens % phase.context:
        refuse(f"{here}.batch_tokens", f"{phase.batch_tokens} is not a multiple of the context {phase.context}")
    if phase.batch_tokens > phase.tokens:
        refuse(f"{here}.batch_tokens", f"one batch of {phase.batch_tokens} is more than the phase's {phase.tokens} tokens")
    if phase.min_piece > phase.context // 2:
        refuse(f"{here}.min_piece", f"{phase.min_piece} is more than half of the context {phase.context}")
    if phase.batch_warmup and not phase.context <= phase.batch_warmup.start <= phase.batch_tokens:
        refuse(f"{here}.batch_warmup.start", f"{phase.batch_warmup.start} is not between context and batch_tokens")
    if phase.batch_warmup and phase.batch_warmup.start % phase.context:
        refuse(f"{here}.batch_warmup.start", f"{phase.batch_warmup.start} is not a multiple of the context {phase.context}")
    if phase.batch_warmup and phase.batch_warmup.increment % phase.context:
        found = phase.batch_warmup.increment
        refuse(f"{here}.batch_warmup.increment", f"{found} is not a multiple of the context {phase.context}")
    _masking(f"{here}.masking", phase.masking, refuse)
    _changes(here, phase, refuse)
    fixed = sum(b.share for b in phase.buckets.values())
    if fixed >= 1:
        refuse(f"{here}.buckets", f"shares add up to {fixed:g}; expected below 1, the rest goes to the languages")
    if phase.init == "init":
        return
    parent = recipe.phases[phase.init]
    order = list(recipe.languages)
    if order.index(phase.languages) < order.index(parent.languages):
        refuse(
            f"{here}.languages",
            f"{phase.languages!r} drops languages of its parent {phase.init} ({parent.languages!r}); languages only grow",
        )
    if phase.context < parent.context:
        refuse(f"{here}.context", f"{phase.context} is shorter than the {parent.context} of its parent {phase.init}")


def _masking(here: str, masking: Masking, refuse: Refuse) -> None:
    total = masking.mask + masking.random + masking.keep
    if abs(total - 1) > 1e-9:
        refuse(here, f"mask, random and keep add up to {total:g}; expected 1")


def _changes(here: str, phase: Phase, refuse: Refuse) -> None:
    """Changes come in order, within the phase, and each says something."""
    before = 0
    for i, change in enumerate(phase.changes):
        path = f"{here}.changes.{i}"
        if not before < change.after < phase.tokens:
            least = f"more than the {before} of the change before it" if before else "more than 0"
            refuse(f"{path}.after", f"{change.after} tokens; expected {least} and less than the phase's {phase.tokens}")
        before = change.after
        if not change.model_fields_set - {"after"}:
            refuse(path, "changes nothing; expected mask, masking, lr or weight_decay")
        if change.masking:
            _masking(f"{path}.masking", change.masking, refuse)
    paths = [f"{here}.lr", *(f"{here}.changes.{i}.lr" for i, c in enumerate(phase.changes) if c.lr)]
    for path, (start, stop, lr) in zip(paths, schedules(phase), strict=True):
        if lr.warmup >= stop - start:
            refuse(f"{path}.warmup", f"{lr.warmup} tokens of warm-up do not fit into {stop - start} tokens")


def _merge(recipe: Recipe, refuse: Refuse) -> None:
    merge = recipe.merge
    for path, name in [("merge.base", merge.base), *[("merge.branches", b) for b in merge.branches]]:
        if name not in recipe.phases:
            refuse(path, f"no phase is called {name!r}{nearest(name, recipe.phases)}")
    if merge.method in ("linear", "exponential"):
        if len(merge.branches) != 1:
            refuse("merge.branches", f"{merge.method} weighs the checkpoints of one branch, found {len(merge.branches)} branches")
        if recipe.phases[merge.branches[0]].checkpoints < 1:
            refuse(f"phases.{merge.branches[0]}.checkpoints", f"is 0; {merge.method} weights need at least one")
    if len(set(merge.branches)) != len(merge.branches):
        refuse("merge.branches", "a branch is listed twice")
    for name in merge.branches:
        if recipe.phases[name].init != merge.base and not (name == merge.base and len(merge.branches) == 1):
            refuse("merge.branches", f"{name} starts from {recipe.phases[name].init}, not from the base {merge.base}")


def _release(recipe: Recipe, refuse: Refuse) -> None:
    release = recipe.release
    if release.waivers and not release.previous:
        refuse("release.waivers", "there is no last release to be worse than; name it in release.previous, or remove the waivers")
    named = [w.language for w in release.waivers]
    if twice := next((t for t in named if named.count(t) > 1), ""):
        refuse("release.waivers", f"{twice} is waived twice; one reason is enough")
