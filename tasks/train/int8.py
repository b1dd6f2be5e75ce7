"""Give a trained version an int8 network beside its float32 one, where the gate finds that not worse."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.loader import open_split
from cnn.dataset.manifest import Manifest
from cnn.errors import TrainingError
from cnn.evaluation.gate import judge_int8
from cnn.evaluation.metrics import compare_paired
from cnn.inference.bundle import INT8, ONNX
from cnn.inference.int8 import add_int8, drop_int8, quantize_network
from tasks.train.answers import SplitPredictions, answer_split
from tasks.train.spec import TrainJob

RANGE_IMAGES = 256  # that the ranges of the int8 network are taken from


def offer_int8(job: TrainJob, manifest: Manifest, root: Path, exact: SplitPredictions) -> str:
    """Quantize the network in the run's bundle, and judge it on the test images beside the float32 one, which answered
    `exact`; what became of it, in one line. A network that is held back leaves no trace in the bundle."""
    bundle = Path(job.folder, "bundle")
    if not manifest.rows("test"):
        return "there are no test images to judge an int8 network on: registered without int8; raise split.test"
    network = Path(job.folder, INT8)
    try:
        quantize_network(bundle / ONNX, network, _choose_images(manifest, root, job.plan.seed))
    except TrainingError as error:
        return f"registered without int8: {error}"
    add_int8(bundle, network)
    answered = answer_split(bundle, open_split(manifest, "test", root), "int8")
    correct = (each.probabilities.argmax(axis=1) == each.labels for each in (answered, exact))
    verdict = judge_int8(compare_paired(*correct), job.gate)
    if verdict.verdict == "hold":
        drop_int8(bundle)
    return verdict.reasons[0]


def _choose_images(manifest: Manifest, root: Path, seed: int) -> NDArray[np.uint8]:
    """uint8 (n, height, width, channels): validation images drawn at random, training images where there are none."""
    shards = open_split(manifest, "validation" if manifest.rows("validation") else "train", root)
    rows = np.flatnonzero(shards.copies == 0)
    chosen = np.random.default_rng(seed).permutation(rows)[:RANGE_IMAGES]
    return shards.batch(np.sort(chosen))[0]
