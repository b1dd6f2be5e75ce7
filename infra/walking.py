"""A local folder in, one `Entry` for every file out. Nothing is written, and no link leads out of the folder."""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from infra.entries import Entry

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
ANYONE_READS = 0o444


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder still to be listed; `above` holds the (device, inode) pairs of it and of the folders above it."""

    place: str
    path: str
    above: frozenset[tuple[int, int]]
    linked: bool  # reached through a symbolic link


def walk_folder(root: str, prefix: str = "") -> Iterator[Entry]:
    """Every file below `root` whose path begins with `prefix`, in the order of the paths' bytes.

    A symbolic link is followed when its target lies below `root`; one level deep for folders, so that links to
    folders of links cannot multiply. Raises: OSError when `root` itself cannot be listed, or was replaced meanwhile.
    """
    real_root = os.path.realpath(root)
    before = os.stat(real_root)
    top = Folder(real_root, "", frozenset({(before.st_dev, before.st_ino)}), linked=False)
    waiting = [iter(list_folder(top, real_root))]
    while waiting:
        found = next(waiting[-1], None)
        if found is None:
            waiting.pop()
        elif isinstance(found, Folder):
            if f"{found.path}/".startswith(prefix) or prefix.startswith(f"{found.path}/"):
                waiting.append(iter(_list_or_report(found, real_root)))
        elif found.path.startswith(prefix):
            yield found
    # A share that was unmounted meanwhile must not pass for a folder that holds less than it did.
    after = os.stat(real_root)
    if (after.st_dev, after.st_ino) != (before.st_dev, before.st_ino):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), root)


def list_folder(folder: Folder, real_root: str) -> list[Entry | Folder]:
    """What lies directly in `folder`, sorted so that a depth-first walk meets paths in the order of their bytes."""
    keyed: list[tuple[bytes, Entry | Folder]] = []
    handle = open_unseen(folder.place, FOLDER_FLAGS)
    try:
        with os.scandir(handle) as found:
            for item in found:
                one = _classify(item, folder, real_root)
                if one is not None:
                    keyed.append((os.fsencode(item.name) + (b"/" if isinstance(one, Folder) else b""), one))
    finally:
        os.close(handle)
    return [one for _, one in sorted(keyed, key=lambda pair: pair[0])]


def _list_or_report(folder: Folder, real_root: str) -> list[Entry | Folder]:
    try:
        return list_folder(folder, real_root)
    except FileNotFoundError:
        return []  # gone since its parent was listed
    except OSError:
        return [Entry(folder.path, 0, "", "unreadable_folder")]  # must not look like an empty folder


def _classify(item: os.DirEntry[str], folder: Folder, real_root: str) -> Entry | Folder | None:
    path = f"{folder.path}/{item.name}" if folder.path else item.name
    place = f"{folder.place.rstrip('/')}/{item.name}"
    try:
        info = item.stat(follow_symlinks=False)
        if stat.S_ISLNK(info.st_mode):
            return _follow_link(place, path, folder, real_root)
    except FileNotFoundError:
        return None  # gone since the folder was read
    except OSError:
        return Entry(path, 0, "", "unreadable")
    if stat.S_ISDIR(info.st_mode):
        return Folder(place, path, folder.above | {(info.st_dev, info.st_ino)}, folder.linked)
    return _to_entry(path, place, info)


def _follow_link(place: str, path: str, folder: Folder, real_root: str) -> Entry | Folder:
    try:
        target = os.path.realpath(place, strict=True)
        if not is_inside(target, real_root):
            return Entry(path, 0, "", "symlink_outside_folder" if os.path.isdir(target) else "symlink_outside")
        info = os.stat(target)
    except OSError as error:
        problems = {errno.ENOENT: "symlink_dangling", errno.ENOTDIR: "symlink_dangling", errno.ELOOP: "symlink_loop"}
        return Entry(path, 0, "", problems.get(error.errno or 0, "unreadable"))
    if not stat.S_ISDIR(info.st_mode):
        return _to_entry(path, target, info)
    identity = (info.st_dev, info.st_ino)
    if identity in folder.above:
        return Entry(path, 0, "", "symlink_loop")
    if folder.linked:
        return Entry(path, 0, "", "symlink_nested")
    return Folder(target, path, folder.above | {identity}, linked=True)


def _to_entry(path: str, place: str, info: os.stat_result) -> Entry:
    problem = None
    if not stat.S_ISREG(info.st_mode):
        problem = "not_a_regular_file"
    elif info.st_mode & ANYONE_READS != ANYONE_READS and not os.access(place, os.R_OK, effective_ids=True):
        problem = "unreadable"
    return Entry(path, info.st_size, f"{info.st_mtime_ns}.{info.st_ctime_ns}", problem)


def is_inside(place: str, real_root: str) -> bool:
    """Whether a resolved path is `real_root` or lies below it."""
    return place == real_root or place.startswith(real_root.rstrip("/") + "/")


def open_unseen(place: str, flags: int) -> int:
    """A file descriptor that leaves the access time alone where that is permitted (to the owner, on Linux)."""
    unseen = getattr(os, "O_NOATIME", 0)
    if unseen:
        try:
            return os.open(place, flags | unseen)
        except PermissionError:
            pass  # not ours: the mount's own rule for access times holds
    return os.open(place, flags)
