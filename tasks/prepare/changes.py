"""The previous version's ledger and a new listing in; the rows that stand, and the files that only moved, out."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.dataset.manifest import Manifest
from cnn.errors import DECODER_DEATHS, TRANSIENT_REASONS
from infra.storage.layout import chunk_report_path
from infra.storage.store import Source
from tasks.dataset.ledger import DECODED, LEDGER, OUTCOMES, iterate_ledger
from tasks.files.changes import has_reason_code, hash_files, match_files
from tasks.files.paths import decode_path, restore_paths, show_path
from tasks.prepare.spec import BuildSpec
from tasks.prepare.table import PENDING, Rows, iterate_slices

PART = 4096


@dataclass(frozen=True)
class Previous:
    """A version to build on: its manifest, and its ledger as a local file that was verified."""

    manifest: Manifest
    ledger: Path
    name: str
    standing: dict[str, int]  # path of every shard and report in the workspace → its size


def keep_unchanged(rows: Rows, previous: Previous) -> tuple[int, pa.Table]:
    """Take over the rows of unchanged files; returns (how many rows are what they were, usable rows of others).

    A file is unchanged when its path, size and modification stamp are; its row can stand when its chunk's shard does,
    or when its bytes were refused. Both tables are in the order of their paths: they are gone through side by side.
    """
    left, same = [LEDGER.empty_table()], 0
    for table, match in match_files(rows.inventory, iterate_ledger(previous.ledger, previous.name)):
        stands = match.same & _usable(table.take(pa.array(match.earlier)), previous)
        rows.doubted[match.listed[~stands]] = _died(table.take(pa.array(match.earlier[~stands])))
        # Files that were read then and are left out by a rule now are no longer asked for.
        chosen = stands & (rows.outcome[match.listed] == PENDING)
        same += int(chosen.sum()) + _count_same_unread(rows, match.listed, table, match.earlier)
        rows.keep(match.listed[chosen], table.take(pa.array(match.earlier[chosen])))
        rest = np.setdiff1d(np.arange(table.num_rows), match.earlier[chosen])
        left.append(_decoded(table.take(pa.array(rest)), previous))
    return same, pa.concat_tables(left)


def keep_moved(rows: Rows, source: Source, left: pa.Table, spec: BuildSpec) -> int:
    """Take over the rows of files that have another path now, found by size and time (or name) and then by their bytes.

    These files are read and hashed, but not decoded; returns how many they were. One whose group or split
    folder, and with it the split, has changed is left to be built.
    """
    if not left.num_rows:
        return 0
    suspects = _find_suspects(rows, left)
    rows_by_digest = {digest: row for row, digest in enumerate(left.column("digest").to_pylist())}
    drawn, keys, moved = left.column("record_split").to_pylist(), left.column("image_key").to_pylist(), 0
    for start, stop in iterate_slices(len(suspects), PART):
        part = suspects[start:stop]
        pairs: list[tuple[int, int]] = []
        groups: list[str | None] = []
        paths = list(map(decode_path, rows.paths(part)))
        for row, path, digest in zip(part.tolist(), paths, hash_files(source, paths), strict=True):
            old = rows_by_digest.get(digest) if digest is not None else None
            if old is None:
                continue
            place, group = spec.place_image(path, keys[old].hex())
            if place == drawn[old]:
                pairs.append((row, old))
                groups.append(None if group is None else show_path(group)[0])
        chosen = np.array(pairs, np.int64).reshape(-1, 2)
        rows.keep(chosen[:, 0], left.take(pa.array(chosen[:, 1])))
        rows.group[chosen[:, 0]] = rows.groups.encode(groups)
        moved += len(chosen)
    return moved


def verify_kept(rows: Rows, source: Source) -> int:
    """Read every file whose row was kept, and give up the rows of those whose bytes have changed; returns how many."""
    kept, changed = np.flatnonzero(rows.is_read), 0
    for start, stop in iterate_slices(len(kept), PART):
        part = kept[start:stop]
        expected, paths = rows.digest[part], list(map(decode_path, rows.paths(part)))
        differs = [
            digest is None or bytes.fromhex(digest) != known.tobytes()
            for digest, known in zip(hash_files(source, paths), expected, strict=True)
        ]
        rows.forget(part[np.array(differs, np.bool_)])
        changed += sum(differs)
    return changed


def _count_same_unread(rows: Rows, new: NDArray[np.int64], table: pa.Table, old: NDArray[np.int64]) -> int:
    """How many files that are not read (ignored ones, say) have the row that they had."""
    unread = rows.outcome[new] != PENDING
    new, table = new[unread], table.take(pa.array(old[unread]))
    same = pc.equal(table.column("outcome"), pa.array(OUTCOMES).take(pa.array(rows.outcome[new])))
    reasons = pc.equal(table.column("reason"), rows.reasons.decode(rows.reason[new]).cast(pa.string()))
    return int(pc.sum(pc.and_(same, reasons)).as_py() or 0)


def _usable(old: pa.Table, previous: Previous) -> NDArray[np.bool_]:
    """Whether rows of a ledger can stand: pixels that lie in a shard that is there, or bytes that were refused."""
    refused = pc.and_(pc.equal(old.column("outcome"), "quarantined"), pc.is_valid(old.column("digest")))
    # Older ledgers have the digests of files that ended their decoder, so their verdicts would stand for good.
    refused = pc.and_not(refused, has_reason_code(old.column("reason"), TRANSIENT_REASONS))
    decoded = pc.is_in(old.column("outcome"), pa.array(DECODED)).to_numpy(zero_copy_only=False)
    keys = (old.column(name).combine_chunks().dictionary_encode() for name in ("chunk", "record_split"))
    chunks, splits = ((key.dictionary.to_pylist(), key.indices.fill_null(-1).to_numpy()) for key in keys)
    alive = np.zeros((len(chunks[0]) + 1, len(splits[0]) + 1), np.bool_)  # the last row and column stand for null
    for number, chunk in enumerate(chunks[0]):
        for place, split in enumerate(splits[0]):
            shard = previous.manifest.chunks.get(chunk, {}).get(split)
            stands = shard is not None and previous.standing.get(shard.path) == shard.bytes
            alive[number, place] = stands and chunk_report_path(chunk) in previous.standing
    usable: NDArray[np.bool_] = (decoded & alive[chunks[1], splits[1]]) | refused.to_numpy(zero_copy_only=False)
    return usable


def _died(old: pa.Table) -> NDArray[np.bool_]:
    """Whether these rows of a ledger are of files that ended their decoder."""
    return np.asarray(has_reason_code(old.column("reason"), DECODER_DEATHS).to_numpy(zero_copy_only=False), np.bool_)


def _decoded(old: pa.Table, previous: Previous) -> pa.Table:
    decoded = pc.is_in(old.column("outcome"), pa.array(DECODED)).to_numpy(zero_copy_only=False)
    return old.filter(pa.array(decoded & _usable(old, previous)))


def _find_suspects(rows: Rows, left: pa.Table) -> NDArray[np.int64]:
    """The pending rows with the size and the time, or the size and the last part of the name, of one that is left."""
    known: dict[int, set[str | bytes]] = defaultdict(set)
    for path, size, modified in zip(restore_paths(left).to_pylist(), *_facts(left), strict=True):
        known[size] |= {_written(modified), path.rsplit(b"/", 1)[-1]}
    found, pending = [], rows.pending()
    for start, stop in iterate_slices(len(pending), 1 << 16):
        part = rows.inventory.take(pa.array(pending[start:stop]))
        facts = zip(part.column("path").to_pylist(), *_facts(part), strict=True)
        for row, (path, size, modified) in zip(pending[start:stop].tolist(), facts, strict=True):
            if known.get(size, set()) & {_written(modified), path.rsplit(b"/", 1)[-1]}:
                found.append(row)
    return np.array(found, np.int64)


def _facts(table: pa.Table) -> Iterable[list[object]]:
    return (table.column(name).to_pylist() for name in ("size", "modified"))


def _written(modified: object) -> str:
    """When the bytes were written, without the time of the last change of name or owner; an ETag as it is."""
    return str(modified).partition(".")[0]
