"""Which folders of a source are classes, and which are a split that its owner made: `train/`, `val/`, `test/`.

A split of the owner's is kept as it is: classes come from the level below, and a missing split is drawn from training.
"""

import os
import re
import shlex
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.dataset.split import SPLITS
from cnn.errors import SourceError
from cnn.text import name_some, quote_some
from infra.storage.store import Source
from tasks.files.ignore_rules import EXCLUDED, find_folder_rule
from tasks.files.listing import BATCH, FILES, class_names, iterate_labelled
from tasks.files.paths import quote_path
from tasks.files.text_index import TextIndex

TRAIN, VALIDATION, TEST = SPLITS
SPLIT_NAMES = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "test": TEST,
    "testing": TEST,
}
UNLABELLED = "unlabelled"  # the rule that leaves out images of a split that lie in no class folder
# `training_set`, `test1` and `images-val` name splits as well, beside a folder for training.
WORD = "(?:data|dataset|images?|imgs?|set|split)"
DECORATED = re.compile(rf"(?:{WORD}[ _.-])?({'|'.join(SPLIT_NAMES)})(?:[ _.-]?(?:{WORD}|[0-9]{{1,4}}))?")


@dataclass(frozen=True)
class OwnerSplit:
    """`folders`: top folder → the split that it is; empty: top folders are classes. Those in `unlabelled` name a split
    too, but hold images in no class folder, which are left out. `gaps`: what a split lacks, one line each."""

    folders: Mapping[str, str] = field(default_factory=dict)
    unlabelled: Mapping[str, int] = field(default_factory=dict)
    gaps: tuple[str, ...] = ()


@dataclass
class Contents:
    """What lies in a top folder: how many files in each folder of it, and how many in none."""

    folders: dict[str, int] = field(default_factory=dict)
    loose: int = 0

    @property
    def is_sorted(self) -> bool:
        """Whether most of its files lie in folders."""
        return sum(self.folders.values()) > self.loose


def name_split(folder: str) -> str | None:
    """The split that a folder's name stands for, or None."""
    found = DECORATED.fullmatch(folder.lower())
    return SPLIT_NAMES[found.group(1)] if found else None


def find_owner_split(files: pa.Table, wanted: bool | None, source: str) -> OwnerSplit:
    """What the top folders of a listing are; `wanted` is the setting `split.folders`, None: what they look like.

    Raises:
        SourceError: they can be read in two ways, both of which are named with what chooses; or a split is wanted, and
            no folder is for training.
    """
    tops = class_names(files)
    named = {top: split for top in tops if (split := name_split(top)) is not None}
    if wanted is None and not _looks_like_split(tops, named, files, source):
        return OwnerSplit()
    if wanted is False:
        return OwnerSplit()
    if TRAIN not in named.values():
        raise SourceError(
            f"{source} has no folder 'train', though split.folders = true; name it so, or unset split.folders"
        )
    inside = look_inside(files, named)
    unlabelled = {top: inside[top].loose for top in named if not inside[top].folders and named[top] != TRAIN}
    folders = {top: split for top, split in named.items() if top not in unlabelled}
    if wanted is None:
        _refuse_doubtful(tops, named, inside, source)
    gaps = list(_find_gaps(folders, inside))
    if others := sorted(set(tops) - set(named)):
        shown = name_some([f"{top}/" for top in others])
        gaps.append(f"files outside the split's folders, which are left out: {shown}")
    return OwnerSplit(folders, unlabelled, tuple(gaps))


def apply_owner_split(files: pa.Table, split: OwnerSplit) -> pa.Table:
    """The listing with the labels of the level below the split's folders; what lies in no split has no label."""
    if not split.folders:
        return files
    labels, rules = TextIndex(), TextIndex()
    pieces: tuple[list[NDArray[np.int32]], list[NDArray[np.int32]]] = [], []
    for batch in files.select(["path", "ignored"]).to_batches(max_chunksize=BATCH):
        parts = [path.split(b"/", 2) for path in batch.column("path").to_pylist()]
        tops = [_show(part[0]) for part in parts]
        below = [part[1] if len(part) == 3 else b"" for part in parts]
        own = [top in split.folders and bool(name) for top, name in zip(tops, below, strict=True)]
        pieces[0].append(
            labels.encode(_show(name) if is_own else None for name, is_own in zip(below, own, strict=True))
        )
        left_out = [UNLABELLED if top in split.unlabelled else None for top in tops]
        known = batch.column("ignored").to_pylist()
        pieces[1].append(rules.encode(rule or new for rule, new in zip(known, left_out, strict=True)))
    for name, numbers, index in zip(("label", "ignored"), pieces, (labels, rules), strict=True):
        column = index.decode(np.concatenate(numbers))
        files = files.set_column(FILES.get_field_index(name), FILES.field(name), column)
    return files


def look_inside(files: pa.Table, tops: Mapping[str, str] | Sequence[str]) -> dict[str, Contents]:
    """What lies in these top folders, ignored files left out."""
    found = {top: Contents() for top in tops}
    for path in iterate_labelled(files):
        top, _, rest = path.partition(b"/")
        contents = found.get(_show(top))
        if contents is None:
            continue
        folder, slash, _ = rest.partition(b"/")
        if slash:
            name = _show(folder)
            contents.folders[name] = contents.folders.get(name, 0) + 1
        else:
            contents.loose += 1
    return found


def describe_owner_split(split: OwnerSplit, source: str) -> list[str]:
    """What was understood, one line each, for whoever expected something else; nothing where folders are classes."""
    if not split.folders:
        return []
    ordered = sorted(split.folders.items(), key=lambda item: (list(SPLITS).index(item[1]), item[0]))
    given = ", ".join(f"{top}/ is {name}" for top, name in ordered)
    missing = [name for name in (VALIDATION, TEST) if name not in split.folders.values()]
    drawn = f"; {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} drawn from training" if missing else ""
    lines = [f"the folders' own split is kept: {given}{drawn} (split.folders = false makes classes of these folders)"]
    lines += [
        f"{top}/ holds {count:,} files in no class folder, which are left out of training; "
        f"`safelight score {shlex.quote('/'.join([source.rstrip('/'), top]))} --name NAME` scores them"
        for top, count in sorted(split.unlabelled.items())
    ]
    return [*lines, *split.gaps]


def find_empty_folders(
    source: Source, files: pa.Table, classes: Collection[str], inside: Iterable[str] = ()
) -> list[str]:
    """The names of folders that stand for no class, because no file is in them, or none that is looked at.

    Class folders lie at the top, or in the folders `inside`. A store has no folders without files.
    """
    excluded = pc.fill_null(pc.equal(files.column("ignored").cast(pa.string()), EXCLUDED), False)
    labels = files.column("label")
    names = {name for name in labels.filter(pc.invert(excluded)).unique().to_pylist() if name is not None}
    for base in (list(inside) or [""]) if source.is_local else ():
        names |= {_show(os.fsencode(item.name)) for item in os.scandir(os.path.join(source.uri, base)) if item.is_dir()}
    known = {*classes, *labels.filter(excluded).unique().to_pylist()}
    return sorted(name for name in names - known if find_folder_rule(name) is None)


def find_similar_names(classes: Iterable[str]) -> list[tuple[str, ...]]:
    """Class names that differ only in case or in how accents are encoded, and that a person takes for one."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        groups[unicodedata.normalize("NFKC", unicodedata.normalize("NFC", name).casefold())].append(name)
    return [tuple(sorted(names)) for names in groups.values() if len(names) > 1]


def _looks_like_split(tops: Sequence[str], named: Mapping[str, str], files: pa.Table, source: str) -> bool:
    """Whether folders are named as splits are. Raises: SourceError when that may be chance."""
    splits = set(named.values())
    if TRAIN in splits and len(splits) > 1:
        return True
    others = [top for top in tops if top not in named]
    if splits == {TRAIN} and others:  # a train is a vehicle too
        inside = look_inside(files, named)
        if any(len(contents.folders) > 1 and contents.is_sorted for contents in inside.values()):
            _refuse_both(
                source,
                list(named),
                f"beside {'it' if len(named) == 1 else 'them'} stand {quote_some(others)}",
                f"set split.folders = true, which leaves {quote_some(others)} out",
            )
    # "valid" beside "invalid", "test1" beside "test2" are classes; "test" beside "cat" and "dog" may be either.
    held = [top for top in named if top.lower() in SPLIT_NAMES and named[top] != TRAIN and top.lower() != "valid"]
    if TRAIN not in splits and held and len(tops) > 1:
        found = f"no folder is for training, and beside stand {quote_some(others)}"
        exclude = ", ".join(f'"{top}/**"' for top in held)
        _refuse_both(
            source,
            held,
            found if others else "no folder is for training",
            f"move the other folders into {source}/train, or leave it out with source.exclude = [{exclude}]",
        )
    return False


def _refuse_doubtful(
    tops: Sequence[str], named: Mapping[str, str], inside: Mapping[str, Contents], source: str
) -> None:
    """Refuse folders that are named as splits are, and do not hold what splits hold."""
    others = [top for top in tops if top not in named]
    if others:
        shown = quote_some(others)
        remedy = f"set split.folders = true, which leaves {shown} out"
        _refuse_both(source, named, f"beside them stands {shown}", remedy)
    for split in (TRAIN, VALIDATION, TEST):
        same = [top for top in named if named[top] == split]
        if len(same) > 1:
            both = " and ".join(map(repr, same))
            _refuse_both(source, named, f"{both} both mean {split}", "set split.folders = true, which takes both")
    train = next(top for top in named if named[top] == TRAIN)
    for top, contents in inside.items():
        if not contents.is_sorted and not (named[top] == TEST and not contents.folders):
            found = f"{top}/ holds {contents.loose:,} files in no class folder"
            _refuse_both(source, named, found, f"give each class a folder below each of them ({train}/CLASS)")
    if len(inside[train].folders) < 2:
        found = f"{train}/ holds one folder alone, {next(iter(inside[train].folders))!r}"
        _refuse_both(source, named, found, f"give each class a folder of its own ({train}/CLASS)")
    for top, contents in inside.items():
        if unknown := sorted(set(contents.folders) - set(inside[train].folders)):
            found = f"{top}/ holds {quote_some(unknown)}, which {train}/ does not"
            remedy = f'make the folders below them the same, leave it out (source.exclude = ["{top}/**"])'
            _refuse_both(source, named, found, f"{remedy}, or set split.folders = true")


def _refuse_both(source: str, named: Mapping[str, str] | Sequence[str], found: str, remedy: str) -> None:
    one = len(named) == 1
    names = " and ".join(map(repr, named))
    raise SourceError(
        f"{source}: {names} may be {'a class' if one else 'classes'}, or {'part of a' if one else 'the'} split of one "
        f"data set, but {found}; if {'it is a class' if one else 'they are classes'}, set split.folders = false; "
        f"if a split, {remedy}; nothing was published"
    )


def _find_gaps(folders: Mapping[str, str], inside: Mapping[str, Contents]) -> Iterator[str]:
    """Classes that a held-out folder lacks, and files beside class folders."""
    classes = {name for top in folders for name in inside[top].folders}
    for top, split in folders.items():
        if lacking := sorted(classes - set(inside[top].folders)):
            yield f"{top}/ has no images of {quote_some(lacking)}, so {split} says nothing about them"
        if inside[top].loose:
            yield f"{top}/ holds {inside[top].loose:,} files beside its class folders, which have no label"


@lru_cache(maxsize=4096)
def _show(name: bytes) -> str:
    return quote_path(name)
