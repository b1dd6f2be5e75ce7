"""A version that was judged, without any training: a dataset of squares, made-up answers, and what the gate said."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from registries import make_bundle_facts
from small_dataset import IMAGE, PER_CLASS, write_dataset

from cnn.dataset.loader import open_split
from cnn.dataset.normalization import Normalization
from cnn.evaluation.calibration import apply_temperature
from cnn.evaluation.gate import Challenger, Champion, decide_promotion
from cnn.evaluation.gate_spec import GateSpec
from cnn.evaluation.metrics import evaluate_probabilities
from cnn.inference.bundle import GOLDEN, ONNX, WEIGHTS, BundleInfo
from cnn.models.architecture import ModelSpec
from tasks.train.answers import SplitPredictions, save_predictions
from tasks.train.report import JudgedVersion
from tasks.train.spec import TrainingResult
from tasks.train.train import choose_evaluation_split

Answer = Callable[[NDArray[np.int64]], Sequence[int]]
HISTORY = tuple(
    {"step": float(epoch), "loss": 1 / epoch, "accuracy": 1 - 0.5 / epoch, "val_loss": 1.2 / epoch}
    | {"val_accuracy": 0.9 - 0.4 / epoch}
    for epoch in range(1, 9)
)


def make_judged_version(
    folder: Path,
    classes: Sequence[str] = ("blue", "green", "red"),
    per_class: Mapping[str, int] | None = None,
    answer: Answer = lambda labels: labels.tolist(),
    champion: Champion | None = None,
    temperature: float = 2.0,
    **result: Any,
) -> JudgedVersion:
    """A dataset in `folder`/w, and in `folder`/run what a training leaves that gives each image of the judged split the
    class that `answer` makes of the labels; it is surer of each image than of the one before."""
    manifest = write_dataset(folder / "w", folder / "s", classes, per_class=per_class or PER_CLASS)
    split = choose_evaluation_split(manifest)
    shards = open_split(manifest, split, folder / "w")
    answers = np.array(answer(shards.labels), np.int64)
    sure = np.linspace(0.55, 0.95, len(answers))
    raw = np.repeat((1 - sure[:, None]) / (len(classes) - 1), len(classes), axis=1)
    raw[np.arange(len(answers)), answers] = sure
    probabilities = apply_temperature(raw, temperature).astype(np.float32)
    run = folder / "run"
    run.mkdir()
    save_predictions(run / f"{split}.npz", SplitPredictions(shards.keys(), shards.labels, probabilities))
    evaluation = evaluate_probabilities(probabilities, shards.labels, classes, temperature=temperature)
    facts = make_bundle_facts(
        ModelSpec(preset="lenet"), IMAGE, Normalization(method="unit", scale=1, offset=0), tuple(classes), temperature
    )
    made: dict[str, Any] = {
        "bundle": str(run / "bundle"),
        "figures": str(run / "figures"),
        "answers": str(run / f"{split}.npz"),
        "info": BundleInfo(**dict(facts), onnx_difference=0.0, files=dict.fromkeys((GOLDEN, ONNX, WEIGHTS), "")),
        "evaluation": evaluation,
        "judged_on": split,
        "best_step": 8,
        "steps": 8,
        "history": HISTORY,
        "resumed_at": 0,
        "warnings": (),
    }
    verdict = decide_promotion(Challenger("birds", 4, evaluation, split), champion, GateSpec())
    return JudgedVersion(
        "birds", 4, "recipe quick: squares", TrainingResult(**made | result), manifest, champion, verdict
    )
