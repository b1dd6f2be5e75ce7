"""The verdict on nights: a line for each, then how many ended, were told of, or neither, and what grew."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from accidents import Accident

GROWTH = 1.3  # of memory and disk from the first third of the nights to the last, at most
VERDICTS = ("ended", "told", "works", "neither", "unseen")


@dataclass
class Night:
    """One night: when its run was due, what broke, and what became of it."""

    number: int
    due: datetime
    accident: Accident | None
    outcome: str = ""
    verdict: str = "unseen"  # ended, told, works (it had not ended yet), neither; unseen where nobody could look
    said: str = ""
    told: str = ""
    memory: int = 0
    disk: int = 0


def check_growth(nights: list[Night]) -> list[str]:
    """Faults: memory or disk grew from night to night (the new pictures are a hundredth of it)."""
    third = len(nights) // 3
    if third < 3:
        return []
    faults = []
    for name in ("memory", "disk"):
        early, late = (
            statistics.median(getattr(night, name) for night in part)
            for part in (nights[third : 2 * third], nights[-third:])
        )
        if late > GROWTH * early:
            faults.append(f"{name} grew from {early / 1e6:,.0f} to {late / 1e6:,.0f} MB")
    return faults


def print_night(night: Night, took: str, records: int) -> None:
    """One line."""
    sizes = (
        f"{night.memory / 1e6:6,.0f} MB memory {night.disk / 1e6:5,.0f} MB disk, {records} ledgers and batches add up"
    )
    broke = f"; {night.accident.name}" if night.accident else ""
    said = f"; {night.said[:110]}" if night.said and night.outcome not in ("Completed",) else ""
    told = f"; {night.told[:150]}" if night.told else ""
    came = f"night {night.number:2} {night.due:%H:%M:%S} {night.verdict:7} {night.outcome:10}"
    print(f"{came} {took:>5} {sizes}{broke}{said}{told}", flush=True)


def print_summary(
    nights: Sequence[Night], ends: Mapping[str, Sequence[str]], files: Iterable[str], notifications: int
) -> None:
    """What the nights came to; `ends` are the states of the runs of each flow."""
    counts, outcomes = Counter(night.verdict for night in nights), Counter(night.outcome for night in nights)
    print(f"\n{len(nights)} nights: " + ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS))
    print("two ticks later: " + ", ".join(f"{count} {name or 'unseen'}" for name, count in outcomes.most_common()))
    for flow, states in ends.items():
        print(f"{flow}: " + ", ".join(f"{count} {name}" for name, count in Counter(states).most_common()))
    names = list(files)
    ledgers = sum(name.endswith("manifest.json") for name in names)
    print(f"{ledgers} ledgers and {len(names) - ledgers} batches add up; {notifications} notifications")
    third = max(1, len(nights) // 3)
    for name in ("memory", "disk") if nights else ():
        early, late = (statistics.median(getattr(n, name) for n in part) for part in (nights[:third], nights[-third:]))
        print(f"{name}: {early / 1e6:,.0f} MB in the first third, {late / 1e6:,.0f} MB in the last", flush=True)


def print_faults(faults: Sequence[str], of: str) -> None:
    """What does not hold, and the verdict."""
    for fault in faults:
        print(f"NOT WELL: {fault}")
    print(f"verdict {of}: {f'{len(faults)} faults' if faults else 'all is well'}", flush=True)
