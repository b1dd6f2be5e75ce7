"""A folder of images in, predictions and a report out, by the champion of a model: the flow `score`."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from prefect import flow

from cnn.errors import SourceError
from cnn.evaluation.gate import describe_unjudged
from cnn.images.spec import ImageSpec
from cnn.inference.bundle import read_bundle
from cnn.text import name_some
from flows.config import Config
from flows.models import open_registry
from flows.progress import log_message, show_stage
from flows.results import ScoreResult
from flows.run_page import link_batch, name_run_by
from flows.stages import run_stage
from infra.cluster.spec import WorkEstimate
from infra.cluster.workers import Workers, open_workers
from infra.machine.user_dirs import cache_dir
from infra.registry.bundles import upload_bundle
from infra.storage.layout import batch_path
from infra.storage.scratch import open_scratch
from infra.storage.store import Source, Store, open_source, open_store, parse_folder
from tasks.files.bit_depth import DeepCounts, describe_scored
from tasks.files.chunks import Chunk, estimate_decoding
from tasks.files.ignore_rules import EXCLUDED
from tasks.files.labels import Listed, describe_excluded, find_lost_folders, list_source
from tasks.files.source_checks import name_command, open_given, refuse_listed_links, refuse_workspace_inside
from tasks.score.chunk import ChunkScores, ModelRef, ScoreJob, score_chunk
from tasks.score.inbox_checks import check_inbox, explain_vanished
from tasks.score.plan import BatchRecord, ScorePlan, find_finished, find_previous, plan_scoring
from tasks.score.predictions import write_csv
from tasks.score.publish import publish_batch
from tasks.score.summary import describe_quarantined


@dataclass
class Scoring:
    """One run of `score`: what was asked for, and what is known so far."""

    source_uri: str
    workspace_uri: str
    config: Config
    started: float = field(default_factory=time.monotonic)
    submitted: float | None = None
    image: ImageSpec = field(default_factory=ImageSpec)  # how the champion sees images

    @property
    def source(self) -> Source:
        """The source, opened read-only."""
        return open_source(self.source_uri)

    @property
    def store(self) -> Store:
        """The workspace."""
        return open_store(self.workspace_uri)


@flow(name="score", flow_run_name=name_run_by("score", "name"), persist_result=False)
def score(
    source: str,
    name: str,
    workspace: str = "./workspace",
    config: Config = Config(),  # noqa: B008 - frozen
    csv: bool = False,
) -> dict[str, Any]:
    """Score a folder with a model's champion: list → score (Dask, ONNX Runtime) → publish."""
    job = Scoring(source, workspace, config)
    model = run_stage("fetch champion", lambda: fetch_stage(job, name))
    job.started = time.monotonic()
    plan = run_stage("list", lambda: plan_stage(job, model))
    record = found = find_finished(job.store, plan)
    with open_workers(config.cluster) as workers:
        if record is None:
            workers.prepare(estimate_work(plan))
            run_stage("score", lambda: score_stage(job, plan, workers))
            record = run_stage("publish", lambda: publish_batch(job.store, plan, job.source.read, job.image))
    report = summarize(job, record, workers.start_up)
    if csv:
        write_table(job.store, record)
    log_message(describe(report))
    if found is None:  # else it was told before
        tell_quarantine(job.store, record, job.image.max_pixels)
    link_batch(report)
    return report.model_dump()


def fetch_stage(job: Scoring, name: str) -> ModelRef:
    """Bring the champion's bundle, verified, to where the workers find it."""
    registry = open_registry(job.workspace_uri)
    champion = registry.require_champion(name)
    folder = registry.fetch_bundle(champion, cache_dir() / "champions")
    digest, info = upload_bundle(job.store, folder), read_bundle(folder)
    job.image = info.image
    judged = champion.describe_accuracy()
    log_message(f"champion: {name} version {champion.version}" + (f", {judged}" if judged else ""))
    if champion.unjudged:
        log_message(f"champion: {describe_unjudged(champion.unjudged)}")
    return ModelRef(
        name=name,
        version=str(champion.version),
        bundle=digest,
        classes=info.classes,
        judged=judged,
        unjudged=champion.unjudged,
    )


def plan_stage(job: Scoring, model: ModelRef) -> ScorePlan:
    """List the source and find out what the previous batch answers already."""
    source, listed = list_inbox(job, model)
    asked = ScoreJob(source.uri, job.store.uri, model, job.config.score, datetime.now(UTC))
    previous = find_previous(job.store, asked)
    told = check_inbox(source.uri, listed, previous, job.config.score.allow_empty)
    plan = plan_scoring(listed, asked, previous, job.config.chunk.files)
    todo = sum(len(chunk.entries) for chunk in plan.chunks)
    if exclude := job.config.source.exclude:
        told.append(describe_excluded((item.entry.path for item in listed if item.ignored == EXCLUDED), exclude))
    for line in [f"{len(listed):,} files, {todo:,} to score", *told]:
        log_message(f"list: {line}")
    if lost := find_lost_folders(listed):
        shown = name_some(list(map(repr, lost)))
        log_message(f"list: folders that cannot be looked into, whose images are not scored: {shown}")
    return plan


def list_inbox(job: Scoring, model: ModelRef) -> tuple[Source, list[Listed]]:
    """(the source, what it lists).

    Raises:
        SourceError: it is gone, with what it held the last time; or no file of it can be reached.
    """
    command = name_command("score", model.name)
    try:
        source = open_given(job.source_uri, command)
        refuse_workspace_inside(source, job.store)
        listed = list_source(source, job.config.source.exclude)
    except SourceError as fault:
        uri = job.source_uri if "://" in job.source_uri else str(parse_folder(job.source_uri))
        raise explain_vanished(fault, job.store, uri, model.name) from None
    refuse_listed_links(source, listed, command)
    return source, listed


def score_stage(job: Scoring, plan: ScorePlan, workers: Workers) -> None:
    """Score the chunks on the cluster."""
    job.submitted = time.monotonic()
    with show_stage("score", sum(len(chunk.entries) for chunk in plan.chunks)) as stage:
        bad, deep = 0, DeepCounts()

        def note(done: ChunkScores) -> None:
            nonlocal bad, deep
            bad += done.quarantined
            deep += done.deep
            stage.advance(done.files, f"{bad} quarantined" if bad else "", size=done.bytes)

        score_one = partial(score_chunk, task=plan.task)
        workers.run(score_one, plan.chunks, note, estimate_work(plan), Chunk.isolate)
    model = f"{plan.task.model.name} version {plan.task.model.version}"
    for line in describe_scored(deep, job.image.levels, model):
        log_message(f"score: {line}")


def estimate_work(plan: ScorePlan) -> WorkEstimate:
    """What the chunks take: decoding, and about as much again for a small network."""
    entries = [entry for chunk in plan.chunks for entry in chunk.entries]
    estimate = estimate_decoding(len(plan.chunks), len(entries), sum(entry.size for entry in entries))
    return WorkEstimate(estimate.pieces, 2 * estimate.seconds)


def write_table(store: Store, record: BatchRecord) -> None:
    """Write predictions.csv beside the Parquet file."""
    path = batch_path(record.batch, "predictions.csv")
    with open_scratch(store.root) as body:
        guesses = min(record.spec.top_k, len(record.model.classes) or record.spec.top_k)
        write_csv(store.fetch(record.predictions.path), body.path, guesses)
        store.take_file(path, body.path)
    log_message(f"csv: {store.uri_of(path)}")


def tell_quarantine(store: Store, record: BatchRecord, max_pixels: int) -> None:
    """Why files of a batch have no prediction; a model brings its own limit of pixels."""
    if record.outcomes["quarantined"]:
        reasons = describe_quarantined(store.fetch(record.predictions.path), max_pixels)
        log_message(f"publish: quarantined: {reasons}; each file stands in {store.uri_of(record.predictions.path)}")


def summarize(job: Scoring, record: BatchRecord, start_up: float) -> ScoreResult:
    """The report of a batch that is published; `start_up` seconds of the cluster are left out of the time."""
    now = time.monotonic()
    working = now - (job.submitted or now)
    return ScoreResult(
        batch=record.batch,
        predictions=job.store.uri_of(record.predictions.path),
        report=job.store.uri_of(record.report),
        model=record.model.name,
        version=int(record.model.version),
        files=record.files,
        outcomes=record.outcomes,
        scored=record.scored,
        reused=record.reused,
        seconds=round(now - job.started - start_up, 3),
        images_per_second=round(record.scored / working, 1) if record.scored and working > 0 else 0.0,
    )


def describe(report: ScoreResult) -> str:
    """One line of what was published."""
    others = ", ".join(f"{count:,} {name}" for name, count in report.outcomes.items() if count and name != "ok")
    told = f" ({others})" if others else ""
    return f"publish: batch {report.batch}: {report.scored:,} scored, {report.reused:,} reused{told}"
