"""Examine machine and servers, and say what mends what is wrong (`safelight doctor`)."""

from collections.abc import Iterable, Iterator
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException

from cnn.errors import SafelightError
from cnn.text import shorten
from flows.serving.record import list_served
from flows.upkeep.disk import check_rights, describe_bytes, read_disks
from flows.upkeep.exposure import find_exposed, find_plain, list_open_ports
from flows.upkeep.findings import Finding, list_findings
from flows.upkeep.moved import check_artifact_addresses, mend_artifact_addresses
from flows.upkeep.nights import find_bad_runs, find_unserved
from flows.upkeep.reach import Reached, describe_versions, reach_servers
from flows.upkeep.scheduled_work import ScheduledWork
from flows.upkeep.served_versions import check_served_versions
from flows.upkeep.status import Asked, is_about, read_works
from flows.upkeep.zombies import end_zombies
from infra.storage.store import open_store
from infra.storage.workspace import read_store_clock

TIMELY = ("missing", "late")  # of what is found of runs: the rest is what `safelight status` tells
DAY = 86_400.0


def examine(asked: Asked, repair: bool) -> dict[str, Any]:
    """The answer of `safelight doctor`; `ok` is false where anything was found that is not mended now."""
    repaired = list(mend_what_can_be(asked)) if repair else []
    found = [describe_versions(), *reach_servers(asked.workspace), *check_schedules(asked)]
    found += [check_disks(asked.workspace), check_artifact_addresses(asked.workspace)]
    found += [check_served_versions(asked.workspace)]
    found += [
        collect("permissions", "folders can be written, and others cannot change them", check_rights(asked.workspace))
    ]
    found += [
        collect("exposure", "no server is open to other machines", [*find_exposed(list_open_ports()), *find_plain()])
    ]
    findings = list_findings(finding for each in found for finding in each.findings)
    checks = [{"check": each.check, "ok": not each.findings, "said": each.said} for each in found]
    return {"ok": not findings, "checks": checks, "findings": findings, "repaired": repaired}


def collect(check: str, good: str, findings: Iterable[Finding]) -> Reached:
    """One look that says what is good, or how much is wrong."""
    wrong = tuple(findings)
    return Reached(check, f"{len(wrong)} found, see below" if wrong else good, wrong)


def check_schedules(asked: Asked) -> Iterator[Reached]:
    """Whether schedules that should have fired did, and no run is dead."""
    findings: list[Finding] = []
    works = read_works(asked, findings)
    dead = [each for each in findings if each.kind == "zombie"]
    served = [each for each in list_served() if is_about(each.record.workspace, asked.workspace)]
    timely = [each for each in find_bad_runs(works, served, asked.since, asked.patience) if each.kind in TIMELY]
    missed = [*timely, *find_unserved(served, asked.patience), *(each for each in findings if each.kind != "zombie")]
    active = sum(work.is_active for work in works)
    yield collect("schedules", f"{active} of {len(works)} deployments are on schedule, none is behind", missed)
    yield collect("runs", f"{count_running(works)} running, all of them alive", dead)


def count_running(works: Iterable[ScheduledWork]) -> int:
    """How many runs are shown as running."""
    return sum(run.outcome == "running" for work in works for run in work.runs)


def check_disks(workspace: str) -> Reached:
    """Whether there is room."""
    disks = read_disks(workspace)
    rooms = ", ".join(f"{describe_bytes(disk.free)} free for {disk.what}" for disk in disks)
    return Reached("disk", rooms, tuple(found for disk in disks if (found := disk.find_shortage()) is not None))


def mend_what_can_be(asked: Asked) -> Iterator[str]:
    """Mend what nobody can miss: dead runs, files that writers have left unfinished a day ago, addresses in MLflow of a
    workspace that was moved. What was mended."""
    yield from mend_artifact_addresses(asked.workspace)
    if asked.server.is_open:
        try:
            with get_client(sync_client=True) as client:
                for name in end_zombies(client, read_works(asked, [])):
                    yield f"{name} is marked as crashed"
        except (httpx.HTTPError, PrefectException) as error:
            yield f"dead runs could not be marked ({shorten(error)})"
    try:
        store = open_store(asked.workspace)
        if not store.is_local or store.root.is_dir():
            removed = store.remove_unfinished(read_store_clock(store) - DAY)
            if removed:
                yield f"{removed:,} unfinished files are removed from {asked.workspace}"
    except SafelightError as error:
        yield f"unfinished files could not be removed ({error})"
