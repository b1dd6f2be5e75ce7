"""Which of the runs that are due is started next, and which ones a later run makes superfluous."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

from prefect.client.schemas.objects import FlowRun


def choose_runs(runs: Sequence[FlowRun], begun: Mapping[UUID | None, datetime]) -> tuple[list[FlowRun], list[FlowRun]]:
    """(the runs to start, those that a later one of the same schedule makes superfluous); `begun`: the last beginnings.

    One run does the work of all that its schedule has missed: else a machine that slept over a weekend would score the
    same folder once for each hour of it. What has not run for longest comes first: else a schedule that is always late
    would keep the other ones from ever running.
    """
    now, latest, others, superseded = datetime.now(UTC), dict[UUID | None, FlowRun](), [], []
    for run in sorted(runs, key=due_time):
        if not run.auto_scheduled or due_time(run) > now:
            others.append(run)
            continue
        if run.deployment_id in latest:
            superseded.append(latest[run.deployment_id])
        latest[run.deployment_id] = run
    never = datetime.min.replace(tzinfo=UTC)
    due = sorted(latest.values(), key=lambda run: (begun.get(run.deployment_id, never), due_time(run)))
    asked = [run for run in others if due_time(run) <= now]  # by hand, and whoever did it waits
    return (asked or due)[:1] or others, superseded


def due_time(run: FlowRun) -> datetime:
    """When a run was to begin."""
    due = run.next_scheduled_start_time or run.expected_start_time
    return due if due is not None else datetime.now(UTC)
