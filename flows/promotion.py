"""The gate's stage of a training: compare the new version, keep the verdict with all its numbers, move the aliases."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cnn.dataset.manifest import Manifest
from cnn.errors import IntegrityError, RegistryError
from cnn.evaluation.confidence import weigh_promise
from cnn.evaluation.gate import AlsoWeighed, Challenger, Champion, Verdict, decide_promotion, find_obstacle
from cnn.evaluation.gate_spec import GateSpec
from cnn.evaluation.weighed import Weighed
from flows.models import find_user
from flows.progress import log_message
from flows.results import GateResult
from infra.machine.user_dirs import cache_dir
from infra.registry.registry import Registry
from infra.registry.versions import BEST, LOOKS, SPLIT_DRAWN, VersionInfo
from infra.storage.store import Store
from tasks.train.best_version import choose_best, count_looks, digest_split, find_best
from tasks.train.champion import measure_champion
from tasks.train.judging_sets import dump_held_out, judge_sets
from tasks.train.promotion import apply_verdict
from tasks.train.report import JudgedVersion, write_training_report
from tasks.train.spec import TrainingResult
from tasks.train.suspects import PAGE
from tasks.train.weighing import weigh_best_calibration, weigh_copies, weigh_looks, weigh_version

MISSED = 2  # versions that could not be judged and are remembered


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


@dataclass(frozen=True)
class MeasuredRival:
    """An earlier version that the new one was held against, and the folder of its bundle, None for one of others."""

    champion: Champion
    bundle: Path | None


def gate_stage(job: PromotionJob, result: TrainingResult, version: VersionInfo) -> VersionInfo:
    """Hold the version against the champion and the best version on test images that none has learnt from, weigh the
    rest, and move the aliases."""
    lost = job.registry.lost_champion(job.name)
    present = lost.before if lost else job.registry.champion(job.name)
    earlier = [each for each in job.registry.versions(job.name) if each.version < version.version]
    challenger = Challenger(job.name, version.version, result.evaluation, result.judged_on)
    champion = None
    if present is not None and present.version != version.version:
        champion = measure_present(job, present, challenger, result)
    measured = measure_best(job, earlier, champion, challenger, result)
    best = measured.champion
    looks = count_looks(earlier, digest_split(job.manifest))
    rival = champion.champion if champion else None
    copies = weigh_copies(result.judged_on, job.manifest, job.store, job.spec)
    beside = (*weigh_beside(job, result, champion), *weigh_best_calibration(best, job.spec))
    weighed = (*beside, *copies, weigh_looks(looks), *measured.notes)
    also = AlsoWeighed(best, looks, weighed, judge_sets(result, job.manifest, job.store, rival))
    verdict = decide_promotion(challenger, rival, job.spec, lost.describe() if lost else None, also)
    if version.verdict is None:  # else a run that was killed since has written the report, and begun with the verdict
        publish_report(job, result, version, rival, verdict)
        chosen = choose_best(version.version, verdict, rival, best)
        keep_best(job, version, looks, [each for each in (chosen, *measured.missed) if each is not None])
    return apply_verdict(job.registry, version, verdict, find_user(), datetime.now(UTC))


def measure_present(
    job: PromotionJob, present: VersionInfo, challenger: Challenger, result: TrainingResult
) -> MeasuredRival:
    """The champion beside the new version. One whose files are damaged or gone is not compared with, which holds the
    new version: else no night would come to an end until somebody looked."""
    fault = present.describe_removal() if present.bundle and not present.has_files else ""
    try:
        bundle = None if fault else fetch_rival(job, present)
    except IntegrityError as damage:
        log_message(f"gate: {damage}")
        fault = f"the files of {present.name}@{present.version} are not those that were registered; roll back"
    if fault:
        return MeasuredRival(Champion(present.version, (), unscored=fault), None)
    return measure_rival(job, present, bundle, challenger, result)


def fetch_rival(job: PromotionJob, rival: VersionInfo) -> Path | None:
    """The folder of an earlier version's bundle; None where it is not one of ours. Raises: IntegrityError,
    RegistryError."""
    return job.registry.fetch_bundle(rival, cache_dir() / "champions") if rival.bundle else None


def measure_rival(
    job: PromotionJob, rival: VersionInfo, bundle: Path | None, challenger: Challenger, result: TrainingResult
) -> MeasuredRival:
    """What an earlier version answers, by its own bundle, to the images that judge the new one."""
    answers = Path(result.answers)
    measured = measure_champion(rival.version, bundle, challenger, answers, job.manifest, job.store)
    return MeasuredRival(measured, bundle)


@dataclass(frozen=True)
class MeasuredBest:
    """The best version that the test images have judged, None where that is the champion or none could be judged again;
    a line on each that could not be, and `missed`, those for which that may be otherwise the next time."""

    champion: Champion | None
    notes: tuple[Weighed, ...] = ()
    missed: tuple[int, ...] = ()


def measure_best(
    job: PromotionJob,
    earlier: Sequence[VersionInfo],
    champion: MeasuredRival | None,
    challenger: Challenger,
    result: TrainingResult,
) -> MeasuredBest:
    """The most accurate of the versions that the last verdict named, as far as they can be judged on these images: a
    source that is away for a night, or files that do not come, make no version forget what was better once."""
    if champion is None:
        return MeasuredBest(None)
    found, notes, missed = [], [], []
    for version in find_best(earlier):
        if version.version == champion.champion.version:
            continue
        try:
            best = measure_rival(job, version, fetch_rival(job, version), challenger, result).champion
            obstacle, may_return = find_obstacle(challenger, best), best.unscored is not None
        except (IntegrityError, RegistryError) as fault:
            best, obstacle, may_return = Champion(version.version), (str(fault),), True
        if not obstacle:
            found.append(best)
            continue
        notes.append(_note_unjudged(version.version, obstacle[0], may_return))
        missed += [version.version] if may_return else []
    strongest = min(found, key=lambda each: each.paired.difference if each.paired else 0.0, default=None)
    return MeasuredBest(strongest, tuple(notes), tuple(missed[:MISSED]))


def _note_unjudged(version: int, why: str, may_return: bool) -> Weighed:
    counts = "does not count this time" if may_return else "counts no more"
    line = f"version {version}, the best that these test images have judged, {counts}: {why}"
    log_message(f"gate: {line}")
    return Weighed("best version", float(version), None, None, True, line)


def weigh_beside(job: PromotionJob, result: TrainingResult, champion: MeasuredRival | None) -> tuple[Weighed, ...]:
    """Calibration, speed, size and dataset, beside those of the champion where there is one, and the promise."""
    rival, bundle = (None, None) if champion is None else (champion.champion, champion.bundle)
    found = weigh_version(result, job.manifest, rival, bundle, job.spec)
    if result.confidence is None:
        return found
    return (*found, *weigh_promise(result.confidence, result.info.classes, job.spec.promise))


def keep_best(job: PromotionJob, version: VersionInfo, looks: int, best: Sequence[int]) -> None:
    """Write down for the next version which one is the best now, behind it those that could not be judged this time,
    and how often the test images have been looked at."""
    tags = {LOOKS: str(looks), SPLIT_DRAWN: digest_split(job.manifest), **dump_held_out(job.manifest)}
    named = {BEST: " ".join(map(str, best))} if best else {}
    job.registry.set_tags(job.name, version.version, tags | named)


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


def make_gate_result(verdict: Verdict | None) -> GateResult:
    """The verdict as the answer of the command has it; empty before there is one."""
    if verdict is None:
        return GateResult(verdict="", reasons=[])
    weighed = [asdict(each) for each in verdict.weighed]
    return GateResult(verdict=verdict.verdict, reasons=list(verdict.reasons), weighed=weighed)
