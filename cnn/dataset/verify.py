"""Verify shards against the manifest: size and digest, once per machine.

A file remembers size and times of what was found right. A damaged
shard is removed: it is named by its content, so it is of no use to anyone, and the next preparation builds it anew.
"""

import json
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from cnn.dataset.manifest import ShardRef
from cnn.dataset.tfrecord import digest_shard, map_file
from cnn.errors import IntegrityError, StorageError
from cnn.files import replace_file

VERIFIED = ".verified.json"  # below the root: shards whose digest was found right, by machine and path
HASHERS = 2  # threads: one waits for the disk while the other computes


def verify_shards(refs: Sequence[ShardRef], root: Path) -> None:
    """Compare size and digest of every shard with the manifest, except where this was done before on this machine.

    Raises:
        IntegrityError: a shard is missing, or its bytes are not those that were published.
    """
    known = _read_verified(root)
    states = {ref.path: _find_state(root / ref.path, ref) for ref in refs}
    fresh = [ref for ref in refs if known.get(_name_place(root, ref)) != states[ref.path]]
    with ThreadPoolExecutor(HASHERS) as pool:
        faults = list(pool.map(lambda ref: _examine(root / ref.path, ref), fresh))
    for ref, fault in zip(fresh, faults, strict=True):
        _refuse(ref, root, fault)
    if fresh:
        verified = _read_verified(root) | {_name_place(root, ref): states[ref.path] for ref in fresh}
        with suppress(OSError), replace_file(root / VERIFIED) as file:  # a read-only workspace: verify again next time
            file.write(json.dumps(verified, indent=0, sort_keys=True).encode())


def verify_shard(ref: ShardRef, root: Path) -> None:
    """Compare size and digest of one shard with its reference, whatever was found before.

    Raises:
        IntegrityError: as `verify_shards`.
    """
    _find_state(root / ref.path, ref)
    _refuse(ref, root, _examine(root / ref.path, ref))


def _refuse(ref: ShardRef, root: Path, fault: str | None) -> None:
    if fault is not None:
        raise IntegrityError(f"{root / ref.path}: {fault}{_remove(root / ref.path, ref)}")


def _find_state(path: Path, ref: ShardRef) -> str:
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


def _name_place(root: Path, ref: ShardRef) -> str:
    return f"{platform.node()}:{(root / ref.path).absolute()}"


def _read_verified(root: Path) -> dict[str, str]:
    """What was verified before; nothing where the file is missing or damaged, for it only saves time."""
    try:
        verified = json.loads((root / VERIFIED).read_bytes())
    except (OSError, ValueError):
        return {}
    return verified if isinstance(verified, dict) else {}
