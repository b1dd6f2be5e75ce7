"""The flow `train`: a dataset version becomes a registered model version, champion if it is not worse."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.exceptions import TerminationSignal

from cnn.dataset.manifest import Manifest
from cnn.digest import hash_file
from cnn.errors import SafelightError
from cnn.evaluation.gate import describe_unjudged
from cnn.evaluation.metrics import Evaluation
from cnn.inference.backbone import BackboneSpec
from cnn.models.architecture import ModelSpec, count_parameters
from cnn.models.hub import is_hub_name
from cnn.training.plan import TrainingSize, estimate_minutes, plan_fit
from cnn.training.recipes import DatasetFacts, TrainingChoice, choose_model, choose_recipe, describe_choice
from flows.config import Config
from flows.events import emit_notice
from flows.features import FeaturesJob, features_stage
from flows.models import open_registry
from flows.notices import find_held_back
from flows.progress import log_message, show_stage
from flows.promotion import PromotionJob, gate_stage, log_verdict, make_gate_result
from flows.results import TrainResult
from flows.run_page import complete_run, describe_version_outcome, link_version, name_run_by
from flows.runs.attendance import attend_run
from flows.runs.outages import survive_outages
from flows.stages import run_stage
from flows.training_progress import ShownTraining
from infra.machine.gpus import count_nvidia_gpus
from infra.registry.epoch_log import EpochLog
from infra.registry.mlflow_client import AbsentError
from infra.registry.registry import REPORT, Registry
from infra.registry.run_records import LoggedDataset
from infra.registry.tracking import check_model_name
from infra.registry.versions import (
    IMAGES,
    JUDGED_ON,
    PROMISE,
    PROMISE_BY,
    RECORD,
    UNJUDGED,
    UNSEEN,
    VersionInfo,
    clean_tag,
)
from infra.storage.store import Store, open_store
from tasks.dataset.version import read_manifest
from tasks.score.spec import ScoreSpec
from tasks.train.checkpoints import remove_checkpoints
from tasks.train.facts import read_dataset_facts
from tasks.train.process import TrainingProcess
from tasks.train.promotion import read_verdict
from tasks.train.record import RecordedRun, make_training_record, write_record
from tasks.train.run_folder import locate_run_folder, name_run_folder
from tasks.train.spec import TrainingResult, TrainJob, name_run
from tasks.train.weights import describe_download, require_weights


@dataclass(frozen=True)
class Training:
    """One run of `train`: what was asked for, and where things are."""

    manifest: Manifest
    name: str
    workspace: str
    config: Config
    store: Store
    registry: Registry
    key: str
    read_facts: Callable[[], DatasetFacts]  # only where something is trained: a ledger may have a million rows
    recorded: TrainingChoice | None = None  # what was chosen once before, to be done again

    @cached_property
    def choice(self) -> TrainingChoice:
        """What is trained and how."""
        return self.recorded or choose_training(self.config, self.manifest, self.read_facts())

    @property
    def folder(self) -> Path:
        """The run's local folder; the key makes a killed run find it again."""
        return locate_run_folder(self.store, self.key)


@flow(name="train", flow_run_name=name_run_by("train", "name"), persist_result=False)
def train(
    dataset: str,
    name: str,
    workspace: str = "./workspace",
    config: Config = Config(),  # noqa: B008 - frozen
) -> dict[str, Any]:
    """Train, evaluate, register and gate a model on a dataset version."""
    check_model_name(name)

    def work() -> TrainResult:
        with TrainingProcess() as trainer:
            return train_model(dataset, name, workspace, config, trainer)

    with attend_run():
        result = survive_outages(work)
    return complete_run(result.model_dump(), describe_version_outcome(result))


def train_model(dataset: str, name: str, workspace: str, config: Config, trainer: TrainingProcess) -> TrainResult:
    """The body of the flow; also the second half of `retrain`, which starts `trainer` early."""
    started = time.monotonic()
    job = open_training(dataset, name, workspace, config)
    with job.registry.train_alone(name):
        return train_opened(job, trainer, started)


def train_opened(job: Training, trainer: TrainingProcess, started: float) -> TrainResult:
    """What `train_model` does while no other run trains this model."""
    version = find_version(job)
    is_new = version is None or not version.is_gated
    if version is None or is_new:
        make_sure_of_weights(job.choice.model, job.manifest.image.size)
        version = run_training_stages(job, trainer)
    result = make_train_result(job, version, is_new, time.monotonic() - started)
    job.store.write(result_path(job.key), result.to_json().encode())
    link_version(result, job.registry.figures_of)
    if is_new:
        emit_notice(find_held_back(result.model_dump()))
        log_verdict(result.gate)
    else:
        log_message(f"train: nothing has changed since version {version.version} ({result.alias or 'no alias'})")
    return result


def make_sure_of_weights(spec: ModelSpec, size: tuple[int, int]) -> None:
    """Log what pretrained weights are to be downloaded, if any.

    Raises:
        ConfigError, InstallationError: they cannot be had; the line says what can.
    """
    if download := require_weights(spec, size):
        log_message(describe_download(download))


def open_training(dataset: str, name: str, workspace: str, config: Config) -> Training:
    """Open the dataset and the registry, and name the run."""
    store = open_store(workspace)
    manifest = read_manifest(store, dataset)
    key = name_run(manifest, name, config.model, config.fit)
    read_facts = cache(partial(read_dataset_facts, store, manifest, count_nvidia_gpus()))
    return Training(manifest, name, workspace, config, store, open_registry(workspace), key, read_facts)


def choose_training(config: Config, manifest: Manifest, facts: DatasetFacts) -> TrainingChoice:
    """The recipe, the network and the plan for a dataset, as set, or as its images suggest."""
    recipe = choose_recipe(config.fit, config.model, facts)
    model = choose_model(recipe, config.model, manifest.image)
    size = measure_size(manifest)
    plan = plan_fit(config.fit, recipe, size, manifest.augment)
    minutes = estimate_minutes(plan, model, manifest.image, size)
    return TrainingChoice(recipe, model, plan, describe_choice(recipe, model, facts, minutes))


def measure_size(manifest: Manifest) -> TrainingSize:
    """How much there is to learn from; a mirrored photograph is of its class, a grey drawing or digit may not be."""
    return TrainingSize(manifest.rows("train"), may_mirror=manifest.image.channels == 3)


def result_path(key: str) -> str:
    """Where the answer of a training lies in the workspace, for a `retrain` that waits on another machine."""
    return f"runs/{name_run_folder(key)}/train.json"


def find_version(job: Training) -> VersionInfo | None:
    """The version that this very run registered before, and whose files are still there; or None."""
    try:
        versions = job.registry.versions(job.name)
    except AbsentError:
        return None
    return next((version for version in versions if version.has_files and version.tags.get("run_key") == job.key), None)


def run_training_stages(job: Training, trainer: TrainingProcess) -> VersionInfo:
    """Fit and evaluate in the trainer's process, then register and gate; a run that fails is marked so in MLflow."""
    log_message(f"train: {job.choice.reason}")
    run_id = start_training_run(job)
    with ending_run(job.registry, run_id):
        backbone = features_of(job, trainer)
        result = run_stage("fit and evaluate", lambda: fit_stage(job, trainer, run_id, backbone))
        version = run_stage("register", lambda: register_stage(job, result, run_id, keep_record(job, result, run_id)))
        job.registry.set_tags(job.name, version.version, {IMAGES: str(job.manifest.outcomes.get("ok", 0))})
        version = run_stage("gate", lambda: gate_stage(make_promotion_job(job), result, version))
    forget_checkpoints(job)
    return version


def start_training_run(job: Training, parent: str = "", what: str = "", tried: str = "") -> str:
    """The id of the run in MLflow, with its parameters and the dataset that it learns from; for a trial of a search
    `parent` is the search's run, `what` its title, and `tried` what it tries."""
    parameters = list_parameters(job) | ({"what": tried} if tried else {})
    run_id = job.registry.start_run(job.name, job.key, parameters, parent, what)
    job.registry.log_dataset(run_id, describe_dataset(job.manifest))
    return run_id


def describe_dataset(manifest: Manifest) -> LoggedDataset:
    """A dataset version as MLflow shows an input."""
    counts = {
        "num_rows": sum(manifest.rows(split) for split in manifest.splits),
        "images": manifest.images,
        "classes": len(manifest.classes),
        "files": manifest.files,
    }
    return LoggedDataset(manifest.dataset, manifest.digest, manifest.source, counts)


def forget_checkpoints(job: Training) -> None:
    """Remove the checkpoints of a training whose version is registered; what cannot be removed is only in the way."""
    shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)
    if not job.store.is_local:
        with suppress(SafelightError):
            remove_checkpoints(job.store, job.folder.name)


@contextmanager
def ending_run(registry: Registry, run_id: str) -> Iterator[None]:
    """End a run in MLflow as its block ends: finished, failed, or stopped by a person."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except (KeyboardInterrupt, TerminationSignal):  # by Ctrl-C, or with a worker or `safelight serve`
        status = "KILLED"
        raise
    finally:
        with suppress(SafelightError):  # the fault itself counts more than its mark
            registry.finish_run(run_id, status)


def list_parameters(job: Training) -> dict[str, object]:
    """What MLflow shows as the parameters of a training."""
    return {
        "dataset": job.manifest.dataset,
        "dataset_digest": job.manifest.digest,
        "image": job.manifest.image.model_dump(mode="json"),
        "model": job.choice.model.model_dump(mode="json"),
        "fit": job.choice.plan.model_dump(mode="json"),
    }


def features_of(job: Training, trainer: TrainingProcess) -> BackboneSpec | None:
    """The pretrained backbone with which the dataset's features were computed, now or before; None where the recipe
    needs none."""
    if job.choice.recipe == "scratch":
        return None
    order = FeaturesJob(job.store, job.manifest, job.choice.model, job.folder)
    return run_stage("features", lambda: features_stage(order, trainer, job.config.cluster))


def fit_stage(job: Training, trainer: TrainingProcess, run_id: str, backbone: BackboneSpec | None) -> TrainingResult:
    """Fit in the trainer's process; every step is shown, and every evaluation kept in MLflow as it comes, or later."""
    order = make_train_job(job, backbone)
    log_message(describe_network(job))
    with EpochLog(job.registry, run_id) as epochs:
        with show_stage("train", order.plan.steps, "steps") as stage, trainer:  # its memory is free for what follows
            shown = ShownTraining(stage, epochs.add)
            result = trainer.run(order, shown.show_evaluation, shown.show_progress)
            shown.finish()
        epochs.finish(result.history)
    for line in (*result.notes, *result.warnings):
        log_message(f"train: {line}")
    log_message(describe_evaluation(result))
    if result.evaluation.unjudged:
        log_message(f"evaluate: {describe_unjudged(result.evaluation.unjudged, result.judged_on)}")
    if result.copies is not None:
        log_message(f"evaluate: {result.copies.describe()}")
    for groups in result.unseen_groups:
        log_message(f"evaluate: {groups.describe()}")
    if doubt := result.doubt_novelty():
        log_message(f"evaluate: {doubt}; until then, scoring marks none unknown")
    return result


def make_train_job(job: Training, backbone: BackboneSpec | None) -> TrainJob:
    """What the trainer's process is given."""
    return TrainJob(
        workspace=job.workspace,
        dataset=job.manifest.dataset,
        model=job.choice.model,
        plan=job.choice.plan,
        backbone=backbone,
        top_k=job.config.score.top_k,
        precision=job.config.score.precision,
        gate=job.config.gate,
        confidence=job.config.score.confidence,
        folder=str(job.folder),
    )


def keep_record(job: Training, result: TrainingResult, run_id: str) -> dict[str, str]:
    """Keep in MLflow what is needed to train this version again; the tag by which it is known."""
    run = RecordedRun(job.name, job.key, job.config.dump_parameters(), job.choice)
    record = make_training_record(run, job.manifest, job.store, result, datetime.now(UTC))
    path = write_record(record, job.folder)
    job.registry.log_pages(run_id, [path])
    return {RECORD: hash_file(path)}


def register_stage(
    job: Training, result: TrainingResult, run_id: str, kept: Mapping[str, str] | None = None
) -> VersionInfo:
    """Log the figures and make the version, with the tags of what was `kept` of it before."""
    job.registry.log_figures(run_id, Path(result.figures))
    tags = {
        JUDGED_ON: describe_split(result.judged_on, job.manifest.dataset),
        UNJUDGED: json.dumps(result.evaluation.unjudged, ensure_ascii=False),
        **{f"{UNSEEN}{clean_tag(each.kind)}": each.to_json() for each in result.unseen_groups},
        **name_promise(job.config.score),
        **(kept or {}),
    }
    version = job.registry.register_version(job.name, run_id, Path(result.bundle), result.summary(), tags)
    log_message(f"register: {job.name} version {version.version}")
    return version


def name_promise(spec: ScoreSpec) -> dict[str, str]:
    """The tags that say to what a version's accepted answers are held; none where nothing is promised."""
    return {} if spec.promise is None else {PROMISE: repr(spec.promise), PROMISE_BY: spec.promise_by}


def make_promotion_job(job: Training) -> PromotionJob:
    """What the gate is given."""
    return PromotionJob(job.name, job.config.gate, job.choice.reason, job.manifest, job.store, job.registry, job.folder)


def make_train_result(job: Training, version: VersionInfo, trained: bool, seconds: float) -> TrainResult:
    """The answer of the command."""
    return TrainResult(
        model=job.name,
        version=version.version,
        trained=trained,
        alias=version.alias,
        run_id=version.run_id,
        dataset=job.manifest.dataset,
        metrics=version.metrics,
        judged_on=version.judged_on,
        unjudged=version.unjudged,
        gate=make_gate_result(read_verdict(version)),
        report=find_local_report(job),
        seconds=round(seconds, 3),
    )


def find_local_report(job: Training) -> str:
    """The address of the report in the run's folder; "" where the run was on another machine, or made none."""
    path = job.folder / REPORT
    return path.as_uri() if path.exists() else ""


def describe_network(job: Training) -> str:
    """One line on what is trained; the parameters are counted by formula."""
    rows = count_parameters(job.choice.model, job.manifest.image, len(job.manifest.classes))
    height, width, channels = job.manifest.image.shape
    count = sum(row.parameters for row in rows)
    what = str(job.choice.model.backbone) if is_hub_name(job.choice.model.backbone) else f"{count:,} parameters"
    return f"network: {what}, {height}x{width}x{channels} pixels, {len(job.manifest.classes)} classes"


def describe_split(split: str, dataset: str) -> str:
    """What a version was judged on, as it stands beside its figures."""
    own = ", the images that it was trained on" if split == "train" else ""
    return f"{split} split of {dataset}{own}"


def describe_evaluation(result: TrainingResult) -> str:
    """One line of what the best step is worth, and on which images."""
    figures = result.evaluation
    low, high = figures.accuracy_interval
    own = ": those that it was trained on, so this says little" if result.judged_on == "train" else ""
    again = f", went on from step {result.resumed_at:,}" if result.resumed_at else ""
    return (
        f"evaluate: accuracy {figures.accuracy:.4f} ({low:.4f} to {high:.4f}) on {figures.images:,} images of the "
        f"{result.judged_on} split of {result.info.dataset}{own}; macro F1 {describe_macro(figures)}, ECE "
        f"{figures.ece:.4f}; {describe_best(result)}{again}"
    )


def describe_best(result: TrainingResult) -> str:
    """Which weights of a training were kept."""
    if not result.steps:
        return "the head alone was fitted"
    if not result.best_step:
        return f"{result.steps:,} steps made the fitted head no better, and it stays"
    return f"best of {result.steps:,} steps: {result.best_step:,}"


def describe_macro(figures: Evaluation) -> str:
    """The macro F1; where classes were not judged, how many count as 0 in it and what it is over the others."""
    unjudged, classes = len(figures.unjudged), len(figures.classes)
    if not unjudged:
        return f"{figures.macro_f1:.4f}"
    return (
        f"{figures.macro_f1:.4f} ({unjudged} of {classes} classes not judged, each counted as 0; "
        f"{figures.macro_f1_judged:.4f} over the others)"
    )
