"""Shards and what a manifest says of them in; silence, or an `IntegrityError` naming the shard, out.

A shard's digest is computed once per machine: a stamp file remembers size and times of what was found right. A damaged
shard is removed: it is named by its content, so it is of no use to anyone, and the next preparation builds it anew.
"""

import json
import os
import platform
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from cnn.dataset.manifest import ShardRef
from cnn.dataset.tfrecord import digest_shard, map_file
from cnn.errors import IntegrityError, StorageError

STAMPS = ".verified.json"
HASHERS = 2  # threads: one waits for the disk while the other computes


def verify_shards(refs: Sequence[ShardRef], root: Path, stamps: Path) -> None:
    """Compare size and digest of every shard with the manifest, except where `stamps` says that it was done.

    Raises:
        IntegrityError: a shard is missing, or its bytes are not those that were published.
    """
    known = _read_stamps(stamps)
    marks = {ref.path: _mark(root / ref.path, ref) for ref in refs}
    fresh = [ref for ref in refs if known.get(_place(root, ref)) != marks[ref.path]]
    with ThreadPoolExecutor(HASHERS) as pool:
        faults = list(pool.map(lambda ref: _examine(root / ref.path, ref), fresh))
    for ref, fault in zip(fresh, faults, strict=True):
        if fault is not None:
            raise IntegrityError(f"{root / ref.path}: {fault}{_remove(root / ref.path, ref)}")
    if fresh:
        known = {**_read_stamps(stamps), **{_place(root, ref): marks[ref.path] for ref in fresh}}
        _write_stamps(stamps, known)


def _mark(path: Path, ref: ShardRef) -> str:
    """Everything that changes when a file does: size, times, and the digest that was asked for."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise IntegrityError(f"{path}: the shard is missing; prepare the dataset again") from None
    if stat.st_size != ref.bytes:
        raise IntegrityError(f"{path}: {stat.st_size} bytes where the manifest says {ref.bytes}{_remove(path, ref)}")
    return f"{stat.st_size}.{stat.st_mtime_ns}.{stat.st_ctime_ns}.{ref.digest}"


def _examine(path: Path, ref: ShardRef) -> str | None:
    """What is wrong with a shard; None for nothing."""
    try:
        return None if digest_shard(map_file(path)) == ref.digest else "it is not the shard of the manifest"
    except IntegrityError as fault:
        return str(fault)
    except OSError as error:
        cause = (error.strerror or type(error).__name__).lower()
        raise StorageError(f"cannot read {path}: {cause}; check the disk, or prepare the dataset again") from None


def _remove(path: Path, ref: ShardRef) -> str:
    """Remove a damaged shard that is named by its content; returns the end of the sentence that tells of it."""
    try:
        if path.stem == ref.digest:
            path.unlink(missing_ok=True)
            return "; it was removed, prepare the dataset again: it is built anew"
    except OSError:
        pass  # a read-only workspace
    return "; delete the file and prepare the dataset again"


def _place(root: Path, ref: ShardRef) -> str:
    return f"{platform.node()}:{(root / ref.path).absolute()}"


def _read_stamps(path: Path) -> dict[str, str]:
    """What was verified before; nothing where the file is missing or damaged, for a stamp only saves time."""
    try:
        stamps = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


def _write_stamps(path: Path, stamps: dict[str, str]) -> None:
    temporary = path.with_name(f".tmp-{path.name}-{secrets.token_hex(8)}")
    try:
        temporary.write_text(json.dumps(stamps, indent=0, sort_keys=True))
        os.replace(temporary, path)
    except OSError:  # a read-only workspace: verify again next time
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
