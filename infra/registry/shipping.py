"""A bundle's folder in, its copy in the workspace under its digest out; from there, a folder on a worker's machine."""

from pathlib import Path

from cnn.digest import hash_file
from cnn.errors import IntegrityError
from cnn.inference.bundle import INFO, read_bundle
from infra.machine.user_dirs import cache_dir
from infra.registry.bundles import keep_bundle
from infra.storage.layout import bundle_path
from infra.storage.store import Store


def ship_bundle(store: Store, folder: Path) -> str:
    """Copy a bundle into the workspace, once, for workers to find; returns its digest (sha256 of bundle.json).

    Raises:
        IntegrityError: a file of the bundle is missing or damaged.
    """
    digest = hash_file(folder / INFO)
    if not store.exists(bundle_path(digest, INFO)):
        for name in sorted(read_bundle(folder).files):
            store.put_file(bundle_path(digest, name), folder / name)
        store.put_file(bundle_path(digest, INFO), folder / INFO)  # last: where it is, the bundle is complete
    return digest


def local_bundle(store: Store, digest: str) -> Path:
    """The folder of a bundle on this machine: the workspace's own where that is a folder, else a copy fetched once.

    Whoever loads the bundle verifies its files; here only bundle.json is held against the digest.

    Raises:
        IntegrityError: the bundle is not the one that was shipped.
    """
    if not store.is_local:

        def bring(name: str, target: Path) -> None:
            (target / name).write_bytes(store.read(bundle_path(digest, name)))

        return keep_bundle(digest, cache_dir() / "bundles", bring, store.uri_of(f"bundles/{digest}"))
    info = store.fetch(bundle_path(digest, INFO))
    if hash_file(info) != digest:
        raise IntegrityError(f"{info} is damaged; delete the folder {info.parent} and score again")
    return info.parent
