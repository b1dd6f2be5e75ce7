"""Walk a local folder: every file below it as an `Entry`. Nothing is written, and no link leads out of the folder."""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from infra.storage.entry import MOST_BYTES, Entry

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
ANYONE_READS = 0o444
PLAIN_FILE = stat.S_IFREG | ANYONE_READS
PLAIN_MASK = stat.S_IFMT(0o777777) | ANYONE_READS  # what tells a file that anyone may read from all else
EXHAUSTED = {errno.EMFILE, errno.ENFILE}  # this process or machine is at its end, whatever the folder is like


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder still to be listed; `above` holds the (device, inode) pairs of it and of the folders above it."""

    place: str
    path: str
    above: frozenset[tuple[int, int]]
    linked: bool  # reached through a symbolic link


@dataclass(frozen=True, slots=True)
class OpenFolder:
    """A folder that is being listed: `names` are still to be looked at, the last one first; folders end in "/"."""

    folder: Folder
    base: str  # what the paths of all that lies in it begin with: empty or ending in "/"
    handle: int
    names: list[str]


def walk_folder(root: str, prefix: str = "") -> Iterator[Entry]:
    """Every file below `root` whose path begins with `prefix`, in the order of the paths' bytes.

    Memory holds the names in one folder and in those above it; each file is looked at when its turn comes. A symbolic
    link is followed when its target lies below `root`; one level deep for folders, so that links to folders of links
    cannot multiply. Raises: OSError when `root` itself cannot be listed, or was replaced meanwhile.
    """
    real_root = os.path.realpath(root)
    before = os.stat(real_root)
    top = Folder(real_root, "", frozenset({(before.st_dev, before.st_ino)}), linked=False)
    waiting = [open_folder(top, prefix, real_root)]
    try:
        while waiting:
            for found in list_folder(waiting[-1], prefix, real_root):
                if isinstance(found, OpenFolder):
                    waiting.append(found)
                    break
                yield found
            else:
                os.close(waiting.pop().handle)
    finally:
        for here in waiting:
            os.close(here.handle)
    # A share that was unmounted meanwhile must not pass for a folder that holds less than it did.
    after = os.stat(real_root)
    if (after.st_dev, after.st_ino) != (before.st_dev, before.st_ino):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), root)


def open_folder(folder: Folder, prefix: str, real_root: str) -> OpenFolder:
    """`folder` with the names in it that `prefix` allows, in such an order that a walk meets paths in that of bytes."""
    base = f"{folder.path}/" if folder.path else ""
    rest = prefix[len(base) :] if prefix.startswith(base) else ""
    handle = open_without_atime(folder.place, FOLDER_FLAGS)
    try:
        here = OpenFolder(folder, base, handle, [])
        with os.scandir(handle) as found:
            for item in found:
                if not rest or item.name.startswith(rest) or rest.startswith(f"{item.name}/"):
                    here.names.append(f"{item.name}/" if _is_folder(item, here, real_root) else item.name)
        # Text has the order of its bytes, but for the escapes of bytes that are no UTF-8; its comparison is faster.
        plain = all(map(str.isascii, here.names))
        here.names.sort(key=None if plain else os.fsencode, reverse=True)
    except BaseException:
        os.close(handle)
        raise
    return here


def _is_folder(item: os.DirEntry[str], here: OpenFolder, real_root: str) -> bool:
    """Whether paths below this one follow, which places it in the order; what it is, is asked anew at its turn."""
    try:
        if not item.is_dir():
            return False
        return not item.is_symlink() or isinstance(_follow_link(item.name, here, real_root), Folder)
    except OSError:
        return False


def list_folder(here: OpenFolder, prefix: str, real_root: str) -> Iterator[Entry | OpenFolder]:
    """What the names stand for now, whatever they stood for when the folder was opened; each is taken off the list."""
    names, base, handle = here.names, here.base, here.handle
    while names:
        name = names.pop().removesuffix("/")  # with the "/", a link would be followed
        path = base + name
        try:
            info = os.stat(name, dir_fd=handle, follow_symlinks=False)
        except FileNotFoundError:
            continue  # gone since the folder was read
        except OSError:
            found: Entry | OpenFolder | None = Entry(path, 0, "", "unreadable")
        else:
            if info.st_mode & PLAIN_MASK == PLAIN_FILE:  # nearly all are
                problem = "too_large" if info.st_size > MOST_BYTES else None
                found = Entry(path, info.st_size, f"{info.st_mtime_ns}.{info.st_ctime_ns}", problem)
            else:
                found = _look_closer(name, info, here, prefix, real_root)
        if found is not None and (path.startswith(prefix) or isinstance(found, OpenFolder)):
            yield found


def _look_closer(
    name: str, info: os.stat_result, here: OpenFolder, prefix: str, real_root: str
) -> Entry | OpenFolder | None:
    if stat.S_ISLNK(info.st_mode):
        found = _follow_link(name, here, real_root)
    elif stat.S_ISDIR(info.st_mode):
        above = here.folder.above | {(info.st_dev, info.st_ino)}
        found = Folder(_join(here.folder.place, name), here.base + name, above, here.folder.linked)
    else:
        found = _to_entry(here.base + name, info, name, here.handle)
    return _open_or_report(found, prefix, real_root) if isinstance(found, Folder) else found


def _open_or_report(folder: Folder, prefix: str, real_root: str) -> OpenFolder | Entry | None:
    try:
        return open_folder(folder, prefix, real_root)
    except FileNotFoundError:
        return None  # gone since its parent was listed
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise
        return Entry(folder.path, 0, "", "unreadable_folder")  # must not look like an empty folder


def _follow_link(name: str, here: OpenFolder, real_root: str) -> Entry | Folder:
    path, folder = here.base + name, here.folder
    try:
        target = os.path.realpath(_join(folder.place, name), strict=True)
        if not is_inside(target, real_root):
            return Entry(path, 0, "", "symlink_outside_folder" if os.path.isdir(target) else "symlink_outside")
        info = os.stat(target)
    except OSError as error:
        problems = {errno.ENOENT: "symlink_dangling", errno.ENOTDIR: "symlink_dangling", errno.ELOOP: "symlink_loop"}
        return Entry(path, 0, "", problems.get(error.errno or 0, "unreadable"))
    if not stat.S_ISDIR(info.st_mode):
        return _to_entry(path, info, target)
    identity = (info.st_dev, info.st_ino)
    if identity in folder.above:
        return Entry(path, 0, "", "symlink_loop")
    if folder.linked:
        return Entry(path, 0, "", "symlink_nested")
    return Folder(target, path, folder.above | {identity}, linked=True)


def _to_entry(path: str, info: os.stat_result, place: str, inside: int | None = None) -> Entry:
    """The entry of what lies at `place`, a path or a name in the open folder `inside`, and is no folder."""
    problem = None
    if not stat.S_ISREG(info.st_mode):
        problem = "not_a_regular_file"
    elif info.st_mode & ANYONE_READS != ANYONE_READS and not _may_read(info, place, inside):
        problem = "unreadable"
    elif info.st_size > MOST_BYTES:
        problem = "too_large"
    return Entry(path, info.st_size, f"{info.st_mtime_ns}.{info.st_ctime_ns}", problem)


def _may_read(info: os.stat_result, place: str, inside: int | None) -> bool:
    if info.st_mode & stat.S_IRUSR and info.st_uid == os.geteuid():
        return True  # for its owner no other rule counts, and one question to the system less is asked
    return os.access(place, os.R_OK, dir_fd=inside, effective_ids=True)


def _join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"


def is_inside(place: str, real_root: str) -> bool:
    """Whether a resolved path is `real_root` or lies below it."""
    return place == real_root or place.startswith(real_root.rstrip("/") + "/")


def open_without_atime(place: str, flags: int) -> int:
    """A file descriptor that leaves the access time alone where that is permitted (to the owner, on Linux)."""
    unseen = getattr(os, "O_NOATIME", 0)
    if unseen:
        try:
            return os.open(place, flags | unseen)
        except PermissionError:
            pass  # not ours: the mount's own rule for access times holds
    return os.open(place, flags)
