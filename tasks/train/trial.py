"""Judge settings on the validation images, without a model version: one trial of a search."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.calibrate_half import draw_calibrate_half, split_validation
from cnn.dataset.loader import open_split
from cnn.dataset.manifest import Manifest
from cnn.evaluation.calibration import SMALLEST_PROBABILITY, TEMPERATURES, apply_temperature, fit_temperature
from cnn.inference.backbone import BackboneSpec
from cnn.training.spec import FitPlan
from infra.storage.store import open_store
from tasks.dataset.version import read_manifest
from tasks.train.cached_head import CachedHead, fit_cached_head
from tasks.train.calibration_images import ask_network
from tasks.train.spec import OnEvaluation, OnProgress, TrainJob, TrialResult
from tasks.train.train import fetch_shards, fit_dataset


@dataclass(frozen=True)
class HeadWork:
    """A head to be tried on cached features, by any process that reaches the workspace."""

    workspace: str
    dataset: str
    backbone: BackboneSpec
    plan: FitPlan


def fit_trial(job: TrainJob, on_evaluation: OnEvaluation, on_progress: OnProgress) -> TrialResult:
    """Train as `tasks.train.train.train_dataset` does, in the same folder, and ask the validation images alone: the
    training of the same job afterwards finds its checkpoints, and nothing is left to fit.

    Raises:
        DatasetError, IntegrityError, ConfigError, TrainingError: as there.
    """
    planned = job.plan.steps

    def note_length(phase: str, step: int, steps: int) -> None:
        nonlocal planned
        planned = steps if phase == "training" else planned
        on_progress(phase, step, steps)

    fitted = fit_dataset(job, on_evaluation, note_length)
    if fitted.head is not None and not job.plan.steps:
        return judge_head(fitted.head, fitted.manifest)
    shards, _ = split_validation(open_split(fitted.manifest, "validation", fitted.store.root))
    answers = ask_network(fitted.result.model, shards, job.plan.mirror)
    lengths = {"steps": fitted.result.steps, "planned": planned}
    return judge_answers(answers, shards.labels).model_copy(update=lengths)


def try_head(work: HeadWork) -> TrialResult:
    """What the head of a backbone's features is worth; seconds, and no network runs.

    Raises:
        DatasetError, IntegrityError: as `tasks.train.cached_head.fit_cached_head`.
    """
    store = open_store(work.workspace)
    manifest = read_manifest(store, work.dataset)
    fetch_shards(store, manifest)
    return judge_head(fit_cached_head(store, manifest, work.backbone, work.plan), manifest)


def judge_head(head: CachedHead, manifest: Manifest) -> TrialResult:
    """By the answers to the validation images of heads that had not learnt from these: they come last among those that
    were held out. The half that calibrates is left out, as where a network is judged."""
    held, count = head.fit.held_out, manifest.rows("validation")
    chooses = ~draw_calibrate_half(head.splits["validation"].keys)
    return judge_answers(held.probabilities[-count:][chooses], held.labels[-count:][chooses])


def judge_answers(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> TrialResult:
    """Probabilities (n, k) and labels (n,) of the same images, whose one temperature is fitted first: trials differ in
    how sure they are, and every version is calibrated before it scores. Where every image is right that is the lowest
    temperature, at which all losses are next to nothing: such trials are equals, however sure they are."""
    is_perfect = bool((probabilities.argmax(axis=1) == labels).all())
    temperature = TEMPERATURES[0] if is_perfect else fit_temperature(probabilities, labels)
    calibrated = apply_temperature(probabilities, temperature)
    own = calibrated[np.arange(len(labels)), labels]
    losses = -np.log(np.maximum(own, SMALLEST_PROBABILITY))
    return TrialResult(losses=tuple(losses.tolist()), accuracy=float((calibrated.argmax(axis=1) == labels).mean()))
