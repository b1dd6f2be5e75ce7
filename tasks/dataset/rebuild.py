"""Rebuild a dataset version from its source: what it listed then and nothing else, and which files are not the same."""

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from cnn.dataset.manifest import Manifest
from infra.storage.entry import Entry
from infra.storage.layout import manifest_path
from infra.storage.store import Source, Store
from tasks.dataset.ledger import DECODED, TABLE_VALUES
from tasks.dataset.version import LatestVersion, fetch_ledger, point_to_version, read_ledger
from tasks.files.paths import decode_path, encode_path, quote_path, restore_paths

COMPARED = ("path", "path_raw", "digest", "outcome", "label", "split", "pixels_crc32c", "copies_crc32c")


@dataclass(frozen=True)
class ListedSource:
    """A source as it was listed once: files that came later are not there."""

    source: Source
    paths: frozenset[str]

    @property
    def uri(self) -> str:
        """The address of the source."""
        return self.source.uri

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return self.source.is_local

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """The files that were there then and are there now. Raises: SourceError."""
        return (entry for entry in self.source.list(prefix) if entry.path in self.paths)

    def read(self, path: str) -> bytes:
        """All bytes of a file. Raises: BadImage, SourceError."""
        return self.source.read(path)

    def uri_of(self, path: str) -> str:
        """The address of a file, for people."""
        return self.source.uri_of(path)


@dataclass(frozen=True)
class SourceDifference:
    """What differs from a version, by paths as people read them: files that are `gone`, whose bytes have `changed`,
    and those of which something else was `decided` (an outcome, a class, a split), or other pixels were made. `moved`:
    `old path -> new path` of those that are gone where a file of their name and size lies in another folder now."""

    gone: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    decided: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.gone or self.changed or self.decided or self.moved)


def limit_source(source: Source, store: Store, manifest: Manifest) -> tuple[ListedSource, SourceDifference]:
    """The source with the files of a version alone, and which of those that were learnt from are gone, or have another
    size than then; what changed and kept its size is found when it is read.

    Raises:
        IntegrityError, StorageError, SourceError: the ledger is damaged or gone, or the source does not answer.
    """
    ledger = read_ledger(store, manifest, ("path", "path_raw", "size", "outcome"))
    paths = [decode_path(path) for path in restore_paths(ledger).to_pylist()]
    there = {entry.path: entry.size for entry in source.list()}
    rows = zip(paths, ledger.column("size").to_pylist(), ledger.column("outcome").to_pylist(), strict=True)
    learnt = [(path, size) for path, size, outcome in rows if outcome in DECODED]
    missing = {path: size for path, size in learnt if path not in there}
    listed = frozenset(paths)
    moved = _find_moved(missing, {path: size for path, size in there.items() if path not in listed})
    difference = SourceDifference(
        gone=_name_paths(path for path in missing if path not in moved),
        changed=_name_paths(path for path, size in learnt if there.get(path, size) != size),
        moved=tuple(f"{_name_path(old)} -> {_name_path(new)}" for old, new in sorted(moved.items())),
    )
    return ListedSource(source, listed), difference


def _find_moved(missing: Mapping[str, int], new: Mapping[str, int]) -> dict[str, str]:
    """Where files that are missing lie now: under a new path of the same name and size, each of which counts once."""
    places: dict[tuple[str, int], list[str]] = {}
    for path, size in sorted(new.items(), reverse=True):
        places.setdefault((posixpath.basename(path), size), []).append(path)
    found = {}
    for path, size in sorted(missing.items()):
        if candidates := places.get((posixpath.basename(path), size)):
            found[path] = candidates.pop()
    return found


def _name_path(path: str) -> str:
    return quote_path(encode_path(path))


def _name_paths(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(map(_name_path, paths)))


def read_recorded(store: Store, manifest: Manifest) -> dict[bytes, str]:
    """Path → what the user's table said of its image then (JSON), for those of which it said anything.

    Raises:
        IntegrityError, StorageError: the ledger is damaged or gone.
    """
    ledger = read_ledger(store, manifest, ("path", "path_raw", TABLE_VALUES))
    pairs = zip(restore_paths(ledger).to_pylist(), ledger.column(TABLE_VALUES).to_pylist(), strict=True)
    return {path: text for path, text in pairs if text is not None}


def copy_memory(store: Store, manifest: Manifest, scratch: Store) -> None:
    """Let another workspace know a version as the one before: what was decided once, splits and numbers of classes,
    stays. None of its pixels go there, so all of them are made anew. Raises: StorageError, IntegrityError."""
    scratch.put_file(manifest.ledger.path, fetch_ledger(store, manifest))
    scratch.write(manifest_path(manifest.dataset), store.read(manifest_path(manifest.dataset)))
    point_to_version(scratch, manifest.source, LatestVersion(manifest.dataset))


def copy_shards(store: Store, manifest: Manifest, scratch: Store) -> bool:
    """Bring the shards of a version into another workspace, in whose order its images are then learnt from; whether
    all are still there. Raises: StorageError."""
    shards = [shard for split in manifest.splits.values() for shard in split]
    if not all(store.exists(shard.path) for shard in shards):
        return False
    for shard in shards:
        scratch.put_file(shard.path, store.fetch(shard.path))
    return True


def compare_versions(before: pa.Table, after: pa.Table) -> SourceDifference:
    """What differs between the ledgers of a version and of its rebuilding, columns `COMPARED`."""
    old, new = (dict(zip(restore_paths(each).to_pylist(), each.to_pylist(), strict=True)) for each in (before, after))
    gone, changed, decided = [], [], []
    for path, row in old.items():
        other = new.get(path)
        if row["outcome"] not in DECODED:
            continue
        if other is None:
            gone.append(path)
        elif other["digest"] != row["digest"]:
            changed.append(path)
        elif any(other[name] != row[name] for name in COMPARED[3:]):
            decided.append(path)
    return SourceDifference(*(tuple(sorted(map(quote_path, paths))) for paths in (gone, changed, decided)))


def describe_difference_of_source(difference: SourceDifference, most: int = 10) -> list[str]:
    """A line for each kind of difference, with the first paths."""
    facts = {
        "gone": difference.gone,
        "perhaps moved, by name and size": difference.moved,
        "other bytes than then": difference.changed,
        "another outcome, class, split or other pixels than then": difference.decided,
    }
    lines = []
    for fact, paths in facts.items():
        if paths:
            more = f" and {len(paths) - most:,} more" if len(paths) > most else ""
            lines.append(
                f"{len(paths):,} {'file' if len(paths) == 1 else 'files'}, {fact}: {', '.join(paths[:most])}{more}"
            )
    return lines
