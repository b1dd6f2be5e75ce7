"""The steps of one preparation in their order, free of any orchestrator: list, plan, build, finish.

A reader follows the signatures: `list_files` and `plan_build` (tasks/prepare/plan.py), then `build_chunks` and
`finish_version` here.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from cnn.dataset.normalization import Normalization, set_normalization
from cnn.errors import StorageError
from infra.cluster.spec import Run, WorkEstimate
from infra.storage.layout import manifest_path
from tasks.dataset.version import LatestVersion, point_to_version
from tasks.files.chunks import Chunk
from tasks.prepare.build import BuildTask, BuiltChunk, build_chunk
from tasks.prepare.checks import check_all_listed, check_budget, check_leaks
from tasks.prepare.chunk_report import count_deep_rows, read_chunk_report
from tasks.prepare.columns import set_values
from tasks.prepare.derive import DerivedShard, DeriveTask, ShardSelection, derive_shard, find_derived, sum_shard_levels
from tasks.prepare.duplicates import fetch_greys, mark_copies, mark_doubtful_labels, mark_leaks
from tasks.prepare.job import BuildPlan, Built, PrepareJob
from tasks.prepare.keep_splits import draw_splits, recall_locked_sets, recall_splits
from tasks.prepare.looks import find_looks, mark_looks, tie_together
from tasks.prepare.placement import Placement, SelectedRows, place_rows, select_rows
from tasks.prepare.publish import DatasetDraft, PublishedDataset, publish_dataset
from tasks.prepare.refusal import remove_refusal, write_refusal
from tasks.prepare.set_turn import find_turn
from tasks.prepare.table import LEAK, QUARANTINED, FilledRows, Rows

FILL_ROWS = 4_096  # whose reports are taken over together: each time costs as much as some hundred rows
COPY_SECONDS, RECORD_SECONDS = 1.2e-3, 1e-4  # of one core: an augmented copy, a record that is read or written

Watch = Callable[[list[ShardSelection]], AbstractContextManager[Callable[[ShardSelection], None]]]
"""Given what is to be derived; what its block gives is called with each piece that is done."""


def unwatched(works: list[ShardSelection]) -> AbstractContextManager[Callable[[ShardSelection], None]]:
    """A `Watch` that shows nothing."""
    return nullcontext(lambda work: None)


def skip_building(plan: BuildPlan) -> Built:
    """What came of a plan that leaves nothing to build."""
    return Built(plan, plan.rows, (), plan.deep)


def build_chunks(job: PrepareJob, plan: BuildPlan, run: Run, on_chunk: Callable[[BuiltChunk], None]) -> Built:
    """Build every chunk that is not built yet; each that ends is kept, whatever happens to the others.

    Raises:
        IntegrityError: what a worker wrote of a chunk is damaged.
    """
    draft, deep, levels = plan.rows.draft(), plan.deep, plan.listing.files.spec.image.levels
    numbers: dict[str, int] = {}
    waiting: list[FilledRows] = []
    built: list[BuiltChunk] = []

    def make() -> Iterator[Chunk]:
        for number in sorted(plan.todo, key=plan.bytes_of, reverse=True):  # the small ones last: workers end together
            chunk = plan.make_chunk(number)
            numbers[chunk.key] = number
            yield chunk

    def take(done: BuiltChunk) -> None:
        nonlocal deep
        number = numbers.pop(done.key)
        report = plan.check_report(number, read_chunk_report(job.store, done.key), job.store)
        deep += count_deep_rows(report, levels)
        waiting.append((plan.chunks.rows_of(number), report))
        if sum(len(rows) for rows, _ in waiting) >= FILL_ROWS:
            draft.fill(waiting)
            waiting.clear()
        built.append(done)
        on_chunk(done)

    task = BuildTask(job.source.uri, job.store.uri, plan.listing.files.spec)
    run(partial(build_chunk, task=task), make(), take, plan.estimate(), Chunk.isolate)
    draft.fill(waiting)
    return Built(plan, draft.finish(), tuple(built), deep)


def finish_version(job: PrepareJob, built: Built, run: Run, watch: Watch = unwatched) -> PublishedDataset:
    """Decide what only the whole dataset can decide, derive its shards, and publish it.

    Raises:
        BudgetError, StorageError: too much was lost, or the books do not balance; nothing is published.
    """
    plan = built.plan
    rows = decide_outcomes(job, built)
    if plan.unchanged and plan.base is not None:
        return keep_version(job, plan, rows)
    selected = select_rows(rows)
    derived = derive_shards(job, plan, selected, run, watch)
    draft = draft_dataset(job, plan, rows, selected, derived, run)
    published = publish_dataset(draft, job.store)
    remove_refusal(job.store, job.source.uri)
    remove_damaged(job, plan, published.manifest.dataset)
    return published


def decide_outcomes(job: PrepareJob, built: Built) -> Rows:
    """Rows (files,) with duplicates, conflicts, leaks and splits as the whole dataset decides them.

    Raises:
        BudgetError: too much was lost; nothing is published.
    """
    plan, rows = built.plan, built.rows
    if plan.recognised:
        return rows  # the budget was kept when the version was made
    rows = restore_leaks(rows) if plan.unchanged else compare_all(job, built)
    classes = plan.listing.classes
    check_budget(rows, classes, job.budget, partial(list_refused, job, rows))
    check_leaks(rows, classes, job.budget, plan.listing.files.spec.image)
    return rows


def restore_leaks(rows: Rows) -> Rows:
    """The rows of a version that stays as it is, with its leaks: the budget may be another one now."""
    draft = rows.draft("outcome")
    draft.outcome[rows.leaked] = LEAK
    return draft.finish()


def compare_all(job: PrepareJob, built: Built) -> Rows:
    """Rows with what follows from a comparison of all images with each other and with the version before."""
    listing, previous = built.plan.listing, built.plan.previous
    split, fetch = listing.files.spec.split, partial(fetch_greys, built.rows, job.store)
    rows = set_values(built.rows, built.plan.values, split)
    rows, memory = recall_splits(rows, previous, split)
    rows = mark_copies(rows, fetch)
    looks = find_looks(rows, job.store, job.source.uri, listing.files.spec)
    turn = find_turn(listing.locked_sets, recall_locked_sets(previous, listing.files.spec))
    rows = draw_splits(rows, split, memory, tie_together(rows, looks, split), turn)
    rows = mark_looks(rows, looks, split.copies)
    rows = mark_leaks(rows, split.leak_distance, fetch)
    return mark_doubtful_labels(rows, split.leak_distance, fetch)


def list_refused(job: PrepareJob, rows: Rows) -> str:
    """Where the files are listed for which nothing is published; "" where the workspace does not take the list."""
    try:
        return write_refusal(job.store, job.source.uri, rows)
    except StorageError:
        return ""  # why nothing is published counts more


def derive_shards(
    job: PrepareJob, plan: BuildPlan, selected: list[SelectedRows], run: Run, watch: Watch
) -> dict[ShardSelection, DerivedShard]:
    """The shards that are not a chunk's as it is, and those of augmented copies: remembered, or made now.

    Each piece that ends is remembered, whatever happens to the others.
    """
    task, copies = derive_task(job, plan), plan.listing.files.spec.augment.copies
    works = [part.work for part in selected if not part.as_it_is]
    works += [part.copies() for part in selected if copies and part.work.split == "train"]
    made = {work: found for work in works if (found := find_derived(job.store, work, task)) is not None}
    made = {work: found for work, found in made.items() if plan.existing.has_shard(found.shard)}
    todo = [work for work in works if work not in made]
    with (watch if todo else unwatched)(todo) as on_done:

        def take(result: tuple[ShardSelection, DerivedShard]) -> None:
            made[result[0]] = result[1]
            on_done(result[0])

        seconds = sum(len(work.records) * (copies * COPY_SECONDS or RECORD_SECONDS) for work in todo)
        run(partial(derive_shard, task=task), todo, take, WorkEstimate(len(todo), seconds))
    return made


def draft_dataset(
    job: PrepareJob,
    plan: BuildPlan,
    rows: Rows,
    selected: list[SelectedRows],
    derived: dict[ShardSelection, DerivedShard],
    run: Run,
) -> DatasetDraft:
    """All that the new version is made of.

    Raises:
        StorageError: rows and shards, or rows and listing, do not add up; nothing is published.
    """
    task = derive_task(job, plan)
    placement = place_rows(rows, selected, derived, (work.key(task) for work in derived))
    check_all_listed(placement.rows)
    images = sum(len(part.rows) for part in selected if part.work.split == "train")
    normalization = measure_normalization(job, plan, placement, images, run)
    return DatasetDraft(job.source.uri, plan.listing, placement, normalization, is_final=not has_missing(rows))


def measure_normalization(
    job: PrepareJob, plan: BuildPlan, placement: Placement, images: int, run: Run
) -> Normalization:
    """The constants of the first layer, over the training `images`, copies left out."""
    image, sums = plan.listing.files.spec.image, list[list[int]]()
    if image.normalize == "standardize":
        own = set(placement.names.texts)
        shards = [shard for shard in placement.splits["train"] if shard.path in own]
        measure = partial(sum_shard_levels, workspace=job.store.uri, image=image)
        estimate = WorkEstimate(len(shards), sum(shard.rows for shard in shards) * RECORD_SECONDS)
        run(measure, shards, lambda result: sums.append(result[1]), estimate)
    return set_normalization(image, sums, images)


def keep_version(job: PrepareJob, plan: BuildPlan, rows: Rows) -> PublishedDataset:
    """The version that exists; where its ledger had to be gone through to know that, the listing is noted."""
    if plan.base is None or plan.previous is None:
        raise AssertionError("an unchanged version without a previous one")
    latest = LatestVersion(plan.base.dataset, plan.listing.digest)
    if not plan.recognised and plan.previous.latest != latest and not has_missing(rows):
        point_to_version(job.store, job.source.uri, latest)
    return PublishedDataset(plan.base, manifest_path(plan.base.dataset), rows)


def has_missing(rows: Rows) -> bool:
    """Whether a file that was asked for gave no bytes, or its decoder no answer: the next preparation asks again."""
    return bool(((rows.outcome == QUARANTINED) & (rows.chunk >= 0) & ~rows.is_read).any())


def remove_damaged(job: PrepareJob, plan: BuildPlan, dataset: str) -> None:
    """Remove the manifest of a damaged version: nobody can use it, and there is a whole one now."""
    if plan.damaged not in (None, dataset):
        job.store.delete(manifest_path(str(plan.damaged)))


def derive_task(job: PrepareJob, plan: BuildPlan) -> DeriveTask:
    """What the workers need beside each selection."""
    spec = plan.listing.files.spec
    return DeriveTask(job.store.uri, spec.image, spec.augment)
