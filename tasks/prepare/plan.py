"""Find out what a preparation has to build: list the source, and compare it with the version before."""

import hashlib
from dataclasses import asdict, replace

import numpy as np
import pyarrow.compute as pc

from cnn.dataset.locked_sets import LockedSets, find_period, take_turn
from cnn.dataset.manifest import Manifest
from cnn.digest import canonical_json
from cnn.errors import TRANSIENT_REASONS, IntegrityError, SourceError
from infra.storage.scratch import remove_stale_scratch
from infra.storage.store import Store
from tasks.dataset.ledger import DECODED, iterate_ledger
from tasks.files.bit_depth import DeepCounts
from tasks.files.changes import has_reason_code
from tasks.files.chunks import ChunkPlan, cut_by_hash
from tasks.files.class_folders import apply_owner_split, find_owner_split
from tasks.files.image_table import fetch_table
from tasks.files.listing import class_names, digest_listing, list_source
from tasks.files.source_checks import (
    describe_classes,
    refuse_lost_folders,
    refuse_outside_links,
    refuse_workspace_inside,
)
from tasks.prepare.changes import drop_changed, forget_splits, list_existing, reuse_moved, reuse_unchanged
from tasks.prepare.chunk_report import ChunkReport, count_deep_rows, read_chunk_report
from tasks.prepare.columns import ColumnValues, has_same_values, look_up_values, recall_values
from tasks.prepare.job import BuildPlan, Listing, PrepareJob, PreviousVersion, SourceFiles
from tasks.prepare.keep_splits import recall_locked_sets, recalls
from tasks.prepare.spec import BuildSpec
from tasks.prepare.table import OK, Rows, make_rows

LISTING_RULES = 2  # raise it when an existing version may have to be looked through though its source lists the same


def list_files(job: PrepareJob) -> SourceFiles:
    """List the source, and find the folders that are a split of its owner.

    Raises:
        ConfigError: the workspace lies inside the source.
        SourceError: the listing broke off, a folder cannot be looked into, or it is not clear what is a class.
    """
    refuse_workspace_inside(job.source, job.store)
    table = list_source(job.source, job.exclude)
    refuse_outside_links(job.source, table, job.command)
    refuse_lost_folders(job.source, table)
    split = find_owner_split(table, job.spec.split.folders, job.source.uri)
    spec = job.spec.model_copy(update={"folders": dict(split.folders)})
    columns = None if job.table is None or job.recorded is not None else fetch_table(job.source, job.table)
    return SourceFiles(apply_owner_split(table, split), split, spec, image_table=columns)


def plan_build(job: PrepareJob, files: SourceFiles, previous: PreviousVersion | None) -> BuildPlan:
    """Compare the source with its previous version, and plan what must be built.

    Raises:
        SourceError: there is nothing to learn from, or only one class.
    """
    remove_stale_scratch(job.store.root)
    existing = list_existing(job.store)
    base = find_base(previous, files.spec)
    listing = number_classes(job, files, base, choose_locked_sets(job, files, previous))
    rows = make_rows(files.table, listing.classes, files.spec.folders)
    none = ChunkPlan(np.empty(0, np.int64), np.zeros(1, np.int64))
    plan = BuildPlan(listing, previous, base, existing, rows, none)
    if is_recognised(job, plan):
        reused = sum(base.outcomes.get(outcome, 0) for outcome in DECODED) if base else 0
        return replace(plan, reused=reused, recognised=True, unchanged=True)
    plan = reuse_rows(job, replace(plan, values=find_values(job, files)))
    chunks = cut_by_hash(files.table, plan.rows.pending(), job.chunk_files)
    return take_over_chunks(replace(plan, chunks=chunks), job.store)


def find_values(job: PrepareJob, files: SourceFiles) -> ColumnValues | None:
    """What the user's table says of the files, or said for a version that is made again; None without a table.

    Raises:
        SourceError: it says nothing of any image, or contradicts itself.
    """
    if job.recorded is not None:
        return recall_values(files.table, job.recorded)
    if files.image_table is None:
        return None
    return look_up_values(files.table, files.image_table, files.spec.split)


def find_base(previous: PreviousVersion | None, spec: BuildSpec) -> Manifest | None:
    """The manifest of the previous version, where all of it is whole and its shards are what this run would write."""
    if previous is None or previous.manifest is None or previous.ledger is None:
        return None
    return previous.manifest if previous.manifest.build == spec.build_key() else None


def choose_locked_sets(job: PrepareJob, files: SourceFiles, previous: PreviousVersion | None) -> LockedSets | None:
    """The test sets of this version; None where they are not to be drawn anew, or are folders of the source's owner."""
    split = files.spec.split
    if split.refresh is None or not split.test or "test" in files.spec.folders.values():
        return None
    if job.locked_sets is not None:
        return job.locked_sets
    known = recall_locked_sets(previous, files.spec)
    if known is None:
        return LockedSets(present=find_period(split.refresh, job.today), since=job.today)
    may_retire = known.before is None or job.may_retire(known)
    return take_turn(split.refresh, split.overlap, known, job.today, may_retire)


def number_classes(
    job: PrepareJob, files: SourceFiles, base: Manifest | None, sets: LockedSets | None = None
) -> Listing:
    """The listing with its classes, which keep the numbers that they had, and its digest.

    Raises:
        SourceError: fewer than two classes; what to type is said.
    """
    classes = class_names(files.table, base.classes if base else ())
    if len(classes) < 2:
        raise SourceError(describe_classes(job.source, files.table, classes, job.command))
    facts = [files.spec.model_dump(mode="json"), job.budget.model_dump(mode="json"), job.chunk_files, classes]
    facts += [LISTING_RULES, files.measured]
    facts += [] if sets is None else [sets.model_dump(mode="json")]
    facts += [] if files.image_table is None or job.table is None else [files.image_table.sha256, asdict(job.table)]
    digest = hashlib.sha256(f"{canonical_json(facts)}{digest_listing(files.table)}".encode()).hexdigest()
    return Listing(files, classes, files.spec.build_key(), digest, sets)


def is_recognised(job: PrepareJob, plan: BuildPlan) -> bool:
    """Whether the source lists what it did when the latest version was made, all of which is there."""
    base, previous, existing = plan.base, plan.previous, plan.existing
    if base is None or previous is None or job.verify or previous.latest.listing_digest != plan.listing.digest:
        return False
    shards = (shard for chunk in base.chunks.values() for shard in chunk.values())
    built = all(map(existing.has_report, base.chunks)) and all(map(existing.has_shard, shards))
    return built and comes_out_again(plan, base)


def comes_out_again(plan: BuildPlan, base: Manifest) -> bool:
    """Whether the settings are those of the previous version, whose shards are all there."""
    files = plan.listing.files
    settings = (base.classes, base.image, base.augment, base.split, base.split_folders, base.measured_levels)
    spec = files.spec
    asked = (plan.listing.classes, spec.image, spec.augment, spec.split, spec.folders, files.measured)
    if base.locked_sets != plan.listing.locked_sets:
        return False
    return settings == asked and base.files == len(plan.rows) and plan.existing.has_all(base)


def reuse_rows(job: PrepareJob, plan: BuildPlan) -> BuildPlan:
    """The plan with the rows of files that are unchanged, or have only moved, filled in."""
    base, previous = plan.base, plan.previous
    if base is None or previous is None or previous.ledger is None:
        return plan
    try:
        ledger = iterate_ledger(previous.ledger, previous.ledger_uri)
        reused = reuse_unchanged(plan.rows, base, ledger, plan.existing)
    except IntegrityError:  # nothing can be built upon a damaged ledger: everything is built anew
        return replace(plan, base=None)
    rows, changed = drop_changed(reused.rows, job.source) if job.verify else (reused.rows, 0)
    spec = plan.listing.files.spec
    moved = reuse_moved(rows, job.source, reused.left, spec)
    rows = moved.rows
    if not recalls(previous, spec.split, spec.folders.values()):
        rows = forget_splits(rows)
    unchanged = reused.same == len(rows) and not changed and comes_out_again(plan, base)
    unchanged = unchanged and has_same_values(rows, plan.values, spec.split)
    found = replace(plan, rows=rows, moved=moved.count, relabelled=moved.relabelled)
    return replace(found, changed=changed, unchanged=unchanged)


def take_over_chunks(plan: BuildPlan, store: Store) -> BuildPlan:
    """The plan with the rows of chunks that an earlier run, cut short, has built; the others are to be built."""
    numbers, levels = range(len(plan.chunks)), plan.listing.files.spec.image.levels
    if not plan.existing.has_reports():
        return replace(plan, todo=tuple(numbers), reused=_count_ok(plan.rows))
    draft, deep, todo = plan.rows.draft(), DeepCounts(), []
    for number in numbers:
        report = find_report(plan, number, store)
        if report is None:
            todo.append(number)
        else:
            draft.fill([(plan.chunks.rows_of(number), report)])
            deep += count_deep_rows(report, levels)
    rows = draft.finish()
    return replace(plan, rows=rows, todo=tuple(todo), reused=_count_ok(rows), deep=deep)


def find_report(plan: BuildPlan, number: int, store: Store) -> ChunkReport | None:
    """The report of a chunk that an earlier run has built; None where it, a shard of it or one of its files is missing.

    A file that gave no bytes, or whose decoder gave no answer, may do better now.
    """
    key = plan.make_chunk(number).key
    if not plan.existing.has_report(key):
        return None
    try:
        report = plan.check_report(number, read_chunk_report(store, key), store)
    except IntegrityError:
        return None  # it is built anew
    transient = pc.any(has_reason_code(report.table.column("reason"), TRANSIENT_REASONS)).as_py()
    if transient or report.table.column("digest").null_count:
        return None
    return report if all(map(plan.existing.has_shard, report.shards.values())) else None


def _count_ok(rows: Rows) -> int:
    return int((rows.outcome == OK).sum())
