"""The flow `score`: predictions and a report for a folder of images, by the champion of a model."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from prefect import flow

from cnn.errors import SourceError
from cnn.evaluation.gate import describe_unjudged
from cnn.evaluation.held_out import CalibrationAnswers
from cnn.images.spec import ImageSpec
from cnn.inference.bundle import read_bundle, read_calibration
from cnn.text import quote_some
from flows.config import Config
from flows.events import emit_notice
from flows.models import open_registry
from flows.notices import find_review_excess
from flows.progress import log_message, show_stage
from flows.results import ScoreResult
from flows.run_page import complete_run, describe_batch_outcome, is_deployed_run, link_batch, name_run_by
from flows.runs.attendance import attend_run
from flows.runs.outages import survive_outages
from flows.stages import run_stage
from infra.cluster.spec import WorkEstimate
from infra.cluster.workers import Workers, open_workers
from infra.machine.user_dirs import cache_dir
from infra.registry.bundles import upload_bundle
from infra.storage.layout import batch_path
from infra.storage.scratch import open_scratch, remove_stale_scratch
from infra.storage.store import Store, open_source, open_store, parse_folder
from tasks.files.bit_depth import DeepCounts, describe_scored
from tasks.files.chunks import Chunk, estimate_decoding
from tasks.files.listing import describe_excluded, list_lost_folders, list_source
from tasks.files.source_checks import name_command, open_given, refuse_outside_links, refuse_workspace_inside
from tasks.score.batch import BatchRecord, find_previous_batch
from tasks.score.chunk import ChunkScores, score_chunk, warm_up_scoring
from tasks.score.decision import DecisionRule
from tasks.score.effort import describe_effort
from tasks.score.inbox_checks import check_inbox, explain_vanished
from tasks.score.novelty import add_unknown
from tasks.score.plan import ScorePlan, find_finished_batch, plan_scoring
from tasks.score.predictions import NO_RULE, write_csv
from tasks.score.promise import add_promise
from tasks.score.publish import publish_batch
from tasks.score.results import ResultsRecord, refresh_results
from tasks.score.spec import ModelRef, ScoreJob
from tasks.score.summary import describe_quarantined
from tasks.score.truth import check_truth, describe_held_promise, describe_truth


@flow(name="score", flow_run_name=name_run_by("score", "name"), persist_result=False)
def score(
    source: str,
    name: str,
    workspace: str = "./workspace",
    config: Config = Config(),  # noqa: B008 - frozen
    csv: bool = False,
    judged: bool = False,
) -> dict[str, Any]:
    """Score a folder with a model's champion: list → score (Dask, ONNX Runtime) → publish."""
    with attend_run():
        result = survive_outages(lambda: score_folder(source, name, workspace, config, csv, judged))
    return complete_run(result.model_dump(), describe_batch_outcome(result))


def score_folder(source: str, name: str, workspace: str, config: Config, csv: bool, judged: bool) -> ScoreResult:
    """The body of the flow; `judged`: say how right the batch is by the folders of its images."""
    store = open_store(workspace)
    champion = run_stage("fetch champion", lambda: fetch_champion(store, workspace, name))
    model, image = champion.model, champion.image
    rule = choose_rule(store, champion, config)
    began = submitted = time.monotonic()
    plan = run_stage("list", lambda: plan_batch(source, store, model, config, rule, judged))
    record = finished = find_finished_batch(store, plan)
    with open_workers(config.cluster, log_message) as workers:
        if record is None:
            workers.prepare(estimate_scoring(plan), partial(warm_up_scoring, plan.task))
            submitted = time.monotonic()
            run_stage("score", lambda: score_chunks(plan, image, workers))
            read = open_source(plan.task.source).read
            record = run_stage("publish", lambda: publish_batch(store, plan, read, image))
    now = time.monotonic()
    results = refresh_results(store, record, plan.previous.record if plan.previous is not None else None)
    result = make_result(store, record, now - began - workers.start_up, now - submitted)
    result = result.model_copy(update=describe_results(store, results))
    if csv:
        publish_csv(store, record)
    log_message(describe_batch(result))
    log_additions(store, record)
    if finished is None:  # else the run that wrote the batch said so
        log_quarantined(store, record, image.max_pixels)
        emit_notice(find_review_excess(name, results.new, config.notify.review_share, result.report))
    link_batch(result)
    return result


@dataclass(frozen=True)
class FetchedChampion:
    """The champion, whose bundle lies, verified, where the workers find it; how it sees images, and what it answered to
    those that calibrated it (None: an earlier release did not keep that). `promise`: the settings that said in its
    training what its accepted answers keep."""

    model: ModelRef
    image: ImageSpec
    calibration: CalibrationAnswers | None
    promise: tuple[str, ...]


def fetch_champion(store: Store, workspace: str, name: str) -> FetchedChampion:
    """Bring the champion's bundle into the workspace."""
    registry = open_registry(workspace)
    champion = registry.require_champion(name)
    folder = registry.fetch_bundle(champion, cache_dir() / "champions")
    digest, info = upload_bundle(store, folder), read_bundle(folder)
    judged = champion.describe_accuracy()
    log_message(f"champion: {name} version {champion.version}" + (f", {judged}" if judged else ""))
    if champion.unjudged:
        log_message(f"champion: {describe_unjudged(champion.unjudged)}")
    model = ModelRef(
        name=name,
        version=str(champion.version),
        bundle=digest,
        classes=info.classes,
        judged=judged,
        unjudged=champion.unjudged,
    )
    return FetchedChampion(model, info.image, read_calibration(folder, info), champion.promise)


def choose_rule(store: Store, champion: FetchedChampion, config: Config) -> DecisionRule:
    """What the version keeps and the settings come to; what of it a person should know is said."""
    rule = add_promise(DecisionRule(), champion.calibration, config.score, champion.model.classes)
    if rule.shortfall:
        log_message(f"champion: {rule.shortfall}")
    if champion.promise and config.score.promise is None and config.score.precision == "float32":
        asked = " ".join(f"--set {each}" for each in champion.promise)
        log_message(f"champion: its training promised, this scoring does not: add {asked}")
    rule, line = add_unknown(rule, store, champion.model, config.score)
    if line:
        log_message(f"champion: {line}")
    return rule


def plan_batch(
    address: str,
    store: Store,
    model: ModelRef,
    config: Config,
    rule: DecisionRule = NO_RULE,
    judged: bool = False,
) -> ScorePlan:
    """List the source and find out what the previous batch answers already.

    Raises:
        SourceError: the source is gone or empty, with what it held the last time; or no file of it can be reached.
    """
    command, exclude = name_command("score", model.name), config.source.exclude
    try:
        source = open_given(address, command)
        refuse_workspace_inside(source, store)
        files = list_source(source, exclude)
    except SourceError as fault:
        uri = address if "://" in address else str(parse_folder(address))
        raise explain_vanished(fault, store, uri, model.name) from None
    refuse_outside_links(source, files, command)
    doubted = check_truth(files, model.classes, model.name, source.uri) if judged else ""
    job = ScoreJob(source.uri, store.uri, model, config.score, datetime.now(UTC), rule=rule, judged=judged)
    remove_stale_scratch(store.root)
    plan = plan_scoring(files, job, find_previous_batch(store, job), config.chunk.files)
    lines = [f"{files.num_rows:,} files, {len(plan.chunks.rows):,} to score", *check_inbox(plan, not is_deployed_run())]
    if doubted:
        lines.append(doubted)
    if exclude:
        lines.append(describe_excluded(files, exclude))
    if lost := list_lost_folders(files):
        shown = quote_some(lost)
        lines.append(f"folders that cannot be looked into, whose images are not scored: {shown}")
    for line in lines:
        log_message(f"list: {line}")
    return plan


def score_chunks(plan: ScorePlan, image: ImageSpec, workers: Workers) -> None:
    """Score the chunks on the cluster."""
    with show_stage("score", len(plan.chunks.rows)) as stage:
        bad, deep = 0, DeepCounts()

        def note(done: ChunkScores) -> None:
            nonlocal bad, deep
            bad += done.quarantined
            deep += done.deep
            stage.advance(done.files, f"{bad} quarantined" if bad else "", size=done.bytes)

        score_one = partial(score_chunk, task=plan.task)
        workers.run(score_one, plan.make_chunks(), note, estimate_scoring(plan), Chunk.isolate)
    for line in describe_scored(deep, image.levels, f"{plan.task.model.name} version {plan.task.model.version}"):
        log_message(f"score: {line}")


def estimate_scoring(plan: ScorePlan) -> WorkEstimate:
    """What the chunks take: decoding, and about as much again for a small network."""
    rows = plan.chunks.rows
    size = int(plan.files.column("size").to_numpy()[rows].sum())
    estimate = estimate_decoding(len(plan.chunks), len(rows), size)
    return WorkEstimate(estimate.pieces, 2 * estimate.seconds)


def publish_csv(store: Store, record: BatchRecord) -> None:
    """Write predictions.csv beside the Parquet file."""
    path = batch_path(record.batch, "predictions.csv")
    with open_scratch(store.root) as body:
        guesses = min(record.spec.top_k, len(record.model.classes) or record.spec.top_k)
        write_csv(store.fetch(record.predictions.path), body.path, guesses)
        store.take_file(path, body.path)
    log_message(f"csv: {store.uri_of(path)}")


def log_additions(store: Store, record: BatchRecord) -> None:
    """Log what is known beside the predictions: the effort they take, where their features are, how right they are."""
    if record.effort is not None:
        log_message(f"effort: {describe_effort(record.effort)}")
    if record.features is not None:
        log_message(f"features: {store.uri_of(record.features.path)}")
    if record.truth is not None:
        log_message(describe_truth(record.truth))
        if held := describe_held_promise(record.truth, record.spec):
            log_message(f"truth: {held}")


def log_quarantined(store: Store, record: BatchRecord, max_pixels: int) -> None:
    """Log why files of a batch have no prediction; a model brings its own limit of pixels."""
    if record.outcomes["quarantined"]:
        reasons = describe_quarantined(store.fetch(record.predictions.path), max_pixels)
        log_message(f"publish: quarantined: {reasons}; each file is listed in {store.uri_of(record.predictions.path)}")


def make_result(store: Store, record: BatchRecord, seconds: float, working: float) -> ScoreResult:
    """The answer for a published batch that took `seconds`, `working` of them since its chunks were submitted."""
    return ScoreResult(
        batch=record.batch,
        predictions=store.uri_of(record.predictions.path),
        report=store.uri_of(record.report),
        model=record.model.name,
        version=int(record.model.version),
        files=record.files,
        outcomes=record.outcomes,
        scored=record.scored,
        reused=record.reused,
        truth=record.truth,
        seconds=round(seconds, 3),
        effort=None if record.effort is None else record.effort.model_dump(),
        images_per_second=round(record.scored / working, 1) if record.scored and working > 0 else 0.0,
    )


def describe_results(store: Store, results: ResultsRecord) -> dict[str, Any]:
    """What the answer says of the tables that stay at their places."""
    return {"all": store.uri_of(results.all), "latest": store.uri_of(results.latest), "new": results.new}


def describe_batch(result: ScoreResult) -> str:
    """One line of what was published."""
    others = ", ".join(f"{count:,} {name}" for name, count in result.outcomes.items() if count and name != "ok")
    shown = f" ({others})" if others else ""
    return f"publish: batch {result.batch}: {result.scored:,} scored, {result.reused:,} reused{shown}"
