"""Reuse what the previous version of a dataset knows: rows of files that are unchanged, or only have another path."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.dataset.manifest import Manifest
from cnn.errors import DECODER_DEATHS, TRANSIENT_REASONS, IntegrityError, OutageError, SafelightError
from cnn.text import name_some
from infra.storage.store import Source, Store
from tasks.dataset.ledger import DECODED, LEDGER, OUTCOMES
from tasks.dataset.version import fetch_ledger, find_latest_version, read_manifest
from tasks.files.changes import Match, has_reason_code, hash_files, match_files
from tasks.files.paths import decode_path, restore_paths, show_path
from tasks.prepare.job import ExistingFiles, PreviousVersion
from tasks.prepare.spec import BuildSpec
from tasks.prepare.table import PENDING, Rows, RowsDraft, iterate_slices

PART = 4096  # files that are hashed before rows are made of them


@dataclass(frozen=True)
class Reused:
    """Rows with those of unchanged files filled in; how many rows are what they were, and the usable ledger rows of
    other files: those that have moved, say."""

    rows: Rows
    same: int
    left: pa.Table


@dataclass(frozen=True)
class Moved:
    """Rows with those of moved files filled in, how many these are, and how many of them went from one class to
    another, by both names."""

    rows: Rows
    count: int = 0
    relabelled: Mapping[tuple[str, str], int] = field(default_factory=dict)


def read_previous(store: Store, source: str) -> PreviousVersion | None:
    """The latest version of a source as far as it is whole; None where there is none.

    Raises:
        OutageError: the workspace does not answer now.
    """
    latest = find_latest_version(store, source)
    if latest is None:
        return None
    manifest: Manifest | None = None
    try:
        manifest = read_manifest(store, latest.dataset)
        if manifest.source != source:
            return PreviousVersion(latest)
        uri = store.uri_of(manifest.ledger.path)
        return PreviousVersion(latest, uri, manifest, fetch_ledger(store, manifest))
    except IntegrityError:
        return PreviousVersion(latest, manifest=manifest, damaged=True)
    except OutageError:
        raise  # what cannot be read for a moment is not forgotten: splits and labels hang on it
    except SafelightError:
        return PreviousVersion(latest, manifest=manifest)


def list_existing(store: Store) -> ExistingFiles:
    """What earlier runs have built."""
    return ExistingFiles({entry.path: entry.size for kind in ("shards/", "chunks/") for entry in store.list(kind)})


def reuse_unchanged(rows: Rows, manifest: Manifest, ledger: Iterable[pa.Table], existing: ExistingFiles) -> Reused:
    """Take over the rows of unchanged files from the parts of the previous ledger.

    A file is unchanged when its path, size and time of change are; its row is usable when its chunk's shard is there,
    or when its bytes were refused.

    Raises:
        IntegrityError: the ledger is damaged.
    """
    draft, left, same = rows.draft(), [LEDGER.empty_table()], 0
    for table, match in match_files(rows.files, ledger):
        usable, decoded = _find_usable(table, manifest, existing)
        usable_again = match.same & usable[match.earlier]
        died = has_reason_code(table.column("reason"), DECODER_DEATHS).to_numpy(zero_copy_only=False)
        draft.doubted[match.listed[~usable_again]] = died[match.earlier[~usable_again]]
        # Files that were read then and are left out by a rule now are no longer asked for.
        chosen = usable_again & (draft.outcome[match.listed] == PENDING)
        same += int(chosen.sum()) + _count_same_unread(draft, match, table)
        draft.reuse(match.listed[chosen], table.take(pa.array(match.earlier[chosen])))
        rest = decoded & usable
        rest[match.earlier[chosen]] = False
        left.append(table.filter(pa.array(rest)))
    draft.shards.update(manifest.chunks)
    return Reused(draft.finish(), same, pa.concat_tables(left))


def reuse_moved(rows: Rows, source: Source, left: pa.Table, spec: BuildSpec) -> Moved:
    """Take over the rows of files that have another path now.

    They are found by size and time (or name) and then by their bytes: read and hashed, but not decoded. One whose group
    or split folder, and with it the split, has changed is left to be built.
    """
    suspects = _find_suspects(rows, left)
    if not len(suspects):
        return Moved(rows)
    draft, moved, relabelled = rows.draft(), 0, Counter[tuple[str, str]]()
    labels = left.column("label").cast(pa.string()).to_pylist()
    rows_by_digest = {digest: row for row, digest in enumerate(left.column("digest").to_pylist())}
    drawn, keys = left.column("record_split").to_pylist(), left.column("image_key").to_pylist()
    for start, stop in iterate_slices(len(suspects), PART):
        part = suspects[start:stop]
        pairs: list[tuple[int, int]] = []
        groups: list[str | None] = []
        paths = list(map(decode_path, rows.paths(part)))
        for row, path, digest in zip(part.tolist(), paths, hash_files(source, paths), strict=True):
            old = rows_by_digest.get(digest) if digest is not None else None
            if old is None:
                continue
            split, group = spec.place_image(path, keys[old].hex())
            if split == drawn[old]:
                pairs.append((row, old))
                groups.append(None if group is None else show_path(group)[0])
        chosen = np.array(pairs, np.int64).reshape(-1, 2)
        draft.reuse(chosen[:, 0], left.take(pa.array(chosen[:, 1])))
        draft.group[chosen[:, 0]] = draft.groups.encode(groups)
        moved += len(chosen)
        now = rows.files.column("label").take(pa.array(chosen[:, 0])).cast(pa.string()).to_pylist()
        before = [labels[old] for old in chosen[:, 1].tolist()]
        relabelled.update(pair for pair in zip(before, now, strict=True) if pair[0] != pair[1])
    return Moved(draft.finish(), moved, relabelled)


def describe_relabelled(counts: Mapping[tuple[str, str], int]) -> str:
    """A line on images that lie in the folder of another class now, the most frequent change first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = name_some([f"{count:,} of {before!r} are {now!r}" for (before, now), count in ordered])
    return (
        f"{sum(counts.values()):,} images have another class than in the version before: {shown} now; test images "
        "among them judge by the new class"
    )


def forget_splits(rows: Rows) -> Rows:
    """The rows with each image where it was drawn when its chunk was built, as though there were no version before."""
    draft = rows.draft("split", "known", "retiring")
    draft.split[:], draft.known[:], draft.retiring[:] = rows.record_split, False, False
    return draft.finish()


def drop_changed(rows: Rows, source: Source) -> tuple[Rows, int]:
    """(rows that are pending again where a reused file has other bytes now, how many these are); all are read."""
    draft, reused, changed = rows.draft("outcome"), np.flatnonzero(rows.is_read), 0
    for start, stop in iterate_slices(len(reused), PART):
        part = reused[start:stop]
        digests = hash_files(source, list(map(decode_path, rows.paths(part))))
        differs = [
            digest is None or bytes.fromhex(digest) != known.tobytes()
            for digest, known in zip(digests, rows.digest[part], strict=True)
        ]
        draft.outcome[part[np.array(differs, np.bool_)]] = PENDING
        changed += sum(differs)
    return draft.finish(), changed


def _count_same_unread(draft: RowsDraft, match: Match, table: pa.Table) -> int:
    """How many files that are not read (ignored ones, say) have the row that they had."""
    unread = draft.outcome[match.listed] != PENDING
    listed, table = match.listed[unread], table.take(pa.array(match.earlier[unread]))
    same = pc.equal(table.column("outcome"), pa.array(OUTCOMES).take(pa.array(draft.outcome[listed])))
    reasons = pc.equal(table.column("reason"), draft.reasons.decode(draft.reason[listed]).cast(pa.string()))
    return int(pc.sum(pc.and_(same, reasons)).as_py() or 0)


def _find_usable(
    table: pa.Table, manifest: Manifest, existing: ExistingFiles
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """bool (rows,) each: whether rows of a ledger can be used again (pixels that lie in a shard that is there, or bytes
    that were refused), and whether they have pixels at all."""
    refused = pc.and_(pc.equal(table.column("outcome"), "quarantined"), pc.is_valid(table.column("digest")))
    # Older ledgers have the digests of files that ended their decoder, so their verdicts would never be asked again.
    refused = pc.and_not(refused, has_reason_code(table.column("reason"), TRANSIENT_REASONS))
    decoded = pc.is_in(table.column("outcome"), pa.array(DECODED)).to_numpy(zero_copy_only=False)
    keys = (table.column(name).combine_chunks().dictionary_encode() for name in ("chunk", "record_split"))
    chunks, splits = ((key.dictionary.to_pylist(), key.indices.fill_null(-1).to_numpy()) for key in keys)
    alive = np.zeros((len(chunks[0]) + 1, len(splits[0]) + 1), np.bool_)  # the last row and column: null
    for number, chunk in enumerate(chunks[0]):
        for place, split in enumerate(splits[0]):
            shard = manifest.chunks.get(chunk, {}).get(split)
            alive[number, place] = shard is not None and existing.has_shard(shard) and existing.has_report(chunk)
    usable: NDArray[np.bool_] = (decoded & alive[chunks[1], splits[1]]) | refused.to_numpy(zero_copy_only=False)
    return usable, decoded


def _find_suspects(rows: Rows, left: pa.Table) -> NDArray[np.int64]:
    """The pending rows with the size and the time, or the size and the last part of the name, of one that is left."""
    known: dict[int, set[str | bytes]] = defaultdict(set)
    if not left.num_rows:
        return np.empty(0, np.int64)
    for path, size, modified in zip(restore_paths(left).to_pylist(), *_facts(left), strict=True):
        known[size] |= {_written(modified), path.rsplit(b"/", 1)[-1]}
    found, pending = [], rows.pending()
    for start, stop in iterate_slices(len(pending), 1 << 16):
        part = rows.files.take(pa.array(pending[start:stop]))
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
