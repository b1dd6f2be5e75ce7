"""Bundles of registered versions on this machine: fetched once, verified, cached by digest; uploaded for workers."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from cnn.digest import hash_file
from cnn.errors import IntegrityError
from cnn.inference.bundle import INFO, ONNX, BundleInfo, read_bundle
from infra.machine.user_dirs import cache_dir
from infra.storage.layout import bundle_path
from infra.storage.store import Store

# Bundles that a cache holds on this machine, and the seconds for which whoever fetched one may be reading it.
CACHED, RECENT_SECONDS = 10, 86_400.0


def bundle_tags(folder: Path, info: BundleInfo) -> dict[str, str]:
    """What a version says about the bundle that it carries."""
    return {
        "bundle": hash_file(folder / INFO),
        "onnx": info.files[ONNX],
        "dataset": info.dataset,
        "dataset_digest": info.dataset_digest,
    }


def cache_bundle(digest: str, folder: Path, bring: Callable[[str, Path], None], culprit: str) -> Path:
    """`folder`/`digest`, holding the bundle whose bundle.json has this sha256; brought when it is not there or damaged.

    `bring(name, target)` writes one file of the bundle into the folder `target`. Only bundle.json, and what it names
    after it was found to be the registered one, is ever asked for.

    Raises:
        IntegrityError: what came is not what was registered.
    """
    cached = folder / digest
    if cached.is_dir():
        try:
            _check(cached, digest, culprit)
            with suppress(OSError):  # a cache that cannot be written is good enough to read
                os.utime(cached)  # it is in use
            return cached
        except IntegrityError:
            shutil.rmtree(cached, ignore_errors=True)  # a cache heals itself; the registry has the original
    folder.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder))
    try:
        bring(INFO, part)
        for name in sorted(_read_info(part, digest, culprit).files):
            bring(name, part)
        _check(part, digest, culprit)
        _move_into_place(part, cached)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    _forget_oldest(folder, time.time() - RECENT_SECONDS)
    return cached


def upload_bundle(store: Store, folder: Path) -> str:
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


def locate_bundle(store: Store, digest: str) -> Path:
    """The folder of a bundle on this machine: the workspace's own where that is a folder, else a copy fetched once.

    Whoever loads the bundle verifies its files; here only bundle.json is held against the digest.

    Raises:
        IntegrityError: the bundle is not the one that was shipped.
    """
    if not store.is_local:

        def bring(name: str, target: Path) -> None:
            (target / name).write_bytes(store.read(bundle_path(digest, name)))

        return cache_bundle(digest, cache_dir() / "bundles", bring, store.uri_of(f"bundles/{digest}"))
    info = store.fetch(bundle_path(digest, INFO))
    if hash_file(info) != digest:
        raise IntegrityError(f"{info} is damaged; delete the folder {info.parent} and score again")
    return info.parent


def _forget_oldest(folder: Path, before: float) -> None:
    """Keep the bundles that were used last, and all that were used after a time (seconds since 1970): others may be
    reading them."""
    with suppress(OSError):
        times = {path: path.stat().st_mtime for path in folder.iterdir()}
        oldest = sorted(times, key=lambda path: times[path])[:-CACHED]
        for path in oldest:
            if times[path] < before:
                shutil.rmtree(path, ignore_errors=True)


def _check(folder: Path, digest: str, culprit: str) -> None:
    _read_info(folder, digest, culprit)
    try:
        read_bundle(folder)
    except IntegrityError as error:
        raise IntegrityError(f"{culprit}: {error}") from None


def _read_info(folder: Path, digest: str, culprit: str) -> BundleInfo:
    path = folder / INFO
    if not path.is_file() or hash_file(path) != digest:
        raise IntegrityError(f"{culprit}: {INFO} is not the one that was registered; roll back, or train again")
    try:
        return BundleInfo.model_validate_json(path.read_bytes())
    except ValidationError:
        raise IntegrityError(f"{culprit}: {INFO} is from another version of Safelight; train again") from None


def _move_into_place(part: Path, cached: Path) -> None:
    part.chmod(0o755)
    try:
        part.rename(cached)
    except OSError:
        if not cached.is_dir():  # else another process was first, with the same bytes
            raise
