"""Local folders as sources that are only read, and as stores whose writes are atomic and on disk."""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from cnn.errors import BadImage, SourceError, StorageError
from infra.storage.disk_errors import explain_disk_errors
from infra.storage.entry import MOST_BYTES, Entry, check_path
from infra.storage.layout import SCRATCH
from infra.storage.scratch import BESIDE, ScratchFile, make_folder, remove_stale, remove_stale_scratch, sync
from infra.storage.walk import is_inside, open_without_atime, walk_folder

FILE_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
REASONS = {
    errno.ENOENT: "vanished",
    errno.ENOTDIR: "vanished",
    errno.ESTALE: "vanished",
    errno.ENXIO: "not_a_regular_file",
    errno.EISDIR: "not_a_regular_file",
    errno.ELOOP: "symlink_loop",
}


class LocalSource:
    """A folder that is only read; see `infra.storage.store.Source`."""

    is_local = True

    def __init__(self, folder: Path) -> None:
        self.uri = str(folder)
        self._root = os.path.realpath(folder)
        try:
            if not stat.S_ISDIR(os.stat(self._root).st_mode):
                raise SourceError(f"{folder} is no folder; give the folder that holds the images")
        except OSError as error:
            raise SourceError(_explain_source(folder, error)) from None
        if not os.access(self._root, os.R_OK | os.X_OK, effective_ids=True):
            raise SourceError(f"{folder} cannot be read: permission denied; give this user read access to it")

    def list(self, prefix: str = "") -> Iterator[Entry]:
        try:
            yield from walk_folder(self._root, prefix)
        except OSError as error:
            raise SourceError(_explain_source(self.uri, error)) from None

    def read(self, path: str) -> bytes:
        for _ in range(2):
            data = self._read_once(path)
            if data is not None:
                return data
        raise BadImage("changed_during_read", "its size or time changed while it was read, twice")

    def uri_of(self, path: str) -> str:
        return os.path.join(self.uri, path)

    def _read_once(self, path: str) -> bytes | None:
        """The bytes, or None when the file was written to meanwhile."""
        place = os.path.join(self._root, path)
        try:
            handle = open_without_atime(place, FILE_FLAGS)
        except (OSError, ValueError) as error:
            raise _to_bad_image(error) from None
        try:
            if not is_inside(_resolve_handle(handle, place), self._root):
                raise BadImage("symlink_outside", "it leads out of the source folder")
            return _read_steady(handle)
        except OSError as error:
            raise _to_bad_image(error) from None
        finally:
            os.close(handle)


def _read_steady(handle: int) -> bytes | None:
    before = os.fstat(handle)
    if not stat.S_ISREG(before.st_mode):
        raise BadImage("not_a_regular_file")
    if before.st_size > MOST_BYTES:  # it has grown since it was listed
        raise BadImage("too_large", f"{before.st_size} bytes")
    parts, wanted = [], before.st_size + 1  # one byte more than there should be, so that growth shows
    while wanted > 0 and (part := os.read(handle, wanted)):
        parts.append(part)
        wanted -= len(part)
    after = os.fstat(handle)
    steady = wanted == 1 and (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    return b"".join(parts) if steady else None


def _resolve_handle(handle: int, place: str) -> str:
    """Where an open file really is. /proc answers for the open file itself; elsewhere its path is resolved again."""
    try:
        return os.readlink(f"/proc/self/fd/{handle}")
    except OSError:
        return os.path.realpath(place)


def _to_bad_image(error: OSError | ValueError) -> BadImage:
    number = getattr(error, "errno", None)
    return BadImage(REASONS.get(number or 0, "unreadable"), os.strerror(number) if number else "an impossible name")


def _explain_source(folder: object, error: OSError) -> str:
    cause = (error.strerror or "unknown cause").lower()
    return f"{folder} cannot be read: {cause}; give a folder that exists and that this user can read"


class LocalStore:
    """A workspace folder; see `infra.storage.store.Store`."""

    is_local = True

    def __init__(self, folder: Path) -> None:
        self.uri = str(folder)
        self.root = folder
        if folder.exists() and not folder.is_dir():
            raise StorageError(f"{folder} is a file, no workspace; choose another workspace")

    def list(self, prefix: str = "") -> Iterator[Entry]:
        if not self.root.exists():
            return
        with explain_disk_errors("list", self.root):
            yield from walk_folder(self.uri, prefix)

    def read(self, path: str) -> bytes:
        place = self._place(path)
        with explain_disk_errors("read", place):
            return place.read_bytes()

    def write(self, path: str, data: bytes) -> None:
        self.write_with(path, lambda temporary: temporary.write_bytes(data))

    def write_with(self, path: str, save: Callable[[Path], object]) -> None:
        """Replace or create a file with what `save` writes to the temporary path that it is given."""
        place = self._place(path)
        with explain_disk_errors("write", place):
            make_folder(place.parent)
            try:
                _replace(place, ScratchFile(self.root / SCRATCH), save)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                _replace(place, ScratchFile(place.parent, BESIDE), save)  # a link leads to another disk

    def put_file(self, path: str, local: Path) -> None:
        self.write_with(path, lambda temporary: shutil.copyfile(local, temporary))  # no link: `local` may be written to

    def take_file(self, path: str, local: Path) -> None:
        """A file of the same disk is renamed, another one is copied and removed."""
        place = self._place(path)
        with explain_disk_errors("write", place):
            make_folder(place.parent)
            sync(local)
            try:
                os.replace(local, place)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                self.put_file(path, local)
                local.unlink(missing_ok=True)
            else:
                sync(place.parent)

    def fetch(self, path: str) -> Path:
        place = self._place(path)
        with explain_disk_errors("read", place):
            place.stat()
        return place

    def exists(self, path: str) -> bool:
        place = self._place(path)
        with explain_disk_errors("read", place):
            return place.is_file()

    def delete(self, path: str) -> None:
        place = self._place(path)
        with explain_disk_errors("delete", place):
            place.unlink(missing_ok=True)

    def remove_unfinished(self, before: float) -> int:
        """What is locked, or may be written by another machine, stays."""
        beside = [self.root / entry.path for entry in self.list() if Path(entry.path).name.startswith(BESIDE)]
        return remove_stale_scratch(self.root) + sum(map(remove_stale, beside))

    def count_unfinished(self, before: float) -> int:
        """Those in the scratch folder that were written before a time; a living writer may still hold some."""
        scratch = self.root / SCRATCH
        if not scratch.is_dir():
            return 0
        with suppress(FileNotFoundError):  # it was moved to its place meanwhile
            return sum(path.stat().st_mtime <= before for path in scratch.iterdir())
        return 0

    def uri_of(self, path: str) -> str:
        return str(self._place(path))

    def _place(self, path: str) -> Path:
        return self.root / check_path(path)


def _replace(place: Path, scratch: ScratchFile, save: Callable[[Path], object]) -> None:
    """Write an unfinished file, bring it to disk, and give it its place and name."""
    try:
        save(scratch.path)
        os.fsync(scratch.handle)
        os.replace(scratch.path, place)
        sync(place.parent)
    finally:
        scratch.discard()
