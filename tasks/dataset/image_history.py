"""Find one image in every dataset version of a workspace: outcome, split, copies; and which image a text means."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cnn.dataset.manifest import Manifest
from infra.storage.store import Store
from tasks.dataset.gc import MANIFEST
from tasks.dataset.ledger import TABLE_VALUES, iterate_ledger
from tasks.dataset.version import fetch_ledger, read_manifest

PLACED = ("split", "split_origin", "outcome", "reason")
SHOWN = ("path", "path_raw", "digest", "image_key", "label", "group", TABLE_VALUES, *PLACED)
LEAST_DIGITS = 8  # of a digest that is written short
FETCHED_AT_ONCE = 8  # files of a workspace on S3
Parts = Callable[[], Iterable[pa.Table]]  # reads one file, a part of its rows at a time


@dataclass(frozen=True)
class DatasetSighting:
    """A file of these bytes in a dataset version. `copies` are the other files of the version with the same picture,
    each with its own outcome."""

    dataset: str
    source: str
    is_latest: bool
    row: dict[str, Any]
    copies: tuple[dict[str, Any], ...]


@dataclass
class WantedImage:
    """The image that a text means: by its path below a source, or by its sha256, which may be cut short to 8 digits.

    Looking for it fills `digests`, those of the files that are meant, and `keys`, those of the pictures in them.
    """

    text: str
    digests: set[str] = field(default_factory=set)
    keys: set[bytes] = field(default_factory=set)

    @property
    def is_by_digest(self) -> bool:
        """Whether the text may be the beginning of a sha256."""
        return LEAST_DIGITS <= len(self.text) <= 64 and not set(self.text) - set("0123456789abcdef")

    def search(self, files: Sequence[Parts]) -> list[list[dict[str, Any]]]:
        """The rows of the image, and of others with the same picture, in each file.

        A file is read once; again only where files after it taught what to look for: that a path has this digest, or
        that a digest has this picture.
        """
        found = [self._read(file) for file in files]
        while stale := [place for place, (known, rows) in enumerate(found) if self._is_stale(known, rows)]:
            for place in stale:
                found[place] = self._read(files[place])
        return [rows for _, rows in found]

    def _read(self, file: Parts) -> tuple[int, list[dict[str, Any]]]:
        """(how much was known of the image before, its rows)."""
        return self._known, self._find_rows(file())

    def _is_stale(self, known: int, rows: Sequence[dict[str, Any]]) -> bool:
        return known < self._known and (bool(rows) or not self.is_by_digest)

    @property
    def _known(self) -> int:
        return len(self.digests) + len(self.keys)

    def _find_rows(self, parts: Iterable[pa.Table]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for part in parts:
            own = self._match(part)
            if pc.any(own).as_py():
                self.digests |= set(part.filter(own).column("digest").to_pylist()) - {None}
            if "image_key" in part.column_names:
                keys = part.column("image_key")
                self.keys |= set(keys.filter(own).to_pylist()) - {None}
                own = pc.or_(own, pc.is_in(keys, pa.array(sorted(self.keys), keys.type)))
            rows += part.filter(own).to_pylist()
        return rows

    def _match(self, part: pa.Table) -> Any:
        """bool (rows,): which rows are of a file that is meant."""
        digests = part.column("digest")
        if self.is_by_digest:
            return pc.fill_null(pc.starts_with(digests, pattern=self.text), False)
        by_path = pc.equal(part.column("path"), self.text)
        return pc.or_(by_path, pc.is_in(digests, pa.array(sorted(self.digests), pa.string())))


def list_manifests(store: Store) -> list[Manifest]:
    """Every dataset version of a workspace, by name. Raises: IntegrityError, DatasetError, StorageError."""
    names = sorted(match[1] for entry in store.list("datasets/") if (match := MANIFEST.fullmatch(entry.path)))
    with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
        return list(pool.map(partial(read_manifest, store), names))


def open_ledgers(store: Store, manifests: Sequence[Manifest]) -> list[Parts]:
    """Readers of the ledgers of these versions, which are fetched.

    Raises:
        IntegrityError, StorageError: a ledger is damaged or gone.
    """
    with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
        paths = list(pool.map(partial(fetch_ledger, store), manifests))
    return [
        partial(iterate_ledger, path, store.uri_of(manifest.ledger.path), SHOWN)
        for path, manifest in zip(paths, manifests, strict=True)
    ]


def list_sightings(
    manifest: Manifest, rows: Sequence[dict[str, Any]], digest: str, is_latest: bool
) -> Iterator[DatasetSighting]:
    """The files of this digest among the rows that `WantedImage.search` found in a version, with their copies."""
    ordered = sorted(rows, key=lambda row: str(row["path"]))
    for own in ordered:
        if own["digest"] == digest:
            copies = tuple(row for row in ordered if row is not own)
            yield DatasetSighting(manifest.dataset, manifest.source, is_latest, own, copies)
