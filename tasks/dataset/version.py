"""Versions of a dataset in a workspace: the latest one of a source, its manifest, its ledger."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pydantic import ValidationError

from cnn.dataset.manifest import Manifest, digest_manifest
from cnn.digest import canonical_json, hash_file
from cnn.errors import DatasetError, IntegrityError
from infra.storage.layout import dataset_pointer_path, manifest_path
from infra.storage.store import Store
from tasks.dataset.ledger import iterate_ledger


@dataclass(frozen=True)
class LatestVersion:
    """The newest version of a source.

    Under the same `listing_digest` (what the source listed, and all settings) the same version would come out again. It
    is empty where that is not sure: a file gave no bytes, and may give some later.
    """

    dataset: str
    listing_digest: str = ""


def point_to_version(store: Store, source: str, latest: LatestVersion) -> None:
    """Make a version the newest one of its source."""
    pointer = {"dataset": latest.dataset, "listing": latest.listing_digest}
    store.write(dataset_pointer_path(source), canonical_json(pointer).encode())


def find_latest_version(store: Store, source: str) -> LatestVersion | None:
    """The latest version of a source; None where there is none, or nothing that names one."""
    name = dataset_pointer_path(source)
    if not store.exists(name):
        return None
    try:
        facts = json.loads(store.read(name))
        return LatestVersion(str(facts["dataset"]), str(facts.get("listing", "")))
    except (ValueError, KeyError, TypeError):
        return None


def read_manifest(store: Store, dataset: str) -> Manifest:
    """The manifest of a dataset version.

    Raises:
        DatasetError: there is no such version in this workspace, or it is of another release's format.
        IntegrityError: the manifest is damaged.
    """
    name = manifest_path(dataset)
    if not re.fullmatch(r"[a-z0-9-]+", dataset) or not store.exists(name):
        raise DatasetError(
            f"there is no dataset {dataset!r} in {store.uri}; `safelight prepare SOURCE` prints the name it makes"
        )
    body = store.read(name)
    try:
        manifest = Manifest.model_validate_json(body)
    except ValidationError as error:
        if any(fault["loc"] == ("format",) and isinstance(fault["input"], int) for fault in error.errors()):
            raise DatasetError(
                f"{store.uri_of(name)} was made by another release of Safelight; prepare again"
            ) from None
        raise IntegrityError(f"{store.uri_of(name)} is damaged ({error.error_count()} errors); prepare again") from None
    if not manifest.dataset.endswith(digest_manifest(json.loads(body))[:12]):
        raise IntegrityError(f"{store.uri_of(name)} is damaged (it does not match its name); prepare again")
    return manifest


def fetch_ledger(store: Store, manifest: Manifest) -> Path:
    """The ledger of a version as a local file, verified against the manifest.

    Raises:
        IntegrityError: the file is not the one that was published.
        StorageError: it is gone.
    """
    path = store.fetch(manifest.ledger.path)
    if hash_file(path) != manifest.ledger.sha256:
        raise IntegrityError(f"{store.uri_of(manifest.ledger.path)} is damaged; prepare the dataset again")
    return path


def read_ledger(store: Store, manifest: Manifest, columns: Sequence[str] | None = None) -> pa.Table:
    """The ledger of a version, or these columns of it, verified against the manifest.

    Raises:
        IntegrityError: the file is not the one that was published.
        StorageError: it is gone.
    """
    parts = iterate_ledger(fetch_ledger(store, manifest), store.uri_of(manifest.ledger.path), columns)
    return pa.concat_tables(parts)
