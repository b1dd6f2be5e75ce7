"""Train on a dataset and evaluate the exported model: bundle, figures and test predictions in one folder.

Runs in a process of its own (tasks/train/process.py): the one task that loads Keras. Reads the workspace and
writes only into the run's folder, and checkpoints into a workspace on S3; a run that was killed goes on from its last
evaluation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.loader import ShardSet, open_split
from cnn.dataset.manifest import Manifest
from cnn.errors import DatasetError
from cnn.evaluation.confidence import measure_confidence
from cnn.evaluation.held_out import CalibratedOn
from cnn.evaluation.metrics import Evaluation, evaluate_probabilities
from cnn.inference.bundle import BundleFacts, BundleInfo, add_calibration, read_bundle, write_bundle
from cnn.models.architecture import summarize_model
from cnn.text import name_some
from cnn.training.checkpoint import CheckpointFolder
from cnn.training.diagnosis import find_small_classes
from cnn.training.fit import FitResult, fit_model, ignore_progress
from cnn.training.spec import FitJob
from infra.storage.layout import backbone_path
from infra.storage.store import Store, open_store
from tasks.dataset.version import read_manifest
from tasks.features.backbone import find_backbone_record
from tasks.pages.spreadsheets import write_rows
from tasks.train.answers import SplitPredictions, answer_split, save_predictions
from tasks.train.cached_head import CachedHead, fit_cached_head
from tasks.train.calibration_images import ask_calibration_images
from tasks.train.checkpoints import describe_unsent, fetch_checkpoints, send_checkpoints, share_head
from tasks.train.copies import measure_copies
from tasks.train.feature_answers import answer_by_features
from tasks.train.int8 import offer_int8
from tasks.train.novelty import keep_novelty
from tasks.train.overlap import list_seen
from tasks.train.shortcuts import check_shortcuts
from tasks.train.spec import OnEvaluation, OnProgress, TrainingResult, TrainJob
from tasks.train.suspects import write_suspects
from tasks.train.unseen_groups import measure_groups

Fit = Callable[[FitJob, OnEvaluation, OnProgress], FitResult]
GOLDEN_IMAGES = 32


@dataclass(frozen=True)
class FittedDataset:
    """A trained network that is not exported yet; `job` names the head that was fitted, if one was."""

    job: TrainJob
    manifest: Manifest
    store: Store
    result: FitResult
    head: CachedHead | None

    @property
    def is_frozen(self) -> bool:
        """Whether the head alone was fitted, on features of a backbone that stayed as it was."""
        return self.head is not None and not self.job.plan.steps


def train_dataset(
    job: TrainJob, on_evaluation: OnEvaluation, on_progress: OnProgress = ignore_progress
) -> TrainingResult:
    """Fit, calibrate, export, evaluate and draw.

    Raises:
        DatasetError: the dataset is not there, or cannot be trained on.
        IntegrityError: a shard or the manifest is damaged.
        ConfigError: the network does not fit the images.
        TrainingError: the loss is no number, or the exported model does not answer as the trained one.
    """
    store = open_store(job.workspace)
    is_shared = not store.is_local and job.plan.steps > 0
    fit = share_fit(store, Path(job.folder).name) if is_shared else fit_model
    fitted = fit_dataset(job, on_evaluation, on_progress, fit)
    result = fitted.result
    on_progress("exporting the network", result.steps, result.steps)
    return _evaluate(fitted.job, fitted.manifest, fitted.store, result, fitted.head)


def fit_dataset(
    job: TrainJob, on_evaluation: OnEvaluation, on_progress: OnProgress, fit: Fit = fit_model
) -> FittedDataset:
    """Fit the head where there is a backbone, then the network, by `fit`. Raises: as `train_dataset`."""
    store = open_store(job.workspace)
    manifest = read_manifest(store, job.dataset)
    check_trainable(manifest)
    fetch_shards(store, manifest)
    check_classes(manifest, open_split(manifest, "train", store.root).labels)
    head = None
    if job.backbone is not None:
        on_progress("fitting the head", 0, job.plan.steps)
        head = fit_cached_head(store, manifest, job.backbone, job.plan)
        job = job.model_copy(update={"model": head.name_in(job.model)})
    checkpoints = Path(job.folder, "checkpoints")
    fitting = FitJob(manifest, store.root, job.model, job.plan, checkpoints, head.fit.head if head else None)
    return FittedDataset(job, manifest, store, fit(fitting, on_evaluation, on_progress), head)


def share_fit(store: Store, run: str) -> Fit:
    """`fit_model` for a run whose checkpoints go to the workspace, and come from there where another machine was
    further."""

    def fit(job: FitJob, on_evaluation: OnEvaluation, on_progress: OnProgress) -> FitResult:
        job = share_head(store, run, job)
        checkpoints = CheckpointFolder(job.checkpoints, job.digest())
        brought = fetch_checkpoints(store, run, checkpoints)
        with send_checkpoints(store, run, checkpoints) as sender:

            def send_and_tell(figures: dict[str, float]) -> None:
                sender.send(int(figures["step"]))
                on_evaluation(figures)

            result = fit_model(job, send_and_tell, on_progress)
        notes = () if brought is None else (f"it went on after step {brought:,} from another machine's checkpoints",)
        warnings = () if sender.fault is None else (describe_unsent(sender.fault),)
        return replace(result, notes=(*notes, *result.notes), warnings=(*result.warnings, *warnings))

    return fit


def _evaluate(
    job: TrainJob, manifest: Manifest, store: Store, result: FitResult, head: CachedHead | None
) -> TrainingResult:
    """Export the trained model, and judge the exported one on images that training never saw."""
    folder, split = Path(job.folder), choose_evaluation_split(manifest)
    shards = open_split(manifest, split, store.root)
    held = ask_calibration_images(job, manifest, store.root, result, head)
    fitted = FittedDataset(job, manifest, store, result, head)
    info = _write_bundle(fitted, shards, held.temperature)
    answers = _answer_split(fitted, split, shards)
    calibration = held.calibrate(answers if split == "test" else None)
    info = add_calibration(folder / "bundle", calibration)
    evaluation = evaluate_probabilities(
        answers.probabilities, answers.labels, manifest.classes, temperature=info.temperature, top_k=job.top_k
    )
    told = keep_novelty(job, manifest, store, head)
    said: tuple[str, ...] = ()
    if job.precision == "int8":
        said = (offer_int8(job, manifest, store.root, answers),)
    kept = folder / f"{split}.npz"
    save_predictions(kept, answers)
    _write_figures(folder / "figures", job, manifest, evaluation, result)
    if head is not None:
        write_suspects(store, manifest, head, folder)
    shortcuts = check_shortcuts(store, manifest, job.plan.seed)
    return TrainingResult(
        bundle=str(folder / "bundle"),
        figures=str(folder / "figures"),
        answers=str(kept),
        info=read_bundle(folder / "bundle"),
        evaluation=evaluation,
        confidence=measure_confidence(calibration, job.confidence, manifest.classes),
        judged_on=split,
        best_step=result.best_step,
        averaged=result.averaged,
        steps=result.steps,
        history=result.history,
        resumed_at=result.resumed_at,
        notes=(*result.notes, *said),
        warnings=(
            *result.warnings,
            *doubt_validation(manifest, store.root, held.source),
            *find_small_classes(manifest.classes, open_split(manifest, "train", store.root)),
            *(each.describe() for each in shortcuts if each.is_alarm),
        ),
        shortcuts=shortcuts,
        unseen_groups=() if head is None else measure_groups(store, manifest, head),
        copies=measure_copies(store, manifest, answers, split),
        novelty_images=told,
    )


def check_trainable(manifest: Manifest) -> None:
    """Refuse a dataset that nothing can be learnt from.

    Raises:
        DatasetError: fewer than two classes, or no training images.
    """
    if len(manifest.classes) < 2:
        found = ", ".join(manifest.classes) or "none"
        raise DatasetError(
            f"dataset {manifest.dataset} has one class or none ({found}); a classifier needs two or more"
        )
    if not manifest.rows("train"):
        raise DatasetError(f"dataset {manifest.dataset} has no training images; lower split.validation and split.test")


def check_classes(manifest: Manifest, labels: NDArray[np.int64]) -> None:
    """Refuse a training split that lacks a class.

    Raises:
        DatasetError: the classes without training images are named.
    """
    if lacking := _find_lacking(manifest, labels):
        shown = name_some(lacking)
        grouped = ", or choose a split.group of smaller groups" if manifest.split.group else ""
        raise DatasetError(
            f"dataset {manifest.dataset} has no training images of {shown}; add images, lower split.validation and "
            f"split.test{grouped}, and prepare again"
        )


def doubt_validation(manifest: Manifest, root: Path, calibrated_on: CalibratedOn) -> tuple[str, ...]:
    """A line on the classes without validation images, which have no say in the best step and in the confidences; none
    where a cross-validation of all images decides both."""
    if calibrated_on == "crossed":
        return ()
    if not manifest.rows("validation"):
        return (
            "there are no validation images: the step with the lowest training loss counts as best, and confidences "
            "are not calibrated",
        )
    lacking = list(map(repr, _find_lacking(manifest, open_split(manifest, "validation", root).labels)))
    if not lacking:
        return ()
    return (f"no validation images of {name_some(lacking)}: the best step and the confidences were chosen without it",)


def _find_lacking(manifest: Manifest, labels: NDArray[np.int64]) -> list[str]:
    """The classes that none of the labels names."""
    counts = np.bincount(labels, minlength=len(manifest.classes))
    return [name for name, count in zip(manifest.classes, counts, strict=True) if not count]


def fetch_shards(store: Store, manifest: Manifest) -> None:
    """Bring every shard of the dataset below `store.root`; a local workspace has them there already."""
    if not store.is_local:
        for refs in manifest.splits.values():
            for ref in refs:
                store.fetch(ref.path)


def choose_evaluation_split(manifest: Manifest) -> str:
    """The split to judge on: test; validation or train where the one before is empty."""
    return next(split for split in ("test", "validation", "train") if manifest.rows(split))


def choose_golden(shards: ShardSet, most: int, seed: int) -> NDArray[np.int64]:
    """Rows of up to `most` images, drawn class by class in turn, so that every class counts as long as it has any."""
    rows = np.flatnonzero(shards.copies == 0)
    rows = np.random.default_rng(seed).permutation(rows)
    labels = shards.labels[rows]
    turn = np.zeros(len(rows), np.int64)
    for label in np.unique(labels):
        mine = labels == label
        turn[mine] = np.arange(np.count_nonzero(mine))
    return np.sort(rows[np.lexsort((labels, turn))[:most]])


def _write_bundle(fitted: FittedDataset, judged: ShardSet, temperature: float) -> BundleInfo:
    job, manifest, result = fitted.job, fitted.manifest, fitted.result
    facts = BundleFacts(
        model=job.model,
        image=manifest.image,
        normalization=manifest.normalization,
        classes=manifest.classes,
        temperature=temperature,
        mirror=job.plan.mirror,
        dataset=manifest.dataset,
        dataset_digest=manifest.digest,
        split=manifest.split,
    )
    golden, _ = judged.batch(choose_golden(judged, GOLDEN_IMAGES, job.plan.seed))
    seen, backbone = list_seen(fitted.store, manifest), _find_frozen_backbone(fitted)
    return write_bundle(Path(job.folder, "bundle"), result.model, facts, golden, seen, backbone)


def _answer_split(fitted: FittedDataset, split: str, shards: ShardSet) -> SplitPredictions:
    """What the exported model says to the images of a split; those of a frozen backbone by their kept features."""
    bundle, answers = Path(fitted.job.folder, "bundle"), None
    if fitted.is_frozen and fitted.head is not None:
        answers = answer_by_features(bundle, fitted.head, split, shards, fitted.job.plan.seed)
    return answer_split(bundle, shards) if answers is None else answers


def _find_frozen_backbone(fitted: FittedDataset) -> Path | None:
    """The file of the exported backbone, where nothing but the head on its features was fitted."""
    job = fitted.job
    if job.backbone is None or not fitted.is_frozen:
        return None
    record = find_backbone_record(fitted.store, job.backbone)
    return None if record is None else fitted.store.fetch(backbone_path(record.sha256))


def _write_figures(folder: Path, job: TrainJob, manifest: Manifest, evaluation: Evaluation, result: FitResult) -> None:
    from cnn.evaluation.plots import draw_evaluation, draw_learning_curves

    draw_evaluation(evaluation, folder)
    draw_learning_curves(result.history, result.best_step, folder / "curves.png")
    (folder / "evaluation.json").write_text(evaluation.to_json() + "\n")
    (folder / "model.txt").write_text(summarize_model(job.model, manifest.image, len(manifest.classes)) + "\n")
    _write_rows(folder / "per_class.csv", [figures.model_dump() for figures in evaluation.per_class])
    _write_rows(folder / "history.csv", result.history)


def _write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    header = list(dict.fromkeys(key for row in rows for key in row))
    write_rows(path, header, ([row.get(key) for key in header] for row in rows))
