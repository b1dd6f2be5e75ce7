"""The flow `search`: prepare a source, try settings on it, and register and gate the best of them."""

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from prefect import flow

from cnn.dataset.manifest import Manifest
from cnn.digest import hash_json
from cnn.errors import ConfigError, SafelightError, TrainingError
from cnn.models.architecture import ModelSpec
from cnn.training.plan import plan_fit
from cnn.training.spec import FitPlan, FitSpec, Recipe
from flows.config import Config
from flows.held_out import ask_champion
from flows.prepare import prepare_dataset
from flows.progress import log_message, show_stage
from flows.results import SearchResult, TrainResult, TrialRow
from flows.retrain import check_network
from flows.run_page import complete_run, describe_version_outcome, name_run_by
from flows.runs.attendance import attend_run
from flows.stages import run_stage
from flows.train import (
    Training,
    describe_dataset,
    ending_run,
    features_of,
    make_sure_of_weights,
    make_train_job,
    measure_size,
    open_training,
    start_training_run,
    train_opened,
)
from flows.training_progress import ShownTraining
from infra.cluster.spec import WorkEstimate
from infra.cluster.workers import open_workers
from infra.machine.outages import announce_outages
from infra.machine.user_dirs import state_dir
from infra.registry.epoch_log import EpochLog
from infra.registry.registry import REPORT, Registry
from infra.registry.tracking import check_model_name
from tasks.files.source_checks import name_command
from tasks.search.journal import COMPLETE, PRUNED, Journal, TrialRecord, open_journal
from tasks.search.space import SearchSpace, TrialSettings, choose_backbones, choose_recipes
from tasks.search.trials import PrunedError, RunningTrial, TrialLoop, choose_winner
from tasks.train.process import TrainingProcess
from tasks.train.spec import TrainJob, TrialResult
from tasks.train.trial import HeadWork, try_head

SEARCH = "search"  # tag of a version: the search and the trial that it came of
HEAD_SECONDS = 10.0  # of a core, about: to fit a head
STATUS = {COMPLETE: "FINISHED", PRUNED: "KILLED"}  # of a trial's run in MLflow; any other: FAILED


@dataclass(frozen=True)
class Search:
    """One search: `base` is the training that `retrain` would run."""

    base: Training

    @cached_property
    def key(self) -> str:
        """What makes two searches the same one: the dataset, the model and the settings; not the minutes."""
        return hash_json([SEARCH, self.base.key])

    @property
    def name(self) -> str:
        """Its folder's name."""
        return f"{self.base.name}-{self.key[:16]}"

    def open_trial(self, number: int, settings: TrialSettings, minutes: float) -> Training:
        """The training of a trial, with a run and a folder of its own."""
        config = apply_settings(self.base.config, settings, minutes)
        return replace(self.base, config=config, key=hash_json([self.key, number]))

    def declare_space(self) -> SearchSpace:
        """What is tried after `auto`."""
        base = self.base
        fit, model, size = base.config.fit, base.config.model, base.manifest.image.size

        def plan_usual(recipe: Recipe) -> FitPlan:
            chosen = fit.model_copy(update={"recipe": recipe})
            return plan_fit(chosen, recipe, measure_size(base.manifest), base.manifest.augment)

        return SearchSpace(
            recipes=choose_recipes(fit, base.choice.recipe),
            backbones=choose_backbones(model, base.choice.model, size),
            fit=fit,
            plan_usual=plan_usual,
        )


@flow(name="search", flow_run_name=name_run_by("search", "name"), persist_result=False)
def search(
    source: str,
    name: str,
    minutes: float = 60.0,
    workspace: str = "./workspace",
    config: Config = Config(),  # noqa: B008 - frozen
) -> dict[str, Any]:
    """Prepare a folder of class folders, try settings on it for some minutes, and register and gate the best."""
    began = time.monotonic()
    check_model_name(name)
    check_network(config)
    if config.train.deployment is not None:
        raise ConfigError("a search trains on this machine: run it where the GPU is, without train.deployment")
    with attend_run(), announce_outages(log_message):
        result = search_source(source, name, minutes, workspace, config)
    answer = result.model_copy(update={"seconds": round(time.monotonic() - began, 3)}).model_dump(mode="json")
    outcome = f"trial {result.winner} of {len(result.trials)} won: {describe_version_outcome(result.version)}"
    return complete_run(answer, outcome)


def search_source(source: str, name: str, minutes: float, workspace: str, config: Config) -> SearchResult:
    """The body of the flow."""
    prepared = prepare_dataset(
        source, workspace, config, False, name_command("search", name), ask_champion(workspace, name)
    )
    base = open_training(prepared.dataset, name, workspace, config)
    check_searchable(base.manifest)
    make_sure_of_weights(base.choice.model, base.manifest.image.size)
    return search_settings(Search(base), minutes)


def check_searchable(manifest: Manifest) -> None:
    """Refuse a dataset on which trials cannot be compared. Raises: ConfigError."""
    if not manifest.rows("validation"):
        raise ConfigError(
            f"dataset {manifest.dataset} has no validation images, by which a search compares its trials; raise "
            "split.validation, or add images"
        )


def apply_settings(config: Config, settings: TrialSettings, minutes: float) -> Config:
    """The user's configuration with a trial's settings in place of its own, and no more minutes than are left."""
    bound = min(minutes, config.fit.minutes or minutes)
    fit = FitSpec.model_validate({**config.fit.model_dump(), **settings.fit, "minutes": bound})
    model = ModelSpec.model_validate({**config.model.model_dump(), **settings.model})
    return config.model_copy(update={"fit": fit, "model": model})


def search_settings(search: Search, minutes: float) -> SearchResult:
    """Run the trials that there is time for; what won is registered and meets the gate."""
    base = search.base
    folder = (base.store.root if base.store.is_local else state_dir()) / SEARCH / search.name
    parameters = {"search": search.name, "dataset": base.manifest.dataset, "auto": base.choice.reason}
    with open_journal(folder, base.choice.plan.seed) as journal:
        parent = base.registry.start_run(base.name, search.key, parameters, what=SEARCH)
        base.registry.log_dataset(parent, describe_dataset(base.manifest))
        for killed in journal.fail_running():
            close_trial(search, killed)

        def on_end(record: TrialRecord) -> None:
            close_trial(search, record)
            keep_winner(search, journal.read_records())

        loop = TrialLoop(journal, search.declare_space(), minutes, on_end)
        with ending_run(base.registry, parent):
            log_message(describe_begin(loop, journal))
            records = loop.run(lambda running: run_trial(search, running, parent))
            winner = choose_winner(records)
            version = publish_winner(search, winner)
    return make_search_result(search, records, winner, version)


def describe_begin(loop: TrialLoop, journal: Journal) -> str:
    """One line on the figure, the time and what is known already."""
    left, known = loop.measure_left() / 60.0, len(journal.read_records())
    earlier = f", {known} trial{'s are' if known > 1 else ' is'} known" if known else ""
    return (
        f"search: {max(left, 0.0):.1f} of {loop.minutes:g} minutes are left for trials{earlier}; what decides is the "
        "log loss on the validation images, after calibration"
    )


def run_trial(search: Search, running: RunningTrial, parent: str) -> TrialResult:
    """Train with the settings of a trial, bounded by the time that is left; its run is shown below the search's."""
    job = search.open_trial(running.number, running.settings, running.minutes)
    log_message(f"trial {running.number} ({running.settings.what}): {job.choice.reason}")
    registry = job.registry
    run_id = start_training_run(job, parent, f"trial {running.number}", running.settings.what)
    running.note_run(run_id)
    try:
        result = run_stage(f"trial {running.number}", lambda: trial_stage(job, running, run_id))
        if result is None:
            raise PrunedError
        figures = {"validation_log_loss": result.log_loss, "validation_accuracy": result.accuracy}
        registry.log_epoch(run_id, figures, result.steps)
        registry.finish_run(run_id, STATUS[COMPLETE])
    except KeyboardInterrupt:
        with suppress(SafelightError):
            registry.finish_run(run_id, "KILLED")
        raise
    return result


def trial_stage(job: Training, running: RunningTrial, run_id: str) -> TrialResult | None:
    """Fit a head on features where that is all, by the workers where there are any; else train in a process. None where
    the trial was ended early."""
    with TrainingProcess() as trainer:
        backbone = features_of(job, trainer)
        if backbone is None or job.choice.plan.steps:
            with suppress(PrunedError):  # Prefect would take it for a fault
                return train_trial(make_train_job(job, backbone), job.registry, running, trainer, run_id)
            return None
    work = HeadWork(job.workspace, job.manifest.dataset, backbone, job.choice.plan)
    results: list[TrialResult] = []
    with open_workers(job.config.cluster, log_message) as workers:
        workers.run(try_head, [work], results.append, WorkEstimate(1, HEAD_SECONDS))
    return results[0]


def train_trial(
    order: TrainJob, registry: Registry, running: RunningTrial, trainer: TrainingProcess, run_id: str
) -> TrialResult:
    """Train in the trainer's process; every evaluation is shown, and kept with the trial, which may end early by it."""
    with (
        show_stage(f"trial {running.number}", order.plan.steps, "steps") as stage,
        EpochLog(registry, run_id) as epochs,
    ):
        shown = ShownTraining(stage, epochs.add)

        def heed(figures: dict[str, float]) -> None:
            shown.show_evaluation(figures)
            running.report(int(figures["step"]), stage.total, figures["val_accuracy"])

        result = trainer.measure(order, heed, shown.show_progress)
        epochs.finish()
        return result


def close_trial(search: Search, record: TrialRecord) -> None:
    """Say what a trial came to, and end its run in MLflow; where it has no figure, its files go at once."""
    log_message(describe_trial(record))
    if record.state == COMPLETE:
        return
    with suppress(SafelightError):
        if record.run_id:
            search.base.registry.finish_run(record.run_id, STATUS.get(record.state, "FAILED"))
    remove_trial(search, record)


def describe_trial(record: TrialRecord) -> str:
    """One line of what a trial came to."""
    text = f"trial {record.number} ({record.settings.what}): "
    if record.result is not None and record.state == COMPLETE:
        figures = f"log loss {record.result.log_loss:.4f}, accuracy {record.result.accuracy:.4f}"
        return f"{text}{figures} on {len(record.result.losses):,} validation images in {record.seconds:.0f} s"
    why = "worse than half of the others at this point" if record.state == PRUNED else record.error or "it was stopped"
    return f"{text}{record.state} after {record.seconds:.0f} s: {why}"


def keep_winner(search: Search, records: list[TrialRecord]) -> None:
    """Remove the files of every trial that can win no more: what is best by now loses only to one that is better."""
    with suppress(TrainingError):  # `auto` has not come to its end yet
        winner = choose_winner(records)
        for record in records:
            if record.number != winner.number:
                remove_trial(search, record)


def remove_trial(search: Search, record: TrialRecord) -> None:
    """Remove the folder of a trial that becomes no version; one that did, in a shorter search, keeps its report."""
    folder = search.open_trial(record.number, record.settings, record.minutes).folder
    if not (folder / REPORT).exists():
        shutil.rmtree(folder, ignore_errors=True)


def publish_winner(search: Search, winner: TrialRecord) -> TrainResult:
    """Make a version of the winner, from its checkpoints where they are at hand, and hold it against the champion."""
    job = search.open_trial(winner.number, winner.settings, winner.minutes)
    log_message(f"search: trial {winner.number} ({winner.settings.what}) has won")
    with TrainingProcess() as trainer, job.registry.train_alone(job.name):
        version = train_opened(job, trainer, time.monotonic())
    job.registry.set_tags(job.name, version.version, {SEARCH: f"{search.name}, trial {winner.number}"})
    return version


def make_search_result(
    search: Search, records: list[TrialRecord], winner: TrialRecord, version: TrainResult
) -> SearchResult:
    """The answer of the command."""
    rows = [
        TrialRow(
            trial=record.number,
            what=record.settings.what,
            state=record.state,
            log_loss=record.result.log_loss if record.result else None,
            accuracy=record.result.accuracy if record.result else None,
            seconds=round(record.seconds, 3),
        )
        for record in records
    ]
    lines = tuple(shorten_steps(winner).to_lines())
    return SearchResult(
        search=search.name, trials=tuple(rows), winner=winner.number, settings=lines, version=version, seconds=0.0
    )


def shorten_steps(winner: TrialRecord) -> TrialSettings:
    """The settings of a trial, with the steps that there was time for where its plan had more."""
    settings, result = winner.settings, winner.result
    if result is None or "steps" not in settings.fit or result.planned >= int(settings.fit["steps"]):
        return settings
    return settings.model_copy(update={"fit": {**settings.fit, "steps": result.planned}})
