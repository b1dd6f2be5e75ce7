"""Build a chunk: decode its files and write their records and its report. Runs in Dask workers, threads or a loop.

The report is written after the shards it names, so a report that exists is a chunk that is done.
"""

from dataclasses import dataclass

from cnn.dataset.split import SPLITS
from cnn.errors import BadImage
from cnn.formats.capture import read_capture
from cnn.formats.content_digest import digest_image_data
from cnn.images.pixels import encode_jpeg, make_grey32
from cnn.images.read import read_image
from infra.storage.store import reuse_source, reuse_store
from tasks.files.chunks import Chunk
from tasks.files.decoding import Decode, choose_decoder, refuse_crashes
from tasks.files.paths import encode_path, show_path
from tasks.files.reading import Content, Files, computing
from tasks.prepare.chunk_report import FileResult, write_chunk_report
from tasks.prepare.shard_writer import ShardWriter
from tasks.prepare.spec import BuildSpec


@dataclass(frozen=True)
class BuildTask:
    """What a worker needs beside the chunk: two addresses and the specification."""

    source: str
    workspace: str
    spec: BuildSpec


@dataclass(frozen=True)
class BuiltChunk:
    """What comes back through the scheduler: counts and the key under which the rows lie in the workspace."""

    key: str
    files: int
    bytes: int
    quarantined: int


def build_chunk(chunk: Chunk, task: BuildTask) -> BuiltChunk:
    """Read, decode and store every file of a chunk; bad files become rows with a reason.

    Raises:
        SourceError, StorageError: the source or the workspace as a whole does not answer.
        InstallationError: no file of the chunk can be decoded here.
    """
    source, store = reuse_source(task.source), reuse_store(task.workspace)
    files = Files(source, chunk.entries)
    writers = {split: ShardWriter(store) for split in SPLITS}
    try:
        decode = choose_decoder(chunk.isolated)
        with computing():
            rows = [
                build_row((entry.path, label_id), (digest, data), task.spec, writers, decode)
                for label_id, (entry, digest, data) in zip(chunk.label_ids, files, strict=True)
            ]
        refuse_crashes(chunk, [row.reason for row in rows])
        shards = {split: writer.publish() for split, writer in writers.items() if writer.rows}
    finally:
        files.close()
        for writer in writers.values():
            writer.discard()
    write_chunk_report(store, chunk.key, rows, shards)
    return BuiltChunk(
        key=chunk.key,
        files=len(rows),
        bytes=sum(entry.size for entry in chunk.entries),
        quarantined=sum(row.outcome == "quarantined" for row in rows),
    )


def build_row(
    file: tuple[str, int],
    content: tuple[str | None, Content],
    spec: BuildSpec,
    writers: dict[str, ShardWriter],
    decode: Decode = read_image,
) -> FileResult:
    """What a file, of (path, label id), with its (digest, bytes) came to; its pixels go to the writer of its split."""
    path, label_id = file
    digest, data = content
    raw_path, raw_digest = encode_path(path), None if digest is None else bytes.fromhex(digest)
    try:
        if isinstance(data, BadImage):
            raise data
        decoded = decode(data, spec.image)
    except BadImage as fault:
        return FileResult(raw_path, "quarantined", str(fault), None if fault.is_transient else raw_digest)
    if digest is None:
        raise AssertionError("bytes without a digest")
    key = digest_image_data(data, digest)
    split, group = spec.place_image(path, key.hex())
    image = decoded.pixels if spec.image.encoding == "raw" else encode_jpeg(decoded.pixels)
    record = writers[split].rows
    low, high = decoded.seen or (None, None)
    capture = read_capture(data)
    return FileResult(
        raw_path,
        "ok",
        digest=raw_digest,
        image_key=key,
        thumbnail=make_grey32(decoded.pixels).tobytes(),
        width=decoded.width,
        height=decoded.height,
        group=None if group is None else show_path(group)[0],
        split=split,
        record=record,
        record_label=label_id,
        pixels_crc32c=writers[split].append_image(image, label_id, digest, 0),
        low=low,
        high=high,
        preview=decoded.preview,
        captured=capture.time,
        camera=capture.camera,
    )
