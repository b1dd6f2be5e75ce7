"""The local folder of a training: its pages, its figures, and what it goes on from when it was stopped."""

from pathlib import Path

from infra.machine.user_dirs import state_dir
from infra.storage.store import Store

LETTERS = 16  # of the run's key


def locate_run_folder(store: Store, key: str) -> Path:
    """Below the workspace, or for one on S3 in the state folder of this machine; the same key finds it again."""
    base = store.root if store.is_local else state_dir()
    return base / "runs" / name_run_folder(key)


def name_run_folder(key: str) -> str:
    """The name of a run's folder below `runs/`; empty without a key."""
    return key[:LETTERS]
