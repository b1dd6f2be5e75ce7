"""What is wrong with a source as a whole (an archive, links that lead out, one folder too high), and what to type."""

import os
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, islice
from operator import and_, eq
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cnn.errors import ConfigError, SafelightError, SourceError
from cnn.text import quote_some
from infra.storage.entry import Entry
from infra.storage.store import Source, Store, open_source, parse_folder
from tasks.files.listing import FOLDER_PROBLEMS, count_asked_for, iterate_labelled, iterate_paths, with_problem
from tasks.files.paths import decode_path, quote_path

PREPARE = "safelight prepare {}"
OUTSIDE = ("symlink_outside", "symlink_outside_folder")
CAMERA_FOLDER = re.compile(r"[1-9][0-9]{2}[0-9A-Z_]{5}")  # 100CANON, 101_PANA: the standard of cameras (DCF)
SIBLINGS = 100  # folders beside the source, and files in each, that are looked at for a hint
LINKS = 100  # that are looked at, of any number
SUBFOLDERS = 10_000  # of folders that are compared with each other, at most
ARCHIVES = {  # how names end → how such a file is unpacked into a folder
    (".zip",): "unzip {file} -d {folder}",
    (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst"): (
        "mkdir {folder} && tar -xf {file} -C {folder}"
    ),
    (".7z",): "7z x {file} -o{folder}",
    (".rar",): "unrar x {file} {folder}/",
}
IMAGES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jp2")


def open_given(uri: str, command: str = PREPARE) -> Source:
    """The source that a person gave; `command` is what they typed, with {} for the source.

    Raises:
        ConfigError: an address that is none.
        SourceError: it is no folder; an archive or a single image is named as such, with what to type instead.
    """
    try:
        return open_source(uri)
    except SourceError:
        place = None if uri.startswith("s3://") else parse_folder(uri)
        if place is None or not place.is_file():
            raise
    raise SourceError(describe_file(place, command))


def describe_file(place: Path, command: str) -> str:
    """What a file is that was given in place of a folder, and what to type."""
    if (unpack := how_to_unpack(str(place))) is not None:
        line, folder = unpack
        return f"{place} is an archive, no folder; unpack it and give the folder: {line} && {fill_in(command, folder)}"
    if place.name.lower().endswith(IMAGES):
        scored = " score " in f" {command} "
        above = place.parent if scored else place.parent.parent
        what = "the folder that it lies in" if scored else "the folder that holds its class folder"
        return f"{place} is one image, no folder; give {what}: {fill_in(command, str(above))}"
    return f"{place} is no folder; give the folder that holds the images: {fill_in(command, str(place.parent))}"


def how_to_unpack(file: str) -> tuple[str, str] | None:
    """(what to type, the folder that comes of it) for the name of an archive; None for any other."""
    for endings, line in ARCHIVES.items():
        for ending in sorted(endings, key=len, reverse=True):
            if file.lower().endswith(ending):
                folder = file[: -len(ending)]
                return line.format(file=shlex.quote(file), folder=shlex.quote(folder)), folder
    return None


def name_command(command: str, model: str = "") -> str:
    """What a person types for a command with a source, with {} for the source."""
    return f"safelight {command} {{}}" + (f" --name {shlex.quote(model)}" if model else "")


def fill_in(command: str, source: str) -> str:
    """What to type for another source."""
    return command.replace("{}", shlex.quote(source))


def refuse_workspace_inside(source: Source, store: Store) -> None:
    """Refuse a workspace inside the source: the source is only read, and results are no images to learn from.

    Raises:
        ConfigError: both are named.
    """
    if source.is_local != store.is_local:
        return
    inner, outer = str(store.root) if store.is_local else store.uri, source.uri
    if store.is_local:
        inner, outer = os.path.realpath(inner), os.path.realpath(outer)
    if f"{inner.rstrip('/')}/".startswith(f"{outer.rstrip('/')}/"):
        raise ConfigError(
            f"the workspace {store.uri} lies inside the source {source.uri}; give a --workspace outside it"
        )


def refuse_lost_folders(source: Source, files: pa.Table) -> None:
    """Stop when a folder cannot be looked into: nobody knows how many images, or whole classes, are missing.

    Raises:
        SourceError: the folder is named.
    """
    lost = with_problem(files, FOLDER_PROBLEMS)
    if lost.num_rows:
        path = decode_path(lost.column("path")[0].as_py())
        place, problem = source.uri_of(path), lost.column("problem")[0].as_py()
        leads = f", a link to {os.path.realpath(place)}" if problem in OUTSIDE else ""
        raise SourceError(
            f"{place} is a folder that cannot be looked into ({problem}{leads}); repair, move "
            "or hide it (a leading dot), or leave it out with source.exclude; nothing was published"
        )


def refuse_outside_links(source: Source, files: pa.Table, command: str) -> None:
    """Stop when all that a source holds are links that lead out of it.

    Raises:
        SourceError: where they lead, and what to type instead.
    """
    outside = with_problem(files, OUTSIDE)
    if outside.num_rows and outside.num_rows == count_asked_for(files):
        names = [decode_path(path) for path in outside.column("path").slice(0, LINKS).to_pylist()]
        raise SourceError(describe_links(source, names, outside.num_rows, command))


def describe_links(source: Source, names: Sequence[str], count: int, command: str) -> str:
    """Links that lead out of a source, and what to type: the folder that they lead to, or a copy with files in it."""
    fact = f"all that {source.uri} holds ({count:,}) are links that lead out of it, such as {names[0]!r}"
    real = find_mirrored(source.uri, names)
    if real is not None:
        return f"{fact}, to {real}; links are followed inside the source only, so give the folder itself: " + fill_in(
            command, real
        )
    copy = f"{source.uri.rstrip('/')}-files"
    return (
        f"{fact}; links are followed inside the source only, so give a copy with the files in it: "
        f"cp -rL {shlex.quote(source.uri)} {shlex.quote(copy)} && {fill_in(command, copy)}"
    )


def find_mirrored(folder: str, names: Sequence[str]) -> str | None:
    """The one folder that holds, under the same relative paths, what all these links lead to; None where none does."""
    found = set()
    for name in names:
        target = os.path.realpath(os.path.join(folder, name))
        if not target.endswith(f"/{name}"):
            return None
        found.add(target[: -len(name) - 1])
    return found.pop() if len(found) == 1 else None


def describe_classes(source: Source, files: pa.Table, classes: Sequence[str], command: str) -> str:
    """Why a source with fewer than two classes cannot be learnt from, what lies one level deeper, and what to type."""
    if not files.num_rows:
        return f"{source.uri} holds no files; expected one folder of images per class{_hint_at_object(source, command)}"
    if classes:
        fact = f"{source.uri} holds one class, {classes[0]!r}; a classifier needs at least two class folders"
        return f"{fact}{look_deeper(source, files, command)}"
    loose = files.filter(pc.is_null(files.column("ignored")))
    if not loose.num_rows:
        counts = Counter(files.column("ignored").to_pylist()).most_common(3)
        why = ", ".join(f"{count:,} {rule}" for rule, count in counts)
        return f"{source.uri} holds {files.num_rows:,} files, none of which is looked at ({why}); no class folders"
    return f"{source.uri} holds {loose.num_rows:,} files but no class folders; {_hint_at_loose(source, loose, command)}"


def look_deeper(source: Source, files: pa.Table, command: str) -> str:
    """What lies below the one class folder: the folder that holds the classes, as a command, if there is one."""
    base = find_common_folder(files)
    if not base:
        return ""
    below = Counter(path[len(base) :].rpartition(b"/")[0].partition(b"/")[0] for path in iterate_labelled(files))
    loose = below.pop(b"", 0)
    folder = decode_path(base).rstrip("/")
    if len(below) < 2 or loose > sum(below.values()):
        return (
            f"; there are no folders below {folder!r} that could be classes ({loose:,} files lie in it): "
            "make a folder for each class, with its images in it"
        )
    names = [quote_path(name) for name in sorted(below)]
    shown = quote_some(names)
    if are_camera_folders(names):
        return f"; {folder!r} holds a camera's folders ({shown}), which are no classes: make a folder for each class"
    return f"; {folder!r} holds {len(below)} folders ({shown}): {fill_in(command, source.uri_of(folder))}"


def find_common_folder(files: pa.Table) -> bytes:
    """The deepest folder that all files with a label lie in, with a "/" behind it."""
    common: list[bytes] | None = None
    for path in iterate_labelled(files):
        folders = path.split(b"/")[:-1]
        if common is None:
            common = folders
        elif folders[: len(common)] != common:
            alike = sum(accumulate(map(eq, common, folders), and_))
            common = common[:alike]
    return b"".join(folder + b"/" for folder in common or ())


def are_camera_folders(names: Sequence[str]) -> bool:
    """Whether these are the names that cameras give to their folders, such as 100CANON."""
    return bool(names) and all(map(CAMERA_FOLDER.fullmatch, names))


def find_same_folders(files: pa.Table) -> tuple[str, ...]:
    """The names of the folders that all class folders hold alike, two or more of each; () where they differ.

    Then the level below may be what was meant: cameras or days above classes, or a split inside each class.
    """
    below: dict[bytes, set[bytes]] = {}
    count = 0
    for path in iterate_labelled(files):
        top, _, rest = path.partition(b"/")
        folder, slash, _ = rest.partition(b"/")
        known = below.setdefault(top, set())
        if not slash:
            return ()
        if folder not in known:
            known.add(folder)
            count += 1
            if count > SUBFOLDERS:
                return ()
    sets = set(map(frozenset, below.values()))
    if len(below) < 2 or len(sets) != 1 or len(next(iter(sets))) < 2:
        return ()
    return tuple(sorted(quote_path(name) for name in next(iter(sets))))


def _hint_at_loose(source: Source, loose: pa.Table, command: str) -> str:
    """What to do with files that lie in no folder: unpack what is an archive, else make a folder for each class."""
    for name in iterate_paths(loose):
        if (unpack := how_to_unpack(source.uri_of(name))) is not None:
            line, folder = unpack
            return f"{name} is an archive; unpack it and give the folder: {line} && {fill_in(command, folder)}"
    return (
        "a folder's name is its images' label: make one for each class, with its images in it "
        f"({source.uri_of('CLASS')}), then: {fill_in(command, source.uri)}{_hint_at_parent(source, command)}"
    )


def _hint_at_parent(source: Source, command: str) -> str:
    """What to type when the folder that was given is itself one class of several; "" where that is not seen."""
    place = Path(source.uri)
    if not source.is_local:
        return ""
    try:
        beside = [item for item in _list_some(place.parent) if item.is_dir(follow_symlinks=False)]
        siblings = [item for item in beside if not item.name.startswith(".")]
        holding = sum(any(found.name.lower().endswith(IMAGES) for found in _list_some(item)) for item in siblings)
    except OSError:
        return ""  # it is only a hint
    if holding < 2 or holding < len(siblings):  # a workspace beside it, or an inbox of folders: no folder of classes
        return ""
    return f"; or, if {place.name!r} is one class of {holding} in {place.parent}: {fill_in(command, str(place.parent))}"


def _list_some(folder: "os.PathLike[str]") -> list[os.DirEntry[str]]:
    with os.scandir(folder) as items:
        return list(islice(items, SIBLINGS))


def _hint_at_object(source: Source, command: str) -> str:
    """What an address of S3 is that names an object, and no prefix; "" for any other source."""
    if source.is_local:
        return ""
    parent, _, name = source.uri.rstrip("/").rpartition("/")
    try:
        found = list(islice(open_source(parent).list(name), 1)) if parent != "s3:/" else list[Entry]()
    except SafelightError:
        return ""
    if not found or found[0].path != name:
        return ""
    what = "an archive: unpack it into a prefix" if how_to_unpack(name) else "one object: give the prefix above it"
    return f" ({source.uri} is {what}{'' if how_to_unpack(name) else ', ' + fill_in(command, parent)})"
