"""A workspace in, what `safelight gc` removed out."""

from typing import Any

from cnn.errors import ConfigError
from infra.storage.store import open_store
from tasks.dataset.gc import collect_garbage

HOUR = 3600.0


def collect_workspace(workspace: str, keep: int, grace_hours: float, dry_run: bool) -> dict[str, Any]:
    """The answer of `gc`. Raises: ConfigError, StorageError, IntegrityError."""
    store = open_store(workspace)
    if store.is_local and not store.root.is_dir():
        raise ConfigError(f"there is no workspace {workspace}; name one that `safelight prepare` has made")
    found = collect_garbage(store, keep, grace_hours * HOUR, dry_run)
    return {
        "kept": list(found.kept),
        "removed": list(found.removed),
        "files": found.files,
        "bytes": found.bytes,
        "unfinished": found.unfinished,
        "dry_run": dry_run,
    }
