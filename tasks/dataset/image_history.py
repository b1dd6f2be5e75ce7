"""What became of one image in every dataset version of a workspace: outcome, split, copies."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cnn.dataset.manifest import Manifest
from infra.storage.store import Store
from tasks.dataset.gc import MANIFEST, latest_versions
from tasks.dataset.ledger import iterate_ledger
from tasks.dataset.version import fetch_ledger, read_manifest

SHOWN = ("path", "path_raw", "digest", "image_key", "label", "group", "split", "split_origin", "outcome", "reason")
LEAST_DIGITS = 8  # of a digest that is written short


@dataclass(frozen=True)
class DatasetSighting:
    """A file of these bytes in a dataset version. `copies` are the other files of the version with the same picture,
    each with its own outcome."""

    dataset: str
    source: str
    is_latest: bool
    row: dict[str, Any]
    copies: tuple[dict[str, Any], ...]


def list_manifests(store: Store) -> Iterator[Manifest]:
    """Every dataset version of a workspace, by name. Raises: IntegrityError, DatasetError, StorageError."""
    names = sorted(match[1] for entry in store.list("datasets/") if (match := MANIFEST.fullmatch(entry.path)))
    for name in names:
        yield read_manifest(store, name)


def find_in_datasets(store: Store, digest: str) -> list[DatasetSighting]:
    """Where the file with this sha256 stands in each version that lists it.

    Raises:
        IntegrityError, StorageError: a manifest or ledger is damaged or gone.
    """
    latest, found = latest_versions(store), []
    for manifest in list_manifests(store):
        rows = _read_rows(store, manifest, "digest", digest)
        if not rows:
            continue
        keys = {row["image_key"] for row in rows} - {None}
        alike = [*rows, *(row for key in keys for row in _read_rows(store, manifest, "image_key", key))]
        copies = {row["path"]: row for row in alike}
        found += [
            DatasetSighting(
                manifest.dataset,
                manifest.source,
                manifest.dataset in latest,
                row,
                tuple(other for path, other in sorted(copies.items()) if path != row["path"]),
            )
            for row in rows
        ]
    return found


def find_digests(store: Store, text: str) -> set[str]:
    """The sha256 of the files that are meant by the beginning of one (8 digits at the least), or by their path below
    the source."""
    column = "digest" if is_digest_like(text) else "path"
    rows = (row for manifest in list_manifests(store) for row in _read_rows(store, manifest, column, text))
    return {row["digest"] for row in rows if row["digest"] is not None}


def is_digest_like(text: str) -> bool:
    """Whether a text may be the beginning of a sha256."""
    return LEAST_DIGITS <= len(text) <= 64 and not set(text) - set("0123456789abcdef")


def _read_rows(store: Store, manifest: Manifest, column: str, value: Any) -> list[dict[str, Any]]:
    """The rows of a ledger whose column has this value; a digest may be cut short."""
    parts = iterate_ledger(fetch_ledger(store, manifest), store.uri_of(manifest.ledger.path), SHOWN)
    return [row for part in parts for row in part.filter(match_column(part, column, value)).to_pylist()]


def match_column(table: pa.Table, column: str, value: Any) -> Any:
    """bool (rows,): where a column has a value; a digest may be cut short."""
    values = table.column(column)
    return pc.starts_with(values, pattern=value) if column == "digest" else pc.equal(values, value)
