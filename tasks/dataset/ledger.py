"""The ledger of a dataset version: a table with one row for each file listed, written and read as Parquet."""

import json
from ast import literal_eval
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cnn.dataset.split import COLUMN
from cnn.errors import IntegrityError
from cnn.text import shorten
from tasks.files.paths import show_paths

OUTCOMES = ("ok", "quarantined", "duplicate", "conflict", "leak", "ignored")
SPLIT_WORDS = ("training", "validation", "test")  # splits, as reasons name them
SAME_BYTES, NEARLY_SAME = "the same bytes as", "nearly the same picture as"  # how a reason names another file
DECODED = ("ok", "duplicate", "conflict", "leak")  # outcomes of files whose pixels lie in a chunk's shard

TABLE_VALUES = "table_values"
LEDGER = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("path_raw", pa.binary()),  # the name's bytes, where they are not UTF-8
        pa.field("size", pa.int64(), nullable=False),
        pa.field("modified", pa.string(), nullable=False),  # mtime_ns.ctime_ns, or the ETag
        pa.field("digest", pa.string()),  # sha256 of the file
        pa.field("image_key", pa.binary(16)),  # digest of the file without its metadata, by which its split is drawn
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("captured", pa.int64()),  # seconds since 1970 on the camera's clock, where EXIF has them
        pa.field("camera", pa.string()),  # maker, model and serial number, where EXIF has them
        pa.field("label", pa.string()),
        pa.field("label_id", pa.int32()),
        pa.field("group", pa.string()),
        pa.field(TABLE_VALUES, pa.string()),  # column → value as JSON, where the user has a table (source.table)
        pa.field("split", pa.string()),
        pa.field("split_origin", pa.string()),  # folder: that of its owner; drawn: by a hash
        pa.field(
            "retiring", pa.bool_()
        ),  # true: of the test set before, which judges beside the present one for a while
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("shard", pa.string()),  # where the record lies in this version
        pa.field("chunk", pa.string()),  # the chunk that read the file: chunks/KEY.arrow
        pa.field("report_row", pa.int32()),  # its row there
        pa.field("record_split", pa.string()),  # the split of the chunk's shard that holds its record
        pa.field("record", pa.int32()),  # number of its record there
        pa.field("record_label", pa.int32()),  # the label id that this record was written with
        pa.field("pixels_crc32c", pa.uint32()),  # checksum of the image as the shard holds it
        pa.field("copies_crc32c", pa.uint32()),  # the same over its augmented copies; 0: there are none
        pa.field("fingerprint", pa.binary(16)),  # grey means of the image on a 4 x 4 grid
    ]
)
# Columns that older ledgers lack: read as nulls.
ADDED = ("captured", "camera", "image_key", "record_split", "split_origin", "retiring", TABLE_VALUES)
NO_TABLE = LEDGER.remove(LEDGER.get_field_index(TABLE_VALUES))  # of a version whose user has no table
ROW_GROUP = 65_536
IMAGE_FACTS = (  # null where a file gave no pixels
    ["width", "height", "label_id", "report_row", "record", "record_label", "pixels_crc32c", "copies_crc32c"]
)


def write_ledger(path: Path, parts: Iterable[pa.Table]) -> None:
    """Write parts of at most `ROW_GROUP` rows one after the other; equal rows give equal bytes."""
    remaining = iter(parts)
    first = next(remaining, NO_TABLE.empty_table())
    with pq.ParquetWriter(path, first.schema, compression="zstd", write_page_checksum=True) as writer:
        for part in chain([first], remaining):
            writer.write_table(part, row_group_size=ROW_GROUP)


def make_ledger_table(files: pa.Table, facts: Mapping[str, Any], decoded: NDArray[np.bool_]) -> pa.Table:
    """Rows of the ledger: these files of a listing, with these facts; those of an image are null where there is none,
    and `TABLE_VALUES` may be left out.

    `facts` are Arrow arrays, or numpy ones for `IMAGE_FACTS`; `decoded` (rows,) says which files gave pixels.
    """
    paths = files.column("path").combine_chunks()
    shown, raw = show_paths(paths)
    columns: dict[str, Any] = {"path": shown, "path_raw": raw}
    columns |= {name: files.column(name) for name in ("size", "modified", "label")}
    columns |= {name: pa.array(facts[name], mask=~decoded) for name in IMAGE_FACTS}
    columns |= {name: value for name, value in facts.items() if name not in IMAGE_FACTS}
    schema = LEDGER if TABLE_VALUES in facts else NO_TABLE
    return pa.table({name: _cast(columns[name], schema.field(name).type) for name in schema.names}, schema=schema)


def _cast(column: Any, kind: pa.DataType) -> Any:
    return column if column.type.equals(kind) else column.cast(kind)


def iterate_ledger(path: Path, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The parts of a ledger's file, one row group at a time, page checksums verified.

    Raises:
        IntegrityError: the file is damaged; `name` is said.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_columns(file.schema_arrow, name)
            wanted = LEDGER.names if columns is None else list(columns)
            there = [column for column in wanted if column in file.schema_arrow.names]
            for number in range(file.num_row_groups):
                yield _complete(file.read_row_group(number, columns=there, use_threads=False), wanted)
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{name} is damaged ({shorten(error, 160)}); prepare the dataset again") from None


def _check_columns(found: pa.Schema, name: str) -> None:
    """Raises: IntegrityError when the columns are not those of a ledger, of this release or of an older one."""
    written = [field for field in LEDGER if field.name not in ADDED or field.name in found.names]
    if not found.equals(pa.schema(written)):
        raise IntegrityError(f"{name} is damaged (it has other columns); prepare the dataset again")


def _complete(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The table with these columns in their order; those that it lacks are null."""
    columns = [
        table.column(name) if name in table.column_names else pa.nulls(len(table), LEDGER.field(name).type)
        for name in names
    ]
    return pa.table(columns, schema=pa.schema([LEDGER.field(name) for name in names]))


def read_table_values(text: str | None) -> dict[str, str]:
    """By column, as `column:site`, what the user's table says of an image: `TABLE_VALUES` of its row."""
    return {} if text is None else {f"{COLUMN}{column}": value for column, value in json.loads(text).items()}


def find_named_copies(images: pa.Table) -> NDArray[np.int64]:
    """int64 (pairs, 2): rows of images in the dataset, and the rows of those of which their reason says that they are
    copies, of the same label. Columns `path` and `reason`."""
    pattern = f"^(?:{SAME_BYTES}|{NEARLY_SAME}) (?P<other>.+) in (?:{'|'.join(SPLIT_WORDS)})$"
    found = pc.extract_regex(images.column("reason").cast(pa.string()).combine_chunks(), pattern)
    rows = np.flatnonzero(pc.is_valid(found).to_numpy(zero_copy_only=False))
    named = [literal_eval(each["other"]) for each in found.take(pa.array(rows)).to_pylist()]
    paths = images.column("path").combine_chunks()
    others = pc.index_in(pa.array(named, pa.string()), value_set=paths).fill_null(-1).to_numpy()
    pairs = np.stack([rows, others.astype(np.int64)], axis=1)
    return np.asarray(pairs[others >= 0], np.int64)


def name_elsewhere(reasons: pa.ChunkedArray) -> NDArray[np.bool_]:
    """bool (rows,): whether the reason beside an image names a near copy of it in training or validation."""
    found = pc.match_substring_regex(reasons.cast(pa.string()), f" in ({'|'.join(SPLIT_WORDS[:2])})$").fill_null(False)
    return np.asarray(found.to_numpy(zero_copy_only=False), np.bool_)
