"""A source in, one `Listed` per file out: its label (the top folder) or the rule by which it is ignored."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from cnn.errors import ConfigError
from infra.storage import Entry, Source, Store
from tasks.ledger import show_path

# What operating systems, file managers and half-finished transfers leave in folders; everything else is looked at.
SYSTEM_NAMES = ("thumbs.db", "desktop.ini", "__macosx", "@eadir", "icon\r", "$recycle.bin", "system volume information")
FOLDER_PROBLEMS = ("unreadable_folder", "symlink_outside_folder", "symlink_nested")  # each hides any number of files
UNFINISHED = ("*.tmp", "*.part", "*.partial", "*.crdownload", "~$*")


@dataclass(frozen=True)
class Listed:
    """One file of the source: `label` is None at the top level, `ignored` names the rule that leaves it out."""

    entry: Entry
    label: str | None
    ignored: str | None


def list_source(source: Source) -> list[Listed]:
    """Every file of the source, sorted by path; each ends in one row of the ledger."""
    return [classify_entry(entry) for entry in sorted(source.list(), key=lambda entry: entry.path)]


def classify_entry(entry: Entry) -> Listed:
    """The label and the ignore rule of one entry, from its path alone."""
    parts = entry.path.split("/")
    label = show_path(parts[0])[0] if len(parts) > 1 and parts[0] else None  # a key of S3 may begin with "/"
    rule = next(filter(None, map(ignore_rule, parts)), None)
    return Listed(entry, label, rule)


def ignore_rule(name: str) -> str | None:
    """`hidden`, `system`, `unfinished`, or None for a name that is looked at."""
    lowered = name.lower()
    if name.startswith("."):
        return None if is_placeholder(name) else "hidden"
    if lowered in SYSTEM_NAMES:
        return "system"
    if any(fnmatchcase(lowered, pattern) for pattern in UNFINISHED):
        return "unfinished"
    return None


def is_placeholder(name: str) -> bool:
    """Whether a hidden file stands for one that iCloud keeps elsewhere: an image is missing, which is to be told."""
    return name.startswith(".") and name.lower().endswith(".icloud") and len(name) > len("..icloud")


def find_empty_folders(source: Source, classes: Collection[str]) -> list[str]:
    """The names of folders of a local source that stand for no class, because no file is in them."""
    if not source.is_local:
        return []  # a store has no folders, only files
    names = [item.name for item in os.scandir(source.uri) if item.is_dir() and ignore_rule(item.name) is None]
    return sorted({show_path(name)[0] for name in names} - set(classes))


def find_lost_folders(listed: Iterable[Listed]) -> list[str]:
    """The folders that could not be looked into, among what was listed; nobody knows what lies in them."""
    return [item.entry.path for item in listed if item.entry.problem in FOLDER_PROBLEMS and item.ignored is None]


def find_twins(classes: Iterable[str]) -> list[tuple[str, ...]]:
    """Class names that differ only in case or in how accents are encoded, and that a person takes for one."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        groups[unicodedata.normalize("NFKC", unicodedata.normalize("NFC", name).casefold())].append(name)
    return [tuple(sorted(names)) for names in groups.values() if len(names) > 1]


def check_apart(source: Source, store: Store) -> None:
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
