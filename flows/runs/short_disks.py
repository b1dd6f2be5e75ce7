"""Disks that are nearly full where a run works: told before the runs after it cannot even start.

A worker whose disk has no room at all cannot begin a run, and Prefect's line for that names no disk. So each run that
nobody watches tells of it while there still is some: in its log, and by an event for those who are to be told.
"""

import socket

from prefect.context import FlowRunContext

from cnn.errors import SafelightError
from flows.events import emit_notice
from flows.progress import log_message
from flows.runs.outages import is_unattended
from flows.upkeep.disk import DiskState, read_disks
from infra.notify.spec import Notice


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
            emit_notice(Notice("disk", str(facts.get("name", "")), text))


def describe_shortage(disk: DiskState) -> str:
    """The machine, the disk, how much is free, and the way out."""
    return f"{socket.gethostname()}: {disk.shortage}; the next runs may not even start. {disk.way_out}"
