"""Folders of this user in: where state and cached files lie, created with mode 0700 on first use."""

import os
from pathlib import Path

from cnn.errors import StorageError


def state_dir() -> Path:
    """The folder of what must survive: server state, logs, databases. Raises: StorageError."""
    return _private_folder("state", "XDG_STATE_HOME", Path(".local", "state"))


def cache_dir() -> Path:
    """The folder of what can be made again: downloaded files, stamps. Raises: StorageError."""
    return _private_folder("cache", "XDG_CACHE_HOME", Path(".cache"))


def _private_folder(kind: str, variable: str, below_home: Path) -> Path:
    folder = _locate_folder(kind, variable, below_home)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(_no_folder(kind, f"cannot create {folder}: {error.strerror}")) from None
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise StorageError(_no_folder(kind, f"cannot write to {folder}"))
    return folder


def _locate_folder(kind: str, variable: str, below_home: Path) -> Path:
    """$SAFELIGHT_HOME, else the XDG variable (a relative one is ignored, as the XDG specification asks), else HOME."""
    if own := os.environ.get("SAFELIGHT_HOME"):
        return Path(own).absolute() / kind
    base = os.environ.get(variable, "")
    if os.path.isabs(base):
        return Path(base) / "safelight"
    try:
        return Path.home() / below_home / "safelight"
    except RuntimeError:
        raise StorageError(_no_folder(kind, "HOME is not set")) from None


def _no_folder(kind: str, cause: str) -> str:
    return f"no folder for {kind} files: {cause}; set SAFELIGHT_HOME to a folder that you can write to"
