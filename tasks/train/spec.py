"""What a training is asked for, and what it leaves behind. Imports no Keras."""

from collections.abc import Callable

from cnn.dataset.manifest import Manifest
from cnn.digest import canonical_json, hash_json
from cnn.evaluation.confidence import ConfidenceFigures, ConfidenceSpec
from cnn.evaluation.gate_spec import GateSpec
from cnn.evaluation.metrics import Evaluation
from cnn.evaluation.validity import CopyFigures, Shortcut, UnseenGroups
from cnn.inference.backbone import BackboneSpec
from cnn.inference.bundle import BundleInfo
from cnn.inference.novelty import describe_untold_novelty
from cnn.inference.scorer import Precision
from cnn.models.architecture import ModelSpec
from cnn.spec import Spec
from cnn.training.spec import FitPlan, FitSpec

OnEvaluation = Callable[[dict[str, float]], None]  # gets the figures of `cnn.training.fit.fit_model`
OnProgress = Callable[[str, int, int], None]  # gets what is done at the moment, the steps done, and the steps in all


class TrainJob(Spec):
    """One training. `folder` is a local folder that belongs to the run: checkpoints, figures/, bundle/, the answers.

    With `backbone`, whose features of the dataset are in the workspace, a head is fitted on these first."""

    workspace: str
    dataset: str
    model: ModelSpec
    plan: FitPlan
    backbone: BackboneSpec | None = None
    top_k: int = 5
    precision: Precision = "float32"
    gate: GateSpec = GateSpec()
    confidence: ConfidenceSpec = ConfidenceSpec()
    folder: str


class TrainingResult(Spec):
    """What a training left in its folder. `judged_on` is the split of `evaluation`: test, or what there was instead;
    the file `answers` holds the answers to its images. `history` has the figures of each evaluation, `averaged`
    the steps after which the weights were kept whose average the model has: one where none was taken. `shortcuts` says
    what clues beside the images' contents foretell, `unseen_groups` how right a head is at groups never seen, `copies`
    how right the model is without test images that have a copy among those learnt from. `novelty_images`: how many
    images that were not learnt from tell which novelty is usual; None in results of an earlier release."""

    bundle: str
    figures: str
    answers: str
    info: BundleInfo
    evaluation: Evaluation
    confidence: ConfidenceFigures | None = None
    judged_on: str
    best_step: int
    averaged: tuple[int, ...] = ()
    steps: int
    history: tuple[dict[str, float | None], ...] = ()
    resumed_at: int
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...]
    shortcuts: tuple[Shortcut, ...] = ()
    unseen_groups: tuple[UnseenGroups, ...] = ()
    copies: CopyFigures | None = None
    novelty_images: int | None = None

    def summary(self) -> dict[str, float]:
        """The figures that are logged and compared, flat."""
        own = self.copies
        honest = {} if own is None or own.honest is None else {"accuracy_without_copies": own.honest}
        return {**self.evaluation.summary(), **honest}

    def doubt_novelty(self) -> str:
        """Why the version cannot tell which images are strange, and what helps; empty where it can."""
        doubt = "" if self.novelty_images is None else describe_untold_novelty(self.novelty_images)
        # Of a network that was not trained, every image has told.
        helps = "add images, raise split.validation, or train with fit.recipe = quick" if self.steps else "add images"
        return f"{doubt}: {helps}" if doubt else ""


class TrialResult(Spec):
    """What settings are worth on the validation images: `losses` has -log p(label) of each in nats, after calibration.

    `steps` of `planned` were trained; the plan had more where time was short.
    """

    losses: tuple[float, ...]
    accuracy: float
    steps: int = 0
    planned: int = 0

    @property
    def log_loss(self) -> float:
        """Their mean, by which trials are compared: lower is better."""
        return sum(self.losses) / len(self.losses)


def name_run(manifest: Manifest, name: str, model: ModelSpec, fit: FitSpec) -> str:
    """What makes two trainings of a model the same one, sha256 (hex): what is learnt and how.

    What is learnt from counts, not the dataset version's name, which covers time stamps too.
    """
    learnt = [manifest.digest, manifest.classes, manifest.image.to_json(), manifest.normalization.to_json()]
    facts = {
        "dataset": canonical_json(learnt),
        "name": name,
        "model": model.model_dump(mode="json"),
        "fit": fit.model_dump(mode="json"),
    }
    return hash_json(facts)
