"""Folders of this user for state and for cached files, made with mode 0700 on first use.

$SAFELIGHT_HOME decides, else the XDG variables (a relative one is ignored, as their specification asks), else HOME.
"""

import os
from pathlib import Path

from cnn.errors import StorageError


def state_dir() -> Path:
    """The folder of what must survive: server state, logs, databases. Raises: StorageError."""
    return _make_private("state", "XDG_STATE_HOME", ".local/state")


def cache_dir() -> Path:
    """The folder of what can be made again: downloaded files, bundles. Raises: StorageError."""
    return _make_private("cache", "XDG_CACHE_HOME", ".cache")


def _make_private(kind: str, variable: str, below_home: str) -> Path:
    own, base = os.environ.get("SAFELIGHT_HOME"), os.environ.get(variable, "")
    try:
        usual = Path(base) if own or os.path.isabs(base) else Path.home() / below_home
        folder = Path(own).absolute() / kind if own else usual / "safelight"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except RuntimeError:
        cause = "HOME is not set"
    except OSError as error:
        cause = f"cannot create {error.filename}: {error.strerror}"
    else:
        if os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
            return folder
        cause = f"cannot write to {folder}"
    raise StorageError(f"no folder for {kind} files: {cause}; set SAFELIGHT_HOME to a folder that you can write to")
