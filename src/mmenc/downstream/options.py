"""What a user may set of an evaluation, and the name of the protocol that it makes.

Decisions: `full` is the paper-like protocol, the default: three seeds, four learning rates, every epoch that a task may have.
`quick` is the one short protocol: three seeds, two rates a factor of ten apart, 100 steps of a run, so that the rate is chosen
by whole runs of the first seed and four runs make a figure. For the default model and all labelled data that this project
has (SIB-200, UDPOS, MasakhaNER, XQuAD, Tatoeba) that is about 1,400 core seconds, a quarter of an hour on two cores
(docs/downstream.md has the sum). Whatever differs from the nearer of the two is named too, in every row: `quick, seeds 1`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from mmenc.data.tags import TAG
from mmenc.errors import Refused, nearest
from mmenc.sections import Tuning

RATES = (2e-5, 8e-5, 3e-4, 1e-3)
"""The ends of mmBERT's grid, then by factors of about four: narrow models need more."""
MODES = ("language", "zero-shot")


@dataclass(frozen=True)
class Options:
    """What a user may set of a whole evaluation; everything here is part of a unit's name or of what it is made of."""

    seeds: int = 3
    rates: tuple[float, ...] = RATES
    steps: int = 0
    """Cap on the steps of a run (0: the task's epochs)."""
    limit: int = 0
    """Examples of a part at most (0: all)."""
    modes: tuple[str, ...] = ()
    """Empty: those of each task's protocol."""
    languages: tuple[str, ...] = ()
    """Only these; empty: all."""
    hub: bool = False
    """Whether the Hugging Face hub is asked for what --data lacks."""

    @classmethod
    def of_recipe(cls, tuning: Tuning) -> Options:
        """From the recipe."""
        modes, languages = tuple(tuning.modes), tuple(tuning.languages)
        return cls(tuning.seeds, tuple(tuning.rates), tuning.steps, tuning.limit, modes, languages)

    @classmethod
    def of(cls, args: Any) -> Options:
        """From the command line; what is not given there (None) is that of `--quick`, or the default."""
        try:
            rates = tuple(float(r) for r in args.rates.split(",")) if args.rates else None
        except ValueError:
            raise Refused(f"--rates: found {args.rates!r}, expected numbers such as 2e-5,8e-5") from None
        modes, languages = (tuple(filter(None, text.split(","))) for text in (args.modes, args.languages))
        if bad := next((m for m in modes if m not in MODES), ""):
            raise Refused(f"--modes: no mode is called {bad!r}{nearest(bad, MODES)}; there are {', '.join(MODES)}")
        if bad := next((t for t in languages if not TAG.match(t)), ""):
            raise Refused(f"--languages: {bad!r} is no tag; expected a language and its script, such as fao_Latn")
        given = {"seeds": args.seeds, "rates": rates, "steps": args.steps}
        given = {k: v for k, v in given.items() if v is not None}
        base = replace(QUICK if args.quick else cls(), limit=args.limit, modes=modes, languages=languages, hub=args.hub)
        found = replace(base, **given)
        if found.seeds < 1 or not all(0 < r < 1 for r in found.rates) or found.limit < 0 or found.steps < 0:
            raise Refused("--seeds, --rates, --limit, --steps: expected positive numbers, of rates such below 1")
        return found

    @property
    def protocol(self) -> str:
        """Its name, and what differs from it; which languages were asked for changes no figure."""
        known = {"full": Options(), "quick": QUICK}
        names = [f.name for f in fields(self) if f.name not in ("languages", "hub")]
        away = {k: [n for n in names if getattr(self, n) != getattr(base, n)] for k, base in known.items()}
        name = min(away, key=lambda k: len(away[k]))
        return ", ".join([name, *(f"{n} {_said(getattr(self, n))}" for n in away[name])])


def _said(value: Any) -> str:
    return "/".join(f"{v:g}" if isinstance(v, float) else v for v in value) if isinstance(value, tuple) else str(value)


QUICK = Options(rates=(2e-4, 2e-3), steps=100)
