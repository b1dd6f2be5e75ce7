"""The flow `retrain`: prepare a source, train on it, evaluate, register and gate."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from prefect import flow

from cnn.errors import SafelightError, ServerError
from cnn.models.architecture import count_parameters
from cnn.text import redact_text, shorten
from cnn.training.recipes import BACKBONE_SIDE
from flows.config import Config
from flows.held_out import ask_champion
from flows.models import open_registry
from flows.prepare import prepare_dataset
from flows.progress import log_message
from flows.results import TrainResult
from flows.run_page import complete_run, describe_version_outcome, link_version, name_run_by
from flows.runs.attendance import attend_run
from flows.runs.outages import survive_outages
from flows.runs.remote_run import FAULTS, Patience, run_elsewhere
from flows.train import make_sure_of_weights, result_path, train_model
from infra.registry.tracking import check_model_name
from infra.storage.store import open_store, parse_folder
from tasks.dataset.version import read_manifest
from tasks.files.source_checks import name_command
from tasks.train.process import TrainingProcess
from tasks.train.spec import name_run


@flow(name="retrain", flow_run_name=name_run_by("retrain", "name"), persist_result=False)
def retrain(
    source: str,
    name: str,
    workspace: str = "./workspace",
    config: Config = Config(),  # noqa: B008 - frozen
    verify: bool = False,
) -> dict[str, Any]:
    """Prepare a folder of class folders, train on it, and promote the model if it is not worse than the champion.

    With `verify`, files that look unchanged are read and compared with the ledger too.
    """
    check_model_name(name)
    check_network(config)
    began = time.monotonic()
    retrain_somewhere = retrain_here if config.train.deployment is None else retrain_elsewhere
    with attend_run():
        result = survive_outages(lambda: retrain_somewhere(source, name, workspace, config, verify))
    result = result.model_copy(update={"seconds": round(time.monotonic() - began, 3)})
    return complete_run(result.model_dump(), describe_version_outcome(result))


def check_network(config: Config) -> None:
    """Refuse a network that does not fit the images now, not after an hour, where both are set. Raises: ConfigError."""
    if config.image.size is not None and config.model.is_chosen:
        count_parameters(config.model, config.image.resolve(config.image.size, config.image.channels or 3), 2)


def retrain_here(source: str, name: str, workspace: str, config: Config, verify: bool) -> TrainResult:
    """Train on this machine. TensorFlow and MLflow load while the images are prepared."""
    with TrainingProcess() as trainer:
        make_sure_of_weights(config.model, config.image.size or (BACKBONE_SIDE, BACKBONE_SIDE))
        warm = warm_up(lambda: open_registry(workspace).warm_up())
        prepared = prepare_dataset(
            source, workspace, config, verify, name_command("retrain", name), ask_champion(workspace, name)
        )
        warm.join()
        return train_model(prepared.dataset, name, workspace, config, trainer)


def retrain_elsewhere(source: str, name: str, workspace: str, config: Config, verify: bool) -> TrainResult:
    """Prepare here, and run the deployment of `train` that the configuration names, where the GPU is.

    Raises:
        ServerError: that run did not finish; nothing was registered, or its own log says why.
    """
    deployment = str(config.train.deployment)
    prepared = prepare_dataset(
        source, workspace, config, verify, name_command("retrain", name), ask_champion(workspace, name)
    )
    log_message(f"train: waiting for the deployment {deployment}")
    parameters = {
        "dataset": prepared.dataset,
        "name": name,
        "workspace": workspace,
        "config": config.dump_parameters(),
    }
    most = config.train.minutes
    try:
        run = run_elsewhere(deployment, parameters, Patience(most_seconds=None if most is None else most * 60))
    except FAULTS as error:
        text = redact_text(f"{type(error).__name__}: {shorten(error)}")
        raise ServerError(
            f"the deployment {deployment} (train.deployment) cannot be run ({text}); is it deployed? "
            f"`safelight deploy --name {name} --gpu-pool POOL` makes train/{name}"
        ) from None
    if run.state is None or not run.state.is_completed():
        state = run.state.name if run.state else "unknown"
        raise ServerError(
            f"the run {run.name} of {deployment} ended as {state}; `prefect flow-run logs {run.id}` says why"
        )
    store = open_store(workspace)
    key = name_run(read_manifest(store, prepared.dataset), name, config.model, config.fit)
    result = drop_foreign_report(TrainResult(**json.loads(store.read(result_path(key)))))
    link_version(result, open_registry(workspace).figures_of)
    return result


def drop_foreign_report(result: TrainResult) -> TrainResult:
    """The answer of another machine, without the address of its report where that file is not on this one."""
    is_here = result.report and parse_folder(result.report).exists()
    return result if is_here else result.model_copy(update={"report": ""})


def warm_up(work: Callable[[], None]) -> threading.Thread:
    """Run `work` in the background; its faults show again where the work is really needed."""

    def quietly() -> None:
        with suppress(SafelightError):
            work()

    # With this thread's context, so that its lines find the log of the flow run.
    thread = threading.Thread(target=copy_context().run, args=(quietly,), daemon=True)
    thread.start()
    return thread
