"""What the nights came to: runs that failed, are late or never came, and who serves the schedules of this machine."""

import socket
from collections.abc import Container, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from cnn.text import shorten
from flows.runs.lost_runs import BEGIN_SECONDS
from flows.serving.missed import find_missed
from flows.serving.record import SeenRecord
from flows.serving.timetable import describe_moment, find_local_zone
from flows.upkeep.disk import describe_bytes, read_disks
from flows.upkeep.findings import Finding
from flows.upkeep.scheduled_work import BAD, RunFacts, ScheduledWork

NO_START_SAID = "could not start"  # in Prefect's words, by a worker that cannot make the files of a run


def describe_work(work: ScheduledWork, since: datetime) -> dict[str, Any]:
    """A deployment's runs since a moment, as JSON has them."""
    counts, last = work.count_outcomes(since), work.last_ended
    counts["waiting"] += counts["starting"]
    return {
        "name": work.title,
        "model": work.model,
        "is_active": work.is_active,
        **{
            outcome: counts[outcome]
            for outcome in ("ended", "failed", "crashed", "cancelled", "skipped", "running", "waiting")
        },
        "last": None if last is None else describe_run(last),
        "next": None if work.planned is None else work.planned.astimezone(UTC).isoformat(timespec="seconds"),
    }


def describe_run(run: RunFacts) -> dict[str, Any]:
    """A run as JSON has it."""
    began = None if run.began is None else run.began.astimezone(UTC).isoformat(timespec="seconds")
    return {
        "id": run.id,
        "outcome": run.outcome,
        "began": began,
        "seconds": round(run.seconds, 1),
        "message": shorten(run.message, 300),
    }


def find_bad_runs(
    works: Sequence[ScheduledWork], served: Iterable[SeenRecord], since: datetime, patience: timedelta
) -> Iterator[Finding]:
    """Of each deployment: that its schedule had no run, that one is late, that the last one ended badly.

    What nobody serves any more is late as well, and is told by `find_unserved` alone.
    """
    seen = list(served)
    dead = {title for each in seen if not each.is_alive for title in each.record.timings}
    alive = {title for each in seen if each.is_alive for title in each.record.timings}
    for work in works:
        if work.title not in dead:
            yield from find_untimely(work, works, patience, alive)
        last = work.last_ended
        if last is not None and last.outcome in BAD and last.moment >= since:
            said = f": {shorten(last.message, 300).rstrip('.')}" if last.message else ""
            what = f"{work.title} {last.outcome} {show_time(last.moment)}{said}"
            yield Finding(last.outcome, what, find_way_for_bad(work, last), work.model, last.id)


def find_way_for_bad(work: ScheduledWork, run: RunFacts) -> str:
    """What mends a run that ended badly, or tells more of it."""
    if NO_START_SAID not in run.message:
        return f"prefect flow-run logs {run.id} tells more"
    worker = "safelight serve" if work.pool is None else f"the worker of the pool {work.pool}"
    disks = ", ".join(f"{describe_bytes(disk.free)} on {disk.mount}" for disk in read_disks(find_workspace(work)))
    return (
        f"most likely the disk of the machine with {worker} is full: `df -h` there, safelight gc frees a workspace;"
        f" this machine, {socket.gethostname()}, has {disks} free"
    )


def find_workspace(work: ScheduledWork) -> str:
    """The workspace of a deployment; where it is relative, the one of that name here."""
    return str(work.parameters.get("workspace") or "./workspace")


def find_untimely(
    work: ScheduledWork, works: Iterable[ScheduledWork], patience: timedelta, served: Container[str] = ()
) -> Iterator[Finding]:
    """That the schedule of a deployment had no run when it was due, or that one has not begun; `served` holds the
    titles of what `safelight serve` looks after at the moment. What it looked after until it ended is left out, though
    runs of it wait still: it may have been started again without."""
    if work.is_active and work.is_missing and work.last_due is not None:
        what = f"{work.title} was due {show_time(work.last_due)}, and there is no run at all"
        mend = "restart Prefect's server, whose scheduler makes the runs; its log tells why it did not"
        yield Finding("missing", what, mend, work.model, work.id)
    elif (work.is_active or work.pool is not None) and (late := work.find_late(patience)) is not None:
        what = f"{work.title} was due {show_time(late.moment)} and has not begun"
        mend = describe_submission(work) if late.outcome == "starting" else find_way_for_late(work, works, served)
        yield Finding("late", what, mend, work.model, work.id)


def describe_submission(work: ScheduledWork) -> str:
    """What to look after where a worker has taken a run up, and it does not begin."""
    minutes = f"{BEGIN_SECONDS / 60:.0f} minutes"
    where = "safelight serve" if work.pool is None else f"a worker of the pool {work.pool}"
    return f"{where} has taken it up: look whether its machine runs; Prefect's server ends the run after {minutes}"


def find_way_for_late(late: ScheduledWork, works: Iterable[ScheduledWork], served: Container[str] = ()) -> str:
    """What most likely keeps a run from beginning; where one process runs both, it is certain."""
    for other in works:
        for run in other.runs:
            if run.outcome == "running":
                if late.title in served and other.title in served:
                    return f"it waits until {other.title}, which began {show_time(run.moment)}, has ended"
                return f"it waits for {other.title}, which began {show_time(run.moment)}, or nobody takes it up"
    if late.pool is not None:
        return f"start a worker: prefect worker start --pool {late.pool}"
    return f"start safelight serve --name {late.name} again, or look at what it prints"


def find_unserved(served: Sequence[SeenRecord], patience: timedelta) -> Iterator[Finding]:
    """What was due since `safelight serve` ended, where nobody serves it any more."""
    for each in served:
        if each.is_alive:
            continue
        missed = find_missed(each, datetime.now(UTC) - patience)
        if missed:
            times = (f"{title} was due {show_times(due, count)}" for title, due, count in missed)
            name = each.record.name
            what = f"nobody has served {name} since {show_time(each.seen)}: {', '.join(times)}"
            mend = f"start safelight serve --name {name} again; where it is not wanted any more, delete {each.folder}"
            yield Finding("missing", what, mend, name, f"unserved {each.seen}")


def show_times(first: datetime, count: int) -> str:
    """When something was due for the first time, and how often since."""
    return show_time(first) if count == 1 else f"{count} times since {show_time(first)}"


def show_time(moment: datetime) -> str:
    """A moment for people, in this machine's time zone."""
    return describe_moment(moment, datetime.now(ZoneInfo(find_local_zone())))
