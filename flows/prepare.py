"""A source folder in, a published dataset version out: the flow `prepare`."""

import time
from typing import Any

from prefect import flow

from cnn.dataset import Manifest
from flows.config import Config
from flows.progress import say, show_stage
from flows.reports import PrepareReport, ShardCounts
from flows.stages import choose_cluster, run_stage
from infra.cluster import Cluster, open_cluster
from tasks.building import BuildSpec, ChunkReport
from tasks.preparing import Preparation, build_chunks, list_files, publish_version


@flow(name="prepare", persist_result=False)
def prepare(source: str, workspace: str = "./workspace", config: Config = Config()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Turn a folder of class folders into a dataset version: list → build (Dask) → publish."""
    return prepare_dataset(source, workspace, config).model_dump()


def prepare_dataset(source: str, workspace: str, config: Config) -> PrepareReport:
    """The body of the flow; also the first half of `retrain`."""
    spec = BuildSpec(image=config.image, augment=config.augment, split=config.split)
    job = Preparation(source, workspace, spec, config.budget, config.chunk.files)
    run_stage("list", lambda: list_stage(job))
    begin = time.monotonic()
    with open_cluster(choose_cluster(config.cluster, len(job.todo))) as cluster:
        start_up = time.monotonic() - begin
        run_stage("build", lambda: build_stage(job, cluster))
        manifest, path = run_stage("publish", lambda: publish_version(job, cluster))
    report = summarize(job, manifest, job.store.uri_of(path), start_up)
    say(describe(report))
    return report


def list_stage(job: Preparation) -> None:
    """List the source and plan the work."""
    list_files(job)
    done = set(job.plan.chunks) - set(job.todo)
    known = len(job.plan.kept) + sum(len(chunk.items) for chunk in done)
    kept = f", {known:,} of them built already" if known else ""
    say(f"list: {len(job.listed):,} files in {len(job.classes)} classes{kept}")
    if job.previous and (gone := sorted(set(job.previous.classes) - set(job.classes))):
        say(f"list: classes of the version before that are gone: {', '.join(map(repr, gone))}")


def build_stage(job: Preparation, cluster: Cluster) -> None:
    """Build the chunks on the cluster."""
    with show_stage("build", sum(len(chunk.items) for chunk in job.todo)) as stage:
        bad = 0

        def note(report: ChunkReport) -> None:
            nonlocal bad
            bad += report.quarantined
            stage.advance(report.files, f"{bad} quarantined" if bad else "")

        build_chunks(job, cluster, note)


def summarize(job: Preparation, manifest: Manifest, uri: str, start_up: float) -> PrepareReport:
    """The report of a run that has published; `start_up` seconds of the cluster are left out of the time."""
    now = time.monotonic()
    shards = {shard.path for split in manifest.splits.values() for shard in split}
    reused = len(shards & set(job.standing))
    files = sum(report.files for report in job.done)
    working = now - (job.submitted or now)
    return PrepareReport(
        dataset=manifest.dataset,
        manifest=uri,
        digest=manifest.digest,
        files=manifest.files,
        outcomes=manifest.outcomes,
        splits=manifest.images,
        classes=list(manifest.classes),
        shards=ShardCounts(built=len(shards) - reused, reused=reused),
        seconds=round(now - job.started - start_up, 3),
        images_per_second=round(files / working, 1) if files and working > 0 else 0.0,
    )


def describe(report: PrepareReport) -> str:
    """One line of what was published."""
    splits = ", ".join(f"{count:,} {name}" for name, count in report.splits.items())
    others = ", ".join(f"{count:,} {name}" for name, count in report.outcomes.items() if count and name != "ok")
    return f"publish: {report.dataset}: {splits}" + (f" ({others})" if others else "")
