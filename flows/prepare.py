"""A source folder in, a published dataset version out: the flow `prepare`."""

import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from prefect import flow

from cnn.dataset.manifest import Manifest
from cnn.dataset.split import SPLITS
from cnn.images.transforms import try_pipeline
from cnn.text import name_some
from flows.config import Config
from flows.progress import log_message, show_stage
from flows.results import PrepareResult, ShardCounts
from flows.run_page import link_dataset, name_run_by
from flows.stages import run_stage
from infra.cluster.workers import Workers, open_workers
from infra.storage.layout import outcomes_path
from infra.storage.workspace import lock_workspace
from tasks.dataset.ledger import OUTCOMES
from tasks.files.class_folders import (
    SPLIT_NAMES,
    describe_owner_split,
    find_empty_folders,
    find_similar_names,
)
from tasks.files.listing import any_path_matches, count_labels, describe_excluded
from tasks.files.source_checks import PREPARE, are_camera_folders, find_same_folders, refuse_workspace_inside
from tasks.prepare.bit_depth import DATASET, describe_deep
from tasks.prepare.build import ChunkReport
from tasks.prepare.checks import describe_ignored, describe_quarantine, find_gaps
from tasks.prepare.derive import Selection
from tasks.prepare.duplicates import find_overlaps
from tasks.prepare.finish import finish_version
from tasks.prepare.outcomes import describe_outcomes, has_outcomes
from tasks.prepare.pipeline import Preparation, build_chunks, keep_levels, list_files, measure_levels
from tasks.prepare.spec import BuildSpec


@flow(name="prepare", flow_run_name=name_run_by("prepare", "source"), persist_result=False)
def prepare(
    source: str,
    workspace: str = "./workspace",
    config: Config = Config(),  # noqa: B008 - frozen
    verify: bool = False,
) -> dict[str, Any]:
    """Turn a folder of class folders into a dataset version: list → build (Dask) → publish.

    With `verify`, files that look unchanged are read and compared with the ledger too.
    """
    return prepare_dataset(source, workspace, config, verify).model_dump()


def prepare_dataset(
    source: str, workspace: str, config: Config, verify: bool = False, command: str = PREPARE
) -> PrepareResult:
    """The body of the flow; also the first half of `retrain`. `command` is what its user types, {} for the source."""
    if config.augment.transforms is not None:
        try_pipeline(config.augment.transforms, config.image.shape)
    spec = BuildSpec(image=config.image, augment=config.augment, split=config.split)
    job = Preparation(source, workspace, spec, config.budget, config.chunk.files, verify)
    job.exclude, job.command = config.source.exclude, command
    with lock_workspace(job.store), open_workers(config.cluster) as workers:
        if job.spec.image.levels == DATASET:
            run_stage("measure", lambda: measure_stage(job, workers))
        run_stage("list", lambda: list_stage(job))
        workers.prepare(job.estimate)
        if job.todo:
            run_stage("build", lambda: build_stage(job, workers))
        manifest, path = run_stage("publish", lambda: publish_stage(job, workers))
    report = summarize(job, manifest, job.store.uri_of(path), workers.start_up)
    log_message(describe(report, job))
    if not job.unchanged:  # else it was told before
        tell_losses(job, manifest)
    link_dataset(report)
    return report


def tell_losses(job: Preparation, manifest: Manifest) -> None:
    """What is not in the version, and why."""
    if reasons := describe_quarantine(job.rows):
        log_message(f"publish: quarantined: {reasons}; each file stands in {job.store.uri_of(manifest.ledger.path)}")
    if ignored := describe_ignored(job.rows, job.classes):
        log_message(f"publish: ignored: {ignored}")
    for line in describe_outcomes(job.rows):
        log_message(f"publish: {line}")
    for overlap in find_overlaps(job.rows):
        log_message(f"publish: {overlap}")
    if has_outcomes(job.rows):
        log_message(f"publish: all of these files: {job.store.uri_of(outcomes_path(manifest.dataset))}")
    for gap in find_gaps(job.rows, job.classes, job.spec.split):
        log_message(f"publish: {gap}")


def measure_stage(job: Preparation, workers: Workers) -> None:
    """Find out which levels the training images of more than 8 bits use, or used for the version before."""
    refuse_workspace_inside(job.source, job.store)
    if not keep_levels(job):
        with show_stage("measure", job.inventory.num_rows) as stage:
            measure_levels(job, workers.run, stage.advance)
    levels = job.spec.image.levels
    if isinstance(levels, tuple):
        log_message(f"measure: image.levels are {levels[0]:,} to {levels[1]:,}, which become black and white")
    else:
        log_message(
            'measure: no training image has levels of more than 8 bits, so image.levels is "full" until one has'
        )


def list_stage(job: Preparation) -> None:
    """List the source and plan the work."""
    list_files(job)
    facts = {"of them built already": job.kept, "moved": job.moved, "changed unseen": job.changed}
    known = "".join(f", {count:,} {fact}" for fact, count in facts.items() if count)
    log_message(f"list: {len(job.rows):,} files in {len(job.classes)} classes{known}")
    for doubt in [*describe_owner_split(job.layout, job.source_uri), *find_doubts(job)]:
        log_message(f"list: {doubt}")
    if job.exclude:
        log_message(f"list: {describe_excluded(job.rows.inventory, job.exclude)}")
    before = job.previous.manifest.classes if job.previous else ()
    if gone := sorted(set(before) - set(job.classes)):
        log_message(f"list: classes of the version before that are gone: {', '.join(map(repr, gone))}")


def find_doubts(job: Preparation) -> list[str]:
    """What may not be as it was meant, one line each: it is no fault, and the run goes on."""
    doubts = [
        f"classes {show_apart(names)} differ only in case or encoding; if they are one, rename a folder"
        for names in find_similar_names(job.classes)
    ]
    if empty := find_empty_folders(job.source, job.rows.inventory, job.classes, job.layout.folders):
        doubts.append(f"folders without images, which are no classes: {', '.join(map(repr, empty))}")
    if single := [name for name, count in count_labels(job.rows.inventory).items() if count == 1]:
        doubts.append(
            f"classes with one image, which is trained on and not judged: {', '.join(map(repr, sorted(single)))}"
        )
    if (pattern := job.spec.split.group) is not None and not any_path_matches(job.rows.inventory, pattern):
        doubts.append(f"split.group {pattern!r} is found in no path: every image is a group of its own")
    return doubts + ([] if job.recognised else find_doubtful_classes(job))


def find_doubtful_classes(job: Preparation) -> list[str]:
    """Folders that are taken for classes, and may be a level too high, or named by a machine."""
    doubts = []
    if are_camera_folders(job.classes):
        doubts.append(f"the classes are named as a camera names its folders ({name_some(list(job.classes))})")
    if not job.layout.folders and job.spec.split.folders is None:
        named = [repr(name) for name in job.classes if name.lower() in SPLIT_NAMES]
        doubts += [f"{' and '.join(named)}: taken for a class like the others (split.folders chooses)"] if named else []
    if not job.layout.folders and (same := find_same_folders(job.rows.inventory)):
        shown = name_some(list(map(repr, same)))
        doubts.append(f"all class folders hold the same folders ({shown}), which do not count: are they the classes?")
    return doubts


def show_apart(names: Sequence[str]) -> str:
    """Names that are nearly the same: as they are read, and where they look the same, with what tells them apart."""
    looks = {unicodedata.normalize("NFKC", name) for name in names}
    return " and ".join(map(repr if len(looks) == len(names) else ascii, names))


def build_stage(job: Preparation, workers: Workers) -> None:
    """Build the chunks on the cluster."""
    with show_stage("build", job.files_to_build) as stage:
        bad = 0

        def note(report: ChunkReport) -> None:
            nonlocal bad
            bad += report.quarantined
            stage.advance(report.files, f"{bad} quarantined" if bad else "", size=report.bytes)

        build_chunks(job, workers.run, note)
    for line in describe_deep(job.deep, job.spec.image.levels, job.measured):
        log_message(f"build: {line}")


def publish_stage(job: Preparation, workers: Workers) -> tuple[Manifest, str]:
    """Settle what only the whole dataset can decide, arrange shards accordingly, and publish."""
    copies = job.spec.augment.copies

    @contextmanager
    def watch(works: list[Selection]) -> Iterator[Callable[[Selection], None]]:
        with show_stage("arrange", sum(count_records(work, copies) for work in works)) as stage:
            yield lambda work: stage.advance(count_records(work, copies))

    return finish_version(job, workers.run, watch)


def count_records(work: Selection, copies: int) -> int:
    """How many images are written for this work."""
    return len(work.records) * (copies if work.copies else 1)


def summarize(job: Preparation, manifest: Manifest, uri: str, start_up: float) -> PrepareResult:
    """The report of a run that has published; `start_up` seconds of the cluster are left out of the time."""
    now = time.monotonic()
    shards = {shard.path for split in manifest.splits.values() for shard in split}
    reused = len(shards & set(job.standing))
    files = sum(report.files for report in job.done)
    working = now - (job.submitted or now)
    return PrepareResult(
        dataset=manifest.dataset,
        manifest=uri,
        digest=manifest.digest,
        files=manifest.files,
        outcomes=in_order(manifest.outcomes, OUTCOMES),
        splits=in_order(manifest.images, SPLITS),
        classes=list(manifest.classes),
        shards=ShardCounts(built=len(shards) - reused, reused=reused),
        seconds=round(now - job.started - start_up, 3),
        images_per_second=round(files / working, 1) if files and working > 0 else 0.0,
    )


def in_order(counts: Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    """The counts in the order of the names; a manifest that was read has them in that of the alphabet."""
    return {name: counts[name] for name in names if name in counts}


def describe(report: PrepareResult, job: Preparation) -> str:
    """One line of what was published."""
    splits = ", ".join(f"{count:,} {name}" for name, count in report.splits.items())
    others = ", ".join(f"{count:,} {name}" for name, count in report.outcomes.items() if count and name != "ok")
    told = ", nothing has changed" if job.unchanged else ""
    return f"publish: {report.dataset}{told}: {splits}" + (f" ({others})" if others else "")
