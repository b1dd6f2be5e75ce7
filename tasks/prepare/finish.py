"""Rows that are all decoded in, a published version out: what only the whole dataset can decide, then its shards."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from cnn.dataset.manifest import Manifest
from cnn.dataset.normalization import set_normalization
from cnn.errors import StorageError
from infra.cluster.spec import WorkEstimate
from infra.storage.layout import manifest_path
from tasks.dataset.version import LatestVersion, point_to_version
from tasks.prepare.checks import check_budget, check_leaks, reconcile_rows
from tasks.prepare.derive import Arranged, ArrangeTask, Selection, arrange_shard, find_arranged, measure_shard
from tasks.prepare.duplicates import fetch_greys, mark_copies, mark_doubtful_labels, mark_leaks
from tasks.prepare.pipeline import Preparation, Run, has_missing
from tasks.prepare.placement import Part, Placement, divide_rows, place_rows
from tasks.prepare.publish import Draft, publish_dataset
from tasks.prepare.quarantine import remove_refusal, write_refusal
from tasks.prepare.split import draw_splits, recall_splits
from tasks.prepare.table import LEAK

COPY_SECONDS, RECORD_SECONDS = 1.2e-3, 1e-4  # of one core: an augmented copy, a record that is read or written

Watch = Callable[[list[Selection]], AbstractContextManager[Callable[[Selection], None]]]
"""Told what is to be arranged; what its block gives is called with each piece that is done."""


def unwatched(works: list[Selection]) -> AbstractContextManager[Callable[[Selection], None]]:
    """A `Watch` that shows nothing."""
    return nullcontext(lambda work: None)


def finish_version(job: Preparation, run: Run, watch: Watch = unwatched) -> tuple[Manifest, str]:
    """Settle, arrange and publish; returns the manifest and its path in the workspace.

    Raises:
        BudgetError, StorageError: too much was lost, or the books do not balance; nothing is published.
    """
    parts = settle_files(job)
    works, known = plan_arranging(job, parts)
    with (watch if works else unwatched)(works) as on_done:
        arranged = known | arrange_shards(job, works, run, on_done)
    return publish_version(job, parts, arranged, run)


def settle_files(job: Preparation) -> list[Part]:
    """Settle duplicates, conflicts and leaks; returns what each shard contributes.

    Raises:
        BudgetError: too much was lost; nothing is published.
    """
    if job.recognised:
        return []  # the budget was kept when the version was made
    if job.unchanged:
        job.rows.outcome[job.rows.leaked] = LEAK  # the budget may be another one now
    else:
        settle_rows(job)
    check_budget(job.rows, job.classes, job.budget, partial(list_refused, job))
    check_leaks(job.rows, job.classes, job.budget, job.spec.image)
    return [] if job.unchanged else divide_rows(job.rows)


def list_refused(job: Preparation) -> str:
    """Where the files are listed for which nothing is published; "" where the workspace does not take the list."""
    try:
        return write_refusal(job.store, job.source.uri, job.rows)
    except StorageError:
        return ""  # why nothing is published counts more


def settle_rows(job: Preparation) -> None:
    """Give rows the outcomes and splits that only the whole dataset can decide."""
    rows, split = job.rows, job.spec.split
    fetch = partial(fetch_greys, rows, job.store)
    memory = recall_splits(rows, job.store, job.latest, split)
    mark_copies(rows, fetch)
    draw_splits(rows, split, memory)
    mark_leaks(rows, split.leak_distance, fetch)
    mark_doubtful_labels(rows, split.leak_distance, fetch)


def plan_arranging(job: Preparation, parts: list[Part]) -> tuple[list[Selection], dict[Selection, Arranged]]:
    """(the work that is to be done, what came out of the rest before)."""
    task = arrange_task(job)
    works = [part.work for part in parts if not part.as_it_is]
    if job.spec.augment.copies:
        works += [part.copies() for part in parts if part.work.split == "train"]
    known = {work: found for work in works if (found := find_arranged(job.store, work, task)) is not None}
    known = {work: found for work, found in known.items() if job.standing.get(found.shard.path) == found.shard.bytes}
    return [work for work in works if work not in known], known


def arrange_shards(
    job: Preparation, works: list[Selection], run: Run, on_done: Callable[[Selection], None]
) -> dict[Selection, Arranged]:
    """Do this work; each piece that ends is remembered, whatever happens to the others."""
    made: dict[Selection, Arranged] = {}

    def keep(result: tuple[Selection, Arranged]) -> None:
        made[result[0]] = result[1]
        on_done(result[0])

    written = sum(len(work.records) * (job.spec.augment.copies * COPY_SECONDS or RECORD_SECONDS) for work in works)
    run(partial(arrange_shard, task=arrange_task(job)), works, keep, WorkEstimate(len(works), written))
    return made


def publish_version(
    job: Preparation, parts: list[Part], arranged: dict[Selection, Arranged], run: Run
) -> tuple[Manifest, str]:
    """Reconcile and publish; returns the manifest and its path in the workspace.

    Raises:
        StorageError: rows and shards, or rows and listing, do not add up; nothing is published.
    """
    if job.unchanged and job.previous is not None:
        return keep_version(job, job.previous.manifest)
    task = arrange_task(job)
    placement = place_rows(job.rows, parts, arranged, (work.key(task) for work in arranged))
    reconcile_rows(job.rows)
    sums = measure_training(job, placement, run) if job.spec.image.normalize == "standardize" else []
    images = sum(len(part.rows) for part in parts if part.work.split == "train")
    normalization = set_normalization(job.spec.image, sums, images)
    listing = "" if has_missing(job.rows) else job.listing
    draft = Draft(job.source.uri, job.spec, job.classes, job.rows, placement, normalization, listing, job.measured)
    manifest, path = publish_dataset(draft, job.store)
    remove_refusal(job.store, job.source.uri)
    if job.damaged not in (None, manifest.dataset):
        job.store.delete(manifest_path(str(job.damaged)))  # nobody can use it, and there is a whole one now
    return manifest, path


def keep_version(job: Preparation, manifest: Manifest) -> tuple[Manifest, str]:
    """The version that stands, and its path; where its ledger had to be gone through to know that, it is noted."""
    latest = LatestVersion(manifest.dataset, job.listing)
    if not job.recognised and job.latest != latest and not has_missing(job.rows):
        point_to_version(job.store, job.source.uri, latest)
    return manifest, manifest_path(manifest.dataset)


def measure_training(job: Preparation, placement: Placement, run: Run) -> list[list[int]]:
    """The sums of levels and squares of each shard of training images, copies left out."""
    own = set(placement.names.texts)
    shards = [shard for shard in placement.splits["train"] if shard.path in own]
    sums: list[list[int]] = []
    measure = partial(measure_shard, workspace=job.store.uri, image=job.spec.image)
    estimate = WorkEstimate(len(shards), sum(shard.rows for shard in shards) * RECORD_SECONDS)
    run(measure, shards, lambda result: sums.append(result[1]), estimate)
    return sums


def arrange_task(job: Preparation) -> ArrangeTask:
    """What the workers need beside each selection."""
    return ArrangeTask(job.store.uri, job.spec.image, job.spec.augment)
