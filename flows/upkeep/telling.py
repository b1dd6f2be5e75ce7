"""Tell people what needs them: once for each thing, and again after a day for what is still so."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cnn.errors import ServerError
from cnn.files import replace_file
from flows.progress import log_message
from flows.upkeep.findings import make_notices
from infra.machine.user_dirs import state_dir
from infra.notify.send import send_notice
from infra.notify.spec import Notice, NotifySpec

MEMORY = "told.json"
AGAIN_SECONDS = 20 * 3600.0  # a little less than a day: who asks at seven each morning is told each morning


def tell_findings(spec: NotifySpec, findings: Sequence[Mapping[str, Any]]) -> int:
    """Send a message for each finding that was not told within a day; how many were sent. What fails is logged."""
    if not spec.is_set:
        log_message("status: nobody is told: notify.command and notify.webhook are not set")
        return 0
    told, now = read_told(), time.time()
    sent = {}
    for finding, notice in zip(findings, make_notices([dict(each) for each in findings]), strict=True):
        same = f"{finding['kind']} {finding['model']} {finding['key'] or finding['what']}"
        key = hashlib.sha256(same.encode()).hexdigest()[:16]
        if now - told.get(key, 0.0) < AGAIN_SECONDS:
            continue
        faults = send_notice(spec, notice)
        for fault in faults:
            log_message(f"status: {fault}")
        if not faults:
            sent[key] = now
    recent = {key: at for key, at in told.items() if now - at < AGAIN_SECONDS}
    with replace_file(state_dir() / MEMORY) as file:
        file.write(json.dumps(recent | sent).encode())
    return len(sent)


def read_told() -> dict[str, float]:
    """When what was told, by its key; empty where nothing was, or nobody can read it."""
    try:
        told = json.loads((state_dir() / MEMORY).read_text("utf-8"))
        return {str(key): float(at) for key, at in told.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def send_test(spec: NotifySpec) -> bool:
    """Send a message that says that it is a test. Raises: ServerError, it could not be sent."""
    text = "a test of safelight: whoever reads this is told when a run fails, is late, or does not come at all"
    if faults := send_notice(spec, Notice("test", "", text)):
        raise ServerError("; ".join(faults))
    return True
