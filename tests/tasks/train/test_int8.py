"""A version gets an int8 network where it is not worse on the test images, and is told why where it gets none."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from small_dataset import write_dataset
from tiny_jobs import make_plan

from cnn.dataset.loader import ShardSet
from cnn.evaluation.gate import judge_int8
from cnn.evaluation.gate_spec import GateSpec
from cnn.evaluation.metrics import compare_paired
from cnn.inference.bundle import GOLDEN_INT8, INT8
from cnn.inference.scorer import Precision
from cnn.models.architecture import ModelSpec
from tasks.train.answers import SplitPredictions, answer_split
from tasks.train.spec import TrainingResult, TrainJob
from tasks.train.train import train_dataset

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
MODEL = ModelSpec.model_validate({"layers": [{"kind": "conv", "filters": 4, "kernel": 3}, {"kind": "global_pool"}]})


def train(folder: Path, test: int = 6) -> TrainingResult:
    per_class = {"train": 12, "validation": 4, "test": test}
    manifest = write_dataset(folder / "workspace", folder / "source", per_class=per_class)
    job = TrainJob(
        workspace=str(folder / "workspace"),
        dataset=manifest.dataset,
        model=MODEL,
        plan=make_plan(36, epochs=4, batch_size=8, learning_rate=0.05, seed=1),
        precision="int8",
        folder=str(folder / "run"),
    )
    return train_dataset(job, lambda figures: None)


def test_int8_network_that_is_not_worse_is_registered(tmp_path: Path) -> None:
    result = train(tmp_path)
    assert {INT8, GOLDEN_INT8} <= set(result.info.files)
    assert "of 18 test images right" in result.notes[-1]
    assert result.notes[-1].endswith("registered with it")


def test_worse_int8_network_is_left_out_and_the_reason_told(tmp_path: Path) -> None:
    def answer_wrongly(bundle: Path, shards: ShardSet, precision: Precision = "float32") -> SplitPredictions:
        found = answer_split(bundle, shards, precision)
        return replace(found, probabilities=np.roll(found.probabilities, 1, axis=1))

    with patch("tasks.train.int8.answer_split", answer_wrongly):
        result = train(tmp_path)
    assert not {INT8, GOLDEN_INT8} & set(result.info.files)
    assert "registered without int8; gate.margin allows 1.00 points behind: broken" in result.notes[-1]
    assert not (tmp_path / "run" / "bundle" / INT8).exists()


def test_without_test_images_there_is_no_int8_network(tmp_path: Path) -> None:
    result = train(tmp_path, test=0)
    assert INT8 not in result.info.files
    assert "no test images to judge an int8 network on" in result.notes[-1]


def test_int8_is_judged_by_the_rule_of_the_gate() -> None:
    right, spec = np.ones(400, bool), GateSpec()
    few, many = right.copy(), right.copy()
    few[:2], many[:10] = False, False
    assert judge_int8(compare_paired(few, right), spec).verdict == "promote"
    held = judge_int8(compare_paired(many, right), spec)
    assert held.verdict == "hold"
    assert "broken, it is 2.50 behind" in held.reasons[0]
    surely = judge_int8(compare_paired(many, right), GateSpec(margin=0.1))
    assert "the exact paired test finds it worse" in surely.reasons[0]
