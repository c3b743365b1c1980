"""When a recurring run starts: `--cron`, `--every`.

Kubeflow's cron has a field for seconds in front and allows the last one to be missing (robfig/cron 1), so it would read the
usual `0 3 * * 1` as second 0 of minute 3 of every hour in January; five fields therefore get a 0 in front here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import kfp_server_api as models

from mmenc.errors import Refused

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
FIELDS = (("second", 0, 59), ("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 6))
NAMES = {
    "month": ["", *["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]],
    "weekday": ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
}
MOST = 10
"""Runs of one schedule at a time that the API allows."""


@dataclass(frozen=True)
class Schedule:
    """One trigger: a cron line of six fields, or a period."""

    name: str
    cron: str = ""
    seconds: int = 0
    most: int = 1

    def __str__(self) -> str:
        when = (
            f"cron {self.cron!r} (seconds first; UTC unless the cluster says otherwise)"
            if self.cron
            else f"every {self.seconds} s"
        )
        return f"{when}, {self.most} at a time"

    def trigger(self) -> models.V2beta1Trigger:
        """As the API wants it."""
        if self.cron:
            return models.V2beta1Trigger(cron_schedule=models.V2beta1CronSchedule(cron=self.cron))
        return models.V2beta1Trigger(periodic_schedule=models.V2beta1PeriodicSchedule(interval_second=str(self.seconds)))


def duration(text: str, option: str) -> int:
    """Seconds of `90s`, `30m`, `24h`, `7d`."""
    found = re.fullmatch(r"([1-9][0-9]*)([smhd])", text)
    if not found:
        raise Refused(f"{option} {text}: expected a number and s, m, h or d, such as 24h")
    return int(found[1]) * UNITS[found[2]]


def cron(text: str) -> str:
    """Six fields, checked, from five or six."""
    fields = text.lower().split()
    if len(fields) not in (5, 6):
        raise Refused(f"--cron {text!r}: has {len(fields)} fields; expected minute hour day month weekday, such as '0 3 * * 1'")
    fields = ["0", *fields] if len(fields) == 5 else fields
    for value, (name, low, high) in zip(fields, FIELDS, strict=True):
        for part in value.split(","):
            span, slash, step = part.partition("/")
            ends = [] if span in ("*", "?") else span.split("-")
            numbers = [str(NAMES[name].index(e)) if e and e in NAMES.get(name, ()) else e for e in ends]
            fine = all(n.isdecimal() and low <= int(n) <= high for n in numbers) and len(numbers) < 3
            fine = fine and (len(numbers) < 2 or int(numbers[0]) <= int(numbers[1]))
            if not fine or (slash and not (step.isdecimal() and int(step) > 0)):
                raise Refused(f"--cron {text!r}: {part!r} is no {name}; expected {low} to {high}, *, a-b or */n")
    return " ".join(fields)


def schedules(cron_text: str, every: str, most: int, name: str) -> list[Schedule]:
    """One per option that is given; two of them carry their kind in the name."""
    if not 1 <= most <= MOST:
        raise Refused(f"--max-concurrency {most}: expected 1 to {MOST}")
    both = bool(cron_text and every)
    found = [Schedule(f"{name} (cron)" if both else name, cron=cron(cron_text), most=most)] if cron_text else []
    if every:
        found += [Schedule(f"{name} (every)" if both else name, seconds=duration(every, "--every"), most=most)]
    return found
