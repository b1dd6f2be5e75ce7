"""The gate's stage of a training: compare the new version, keep the verdict with all its numbers, move the aliases."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cnn.dataset.manifest import Manifest
from cnn.evaluation.gate import AlsoWeighed, Challenger, Champion, Verdict, decide_promotion
from cnn.evaluation.gate_spec import GateSpec
from flows.models import find_user
from flows.progress import log_message
from flows.results import GateResult
from infra.machine.user_dirs import cache_dir
from infra.registry.registry import Registry
from infra.registry.versions import VersionInfo
from infra.storage.store import Store
from tasks.train.champion import measure_champion
from tasks.train.promotion import apply_verdict
from tasks.train.report import JudgedVersion, write_training_report
from tasks.train.spec import TrainingResult
from tasks.train.suspects import PAGE


@dataclass(frozen=True)
class PromotionJob:
    """What the gate is given beside a training's result: `recipe` is one line on how the version was trained."""

    name: str
    spec: GateSpec
    recipe: str
    manifest: Manifest
    store: Store
    registry: Registry
    folder: Path


def gate_stage(job: PromotionJob, result: TrainingResult, version: VersionInfo) -> VersionInfo:
    """Hold the version against the champion on test images that neither has learnt from, and move the aliases."""
    lost = job.registry.lost_champion(job.name)
    present = lost.before if lost else job.registry.champion(job.name)
    challenger = Challenger(job.name, version.version, result.evaluation, result.judged_on)
    champion = None
    if present is not None and present.version != version.version:
        bundle = job.registry.fetch_bundle(present, cache_dir() / "champions") if present.bundle else None
        champion = measure_champion(present.version, bundle, challenger, Path(result.answers), job.manifest, job.store)
    also = AlsoWeighed()
    verdict = decide_promotion(challenger, champion, job.spec, lost.describe() if lost else None, also)
    if version.verdict is None:  # else a run that was killed since has written the report, and begun with the verdict
        publish_report(job, result, version, champion, verdict)
    return apply_verdict(job.registry, version, verdict, find_user(), datetime.now(UTC))


def publish_report(
    job: PromotionJob, result: TrainingResult, version: VersionInfo, champion: Champion | None, verdict: Verdict
) -> None:
    """Write the report into the run's folder and copy it to MLflow, before the verdict is applied: a version that has
    one has its report."""
    judged = JudgedVersion(job.name, version.version, job.recipe, result, job.manifest, champion, verdict)
    report = write_training_report(judged, job.store, job.folder)
    pages = (report, job.folder / PAGE)
    job.registry.log_pages(version.run_id, [page for page in pages if page.exists()])
    log_message(f"report: {report.as_uri()}")


def log_verdict(gate: GateResult) -> None:
    """Log what the gate decided; where it did not promote a version, every reason and what can be done."""
    first, *others = gate.reasons or [""]
    log_message(f"gate: {gate.verdict}: {first}")
    for reason in others if gate.verdict != "promote" else ():
        log_message(f"gate: {reason}")
