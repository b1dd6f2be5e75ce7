"""The disks that Safelight writes to: how much room is left, and whether it may write."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn.errors import SafelightError
from flows.upkeep.findings import Finding
from infra.machine.user_dirs import cache_dir, state_dir
from infra.storage.store import open_store

GIGABYTE = 10**9
FEWEST_BYTES = 5 * GIGABYTE  # below this a night may not come to its end
FEWEST_SHARE, AMPLE_BYTES = 0.05, 50 * GIGABYTE  # nor below this share, unless that is still so much
FEWEST_FILES = 10_000  # names that the file system has room for


@dataclass(frozen=True)
class DiskState:
    """A folder that is written to: bytes of its disk, and how many more files may be made (None: no limit)."""

    what: str
    folder: str
    total: int
    free: int
    files: int | None

    def describe(self) -> dict[str, Any]:
        """As JSON has it."""
        sizes = {"total_bytes": self.total, "free_bytes": self.free}
        return {"what": self.what, "folder": self.folder, "mount": self.mount, **sizes}

    @property
    def is_short(self) -> bool:
        """Whether there is less room than a night needs."""
        is_little = self.free < FEWEST_SHARE * self.total and self.free < AMPLE_BYTES
        return self.free < FEWEST_BYTES or is_little or (self.files is not None and self.files < FEWEST_FILES)

    @property
    def mount(self) -> str:
        """Where the disk is mounted."""
        return find_mount(self.folder)

    @property
    def shortage(self) -> str:
        """How much room is left, for what, and where."""
        room = describe_bytes(self.free)
        left = room if self.files is None or self.files >= FEWEST_FILES else f"{room} and {self.files:,} files"
        return f"{left} left for {self.what} ({self.folder}, on the disk of {self.mount})"

    @property
    def way_out(self) -> str:
        """What frees room."""
        return f"safelight gc frees a workspace, `du -xsh {self.mount.rstrip('/')}/*` shows what else takes room"

    def find_shortage(self) -> Finding | None:
        """What to tell of it when there is too little room."""
        return Finding("disk", self.shortage, self.way_out) if self.is_short else None


def read_disks(workspace: str) -> list[DiskState]:
    """The disks of the workspace, of this user's state and cache, and of temporary files; each disk once."""
    places = [("state", state_dir()), ("cache", cache_dir()), ("temporary files", Path(tempfile.gettempdir()))]
    store = None if workspace.startswith("s3://") else open_store(workspace)
    if store is not None:
        places.insert(0, ("the workspace", store.root))
    found, seen = [], set[int]()
    for what, folder in places:
        place = next(each for each in (folder, *folder.parents) if each.exists())
        if (device := place.stat().st_dev) not in seen:
            seen.add(device)
            found.append(measure_disk(what, place))
    return found


def measure_disk(what: str, folder: Path) -> DiskState:
    """The disk that a folder lies on."""
    usage, files = shutil.disk_usage(folder), os.statvfs(folder)
    return DiskState(what, str(folder), usage.total, usage.free, files.f_favail if files.f_files else None)


def find_mount(folder: str) -> str:
    """The folder at which the disk of a folder is mounted."""
    place = Path(folder).resolve()
    while not place.is_mount() and place != place.parent:
        place = place.parent
    return str(place)


def describe_bytes(size: float) -> str:
    """Bytes in the largest decimal unit: `12.3 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def check_rights(workspace: str) -> Iterator[Finding]:
    """Folders that Safelight cannot write to, and what others could change or read."""
    for what, find in (("state", state_dir), ("cache", cache_dir)):
        try:
            folder = find()
        except SafelightError as error:
            yield Finding("permissions", f"no folder for {what}", str(error))
            continue
        if folder.stat().st_mode & 0o022:
            yield Finding("permissions", f"{folder} can be changed by other users", f"chmod go-w {folder}")
    if workspace.startswith("s3://"):
        return
    root = open_store(workspace).root
    for folder in [each for each in (root, root / "tmp", root / "mlflow") if each.is_dir()]:
        if not os.access(folder, os.W_OK | os.X_OK):
            owner = f"chown -R $(id -un) {folder}"
            yield Finding("permissions", f"{folder} cannot be written to by this user", f"sudo {owner}")
