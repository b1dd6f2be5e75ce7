"""A source in, its whole listing as one Arrow table out: some 110 bytes of memory for each file.

Python objects exist for one batch of files at a time, so that a million files take no more of them than ten thousand.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from operator import le
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cnn.digest import canonical_json
from cnn.patterns import compile_pattern
from infra.storage.store import Entry, Source
from tasks.files.glob_patterns import compile_patterns
from tasks.files.labels import (
    EXCLUDED,
    SIDECARS,
    SYSTEM_NAMES,
    UNFINISHED,
    VIDEOS,
    classify_entry,
    companion_rule,
    ignore_rule,
)

BATCH = 4_000  # files that are Python objects at once
NAMES = pa.dictionary(pa.int32(), pa.string())

# Of one piece, with 64-bit offsets: some rows taken of many pieces cost a look at each of these, every time.
INVENTORY = pa.schema(
    [
        pa.field("path", pa.large_binary(), nullable=False),  # its bytes, as the file system holds them
        pa.field("size", pa.int64(), nullable=False),
        pa.field("modified", pa.large_string(), nullable=False),  # mtime_ns.ctime_ns, or the ETag
        pa.field("problem", NAMES),  # why it cannot be read; see `infra.storage.entry.Entry`
        pa.field("label", NAMES),  # the top folder, null at the top level
        pa.field("ignored", NAMES),  # the rule that leaves it out
    ]
)
ENDINGS = tuple(pattern[1:] for pattern in UNFINISHED if pattern.startswith("*"))
ORDINARY = {".jpg", ".JPG", ".png", ".PNG", "jpeg", "JPEG"}  # no rule is about such a name, unless for how it begins
COMPANIONS = SIDECARS | VIDEOS
BEGINNINGS = tuple(pattern[:-1] for pattern in UNFINISHED if pattern.endswith("*"))


class Codes:
    """A column of few different texts: numbers for them, given as they come up."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def encode(self, texts: Iterable[str | None]) -> pa.Array:
        """int32 (texts,): the number of each text, null for None."""
        numbers = self._numbers
        coded = (None if text is None else numbers.setdefault(text, len(numbers)) for text in texts)
        return pa.array(coded, pa.int32())

    def decode(self, chunks: Iterable[pa.Array]) -> list[pa.Array]:
        """Chunks of `encode` as dictionary arrays, all over one dictionary."""
        names = pa.array(self._numbers, pa.string())
        return [pa.DictionaryArray.from_arrays(chunk, names) for chunk in chunks]


def take_inventory(source: Source, exclude: Sequence[str] = ()) -> pa.Table:
    """Every file of the source, as rows of `INVENTORY` in the order of the paths' bytes.

    Columns are of one piece; those of labels, rules and problems have a dictionary. `exclude` are patterns of files
    that are left out; see `tasks.files.labels.SourceSpec`.

    Raises:
        SourceError: the listing broke off.
    """
    chunks: list[list[pa.Array]] = [[] for _ in INVENTORY]
    codes = {number: Codes() for number, field in enumerate(INVENTORY) if field.type == NAMES}
    ordered, last = True, b""
    for batch in _batches(source.list()):
        columns = _to_columns(batch, exclude)
        paths = columns[0]
        ordered = ordered and last <= paths[0] and all(map(le, paths, islice(paths, 1, None)))
        last = paths[-1]
        for number, (values, field) in enumerate(zip(columns, INVENTORY, strict=True)):
            chunks[number].append(codes[number].encode(values) if number in codes else pa.array(values, field.type))
    for number, code in codes.items():
        chunks[number] = code.decode(chunks[number])
    joined = [_join(chunks.pop(0), field.type) for field in INVENTORY]
    if not ordered:
        order = pc.sort_indices(joined[0])
        joined = [joined.pop(0).take(order) for _ in INVENTORY]
    return pa.Table.from_arrays(joined, schema=INVENTORY)


def classify_paths(paths: Sequence[str], exclude: Sequence[str] = ()) -> tuple[list[str | None], list[str | None]]:
    """The labels and the ignore rules of paths, as `labels.classify_entry` has them, several times as fast."""
    labels, rules = [], []
    for path in paths:
        start = path.rfind("/") + 1
        label, rule = classify_folder(path[:start])
        labels.append(label)
        if rule is None and (path[-4:] not in ORDINARY or path[start] in ".~"):
            rule = _name_rule(path[start:])
        rules.append(rule)
    if exclude:
        meets = compile_patterns(tuple(exclude)).fullmatch
        rules = [EXCLUDED if meets(path) else rule for path, rule in zip(paths, rules, strict=True)]
    return labels, rules


@lru_cache(maxsize=4096)
def classify_folder(folder: str) -> tuple[str | None, str | None]:
    """The label, and the rule for whatever lies there, of a folder that ends in "/"; "" is the top level."""
    inside = classify_entry(Entry(f"{folder}x", 0, ""))
    return inside.label, inside.ignored


def class_names(table: pa.Table, previous: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Class names of an inventory; the position is the label id in the shards.

    Classes of the previous version keep their ids and new ones follow; when one has vanished, all are sorted anew.
    """
    labels = table.column("label").filter(pc.is_null(table.column("ignored")))
    names = set(labels.unique().to_pylist()) - {None}
    kept = previous if set(previous) <= names else ()
    return (*kept, *sorted(names - set(kept)))


def digest_inventory(table: pa.Table) -> str:
    """sha256 (hex) of all that an inventory says; it may differ for equal ones that came in another order."""
    digest = hashlib.sha256(str(table.num_rows).encode())
    for name in (field.name for field in INVENTORY if field.type == NAMES and table.num_rows):
        digest.update(canonical_json(table.column(name).chunk(0).dictionary.to_pylist()).encode())
    for batch in table.to_batches(max_chunksize=BATCH):
        digest.update(batch.serialize())
    return digest.hexdigest()


def count_labels(table: pa.Table) -> dict[str, int]:
    """Class name → how many files of the inventory are in its folder, ignored ones left out."""
    labels = table.column("label").filter(pc.is_null(table.column("ignored")))
    return {
        item["values"]: item["counts"] for item in pc.value_counts(labels).to_pylist() if item["values"] is not None
    }


def list_excluded(table: pa.Table) -> Iterator[str]:
    """The paths of the files that patterns leave out."""
    paths = table.column("path").filter(pc.equal(table.column("ignored").cast(pa.string()), EXCLUDED))
    return (path.as_py().decode("utf-8", "surrogateescape") for path in paths)


def any_path_matches(table: pa.Table, pattern: str) -> bool:
    """Whether the pattern is found in the path of any file that is not ignored."""
    paths = table.column("path").filter(pc.is_null(table.column("ignored")))
    search = compile_pattern(pattern).search
    return any(search(path.as_py().decode("utf-8", "surrogateescape")) for path in paths)


def _batches(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    while batch := list(islice(entries, BATCH)):
        yield batch


def _to_columns(batch: Sequence[Entry], exclude: Sequence[str]) -> tuple[list[Any], ...]:
    """The columns of `INVENTORY` for some files."""
    labels, rules = classify_paths([entry.path for entry in batch], exclude)
    paths = [entry.path.encode("utf-8", "surrogateescape") for entry in batch]
    facts = [entry.size for entry in batch], [entry.modified for entry in batch], [entry.problem for entry in batch]
    return paths, *facts, labels, rules


def _name_rule(name: str) -> str | None:
    """The rules for names of files, asked only about the few that they may leave out."""
    lowered = name.lower()
    rule = None
    if name[:1] == "." or lowered in SYSTEM_NAMES or lowered.endswith(ENDINGS) or lowered.startswith(BEGINNINGS):
        rule = ignore_rule(name)
    return rule or (companion_rule(name) if lowered.rpartition(".")[2] in COMPANIONS else None)


def _join(pieces: list[pa.Array], kind: pa.DataType) -> pa.Array:
    """The pieces as one array; they are let go of with it, to save memory."""
    return pa.chunked_array(pieces, kind).combine_chunks()
