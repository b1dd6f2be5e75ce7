"""An inbox that is empty or gone though it was not before: an unmounted share is no night without pictures."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from cnn.errors import SafelightError, SourceError
from infra.storage.store import Store
from tasks.files.labels import Listed
from tasks.files.paths import encode_path
from tasks.score.plan import BatchRecord, Previous, find_last
from tasks.score.predictions import iterate_predictions, path_keys


def check_inbox(source: str, listed: Sequence[Listed], previous: Previous | None, allow_empty: bool) -> list[str]:
    """What is to be said about an inbox that holds nothing, or nothing of what it held; usually nothing.

    Raises:
        SourceError: it is empty, though the last batch had files from it; the setting that allows that is named.
    """
    asked = [item for item in listed if item.ignored is None]
    before = count_files(previous.record) if previous is not None else 0
    if not asked:
        if before and previous is not None and not allow_empty:
            raise SourceError(
                f"{source} holds no images now, and {describe_last(previous.record)}: is the share mounted, or was the"
                " folder moved? Nothing was scored; if it may be empty, set score.allow_empty = true"
            )
        left_out = f" ({len(listed):,} files that are no images)" if listed else ""
        return [f"{source} holds no images{left_out}: there is nothing to score"]
    if before and previous is not None and previous.path is not None and not _has_known(asked, previous):
        return [f"none of these files was there last time; {describe_last(previous.record)}, all of which are gone"]
    return []


def explain_vanished(fault: SourceError, store: Store, source: str, model: str) -> SourceError:
    """The fault of an inbox that cannot be listed, with what it held the last time, where that is known."""
    try:
        last = find_last(store, source, model)
    except SafelightError:
        return fault  # the workspace has a fault of its own, and this one comes first
    if last is None or not count_files(last):
        return fault
    return SourceError(f"{fault}; {describe_last(last)}; nothing was scored")


def count_files(record: BatchRecord) -> int:
    """Files of a batch that were taken for images."""
    return record.outcomes.get("ok", 0) + record.outcomes.get("quarantined", 0)


def describe_last(record: BatchRecord) -> str:
    """How many files the last batch had, and when."""
    when = datetime.fromisoformat(record.scored_at).astimezone(UTC)
    files = count_files(record)
    return f"the last batch, of {when:%Y-%m-%d %H:%M} UTC, had {files:,} file{'s' if files != 1 else ''} from it"


def _has_known(asked: Sequence[Listed], previous: Previous) -> bool:
    """Whether any of these files has a row in the last batch."""
    keys = {encode_path(item.entry.path) for item in asked}
    return any(key in keys for key in _iterate_keys(previous))


def _iterate_keys(previous: Previous) -> Iterator[bytes]:
    if previous.path is not None:
        for table in iterate_predictions(previous.path, ("path", "path_raw")):
            yield from path_keys(table).to_pylist()
