"""Write images into an immutable TFRecord shard, named by its digest (`cnn.dataset.tfrecord.digest_shard`)."""

import hashlib
import os

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.manifest import ShardRef
from cnn.dataset.tfrecord import HEAD_EDGE, frame_image, outline_record
from infra.storage.disk_errors import explain_disk_errors
from infra.storage.layout import SCRATCH, shard_path
from infra.storage.scratch import ScratchFile
from infra.storage.store import Store

MOST_PARTS = 512  # POSIX lets one call take 1,024 (IOV_MAX)
BUFFER = 256 << 10  # bytes that are collected before they are written: as many as stay in a core's cache meanwhile


class ShardWriter:
    """Collects records in a scratch file and publishes it under the name of its content."""

    def __init__(self, store: Store) -> None:
        self.rows = 0
        self._store = store
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._waiting: list[bytes | memoryview] = []
        self._waiting_bytes = 0
        self._file: ScratchFile | None = None

    def append_image(self, image: bytes | NDArray[np.uint8], label: int, key: str, copy: int) -> int:
        """Add the record of an image: raw pixels (which must not change any more) or a JPEG; returns its CRC-32C."""
        head, tail, crc = frame_image(image, label, key, copy)
        self._append(
            (head, image if isinstance(image, bytes) else image.reshape(-1).data, tail), head[:HEAD_EDGE] + tail
        )
        return crc

    def append(self, record: bytes | memoryview) -> None:
        """Add one framed record, which must not change any more."""
        self._append((record,), outline_record(record))

    def publish(self) -> ShardRef:
        """Move the records to their place in the workspace; the same content is the same file."""
        if not self.rows:
            raise ValueError("a shard has one record or more")
        self._flush()
        if self._file is None:
            raise AssertionError("records without a file")
        path = shard_path(self._digest.hexdigest())
        self._store.take_file(path, self._file.path)
        return ShardRef(path=path, rows=self.rows, bytes=self._bytes, digest=self._digest.hexdigest())

    def discard(self) -> None:
        """Let go of the scratch file, and remove it if it is still there."""
        self._waiting = []
        if self._file is not None:
            self._file.discard()
            self._file = None

    def _append(self, parts: tuple[bytes | memoryview, ...], outline: bytes) -> None:
        self._digest.update(outline)
        size = sum(map(len, parts))
        self._bytes += size
        self._waiting_bytes += size
        self._waiting.extend(parts)
        self.rows += 1
        if self._waiting_bytes >= BUFFER:
            self._flush()

    def _flush(self) -> None:
        with explain_disk_errors("write a shard to", self._store.uri):
            if self._file is None:
                self._file = ScratchFile(self._store.root / SCRATCH)
            _write_all(self._file.handle, self._waiting)
        self._waiting, self._waiting_bytes = [], 0


def _write_all(handle: int, parts: list[bytes | memoryview]) -> None:
    """Write the parts in as few system calls as there can be; what a call leaves over is written by the next."""
    rest = [memoryview(part) for part in parts]
    while rest:
        written = os.writev(handle, rest[:MOST_PARTS])
        while rest and written >= len(rest[0]):
            written -= len(rest.pop(0))
        if written:
            rest[0] = rest[0][written:]
