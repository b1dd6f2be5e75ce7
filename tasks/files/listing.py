"""List all files of a source as one Arrow table, with the label of each, or the rule by which it is ignored.

A file takes some 120 bytes of memory. Python objects exist for one batch of files at a time, so that a million files
take no more of them than ten thousand.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import le
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.digest import canonical_json
from cnn.patterns import compile_pattern
from infra.storage.entry import Entry
from infra.storage.store import Source
from tasks.files.glob_patterns import compile_patterns
from tasks.files.ignore_rules import EXCLUDED, classify_paths
from tasks.files.paths import decode_path, encode_path
from tasks.files.text_index import TextIndex

BATCH = 4_000  # files that are Python objects at once
NAMES = pa.dictionary(pa.int32(), pa.string())
FOLDER_PROBLEMS = ("unreadable_folder", "symlink_outside_folder", "symlink_nested")  # each hides any number of files

# Of one piece, with 64-bit offsets: some rows taken of many pieces cost a look at each of these, every time.
FILES = pa.schema(
    [
        pa.field("path", pa.large_binary(), nullable=False),  # its bytes, as the file system holds them
        pa.field("size", pa.int64(), nullable=False),
        pa.field("modified", pa.large_string(), nullable=False),  # mtime_ns.ctime_ns, or the ETag
        pa.field("problem", NAMES),  # why it cannot be read; see `infra.storage.entry.Entry`
        pa.field("label", NAMES),  # the top folder, null at the top level
        pa.field("ignored", NAMES),  # the rule that leaves it out
        pa.field("written", pa.float64()),  # when an object was written, in seconds since 1970
    ]
)
DIGESTED = [field.name for field in FILES if field.name != "written"]  # an object that changes has another ETag


def list_source(source: Source, exclude: Sequence[str] = ()) -> pa.Table:
    """Every file of the source, as rows of `FILES` in the order of the paths' bytes.

    Columns are of one piece; those of labels, rules and problems have a dictionary. `exclude` are patterns of files
    that are left out; see `tasks.files.spec.SourceSpec`.

    Raises:
        SourceError: the listing broke off.
    """
    pieces: list[list[Any]] = [[] for _ in FILES]
    indexes = {number: TextIndex() for number, field in enumerate(FILES) if field.type == NAMES}
    ordered, last = True, b""
    for batch in _batches(source.list()):
        columns = _to_columns(batch, exclude)
        paths = columns[0]
        ordered = ordered and last <= paths[0] and all(map(le, paths, islice(paths, 1, None)))
        last = paths[-1]
        for number, (values, field) in enumerate(zip(columns, FILES, strict=True)):
            index = indexes.get(number)
            pieces[number].append(pa.array(values, field.type) if index is None else index.encode(values))
    joined = [_join(pieces.pop(0), field, indexes.get(number)) for number, field in enumerate(FILES)]
    if not ordered:
        order = pc.sort_indices(joined[0])
        joined = [joined.pop(0).take(order) for _ in FILES]
    return pa.Table.from_arrays(joined, schema=FILES)


def find_readable(files: pa.Table) -> NDArray[np.int64]:
    """int64 (files,): the rows of files that are asked for: neither ignored nor without a way to read them."""
    left_out = pc.or_(pc.is_valid(files.column("ignored")), pc.is_valid(files.column("problem")))
    return np.flatnonzero(~left_out.to_numpy().astype(np.bool_))


def find_labelled(files: pa.Table) -> NDArray[np.int64]:
    """int64 (rows,): those of `find_readable` that have a label: what is read for a dataset."""
    has_label = pc.is_valid(files.column("label")).to_numpy().astype(np.bool_)
    rows = find_readable(files)
    return np.asarray(rows[has_label[rows]])


def make_entries(files: pa.Table, rows: NDArray[np.int64]) -> Iterator[Entry]:
    """The files of these rows as values."""
    part = files.select(["path", "size", "modified", "problem", "written"]).take(pa.array(rows))
    for path, *facts in zip(*(column.to_pylist() for column in part.columns), strict=True):
        yield Entry(decode_path(path), *facts)


def class_names(files: pa.Table, previous: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Class names of a listing; the position is the label id in the shards.

    Classes of the previous version keep their ids and new ones follow; when one has vanished, all are sorted anew.
    """
    names = set(_asked_for(files).column("label").unique().to_pylist()) - {None}
    kept = previous if set(previous) <= names else ()
    return (*kept, *sorted(names - set(kept)))


def digest_listing(files: pa.Table) -> str:
    """sha256 (hex) of all that a listing says; it may differ for equal ones that came in another order."""
    digest = hashlib.sha256(str(files.num_rows).encode())
    for name in (field.name for field in FILES if field.type == NAMES and files.num_rows):
        digest.update(canonical_json(files.column(name).chunk(0).dictionary.to_pylist()).encode())
    for batch in files.select(DIGESTED).to_batches(max_chunksize=BATCH):
        digest.update(batch.serialize())
    return digest.hexdigest()


def count_labels(files: pa.Table) -> dict[str, int]:
    """Class name → how many files of the listing are in its folder, ignored ones left out."""
    counts = pc.value_counts(_asked_for(files).column("label")).to_pylist()
    return {item["values"]: item["counts"] for item in counts if item["values"] is not None}


def count_asked_for(files: pa.Table) -> int:
    """How many files are not left out."""
    return int(files.column("ignored").null_count)


def list_lost_folders(files: pa.Table) -> list[str]:
    """The folders that could not be looked into; nobody knows what lies in them."""
    return [decode_path(path) for path in with_problem(files, FOLDER_PROBLEMS).column("path").to_pylist()]


def with_problem(files: pa.Table, problems: Sequence[str]) -> pa.Table:
    """The rows of files with one of these problems, ignored ones left out."""
    found = pc.is_in(files.column("problem").cast(pa.string()), pa.array(problems))
    return files.filter(pc.and_(found, pc.is_null(files.column("ignored"))))


def describe_excluded(files: pa.Table, patterns: Sequence[str]) -> str:
    """How many of the excluded files each pattern meets; one that meets none may be mistyped."""
    counts = dict.fromkeys(patterns, 0)
    meets = {pattern: compile_patterns((pattern,)).fullmatch for pattern in patterns}
    for path in iterate_paths(files.filter(pc.equal(files.column("ignored").cast(pa.string()), EXCLUDED))):
        for pattern in patterns:
            counts[pattern] += meets[pattern](path) is not None
    shown = [f"{pattern!r} {f'{count:,}' if count else 'no file'}" for pattern, count in counts.items()]
    return f"left out by source.exclude: {', '.join(shown)}"


def any_path_matches(files: pa.Table, pattern: str) -> bool:
    """Whether the pattern is found in the path of any file that is not ignored."""
    return any(map(compile_pattern(pattern).search, iterate_paths(_asked_for(files))))


def iterate_paths(files: pa.Table) -> Iterator[str]:
    """The path of each file, one batch of them in memory."""
    for batch in files.select(["path"]).to_batches(max_chunksize=BATCH):
        yield from map(decode_path, batch.column("path").to_pylist())


def iterate_labelled(files: pa.Table) -> Iterator[bytes]:
    """The path of each file that has a label and is not ignored."""
    for batch in files.select(["path", "label", "ignored"]).to_batches(max_chunksize=BATCH):
        rows = batch.filter(pc.and_(pc.is_valid(batch.column("label")), pc.is_null(batch.column("ignored"))))
        yield from rows.column("path").to_pylist()


def _asked_for(files: pa.Table) -> pa.Table:
    return files.select(["path", "label"]).filter(pc.is_null(files.column("ignored")))


def _batches(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    while batch := list(islice(entries, BATCH)):
        yield batch


def _to_columns(batch: Sequence[Entry], exclude: Sequence[str]) -> tuple[list[Any], ...]:
    """The columns of `FILES` for some files."""
    paths, sizes, modified, problems, written = map(list, zip(*batch, strict=True))
    labels, rules = classify_paths(paths, exclude)
    return list(map(encode_path, paths)), sizes, modified, problems, labels, rules, written


def _join(pieces: Iterable[Any], field: pa.Field, index: TextIndex | None) -> pa.Array:
    """The pieces of a column as one array, numbers of texts as a dictionary array."""
    if index is None:
        return pa.chunked_array(pieces, field.type).combine_chunks()
    return index.decode(np.concatenate([np.empty(0, np.int32), *pieces]))
