"""Events for Prefect's automations: a version was held back, a batch has much to review, a disk is nearly full."""

from prefect.context import FlowRunContext
from prefect.events import emit_event

from flows.progress import ask_prefect
from infra.notify.spec import Notice

HELD_EVENT = "safelight.version.held"
REVIEW_EVENT = "safelight.batch.review"
DISK_EVENT = "safelight.disk.short"
NOTICE_EVENTS = {"held": HELD_EVENT, "review": REVIEW_EVENT, "disk": DISK_EVENT}


def emit_notice(notice: Notice | None) -> None:
    """Send an event of the present flow run to Prefect's server, which tells whoever has asked for it."""
    if notice is None or FlowRunContext.get() is None:
        return
    resource = {"prefect.resource.id": f"safelight.model.{notice.model}", "prefect.resource.name": notice.model}
    payload = {"text": notice.text}
    ask_prefect(lambda: emit_event(NOTICE_EVENTS[notice.kind], resource, payload=payload))
