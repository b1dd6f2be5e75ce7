"""One trial of a search: judged on validation images, and continued by the training of the same job."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_dataset import write_dataset
from tiny_jobs import make_plan

from cnn.errors import DatasetError
from cnn.evaluation.calibration import fit_temperature, negative_log_likelihood
from cnn.models.architecture import ModelSpec
from cnn.training.heads import HeldOut
from tasks.search.trials import is_better
from tasks.train.process import TrainingProcess
from tasks.train.spec import TrainJob
from tasks.train.trial import judge_answers, judge_head

MODEL = ModelSpec.model_validate({"layers": [{"kind": "conv", "filters": 4}, {"kind": "global_pool"}]})


def draw_answers(rows: int) -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    answers = random.dirichlet((1, 1, 1), rows)
    return answers, np.array([random.choice(3, p=row) for row in answers])


def test_losses_are_those_after_calibration() -> None:
    answers, labels = draw_answers(30)
    result = judge_answers(answers, labels)
    temperature = fit_temperature(answers, labels)
    assert 0.1 < temperature < 10.0
    assert temperature != 1.0
    assert result.log_loss == pytest.approx(negative_log_likelihood(answers, labels, temperature))
    assert result.accuracy == (answers.argmax(axis=1) == labels).mean()
    surer = answers**3 / (answers**3).sum(axis=1, keepdims=True)
    assert judge_answers(surer, labels).log_loss == pytest.approx(result.log_loss, abs=1e-5)


def test_trials_that_have_every_image_right_are_equals() -> None:
    labels = np.arange(30) % 3
    sure, unsure = (np.full((30, 3), (1 - top) / 2) for top in (0.99, 0.6))
    sure[np.arange(30), labels], unsure[np.arange(30), labels] = 0.99, 0.6
    one, other = judge_answers(sure, labels), judge_answers(unsure, labels)
    assert (one.accuracy, other.accuracy) == (1.0, 1.0)
    assert not is_better(one, other)


@pytest.mark.parametrize("held", [30, 12])
def test_a_head_is_judged_on_the_validation_images_alone(held: int) -> None:
    """Whether training images were held out in folds too, or these alone."""
    answers, labels = draw_answers(held)
    validation = SimpleNamespace(keys=[f"{number:064x}" for number in range(12)])
    held_out = SimpleNamespace(held_out=HeldOut(labels, answers))
    fit: Any = SimpleNamespace(fit=held_out, splits={"validation": validation})
    manifest: Any = SimpleNamespace(rows={"validation": 12}.__getitem__)
    assert judge_head(fit, manifest) == judge_answers(answers[-12:], labels[-12:])


class EndedError(Exception):
    """Stands for whatever ends a trial."""


@pytest.mark.long
def test_a_trial_that_ended_is_only_exported_by_the_training_of_its_job(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "w", tmp_path / "s")
    plan = make_plan(36, epochs=4, batch_size=8, learning_rate=0.05, seed=1)
    folder = tmp_path / "run"
    job = TrainJob(workspace=str(tmp_path / "w"), dataset=manifest.dataset, model=MODEL, plan=plan, folder=str(folder))

    def end(figures: dict[str, float]) -> None:
        raise EndedError

    with pytest.raises(EndedError), TrainingProcess() as trainer:
        trainer.measure(job, end, lambda *_: None)
    with pytest.raises(DatasetError), TrainingProcess() as trainer:
        trainer.measure(job.model_copy(update={"dataset": "none"}), end, lambda *_: None)
    steps: list[float] = []
    with TrainingProcess() as trainer:
        result = trainer.measure(job, lambda figures: steps.append(figures["step"]), lambda *_: None)
    assert steps == [10, 15, 20]  # went on after the evaluation that ended it
    assert (result.steps, result.planned, len(result.losses)) == (20, 20, 12)
    assert not (folder / "bundle").exists()
    with TrainingProcess() as trainer:
        trained = trainer.run(job, lambda figures: pytest.fail("it trained again"))
    assert (trained.resumed_at, trained.steps) == (20, 20)
    assert Path(trained.bundle).exists()
