"""An inventory in, what is known of each of its files out: columns of fixed width, so that a million rows are small.

Rows stand in the order of the inventory (that of the paths' bytes), so a row's number names its file all the way.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.dataset.manifest import ShardRef
from cnn.dataset.near_duplicates import CELLS, HASH_CELLS, perceptual_hashes
from cnn.dataset.split import SPLITS, TRAIN
from tasks.dataset.ledger import DECODED, OUTCOMES, make_ledger_table
from tasks.files.text_index import NONE, TextIndex

PENDING = len(OUTCOMES)  # of a file that is still to be read
OK, QUARANTINED, DUPLICATE, CONFLICT, LEAK, IGNORED = range(len(OUTCOMES))
NO_CLASS = "no_class_folder"
KEY = 16  # bytes of `cnn.formats.content_digest.digest_image_data`
SPLIT_ORIGINS = ("drawn", "folder")  # by a hash, or by the folder of the file's owner
TOLD_SPLITS = ("training", "validation", "test")


@dataclass(frozen=True)
class Report:
    """What a chunk came to: a row per file in its order (`chunk_report.REPORT`), and its shards by split."""

    key: str
    table: pa.Table
    shards: Mapping[str, ShardRef]


Filled = tuple[NDArray[np.int64], Report]
"""The rows of a chunk's files, and what it came to."""


class Rows:
    """One row for each file of `inventory`; columns are numpy arrays of one length."""

    def __init__(self, inventory: pa.Table, classes: Sequence[str], folders: Mapping[str, str] | None = None) -> None:
        count = inventory.num_rows
        self.inventory = inventory
        self.given = _given_splits(inventory.column("path"), folders or {})  # an index into SPLITS, -1 where none is
        self.given_splits = sorted({SPLITS.index(split) for split in (folders or {}).values()} - {TRAIN})
        self.outcome = np.full(count, PENDING, np.uint8)  # an index into OUTCOMES
        self.digest = np.zeros((count, 32), np.uint8)  # sha256 of the file
        self.is_read = np.zeros(count, np.bool_)  # whether there is a digest
        self.doubted = np.zeros(count, np.bool_)  # whether it ended its decoder in the run before
        self.image_key = np.zeros((count, KEY), np.uint8)
        self.known = np.zeros(count, np.bool_)  # whether its split is that of the previous version
        self.leaked = np.zeros(count, np.bool_)  # whether it was a leak there
        self.perceptual_hash = np.zeros((count, HASH_CELLS), np.uint8)
        self.width, self.height = (np.zeros(count, np.int32) for _ in range(2))
        self.label_id = _label_ids(inventory.column("label"), classes)
        self.record, self.record_label, self.report_row = (np.full(count, NONE, np.int32) for _ in range(3))
        self.split, self.record_split = (np.full(count, NONE, np.int8) for _ in range(2))
        self.duplicate_of = np.full(count, NONE, np.int32)  # the row whose picture is the same, or nearly so
        self.reason, self.group, self.chunk = (np.full(count, NONE, np.int32) for _ in range(3))
        self.pixels, self.copies = np.zeros(count, np.uint32), np.zeros(count, np.uint32)  # CRC-32C
        self.reasons, self.groups, self.chunks = TextIndex(), TextIndex(), TextIndex()
        self.shards: dict[str, Mapping[str, ShardRef]] = {}  # chunk key → split → shard
        self._settle_unread()

    def __len__(self) -> int:
        return len(self.outcome)

    def pending(self) -> NDArray[np.int64]:
        """The rows of files that are still to be read."""
        return np.flatnonzero(self.outcome == PENDING)

    def paths(self, rows: NDArray[np.int64]) -> list[bytes]:
        """The paths of these rows, as the file system holds them."""
        return list(self.path_column(rows).to_pylist())

    def path_column(self, rows: NDArray[np.int64]) -> pa.ChunkedArray:
        """The same as a column, without an object for each."""
        return self.inventory.column("path").take(pa.array(rows))

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

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Make these rows pending again: their files are to be read."""
        self.outcome[rows] = PENDING

    def fill(self, parts: Sequence[Filled]) -> None:
        """Take over the reports of chunks, each with the rows of its files in its order."""
        if not parts:
            return
        rows = np.concatenate([part for part, _ in parts])
        table = pa.concat_tables([report.table for _, report in parts])
        self._fill_common(rows, table)
        self.record_split[rows] = self.split[rows]
        self.known[rows] = False
        self.reason[rows] = self.reasons.encode_column(table.column("reason"))
        self.chunk[rows] = np.repeat([self.chunks[report.key] for _, report in parts], [len(p) for p, _ in parts])
        self.report_row[rows] = np.concatenate([np.arange(len(part)) for part, _ in parts])
        self.perceptual_hash[rows] = perceptual_hashes(read_greys(table.column("thumbnail")))
        self.shards.update((report.key, report.shards) for _, report in parts if report.shards)

    def keep(self, rows: NDArray[np.int64], table: pa.Table) -> None:
        """Take over rows of the previous ledger, one for each of `rows`; they are to be settled again."""
        self._fill_common(rows, table)
        self.record_split[rows] = _codes(table.column("record_split"), SPLITS)
        self.known[rows] = self.split[rows] >= 0
        self.leaked[rows] = self.outcome[rows] == LEAK
        settled = pc.is_in(table.column("outcome"), pa.array(DECODED)).to_numpy(zero_copy_only=False)
        self.outcome[rows[settled]] = OK
        self.reason[rows] = np.where(settled, NONE, self.reasons.encode_column(table.column("reason")))
        self.chunk[rows] = self.chunks.encode_column(table.column("chunk"))
        self.report_row[rows] = _integers(table.column("report_row"), np.int32)
        self.copies[rows] = _integers(table.column("copies_crc32c"), np.uint32)
        self.perceptual_hash[rows] = _bytes(table.column("fingerprint"), HASH_CELLS)

    def table(self, start: int, stop: int, shards: NDArray[np.int32], names: TextIndex) -> pa.Table:
        """These rows as the ledger has them; `shards` numbers each row's shard in `names`."""
        part = slice(start, stop)
        columns = {name: getattr(self, name)[part] for name in ("width", "height", "record", "record_label")}
        columns |= {"report_row": self.report_row[part], "label_id": self.label_id[part]}
        columns |= {"pixels_crc32c": self.pixels[part], "copies_crc32c": self.copies[part]}
        texts = {"group": self.groups.decode(self.group[part]), "chunk": self.chunks.decode(self.chunk[part])}
        texts |= {"shard": names.decode(shards[part]), "reason": self._told_reasons(part)}
        for name, numbers in (("split", self.split[part]), ("record_split", self.record_split[part])):
            texts[name] = pa.array(SPLITS).take(pa.array(numbers, mask=numbers < 0))
        origins = self.is_given(part).astype(np.int8)
        texts["split_origin"] = pa.array(SPLIT_ORIGINS).take(pa.array(origins, mask=self.split[part] < 0))
        texts["outcome"] = pa.array(OUTCOMES).take(pa.array(self.outcome[part]))
        facts = columns | texts | {"digest": self._hex_digests(part)}
        for name, values in (("fingerprint", self.perceptual_hash[part]), ("image_key", self.image_key[part])):
            facts[name] = self._pack(values, part)
        return make_ledger_table(self.inventory.slice(start, stop - start), facts, self.split[part] >= 0)

    def _fill_common(self, rows: NDArray[np.int64], table: pa.Table) -> None:
        self.outcome[rows] = _codes(table.column("outcome"), OUTCOMES)
        self.split[rows] = _codes(table.column("split"), SPLITS)
        self.group[rows] = self.groups.encode_column(table.column("group"))
        self.is_read[rows] = pc.is_valid(table.column("digest")).to_numpy(zero_copy_only=False)
        self.digest[rows] = _digests(table.column("digest"))
        self.image_key[rows] = _bytes(table.column("image_key"), KEY)
        for name in ("width", "height", "record", "record_label"):
            getattr(self, name)[rows] = _integers(table.column(name), np.int32)
        self.pixels[rows] = _integers(table.column("pixels_crc32c"), np.uint32)

    def _settle_unread(self) -> None:
        """Files that are not read: ignored names, what is no regular file, images outside any class folder."""
        ignored, problem = (self.reasons.encode_column(self.inventory.column(name)) for name in ("ignored", "problem"))
        for rule in (np.where(self.label_id < 0, self.reasons[NO_CLASS], NONE), problem):
            self.reason = np.where(rule >= 0, rule, self.reason).astype(np.int32)
        self.outcome[self.reason >= 0] = QUARANTINED
        self.outcome[ignored >= 0] = IGNORED
        self.reason[ignored >= 0] = ignored[ignored >= 0]

    def _told_reasons(self, part: slice) -> pa.Array:
        told = self.reasons.decode(self.reason[part]).cast(pa.string())
        rows = np.flatnonzero((self.duplicate_of[part] >= 0) & (self.outcome[part] != CONFLICT))
        if not len(rows):
            return told
        texts = told.to_pylist()
        twins = self.duplicate_of[part][rows].astype(np.int64)
        for row, twin, path in zip(rows, twins, self.paths(twins), strict=True):
            texts[row] = f"{self._likeness(part.start + row, twin)} {path.decode('utf-8', 'backslashreplace')!r}"
            texts[row] += self._told_place(part.start + row, twin)
        return pa.array(texts, pa.string())

    def _likeness(self, row: int, twin: int) -> str:
        if (self.digest[row] == self.digest[twin]).all():
            return "the same bytes as"
        return "the same pixels as" if self.outcome[row] == DUPLICATE else "nearly the same picture as"

    def _told_place(self, row: int, twin: int) -> str:
        """What more is to be said of the other picture: its split or its label, where that is what matters."""
        if self.outcome[row] == OK and self.label_id[row] != self.label_id[twin]:
            return ", which has another label"
        return f" in {TOLD_SPLITS[self.split[twin]]}" if self.outcome[row] in (LEAK, OK) else ""

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


def read_greys(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    """uint8 (rows, 1024): grey means of a chunk's report, zeros where there are none."""
    return _bytes(column, CELLS)


def iterate_slices(count: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the parts of `count` rows."""
    for start in range(0, count, size):
        yield start, min(count, start + size)


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
        return _bytes(column, 32)
    text = b"".join(value.encode() for value in column.fill_null("0" * 64).to_pylist())
    return np.frombuffer(bytes.fromhex(text.decode()), np.uint8).reshape(-1, 32)


def _bytes(column: pa.ChunkedArray, width: int) -> NDArray[np.uint8]:
    """uint8 (rows, width) of a column of so many bytes each, zeros for null."""
    if not len(column):
        return np.empty((0, width), np.uint8)
    flat = column.combine_chunks().fill_null(bytes(width))
    held = np.frombuffer(flat.buffers()[1], np.uint8)[: (flat.offset + len(flat)) * width]
    return held[flat.offset * width :].reshape(-1, width)
