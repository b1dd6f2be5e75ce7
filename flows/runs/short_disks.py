"""Disks that are nearly full where a run works: told before the runs after it cannot even start.

A worker whose disk has no room at all cannot begin a run, and Prefect's line for that names no disk. So each run that
nobody watches tells of it while there still is some: in its log, and by an event for those who are to be told.
"""

import socket
import time
from contextlib import suppress
from urllib.parse import quote

from prefect.context import FlowRunContext

from cnn.errors import SafelightError
from flows.events import emit_notice
from flows.progress import log_message
from flows.runs.outages import is_unattended
from flows.upkeep.disk import DiskState, read_disks
from infra.machine.user_dirs import state_dir
from infra.notify.spec import Notice

DAY = 86_400.0


def tell_short_disks() -> None:
    """Tell of each disk that has less room than a night needs; in the run of a deployment, by a line and an event."""
    context = FlowRunContext.get()
    if context is None or not is_unattended():
        return
    facts = context.parameters or {}
    try:
        disks = read_disks(str(facts.get("workspace", "./workspace")))
    except (OSError, SafelightError):  # the work itself says what is wrong with it
        return
    for disk in disks:
        if disk.is_short:
            text = describe_shortage(disk)
            log_message(text)
            if not is_told_lately(disk):
                emit_notice(Notice("disk", str(facts.get("name", "")), text))


def is_told_lately(disk: DiskState) -> bool:
    """Whether the runs of this machine have told of a disk within a day; from now on they have."""
    stamp = state_dir() / f"short-disk-{quote(disk.mount, safe='')}"
    try:
        told = time.time() - stamp.stat().st_mtime < DAY
    except OSError:
        told = False
    if not told:
        with suppress(OSError):  # no room for it: the next run tells again
            stamp.touch()
    return told


def describe_shortage(disk: DiskState) -> str:
    """The machine, the disk, how much is free, and the way out."""
    return f"{socket.gethostname()}: {disk.shortage}; the next runs may not even start. {disk.way_out}"
