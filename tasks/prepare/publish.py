"""Publish a dataset version: the ledger, then the manifest, which is the only commit point, then the pointer."""

from dataclasses import dataclass

from cnn.dataset.manifest import LedgerRef, Manifest
from cnn.dataset.normalization import Normalization
from cnn.digest import hash_file
from cnn.errors import StorageError
from infra.storage.disk_errors import explain_disk_errors
from infra.storage.layout import ledger_path, manifest_path, outcomes_path, slug_of
from infra.storage.scratch import open_scratch
from infra.storage.store import Store
from tasks.dataset.ledger import ROW_GROUP, write_ledger
from tasks.dataset.version import LatestVersion, point_to_version
from tasks.prepare.checks import count_images, count_outcomes, digest_dataset
from tasks.prepare.job import Listing
from tasks.prepare.outcomes import has_outcomes, write_outcomes
from tasks.prepare.placement import Placement
from tasks.prepare.table import Rows, iterate_slices


@dataclass(frozen=True)
class DatasetDraft:
    """All that a version is made of, before it is written.

    `is_final`: the same listing would give the same version again; not so where a file gave no bytes, and may give some
    later.
    """

    source: str
    listing: Listing
    placement: Placement
    normalization: Normalization
    is_final: bool


@dataclass(frozen=True)
class PublishedDataset:
    """A version in the workspace, the path of its manifest there, and its `rows` (files,)."""

    manifest: Manifest
    path: str
    rows: Rows


def publish_dataset(draft: DatasetDraft, store: Store) -> PublishedDataset:
    """Write the ledger, then the manifest, then the pointer.

    Raises:
        StorageError: the workspace does not take it, or a shard is gone; nothing is published.
    """
    placement, rows = draft.placement, draft.placement.rows
    with explain_disk_errors("write the ledger to", store.uri), open_scratch(store.root) as body:
        parts = (rows.table(*part, placement.shards, placement.names) for part in iterate_slices(len(rows), ROW_GROUP))
        write_ledger(body.path, parts)
        ledger = LedgerRef(path="", rows=len(rows), sha256=hash_file(body.path))
        manifest = make_manifest(draft, ledger)
        store.take_file(manifest.ledger.path, body.path)
    if has_outcomes(rows):
        with explain_disk_errors("write outcomes.csv to", store.uri), open_scratch(store.root) as body:
            write_outcomes(rows, body.path)
            store.take_file(outcomes_path(manifest.dataset), body.path)
    check_shards(store, manifest)
    path = manifest_path(manifest.dataset)
    store.write(path, manifest.to_json().encode())
    listing_digest = draft.listing.digest if draft.is_final else ""
    point_to_version(store, draft.source, LatestVersion(manifest.dataset, listing_digest))
    return PublishedDataset(manifest, path, rows)


def check_shards(store: Store, manifest: Manifest) -> None:
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


def make_manifest(draft: DatasetDraft, ledger: LedgerRef) -> Manifest:
    """The manifest under the name that is made from its content."""
    placement, listing = draft.placement, draft.listing
    rows, spec = placement.rows, listing.files.spec
    manifest = Manifest(
        dataset="",
        digest=digest_dataset(rows, listing.classes),
        source=draft.source,
        classes=listing.classes,
        image=spec.image,
        augment=spec.augment,
        split=spec.split,
        split_folders=dict(spec.folders),
        normalization=draft.normalization,
        ledger=ledger,
        splits=dict(placement.splits),
        images=count_images(rows),
        files=len(rows),
        outcomes=count_outcomes(rows),
        build=listing.build_key,
        chunks={key: dict(rows.shards[key]) for key in placement.chunks},
        derived=placement.derived,
        measured_levels=listing.files.measured,
        survey=listing.files.survey,
        locked_sets=listing.locked_sets,
    )
    name = f"{slug_of(draft.source)}-{manifest.digest_of_content()[:12]}"
    ledger = ledger.model_copy(update={"path": ledger_path(name)})
    return manifest.model_copy(update={"dataset": name, "ledger": ledger})
