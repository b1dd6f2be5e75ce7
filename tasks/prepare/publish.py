"""Settled rows in, a published dataset version out: the manifest is written last and is the only commit point."""

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
from tasks.prepare.outcomes import has_outcomes, write_outcomes
from tasks.prepare.placement import Placement
from tasks.prepare.spec import BuildSpec
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
    listing: str = ""  # see `LatestVersion`
    measured: bool = False  # whether the levels of the images were measured


def publish_dataset(draft: Draft, store: Store) -> tuple[Manifest, str]:
    """Write the ledger, then the manifest, then the pointer; returns the manifest and its path."""
    with explain_disk_errors("write the ledger to", store.uri), open_scratch(store.root) as body:
        rows, placement = draft.rows, draft.placement
        parts = iterate_slices(len(rows), ROW_GROUP)
        write_ledger(body.path, (rows.table(*part, placement.shards, placement.names) for part in parts))
        ledger = LedgerRef(path="", rows=len(draft.rows), sha256=hash_file(body.path))
        manifest = make_manifest(draft, ledger)
        store.take_file(manifest.ledger.path, body.path)
    if has_outcomes(draft.rows):
        with explain_disk_errors("write outcomes.csv to", store.uri), open_scratch(store.root) as body:
            write_outcomes(draft.rows, body.path)
            store.take_file(outcomes_path(manifest.dataset), body.path)
    check_standing(store, manifest)
    store.write(manifest_path(manifest.dataset), manifest.to_json().encode())
    point_to_version(store, draft.source, LatestVersion(manifest.dataset, draft.listing))
    return manifest, manifest_path(manifest.dataset)


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
    ledger = ledger.model_copy(update={"path": ledger_path(name)})
    return manifest.model_copy(update={"dataset": name, "ledger": ledger})
