"""What `safelight serve` leaves behind on this machine: what it serves, and when it was last alive."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cnn.digest import hash_json
from cnn.files import replace_file
from infra.machine.user_dirs import state_dir
from infra.storage.locks import lock_path

RECORD = "served.json"


@dataclass(frozen=True)
class ServedRecord:
    """A model that is, or was, served here: its name, its workspace, and the time of each run by what it is called
    (`retrain birds`), in a time zone.
    """

    name: str
    workspace: str
    timings: dict[str, str]
    zone: str


@dataclass(frozen=True)
class SeenRecord:
    """A record, its folder, when `serve` was last alive, and whether it is alive now."""

    record: ServedRecord
    folder: Path
    seen: datetime
    is_alive: bool


def open_served_folder(name: str, workspace: str) -> Path:
    """The folder of the record of a model and its workspace, whatever server its runs are on."""
    folder = state_dir() / "served" / f"{name}-{hash_json([name, workspace])[:8]}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@contextmanager
def show_alive(folder: Path) -> Iterator[None]:
    """In the block the record of a folder counts as that of a living process."""
    with lock_path(folder, fcntl.LOCK_SH):
        yield


def write_served(folder: Path, record: ServedRecord) -> None:
    """Keep what is served."""
    with replace_file(folder / RECORD) as file:
        file.write(json.dumps(asdict(record)).encode())


def touch_served(folder: Path) -> None:
    """Note that it is alive."""
    with suppress(OSError):
        os.utime(folder / RECORD)


def read_served(folder: Path) -> SeenRecord | None:
    """What is or was served from a folder; None where nothing was, or nobody can read it."""
    path = folder / RECORD
    try:
        record = ServedRecord(**json.loads(path.read_bytes()))
        seen = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except (OSError, ValueError, TypeError):
        return None
    return SeenRecord(record, folder, seen, _is_locked(folder))


def list_served() -> Iterator[SeenRecord]:
    """All that is or was served on this machine by this user."""
    for folder in sorted((state_dir() / "served").glob("*/")):
        if (found := read_served(folder)) is not None:
            yield found


def _is_locked(folder: Path) -> bool:
    try:
        with lock_path(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return False
    except BlockingIOError:
        return True
