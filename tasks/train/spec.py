"""What a training is asked for, and what it leaves behind. Imports no Keras."""

from collections.abc import Callable
from typing import Any

from cnn.digest import hash_json
from cnn.evaluation.metrics import Evaluation
from cnn.inference.bundle import BundleInfo
from cnn.models.architecture import ModelSpec
from cnn.spec import Spec
from cnn.training.spec import FitSpec

OnEvent = Callable[[dict[str, Any]], None]


class TrainJob(Spec):
    """One training. `folder` is a local folder that belongs to the run: checkpoints, figures/, bundle/, test.npz."""

    workspace: str
    dataset: str
    name: str
    model: ModelSpec
    fit: FitSpec
    top_k: int = 5
    folder: str


class TrainingResult(Spec):
    """What a training left in its folder. `judged_on` is the split of `evaluation`: test, or what there was instead."""

    bundle: str
    figures: str
    test: str
    info: BundleInfo
    evaluation: Evaluation
    judged_on: str
    best_epoch: int
    epochs: int
    resumed_at: int
    warnings: tuple[str, ...]


def run_key(dataset: str, name: str, model: ModelSpec, fit: FitSpec) -> str:
    """What makes two trainings the same one: sha256 (hex) of dataset, model name, network and fit settings."""
    facts = {
        "dataset": dataset,
        "name": name,
        "model": model.model_dump(mode="json"),
        "fit": fit.model_dump(mode="json"),
    }
    return hash_json(facts)
