"""What is known of each file of a listing, as columns of fixed width: a million rows take some 120 MB.

Rows have the order of the listing (that of the paths' bytes), so a row's number names its file all the way. `Rows` are
frozen; a step that changes some of their columns makes a `RowsDraft` of them, writes to it, and hands on new `Rows`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, get_args, get_origin

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.dataset.manifest import ShardRef
from cnn.dataset.near_duplicates import HASH_CELLS, perceptual_hashes
from cnn.dataset.split import SPLITS, TRAIN
from tasks.dataset.ledger import (
    DECODED,
    NEARLY_SAME,
    OUTCOMES,
    SAME_BYTES,
    SPLIT_WORDS,
    TABLE_VALUES,
    make_ledger_table,
)
from tasks.files.paths import quote_path
from tasks.files.text_index import NONE, TextIndex
from tasks.prepare.chunk_report import ChunkReport, bytes_of, read_greys

PENDING = len(OUTCOMES)  # of a file that is still to be read
OK, QUARANTINED, DUPLICATE, CONFLICT, LEAK, IGNORED = range(len(OUTCOMES))
NO_CLASS = "no_class_folder"
KEY = 16  # bytes of `cnn.formats.content_digest.digest_image_data`
SPLIT_ORIGINS = ("drawn", "folder")  # by a hash, or by the folder of the file's owner

FilledRows = tuple[NDArray[np.int64], ChunkReport]
"""The rows of a chunk's files, int64 (files of the chunk,), and what it came to."""


@dataclass(frozen=True)
class Rows:
    """One row for each file of a listing; arrays have a first axis of (files,) and cannot be written to.

    -1 stands for none in columns of signed numbers.
    """

    files: pa.Table  # rows of `tasks.files.listing.FILES`
    given_splits: tuple[int, ...]  # indices into SPLITS, without training, of those that the owner's folders give
    given: NDArray[np.int8]  # index into SPLITS of the owner's folder that the file lies in
    outcome: NDArray[np.uint8]  # index into OUTCOMES, or PENDING
    reason: NDArray[np.int32]  # number in `reasons`
    digest: NDArray[np.uint8]  # (files, 32): sha256 of the file, where `is_read`
    is_read: NDArray[np.bool_]
    doubted: NDArray[np.bool_]  # whether it ended its decoder in the run before
    image_key: NDArray[np.uint8]  # (files, 16): digest of the file without its metadata
    perceptual_hash: NDArray[np.uint8]  # (files, 16): grey means on a 4 x 4 grid
    width: NDArray[np.int32]  # pixels
    height: NDArray[np.int32]
    label_id: NDArray[np.int32]
    captured: NDArray[np.int64]  # seconds since 1970 on the camera's clock
    camera: NDArray[np.int32]  # number in `cameras`
    group: NDArray[np.int32]  # number in `groups`
    table_values: NDArray[np.int32]  # number in `value_texts`: what the user's table says of it
    split: NDArray[np.int8]  # index into SPLITS
    retiring: NDArray[np.bool_]  # whether it is of the test set before
    known: NDArray[np.bool_]  # whether its split is that of the previous version
    leaked: NDArray[np.bool_]  # whether it was a leak there
    duplicate_of: NDArray[np.int32]  # the row whose picture is the same, or nearly so
    chunk: NDArray[np.int32]  # number in `chunks` of the chunk that read the file
    report_row: NDArray[np.int32]  # its row in the chunk's report
    record_split: NDArray[np.int8]  # that of the chunk's shard with its record
    record: NDArray[np.int32]  # number of its record there
    record_label: NDArray[np.int32]  # the label id that this record was written with
    pixels: NDArray[np.uint32]  # CRC-32C of the image as the shard holds it
    copies: NDArray[np.uint32]  # the same over its augmented copies
    reasons: TextIndex = field(default_factory=TextIndex)
    groups: TextIndex = field(default_factory=TextIndex)
    cameras: TextIndex = field(default_factory=TextIndex)
    value_texts: TextIndex = field(default_factory=TextIndex)
    chunks: TextIndex = field(default_factory=TextIndex)
    shards: dict[str, Mapping[str, ShardRef]] = field(
        default_factory=dict
    )  # chunk key → split → shard; a draft has its own

    def __post_init__(self) -> None:
        for name in COLUMNS:
            getattr(self, name).flags.writeable = False

    def __len__(self) -> int:
        return len(self.outcome)

    def draft(self, *names: str) -> "RowsDraft":
        """The same rows with copies of these columns (of all, where none is named) that can be written to."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return RowsDraft(**values | {name: values[name].copy() for name in (*(names or COLUMNS), "shards")})

    def pending(self) -> NDArray[np.int64]:
        """The rows of files that are still to be read."""
        return np.flatnonzero(self.outcome == PENDING)

    def paths(self, rows: NDArray[np.int64]) -> list[bytes]:
        """The paths of these rows, as the file system holds them."""
        return list(self.path_column(rows).to_pylist())

    def path_column(self, rows: NDArray[np.int64]) -> pa.ChunkedArray:
        """The same as a column, without an object for each."""
        return self.files.column("path").take(pa.array(rows))

    def is_given(self, rows: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.bool_]:
        """bool (rows,): whether a file is in the split of its owner's folder, so that nobody may move it."""
        return np.asarray((self.given[rows] >= 0) & (self.given[rows] == self.split[rows]))

    def may_be_in(self, rows: NDArray[np.int64], splits: NDArray[np.int8] | int) -> NDArray[np.bool_]:
        """bool (rows,): whether these files may be in these splits: where the owner's folders say so, or say nothing.

        Training images may be drawn for splits that have no folder.
        """
        given = self.given[rows]
        free = (given == TRAIN) & ~np.isin(splits, self.given_splits)
        return np.asarray((given < 0) | (given == splits) | free)

    def table(self, start: int, stop: int, shards: NDArray[np.int32], names: TextIndex) -> pa.Table:
        """These rows as the ledger has them; `shards` numbers each row's shard in `names`."""
        part = slice(start, stop)
        columns = {name: getattr(self, name)[part] for name in ("width", "height", "record", "record_label")}
        columns |= {"report_row": self.report_row[part], "label_id": self.label_id[part]}
        columns |= {"pixels_crc32c": self.pixels[part], "copies_crc32c": self.copies[part]}
        texts = {"group": self.groups.decode(self.group[part]), "chunk": self.chunks.decode(self.chunk[part])}
        texts |= {"camera": self.cameras.decode(self.camera[part])}
        if (self.table_values >= 0).any():
            texts |= {TABLE_VALUES: self.value_texts.decode(self.table_values[part])}
        columns |= {"captured": pa.array(self.captured[part], mask=self.captured[part] < 0)}
        columns |= {"retiring": pa.array(self.retiring[part], mask=~self.retiring[part])}
        texts |= {"shard": names.decode(shards[part]), "reason": self._reason_texts(part)}
        for name, numbers in (("split", self.split[part]), ("record_split", self.record_split[part])):
            texts[name] = pa.array(SPLITS).take(pa.array(numbers, mask=numbers < 0))
        origins = self.is_given(part).astype(np.int8)
        texts["split_origin"] = pa.array(SPLIT_ORIGINS).take(pa.array(origins, mask=self.split[part] < 0))
        texts["outcome"] = pa.array(OUTCOMES).take(pa.array(self.outcome[part]))
        facts = columns | texts | {"digest": self._hex_digests(part)}
        for name, values in (("fingerprint", self.perceptual_hash[part]), ("image_key", self.image_key[part])):
            facts[name] = self._pack(values, part)
        return make_ledger_table(self.files.slice(start, stop - start), facts, self.split[part] >= 0)

    def _reason_texts(self, part: slice) -> pa.Array:
        reasons = self.reasons.decode(self.reason[part]).cast(pa.string())
        rows = np.flatnonzero((self.duplicate_of[part] >= 0) & (self.outcome[part] != CONFLICT))
        if not len(rows):
            return reasons
        texts = reasons.to_pylist()
        others = self.duplicate_of[part][rows].astype(np.int64)
        for row, other, path in zip(rows, others, self.paths(others), strict=True):
            likeness, where = (say(part.start + row, other) for say in (self._likeness, self._where_other))
            texts[row] = f"{likeness} {quote_path(path)!r}{where}"
        return pa.array(texts, pa.string())

    def _likeness(self, row: int, other: int) -> str:
        if (self.digest[row] == self.digest[other]).all():
            return SAME_BYTES
        return "the same pixels as" if self.outcome[row] == DUPLICATE else NEARLY_SAME

    def _where_other(self, row: int, other: int) -> str:
        """What more is to be said of the other picture: its split or its label, where that is what matters."""
        if self.outcome[row] == OK and self.label_id[row] != self.label_id[other]:
            return ", which has another label"
        return f" in {SPLIT_WORDS[self.split[other]]}" if self.outcome[row] in (LEAK, OK) else ""

    def _hex_digests(self, part: slice) -> pa.Array:
        digests = self.digest[part].tobytes().hex()
        found = np.frombuffer(digests.encode(), "S64").astype("U64") if digests else np.empty(0, "U64")
        return pa.array(found, pa.string(), mask=~self.is_read[part])

    def _pack(self, values: NDArray[np.uint8], part: slice) -> pa.Array:
        """The rows of `values`, uint8 (part, width), as a column of so many bytes, null where there are no pixels."""
        kind = pa.binary(values.shape[1])
        packed = pa.FixedSizeBinaryArray.from_buffers(
            kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))]
        )
        return pc.if_else(pa.array(self.split[part] >= 0), packed, pa.scalar(None, kind))


class RowsDraft(Rows):
    """Rows some of whose columns are being written, by the step that made this draft of them."""

    def __post_init__(self) -> None:
        """Nothing is closed yet."""

    def finish(self) -> Rows:
        """The rows as they are now; nothing can be written to them any more."""
        return Rows(**{field.name: getattr(self, field.name) for field in fields(self)})

    def fill(self, parts: Sequence[FilledRows]) -> None:
        """Take over the reports of chunks, each with the rows of its files in its order."""
        if not parts:
            return
        rows = np.concatenate([part for part, _ in parts])
        table = pa.concat_tables([report.table for _, report in parts])
        self._fill_common(rows, table)
        self.record_split[rows] = self.split[rows]
        self.known[rows] = self.retiring[rows] = False
        self.reason[rows] = self.reasons.encode_column(table.column("reason"))
        self.chunk[rows] = np.repeat([self.chunks[report.key] for _, report in parts], [len(part) for part, _ in parts])
        self.report_row[rows] = np.concatenate([np.arange(len(part)) for part, _ in parts])
        self.perceptual_hash[rows] = perceptual_hashes(read_greys(table.column("thumbnail")))
        self.shards.update((report.key, report.shards) for _, report in parts if report.shards)

    def reuse(self, rows: NDArray[np.int64], table: pa.Table) -> None:
        """Take over rows of the previous ledger, one for each of `rows`; what they are copies of is found anew."""
        self._fill_common(rows, table)
        self.record_split[rows] = _codes(table.column("record_split"), SPLITS)
        self.known[rows] = self.split[rows] >= 0
        self.retiring[rows] = table.column("retiring").fill_null(False).to_numpy()
        self.leaked[rows] = self.outcome[rows] == LEAK
        self.table_values[rows] = self.value_texts.encode_column(table.column(TABLE_VALUES))
        decoded = pc.is_in(table.column("outcome"), pa.array(DECODED)).to_numpy(zero_copy_only=False)
        self.outcome[rows[decoded]] = OK
        self.reason[rows] = np.where(decoded, NONE, self.reasons.encode_column(table.column("reason")))
        self.chunk[rows] = self.chunks.encode_column(table.column("chunk"))
        self.report_row[rows] = _integers(table.column("report_row"), np.int32)
        self.copies[rows] = _integers(table.column("copies_crc32c"), np.uint32)
        self.perceptual_hash[rows] = bytes_of(table.column("fingerprint"), HASH_CELLS)

    def _fill_common(self, rows: NDArray[np.int64], table: pa.Table) -> None:
        self.outcome[rows] = _codes(table.column("outcome"), OUTCOMES)
        self.split[rows] = _codes(table.column("split"), SPLITS)
        self.group[rows] = self.groups.encode_column(table.column("group"))
        self.camera[rows] = self.cameras.encode_column(table.column("camera"))
        self.captured[rows] = table.column("captured").fill_null(NONE).to_numpy()
        self.is_read[rows] = pc.is_valid(table.column("digest")).to_numpy(zero_copy_only=False)
        self.digest[rows] = _digests(table.column("digest"))
        self.image_key[rows] = bytes_of(table.column("image_key"), KEY)
        for name in ("width", "height", "record", "record_label"):
            getattr(self, name)[rows] = _integers(table.column(name), np.int32)
        self.pixels[rows] = _integers(table.column("pixels_crc32c"), np.uint32)


# Name of each column → its NumPy type, as the annotation NDArray[type] has it.
ARRAYS = {each.name: each.type for each in fields(Rows) if get_origin(each.type) is np.ndarray}
COLUMNS = {name: get_args(get_args(array)[1])[0] for name, array in ARRAYS.items()}
WIDTHS = {"digest": (32,), "image_key": (KEY,), "perceptual_hash": (HASH_CELLS,)}


def make_rows(files: pa.Table, classes: Sequence[str], folders: Mapping[str, str] | None = None) -> Rows:
    """The rows of a listing before any file is read: pending, but for files that are not asked for or cannot be read.

    `folders`: top folder → the split that its owner made of it.
    """
    given = {SPLITS.index(split) for split in (folders or {}).values()} - {TRAIN}
    columns: dict[str, Any] = {}
    for name, kind in COLUMNS.items():
        columns[name] = np.zeros((files.num_rows, *WIDTHS.get(name, ())), kind)
        if np.issubdtype(kind, np.signedinteger):
            columns[name].fill(NONE)
    draft = RowsDraft(files, tuple(sorted(given)), **columns)
    draft.outcome.fill(PENDING)
    draft.given[:] = _given_splits(files.column("path"), folders or {})
    draft.label_id[:] = _label_ids(files.column("label"), classes)
    _classify_unread(draft)
    return draft.finish()


def iterate_slices(count: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the parts of `count` rows."""
    for start in range(0, count, size):
        yield start, min(count, start + size)


def _classify_unread(draft: RowsDraft) -> None:
    """Files that are not read: ignored names, what is no regular file, images outside any class folder."""
    ignored, problem = (draft.reasons.encode_column(draft.files.column(name)) for name in ("ignored", "problem"))
    draft.reason[draft.label_id < 0] = draft.reasons[NO_CLASS]
    draft.reason[problem >= 0] = problem[problem >= 0]
    draft.outcome[draft.reason >= 0] = QUARANTINED
    draft.outcome[ignored >= 0], draft.reason[ignored >= 0] = IGNORED, ignored[ignored >= 0]


def _label_ids(labels: pa.ChunkedArray, classes: Sequence[str]) -> NDArray[np.int32]:
    found = pc.index_in(labels.cast(pa.string()), value_set=pa.array(classes, pa.string()))
    return np.array(found.fill_null(NONE).to_numpy(), np.int32)


def _given_splits(paths: pa.ChunkedArray, folders: Mapping[str, str]) -> NDArray[np.int8]:
    """int8 (rows,): the split of the top folder of each path, an index into SPLITS, -1 where it is none."""
    given = np.full(len(paths), NONE, np.int8)
    for folder, split in folders.items():
        inside = pc.starts_with(paths, f"{folder}/".encode())
        given[inside.to_numpy(zero_copy_only=False) if len(paths) else []] = SPLITS.index(split)
    return given


def _codes(column: pa.ChunkedArray, names: Sequence[str]) -> NDArray[np.int8]:
    found = pc.index_in(column.cast(pa.string()), value_set=pa.array(names))
    return np.asarray(found.fill_null(NONE).to_numpy(), np.int8)


def _integers(column: pa.ChunkedArray, kind: type[np.integer]) -> NDArray[np.integer]:
    return np.asarray(column.fill_null(NONE if kind is np.int32 else 0).to_numpy()).astype(kind)


def _digests(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    """uint8 (rows, 32) of raw digests or of hex ones."""
    if pa.types.is_fixed_size_binary(column.type):
        return bytes_of(column, 32)
    text = b"".join(value.encode() for value in column.fill_null("0" * 64).to_pylist())
    return np.frombuffer(bytes.fromhex(text.decode()), np.uint8).reshape(-1, 32)
