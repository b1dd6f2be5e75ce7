"""Settled rows in, a published dataset version out: the manifest is written last and is the only commit point."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
from pydantic import ValidationError

from cnn.dataset.manifest import LedgerRef, Manifest, Normalization, digest_manifest
from cnn.digest import hash_file
from cnn.errors import DatasetError, IntegrityError, StorageError
from cnn.spec import canonical_json
from infra.storage.disk_errors import explained
from infra.storage.scratch import open_scratch
from infra.storage.store import Store
from tasks.dataset.ledger import ROW_GROUP, LedgerWriter, from_parquet
from tasks.dataset.outcomes import has_outcomes, outcomes_path, write_outcomes
from tasks.prepare.build import BuildSpec
from tasks.prepare.checks import count_images, count_outcomes, digest_dataset
from tasks.prepare.placement import Placement
from tasks.prepare.table import Rows, iterate_slices


@dataclass(frozen=True)
class Draft:
    """All that a version is made of, before it is written."""

    source: str
    spec: BuildSpec
    classes: tuple[str, ...]
    rows: Rows
    placement: Placement
    normalization: Normalization
    listing: str = ""  # see `Latest`
    measured: bool = False  # whether the levels of the images were measured


@dataclass(frozen=True)
class Latest:
    """The newest version of a source; under the same `listing` (what the source listed, and all settings) the same
    version would come out again. It is empty where that is not sure: a file gave no bytes, and may give some later."""

    dataset: str
    listing: str = ""


def publish_dataset(draft: Draft, store: Store) -> tuple[Manifest, str]:
    """Write the ledger, then the manifest, then the pointer; returns the manifest and its path."""
    with explained("write the ledger to", store.uri), open_scratch(store.root) as body:
        write_ledger(draft, body.path)
        ledger = LedgerRef(path="", rows=len(draft.rows), sha256=hash_file(body.path))
        manifest = make_manifest(draft, ledger)
        store.take_file(manifest.ledger.path, body.path)
    if has_outcomes(draft.rows):
        with explained("write outcomes.csv to", store.uri), open_scratch(store.root) as body:
            write_outcomes(draft.rows, body.path)
            store.take_file(outcomes_path(manifest.dataset), body.path)
    check_standing(store, manifest)
    store.write(manifest_path(manifest.dataset), manifest.to_json().encode())
    point_to(store, draft.source, Latest(manifest.dataset, draft.listing))
    return manifest, manifest_path(manifest.dataset)


def point_to(store: Store, source: str, latest: Latest) -> None:
    """Make a version the newest one of its source."""
    store.write(pointer_path(source), canonical_json(asdict(latest)).encode())


def check_standing(store: Store, manifest: Manifest) -> None:
    """Refuse a version whose shards are not all there: some were there when the run began, and may have been removed.

    Raises:
        StorageError: a shard is named; nothing is published.
    """
    sizes = {entry.path: entry.size for entry in store.list("shards/")}
    for shard in (shard for shards in manifest.splits.values() for shard in shards):
        if sizes.get(shard.path) != shard.bytes:
            raise StorageError(
                f"{store.uri_of(shard.path)} was removed or replaced during this run; nothing was published, run again"
            )


def write_ledger(draft: Draft, path: Path) -> None:
    """Write the ledger's file part by part."""
    writer = LedgerWriter(path)
    try:
        for start, stop in iterate_slices(len(draft.rows), ROW_GROUP):
            writer.write(draft.rows.table(start, stop, draft.placement.shards, draft.placement.names))
    finally:
        writer.close()


def make_manifest(draft: Draft, ledger: LedgerRef) -> Manifest:
    """The manifest under the name that is made from its content."""
    rows, spec = draft.rows, draft.spec
    used = draft.placement.chunks
    manifest = Manifest(
        dataset="",
        digest=digest_dataset(rows, draft.classes),
        source=draft.source,
        classes=draft.classes,
        image=spec.image,
        augment=spec.augment,
        split=spec.split,
        split_folders=dict(spec.folders),
        normalization=draft.normalization,
        ledger=ledger,
        splits=dict(draft.placement.splits),
        images=count_images(rows),
        files=len(rows),
        outcomes=count_outcomes(rows),
        build=spec.salt(),
        chunks={key: dict(rows.shards[key]) for key in used},
        derived=draft.placement.derived,
        measured_levels=draft.measured,
    )
    name = f"{slug_of(draft.source)}-{manifest.digest_of_content()[:12]}"
    ledger = ledger.model_copy(update={"path": f"datasets/{name}/ledger.parquet"})
    return manifest.model_copy(update={"dataset": name, "ledger": ledger})


def manifest_path(dataset: str) -> str:
    """Where a version's manifest lies in the workspace."""
    return f"datasets/{dataset}/manifest.json"


def pointer_path(source: str) -> str:
    """Where the name of the latest version of a source lies."""
    return f"datasets/latest/{slug_of(source)}-{hashlib.sha256(source.encode()).hexdigest()[:12]}.json"


def slug_of(source: str) -> str:
    """The last part of an address in lower-case letters, digits and dashes."""
    last = source.rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")[:40] or "dataset"


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


def find_latest(store: Store, source: str) -> Latest | None:
    """The latest version of a source; None where there is none, or nothing that names one."""
    name = pointer_path(source)
    if not store.exists(name):
        return None
    try:
        facts = json.loads(store.read(name))
        return Latest(str(facts["dataset"]), str(facts.get("listing", "")))
    except (ValueError, KeyError, TypeError):
        return None


def read_ledger(store: Store, manifest: Manifest) -> pa.Table:
    """The ledger of a version, verified against the manifest.

    Raises:
        IntegrityError: the file is not the one that was published.
    """
    body = store.read(manifest.ledger.path)
    if hashlib.sha256(body).hexdigest() != manifest.ledger.sha256:
        raise IntegrityError(f"{store.uri_of(manifest.ledger.path)} is damaged; prepare the dataset again")
    return from_parquet(body, store.uri_of(manifest.ledger.path))


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
