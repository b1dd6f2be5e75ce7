"""Checks of the folder to score: it is empty or gone though it was not before, as an unmounted share is."""

from datetime import UTC, datetime

from cnn.errors import OutageError, SafelightError, SourceError
from infra.storage.store import Store
from tasks.files.listing import count_asked_for
from tasks.score.batch import BatchRecord, find_last_batch
from tasks.score.plan import ScorePlan


def check_inbox(plan: ScorePlan, is_awaited: bool = False) -> list[str]:
    """Lines about an inbox that holds nothing, or nothing of what it held; usually none. `is_awaited`: a person has
    asked for the answer, so that nothing to score is a mistake; on schedule it is a quiet night.

    Raises:
        SourceError: it is empty, though somebody waits for it, or though the last batch had files from it; the setting
            that allows that is named.
    """
    source, asked = plan.task.source, count_asked_for(plan.files)
    last = plan.previous.record if plan.previous is not None and count_batch_images(plan.previous.record) else None
    if not asked:
        if last is not None and not plan.task.spec.allow_empty:
            raise SourceError(
                f"{source} holds no images now, and {describe_last(last)}: is the share mounted, or was the"
                " folder moved? Nothing was scored; if it may be empty, set score.allow_empty = true"
            )
        others = plan.files.num_rows
        left_out = f" ({others:,} other file{'s' if others != 1 else ''})" if others else ""
        if is_awaited and not plan.task.spec.allow_empty:
            raise SourceError(
                f"{source} holds no images{left_out}: nothing was scored; put images there, or give another folder"
                " (score.allow_empty = true, if it may be empty)"
            )
        return [f"{source} holds no images{left_out}: there is nothing to score"]
    if last is not None and plan.comparison.known == 0:
        return [f"none of these files was there last time; {describe_last(last)}, all of which are gone"]
    return []


def explain_vanished(fault: SourceError, store: Store, source: str, model: str) -> SourceError:
    """The fault of an inbox that cannot be listed, with what it held the last time, where that is known."""
    if isinstance(fault, OutageError):
        return fault  # a server that does not answer has emptied nothing
    try:
        last = find_last_batch(store, source, model)
    except SafelightError:
        return fault  # the workspace has a fault of its own, and this one comes first
    if last is None or not count_batch_images(last):
        return fault
    return SourceError(f"{fault}; {describe_last(last)}; nothing was scored")


def count_batch_images(record: BatchRecord) -> int:
    """Files of a batch that were taken for images."""
    return record.outcomes.get("ok", 0) + record.outcomes.get("quarantined", 0)


def describe_last(record: BatchRecord) -> str:
    """How many files the last batch had, and when."""
    when = datetime.fromisoformat(record.scored_at).astimezone(UTC)
    files = count_batch_images(record)
    return f"the last batch, of {when:%Y-%m-%d %H:%M} UTC, had {files:,} file{'s' if files != 1 else ''} from it"
