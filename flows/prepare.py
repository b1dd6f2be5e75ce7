"""The flow `prepare`: a folder of class folders becomes a dataset version."""

import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from prefect import flow

from cnn.dataset.locked_sets import find_today
from cnn.dataset.split import SPLITS, find_column
from cnn.errors import ConfigError
from cnn.images.spec import ImageSpec
from cnn.images.transforms import try_pipeline
from cnn.text import name_some, quote_some
from cnn.training.recipes import SCRATCH_SIZE, choose_image
from flows.config import Config
from flows.progress import log_message, show_stage
from flows.results import PrepareResult, ShardCounts
from flows.run_page import complete_run, describe_dataset_outcome, link_dataset, name_run_by
from flows.runs.attendance import attend_run
from flows.runs.outages import survive_outages
from flows.stages import run_stage
from infra.cluster.workers import Workers, open_workers
from infra.machine.gpus import count_nvidia_gpus
from infra.storage.layout import outcomes_path
from infra.storage.store import open_store
from infra.storage.workspace import lock_workspace
from tasks.dataset.ledger import OUTCOMES
from tasks.files.bit_depth import describe_deep
from tasks.files.class_folders import (
    SPLIT_NAMES,
    describe_owner_split,
    find_empty_folders,
    find_similar_names,
)
from tasks.files.image_table import TableRequest
from tasks.files.listing import any_path_matches, count_labels, describe_excluded
from tasks.files.source_checks import PREPARE, are_camera_folders, find_same_folders, open_given
from tasks.files.table_hint import describe_tables
from tasks.prepare.build import BuiltChunk
from tasks.prepare.changes import describe_relabelled, read_previous
from tasks.prepare.checks import describe_ignored, describe_quarantine, find_gaps
from tasks.prepare.derive import ShardSelection
from tasks.prepare.duplicates import find_overlaps
from tasks.prepare.job import (
    BuildPlan,
    Built,
    Listing,
    MayRetire,
    PrepareJob,
    PreviousVersion,
    SourceFiles,
    retire_always,
)
from tasks.prepare.levels import DATASET, measure_levels, reuse_levels
from tasks.prepare.looks import describe_looks
from tasks.prepare.outcomes import describe_outcomes, has_outcomes
from tasks.prepare.pipeline import build_chunks, finish_version, skip_building
from tasks.prepare.plan import list_files, plan_build
from tasks.prepare.publish import PublishedDataset
from tasks.prepare.spec import BuildSpec
from tasks.prepare.survey import draw_sample, reuse_survey, survey_source


@flow(name="prepare", flow_run_name=name_run_by("prepare", "source"), persist_result=False)
def prepare(
    source: str,
    workspace: str = "./workspace",
    config: Config = Config(),  # noqa: B008 - frozen
    verify: bool = False,
) -> dict[str, Any]:
    """Turn a folder of class folders into a dataset version: list → compare → build (Dask) → publish.

    With `verify`, files that look unchanged are read and compared with the ledger too.
    """
    with attend_run():
        result = survive_outages(lambda: prepare_dataset(source, workspace, config, verify))
    return complete_run(result.model_dump(), describe_dataset_outcome(result))


def prepare_dataset(
    source: str,
    workspace: str,
    config: Config,
    verify: bool = False,
    command: str = PREPARE,
    may_retire: MayRetire = retire_always,
) -> PrepareResult:
    """The body of the flow; also the first half of `retrain`. `command` is what its user types, {} for the source."""
    job = replace(open_job(source, workspace, config, verify, command), may_retire=may_retire)
    return prepare_opened(job, config)


def prepare_opened(job: PrepareJob, config: Config) -> PrepareResult:
    """What `prepare_dataset` does when source and workspace are opened."""
    started = time.monotonic()
    if config.image.size is not None:
        try_transforms(config, job.spec.image)
    with lock_workspace(job.store), open_workers(config.cluster, log_message) as workers:
        previous = read_previous(job.store, job.source.uri)
        files = run_stage("list", lambda: list_files(job))
        if config.image.size is None:
            files = run_stage("survey", lambda: survey_stage(job, files, previous, config, workers))
            try_transforms(config, files.spec.image)
        if job.spec.image.levels == DATASET:
            files = run_stage("measure", lambda: measure_stage(job, files, previous, workers))
        plan = run_stage("compare", lambda: compare_stage(job, files, previous))
        workers.prepare(plan.estimate())
        submitted = time.monotonic()
        built = run_stage("build", lambda: build_stage(job, plan, workers)) if plan.todo else skip_building(plan)
        published = run_stage("publish", lambda: publish_stage(job, built, workers))
    seconds = time.monotonic() - started - workers.start_up
    result = summarize(job, built, published, seconds, time.monotonic() - submitted)
    log_message(describe(result, plan))
    if not plan.unchanged:  # else it was said before
        log_losses(job, plan, published)
    link_dataset(result)
    return result


def open_job(source: str, workspace: str, config: Config, verify: bool, command: str) -> PrepareJob:
    """What is asked for, with source and workspace opened. An image size that is not set is found by `survey_stage`.

    Raises:
        ConfigError, SourceError: one of the two is no address, or no folder.
    """
    image = config.image.resolve(config.image.size or SCRATCH_SIZE, config.image.channels or 3)
    return PrepareJob(
        open_given(source, command),
        open_store(workspace),
        BuildSpec(image=image, augment=config.augment, split=config.split.resolve()),
        config.budget,
        config.chunk.files,
        config.source.exclude,
        verify,
        command,
        find_today(),
        table=request_table(config),
    )


def request_table(config: Config) -> TableRequest | None:
    """What the settings ask of the user's table; None without one.

    Raises:
        ConfigError: they name a column and no table, or a table and no column.
    """
    columns = tuple(dict.fromkeys(filter(None, [find_column(config.split.group), *config.gate.list_columns()])))
    address = config.source.table
    if address is None and columns:
        setting = "gate.slices" if find_column(config.split.group) is None else "split.group"
        raise ConfigError(f"{setting} names the column {columns[0]!r}, and no table has one: set source.table")
    if address is not None and not columns:
        raise ConfigError(
            f"source.table = {address!r}, and no column of it is used: name one as column:NAME in split.group or "
            "gate.slices"
        )
    return None if address is None else TableRequest(address, config.source.table_image, columns)


def try_transforms(config: Config, image: ImageSpec) -> None:
    """Refuse transforms of the user's own that cannot be used on such images. Raises: ConfigError."""
    if config.augment.transforms is not None:
        try_pipeline(config.augment.transforms, image.shape)


def survey_stage(
    job: PrepareJob, files: SourceFiles, previous: PreviousVersion | None, config: Config, workers: Workers
) -> SourceFiles:
    """Find out what the images are like, or were for the version before, and choose a size that suits them."""
    survey = reuse_survey(files, previous)
    if survey is None:
        rows = draw_sample(files)
        with show_stage("survey", len(rows)) as stage:
            survey = survey_source(job, files, rows, workers.run, stage.advance)
    if survey is None:
        return files  # nothing can be read: why is said when the files are built
    gpus = 1 if config.train.deployment else count_nvidia_gpus()
    image = choose_image(config.image, config.fit, config.model, survey, gpus)
    found = f"{'grey ' if survey.is_grey else ''}images of about {survey.width}x{survey.height}"
    log_message(f"survey: {found} become {image.size[1]}x{image.size[0]} pixels (image.size)")
    return replace(files, spec=files.spec.model_copy(update={"image": image}), survey=survey)


def measure_stage(
    job: PrepareJob, files: SourceFiles, previous: PreviousVersion | None, workers: Workers
) -> SourceFiles:
    """Find out which levels the training images of more than 8 bits use, or used for the version before."""
    measured = reuse_levels(files, previous)
    if measured is None:
        with show_stage("measure", files.table.num_rows) as stage:
            measured = measure_levels(job, files, workers.run, stage.advance)
    levels = measured.spec.image.levels
    if isinstance(levels, tuple):
        log_message(f"measure: image.levels are {levels[0]:,} to {levels[1]:,}, which become black and white")
    else:
        log_message(
            'measure: no training image has levels of more than 8 bits, so image.levels is "full" until one has'
        )
    return measured


def compare_stage(job: PrepareJob, files: SourceFiles, previous: PreviousVersion | None) -> BuildPlan:
    """Compare the source with the version before, and plan the work."""
    plan = plan_build(job, files, previous)
    classes = plan.listing.classes
    facts = {"of them built already": plan.reused, "moved": plan.moved, "changed unseen": plan.changed}
    known = "".join(f", {count:,} {fact}" for fact, count in facts.items() if count)
    log_message(f"list: {len(plan.rows):,} files in {len(classes)} classes{known}")
    for doubt in [*describe_owner_split(files.owner_split, job.source.uri), *find_doubts(job, plan)]:
        log_message(f"list: {doubt}")
    if (sets := plan.listing.locked_sets) != (plan.base.locked_sets if plan.base else None) and sets is not None:
        log_message(f"list: {sets.describe()}")
    for line in list_table_notes(job, plan):
        log_message(f"list: {line}")
    if job.exclude:
        log_message(f"list: {describe_excluded(files.table, job.exclude)}")
    if plan.relabelled:
        log_message(f"list: {describe_relabelled(plan.relabelled)}")
    before = set(plan.base.classes) if plan.base else set(classes)
    if gone := sorted(before - set(classes)):
        new = f"; new are {quote_some(sorted(set(classes) - before))}" if set(classes) - before else ""
        log_message(f"list: classes of the version before that are gone: {quote_some(gone)}{new}")
    return plan


def list_table_notes(job: PrepareJob, plan: BuildPlan) -> Sequence[str]:
    """How the images were found in the user's table; without one, which file of the source could be it."""
    if plan.values is not None:
        return plan.values.notes
    return () if plan.recognised or job.table else tuple(describe_tables(job.source, plan.listing.files.table))


def find_doubts(job: PrepareJob, plan: BuildPlan) -> list[str]:
    """What may be a mistake, one line each: it is no fault, and the run goes on."""
    files, classes = plan.listing.files, plan.listing.classes
    doubts = [
        f"classes {show_apart(names)} differ only in case or encoding; if they are one, rename a folder"
        for names in find_similar_names(classes)
    ]
    if empty := find_empty_folders(job.source, files.table, classes, files.owner_split.folders):
        doubts.append(f"folders without images, which are no classes: {', '.join(map(repr, empty))}")
    if single := [name for name, count in count_labels(files.table).items() if count == 1]:
        doubts.append(
            f"classes with one image, which is trained on and not judged: {', '.join(map(repr, sorted(single)))}"
        )
    pattern = None if find_column(files.spec.split.group) else files.spec.split.group
    if pattern is not None and not any_path_matches(files.table, pattern):
        doubts.append(f"split.group {pattern!r} is found in no path: every image is a group of its own")
    return doubts + ([] if plan.recognised else find_doubtful_classes(plan.listing))


def find_doubtful_classes(listing: Listing) -> list[str]:
    """Folders that are taken for classes, and may be a level too high, or named by a machine."""
    doubts, files, classes = [], listing.files, listing.classes
    if are_camera_folders(classes):
        doubts.append(f"the classes are named as a camera names its folders ({name_some(list(classes))})")
    if not files.owner_split.folders and files.spec.split.folders is None:
        named = [repr(name) for name in classes if name.lower() in SPLIT_NAMES]
        doubts += [f"{' and '.join(named)}: taken for a class like the others (split.folders chooses)"] if named else []
    if not files.owner_split.folders and (same := find_same_folders(files.table)):
        shown = quote_some(same)
        doubts.append(f"all class folders hold the same folders ({shown}), which do not count: are they the classes?")
    return doubts


def show_apart(names: Sequence[str]) -> str:
    """Names that are nearly the same: as they are read, and where they look the same, with what tells them apart."""
    looks = {unicodedata.normalize("NFKC", name) for name in names}
    return " and ".join(map(repr if len(looks) == len(names) else ascii, names))


def build_stage(job: PrepareJob, plan: BuildPlan, workers: Workers) -> Built:
    """Build the chunks on the cluster."""
    with show_stage("build", plan.files_to_build) as stage:
        bad = 0

        def note(chunk: BuiltChunk) -> None:
            nonlocal bad
            bad += chunk.quarantined
            stage.advance(chunk.files, f"{bad} quarantined" if bad else "", size=chunk.bytes)

        built = build_chunks(job, plan, workers.run, note)
    files = plan.listing.files
    for line in describe_deep(built.deep, files.spec.image.levels, files.measured):
        log_message(f"build: {line}")
    return built


def publish_stage(job: PrepareJob, built: Built, workers: Workers) -> PublishedDataset:
    """Decide what only the whole dataset can decide, derive shards accordingly, and publish."""
    copies = job.spec.augment.copies

    @contextmanager
    def watch(works: list[ShardSelection]) -> Iterator[Callable[[ShardSelection], None]]:
        with show_stage("arrange", sum(count_records(work, copies) for work in works)) as stage:
            yield lambda work: stage.advance(count_records(work, copies))

    return finish_version(job, built, workers.run, watch)


def count_records(work: ShardSelection, copies: int) -> int:
    """How many images are written for this work."""
    return len(work.records) * (copies if work.copies else 1)


def log_losses(job: PrepareJob, plan: BuildPlan, published: PublishedDataset) -> None:
    """What is not in the version, and why."""
    rows, classes, manifest = published.rows, plan.listing.classes, published.manifest
    if reasons := describe_quarantine(rows):
        place = job.store.uri_of(manifest.ledger.path)
        log_message(f"publish: quarantined: {reasons}; each file stands in {place}")
    if ignored := describe_ignored(rows, classes):
        log_message(f"publish: ignored: {ignored}")
    for line in [*describe_outcomes(rows), *find_overlaps(rows), *describe_looks(rows)]:
        log_message(f"publish: {line}")
    if has_outcomes(rows):
        log_message(f"publish: all of these files: {job.store.uri_of(outcomes_path(manifest.dataset))}")
    for gap in find_gaps(rows, classes, job.spec.split):
        log_message(f"publish: {gap}")


def summarize(
    job: PrepareJob, built: Built, published: PublishedDataset, seconds: float, working: float
) -> PrepareResult:
    """The answer of a run that has published: in how many seconds, of which `working` since the first chunk."""
    manifest = published.manifest
    shards = {shard.path for split in manifest.splits.values() for shard in split}
    reused = len(shards & set(built.plan.existing.sizes))
    files = sum(chunk.files for chunk in built.chunks)
    return PrepareResult(
        dataset=manifest.dataset,
        manifest=job.store.uri_of(published.path),
        digest=manifest.digest,
        files=manifest.files,
        outcomes=in_order(manifest.outcomes, OUTCOMES),
        splits=in_order(manifest.images, SPLITS),
        classes=list(manifest.classes),
        shards=ShardCounts(built=len(shards) - reused, reused=reused),
        seconds=round(seconds, 3),
        images_per_second=round(files / working, 1) if files and working > 0 else 0.0,
    )


def in_order(counts: Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    """The counts in the order of the names; a manifest that was read has them in that of the alphabet."""
    return {name: counts[name] for name in names if name in counts}


def describe(result: PrepareResult, plan: BuildPlan) -> str:
    """One line of what was published."""
    splits = ", ".join(f"{count:,} {name}" for name, count in result.splits.items())
    others = ", ".join(f"{count:,} {name}" for name, count in result.outcomes.items() if count and name != "ok")
    changed = ", nothing has changed" if plan.unchanged else ""
    return f"publish: {result.dataset}{changed}: {splits}" + (f" ({others})" if others else "")
