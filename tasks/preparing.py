"""The steps of one preparation in their order, free of any orchestrator: list, build, publish.

`Preparation` holds what the steps hand to each other, so that no orchestrator has to carry a million rows.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cnn.dataset import Manifest, ShardRef
from cnn.errors import IntegrityError, SafelightError, SourceError
from infra.cluster import Cluster, run_chunks
from infra.storage import Source, Store, open_source, open_store
from tasks.building import BuildSpec, BuildTask, ChunkReport, build_chunk, read_report, report_path
from tasks.ledger import DECODED, SCHEMA, reconcile_ledger, restore_path, show_path, to_table
from tasks.listing import Listed, check_apart, find_classes, list_source
from tasks.planning import Chunk, KnownRow, Plan, plan_build
from tasks.publishing import (
    NO_CLASS,
    BudgetSpec,
    Draft,
    check_budget,
    place_rows,
    plan_thinning,
    publish_dataset,
    read_latest,
    read_ledger,
    reconcile_shards,
)
from tasks.settling import settle_rows
from tasks.shards import Thinning, sweep_scratch, thin_shard

FOLDER_PROBLEMS = ("unreadable_folder", "symlink_outside_folder", "symlink_nested")
OnReport = Callable[[ChunkReport], None]


@dataclass
class Preparation:
    """One run of `prepare`: what was asked for, and what is known so far."""

    source_uri: str
    workspace_uri: str
    spec: BuildSpec
    budget: BudgetSpec
    chunk_files: int
    listed: list[Listed] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    plan: Plan = field(default_factory=lambda: Plan((), {}))
    todo: tuple[Chunk, ...] = ()
    done: list[ChunkReport] = field(default_factory=list)
    standing: dict[str, int] = field(default_factory=dict)  # shards that were there before, with their sizes
    previous: Manifest | None = None
    previous_rows: pa.Table = field(default_factory=SCHEMA.empty_table)
    started: float = field(default_factory=time.monotonic)
    submitted: float | None = None

    @property
    def source(self) -> Source:
        """The source, opened read-only."""
        return open_source(self.source_uri)

    @property
    def store(self) -> Store:
        """The workspace."""
        return open_store(self.workspace_uri)


def list_files(job: Preparation) -> None:
    """List the source, compare with the previous version, and plan what must be built.

    Raises:
        SourceError: there is nothing to learn from, or only one class.
    """
    check_apart(job.source, job.store)
    job.listed = list_source(job.source)
    sweep_scratch(job.store)
    refuse_lost_folders(job)
    job.standing = {entry.path: entry.size for entry in job.store.list("shards/")}
    job.previous = _usable_previous(job)
    job.classes = find_classes(job.listed, job.previous.classes if job.previous else ())
    if len(job.classes) < 2:
        raise SourceError(_describe_classes(job.source_uri, job.classes, len(job.listed)))
    known = _known_rows(job, job.previous) if job.previous else {}
    job.plan = plan_build(job.listed, job.classes, known, job.chunk_files, job.spec.salt())
    job.todo = _unfinished(job)


def refuse_lost_folders(job: Preparation) -> None:
    """Stop when a folder cannot be looked into: nobody knows how many images, or whole classes, are missing.

    Raises:
        SourceError: the folder is named.
    """
    lost = [item.entry for item in job.listed if item.ignored is None and item.entry.problem in FOLDER_PROBLEMS]
    if lost:
        raise SourceError(
            f"{job.source.uri_of(lost[0].path)} is a folder that cannot be looked into ({lost[0].problem}); "
            "repair, move or hide it (a leading dot); nothing was published"
        )


def build_chunks(job: Preparation, cluster: Cluster, on_report: OnReport) -> None:
    """Build every chunk that is not done yet; each that ends is kept, whatever happens to the others."""
    job.submitted = time.monotonic()

    def keep(report: ChunkReport) -> None:
        job.done.append(report)
        on_report(report)

    task = BuildTask(job.source.uri, job.store.uri, job.spec)
    run_chunks(cluster, partial(build_chunk, task=task), job.todo, keep)


def publish_version(job: Preparation, cluster: Cluster) -> tuple[Manifest, str]:
    """Settle, check, reconcile and publish; returns the manifest and its path in the workspace.

    Raises:
        BudgetError: too much was lost; nothing is published.
    """
    table, chunks = _gather_rows(job)
    table = settle_rows(table, job.spec.split.leak_distance)
    check_budget(table, job.budget)
    replaced: dict[tuple[str, str], ShardRef] = {}

    def note(result: tuple[Thinning, ShardRef]) -> None:
        replaced[result[0].chunk, result[0].split] = result[1]

    run_chunks(cluster, partial(thin_shard, workspace=job.store.uri), plan_thinning(table, chunks), note)
    table, splits = place_rows(table, chunks, replaced)
    reconcile_shards(table, splits)
    reconcile_ledger(table, [item.entry.path for item in job.listed])
    draft = Draft(job.source.uri, job.spec, job.classes, table, chunks, splits)
    return publish_dataset(draft, job.store)


def _usable_previous(job: Preparation) -> Manifest | None:
    previous = read_latest(job.store, job.source.uri)
    if previous is None or previous.build != job.spec.salt():
        return None
    try:
        job.previous_rows = read_ledger(job.store, previous)
    except SafelightError:
        return None  # a damaged ledger is no ground to stand on: everything is built anew
    return previous


def _known_rows(job: Preparation, previous: Manifest) -> dict[str, KnownRow]:
    """What the previous version knows, by path; a row stands only when its chunk's shard is still whole."""
    alive = {
        (key, split): job.standing.get(shard.path) == shard.bytes
        for key, shards in previous.chunks.items()
        for split, shard in shards.items()
    }
    names = ("path", "path_raw", "size", "modified", "label_id", "outcome", "digest", "chunk", "split")
    columns = (job.previous_rows.column(name).to_pylist() for name in names)
    known = {}
    for row, (path, raw, size, modified, label, outcome, digest, chunk, split) in enumerate(zip(*columns, strict=True)):
        read = outcome in DECODED and alive.get((chunk, split), False)
        refused = outcome == "quarantined" and digest is not None
        known[restore_path(path, raw)] = KnownRow(row, size, modified, label, read or refused)
    return known


def _unfinished(job: Preparation) -> tuple[Chunk, ...]:
    """The chunks without a report, or whose shards are gone: what an earlier run finished is not done again."""
    reports = {entry.path for entry in job.store.list("chunks/")}

    def is_done(chunk: Chunk) -> bool:
        if report_path(chunk.key) not in reports:
            return False
        try:
            table, shards = read_report(job.store, chunk.key)
        except IntegrityError:
            return False
        if has_unread(table):
            return False
        return all(job.standing.get(shard.path) == shard.bytes for shard in shards.values())

    return tuple(chunk for chunk in job.plan.chunks if not is_done(chunk))


def has_unread(table: pa.Table) -> bool:
    """Whether a file gave no bytes at all: that may have been a passing fault, so its chunk is done again."""
    unread = pc.and_(pc.equal(table.column("outcome"), "quarantined"), pc.is_null(table.column("digest")))
    return bool(pc.any(unread).as_py())


def _gather_rows(job: Preparation) -> tuple[pa.Table, dict[str, Mapping[str, ShardRef]]]:
    """(a row for every file listed, the shards of every chunk that holds one of them)."""
    tables = [_rows_without_reading(job)]
    chunks: dict[str, Mapping[str, ShardRef]] = {}
    for chunk in job.plan.chunks:
        table, chunks[chunk.key] = read_report(job.store, chunk.key)
        tables.append(table)
    if job.plan.kept and job.previous is not None:
        rows = job.previous_rows.take(pa.array(sorted(job.plan.kept.values()), pa.int64()))
        tables.append(_unsettle(rows))
        used = set(rows.column("chunk").to_pylist()) - {None}
        chunks |= {key: job.previous.chunks[key] for key in sorted(used) if key in job.previous.chunks}
    return pa.concat_tables(tables), {key: shards for key, shards in chunks.items() if shards}


def _unsettle(rows: pa.Table) -> pa.Table:
    """Rows of a published version as their chunk reported them, to be settled again among the new ones."""
    outcomes = rows.column("outcome").to_pylist()
    reasons = rows.column("reason").to_pylist()
    plain = ["ok" if outcome in DECODED else outcome for outcome in outcomes]
    kept = [None if outcome in DECODED else reason for outcome, reason in zip(outcomes, reasons, strict=True)]
    columns = {"outcome": plain, "reason": kept, "shard": [None] * rows.num_rows}
    for name, values in columns.items():
        index = SCHEMA.get_field_index(name)
        rows = rows.set_column(index, SCHEMA.field(index), pa.array(values, pa.string()))
    return rows.cast(SCHEMA)


def _rows_without_reading(job: Preparation) -> pa.Table:
    """Rows of files that are not read: ignored names, what is no regular file, images outside any class folder."""
    rows: list[dict[str, Any]] = []
    for item in job.listed:
        entry = item.entry
        path, raw = show_path(entry.path)
        row: dict[str, Any] = {"path": path, "path_raw": raw, "size": entry.size, "modified": entry.modified}
        row["label"] = item.label
        if item.ignored is not None:
            rows.append(row | {"outcome": "ignored", "reason": item.ignored})
        elif entry.problem is not None:
            rows.append(row | {"outcome": "quarantined", "reason": entry.problem})
        elif item.label is None:
            rows.append(row | {"outcome": "quarantined", "reason": NO_CLASS})
    return to_table(rows)


def _describe_classes(source: str, classes: tuple[str, ...], files: int) -> str:
    if not files:
        return f"{source} holds no files; expected one folder of images per class"
    if not classes:
        return f"{source} holds {files} files but no class folders; expected one folder of images per class"
    return f"{source} holds one class, {classes[0]!r}; a classifier needs at least two class folders"
