"""A source in, one `Listed` per file out: its label (the top folder) or the rule by which it is ignored."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from cnn.errors import ConfigError
from cnn.spec import Settings
from infra.storage.store import Entry, Source, Store
from tasks.dataset.ledger import show_path
from tasks.files.glob_patterns import compile_patterns

# What operating systems, file managers and half-finished transfers leave in folders; everything else is looked at.
SYSTEM_NAMES = ("thumbs.db", "desktop.ini", "__macosx", "@eadir", "icon\r", "$recycle.bin", "system volume information")
FOLDER_PROBLEMS = ("unreadable_folder", "symlink_outside_folder", "symlink_nested")  # each hides any number of files
UNFINISHED = ("*.tmp", "*.part", "*.partial", "*.crdownload", "~$*")
# What cameras, phones, photo programs, Google Takeout and people put beside pictures, by the ending of the name alone.
PROGRAMS = "aae acr arp cop cos cot dop dr4 exif lrcat lrprev lrtemplate nksc on1 pp3 spd vrd xmp"
CAMERAS = (
    "bdm cpi ctg gpx kml kmz nmea srt thm vtt aac aif aiff amr flac m4a mp3 oga ogg opus wav wma"  # spoken notes too
)
LISTS = (
    "bib cache cfg conf csv db geojson info ini ipynb json jsonl lst md5 names pickle pkl py sfv sha1 sha256 toml tsv"
)
TEXTS = "bak doc docx htm html lnk log md ods odt rst rtf txt url webloc wpl xls xlsx xml yaml yml"
SIDECARS = frozenset(f"{PROGRAMS} {CAMERAS} {LISTS} {TEXTS}".split())
MOVIES = "360 3g2 3gp asf avi divx dv f4v flv insv lrv m2ts m2v m4v mkv modd moff mov mp mp4 mpe mpeg mpg mts mxf"
MOVIES += " ogm ogv qt rm rmvb tod vob webm wmv"
VIDEOS = frozenset(MOVIES.split())
EXCLUDED = "excluded"


class SourceSpec(Settings):
    """Which files of a folder are looked at, in training and in scoring alike."""

    exclude: tuple[str, ...] = Field(
        (),
        examples=[["*.xmp", "raw/**"]],
        description='files to leave out, such as ["*.xmp", "raw/**"]: * and ? stay within a name, ** crosses folders;'
        " a pattern without / is looked for at any depth, in files and folders; upper and lower case are the same",
    )

    @field_validator("exclude")
    @classmethod
    def _patterns_can_be_read(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            compile_patterns((pattern,))
        return value


@dataclass(frozen=True)
class Listed:
    """One file of the source: `label` is None at the top level, `ignored` names the rule that leaves it out."""

    entry: Entry
    label: str | None
    ignored: str | None


def list_source(source: Source, exclude: Sequence[str] = ()) -> list[Listed]:
    """Every file of the source, sorted by path; each ends in one row of the ledger."""
    return [classify_entry(entry, exclude) for entry in sorted(source.list(), key=lambda entry: entry.path)]


def classify_entry(entry: Entry, exclude: Sequence[str] = ()) -> Listed:
    """The label and the ignore rule of one entry, from its path alone; `exclude` are patterns of `SourceSpec`."""
    parts = entry.path.split("/")
    label = show_path(parts[0])[0] if len(parts) > 1 and parts[0] else None  # a key of S3 may begin with "/"
    rule = next(filter(None, map(ignore_rule, parts)), None) or companion_rule(parts[-1])
    if exclude and compile_patterns(tuple(exclude)).fullmatch(entry.path):
        rule = EXCLUDED  # what its owner says comes before what names say
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


def companion_rule(name: str) -> str | None:
    """`sidecar` or `video` for a file that lies beside pictures and is none, by how its name ends; else None."""
    stem, _, ending = name.lower().rpartition(".")
    if not stem:
        return None
    return "sidecar" if ending in SIDECARS else "video" if ending in VIDEOS else None


def describe_excluded(paths: Iterable[str], patterns: Sequence[str]) -> str:
    """How many of the excluded paths each pattern meets; one that meets none may be mistyped."""
    counts = dict.fromkeys(patterns, 0)
    meets = {pattern: compile_patterns((pattern,)).fullmatch for pattern in patterns}
    for path in paths:
        for pattern in patterns:
            counts[pattern] += meets[pattern](path) is not None
    told = [f"{pattern!r} {f'{count:,}' if count else 'no file'}" for pattern, count in counts.items()]
    return f"left out by source.exclude: {', '.join(told)}"


def find_empty_folders(
    source: Source, inventory: pa.Table, classes: Collection[str], inside: Iterable[str] = ()
) -> list[str]:
    """The names of folders that stand for no class, because no file is in them, or none that is looked at.

    Class folders lie at the top, or in the folders `inside`. A store has no folders without files.
    """
    excluded = pc.fill_null(pc.equal(inventory.column("ignored").cast(pa.string()), EXCLUDED), False)
    labels = inventory.column("label")
    names = {name for name in labels.filter(pc.invert(excluded)).unique().to_pylist() if name is not None}
    for base in (list(inside) or [""]) if source.is_local else ():
        names |= {show_path(item.name)[0] for item in os.scandir(os.path.join(source.uri, base)) if item.is_dir()}
    known = {*classes, *labels.filter(excluded).unique().to_pylist()}
    return sorted(name for name in names - known if ignore_rule(name) is None)


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
