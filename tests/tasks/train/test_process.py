"""Training in a process of its own: what it leaves, what it refuses, and what happens when somebody dies."""

import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_dataset import IMAGE, PER_CLASS, write_dataset
from tiny_jobs import make_plan

from cnn.dataset.loader import open_split
from cnn.dataset.manifest import Manifest
from cnn.errors import ConfigError, DatasetError, InstallationError, TrainingError
from cnn.inference.bundle import read_bundle
from cnn.inference.scorer import load_scorer
from cnn.models.architecture import ModelSpec
from cnn.training.spec import FitSpec
from tasks.train import process as fitting
from tasks.train.process import LOG, TrainingProcess
from tasks.train.spec import TrainingResult, TrainJob, name_run
from tasks.train.train import choose_evaluation_split, choose_golden, train_dataset

MODEL = ModelSpec.model_validate(
    {"preset": None, "layers": [{"kind": "conv", "filters": 4, "kernel": 3}, {"kind": "global_pool"}]}
)
FIT = FitSpec(epochs=4, batch_size=8, learning_rate=0.05, seed=1)
PLAN = make_plan(36, epochs=4, batch_size=8, learning_rate=0.05, seed=1)


@dataclass(frozen=True)
class Story:
    """A training that was killed at its second evaluation, and the same job again."""

    manifest: Manifest
    workspace: Path
    job: TrainJob
    death: str
    steps: list[float]
    told: list[tuple[str, int, int]]
    report: TrainingResult


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("fitting")
    manifest = write_dataset(folder / "workspace", folder / "source")
    job = make_job(folder / "workspace", manifest, folder / "run")

    def kill_at_second(figures: dict[str, float]) -> None:
        if figures["step"] == 10:
            os.kill(trainer.pid, signal.SIGKILL)

    with TrainingProcess() as trainer, pytest.raises(TrainingError) as death:
        trainer.run(job, kill_at_second)
    steps: list[float] = []
    told: list[tuple[str, int, int]] = []

    def interrupt(figures: dict[str, float]) -> None:
        steps.append(figures["step"])
        os.kill(again.pid, signal.SIGINT)

    with TrainingProcess() as again:
        report = again.run(job, interrupt, lambda *what: told.append(what))
    return Story(manifest, folder / "workspace", job, str(death.value), steps, told, report)


def test_an_installation_without_training_says_which_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "find_spec", lambda name: None if name in ("keras", "onnx") else object())
    with pytest.raises(InstallationError, match=r"^training needs keras, onnx, and .* install 'safelight\[cpu\]'"):
        TrainingProcess()


def make_job(workspace: Path, manifest: Manifest, folder: Path) -> TrainJob:
    return TrainJob(workspace=str(workspace), dataset=manifest.dataset, model=MODEL, plan=PLAN, folder=str(folder))


@pytest.mark.long
def test_a_killed_training_names_the_signal_and_the_log(story: Story) -> None:
    assert story.death.startswith(
        "training was ended by SIGKILL (out of memory? if so, --set fit.batch_size=4 in place"
    )
    assert f"see {story.job.folder}/{LOG}" in story.death
    assert Path(story.job.folder, LOG).is_file()


def test_the_same_job_goes_on_from_its_last_evaluation(story: Story) -> None:
    assert story.report.resumed_at >= 10
    assert story.steps == list(range(story.report.resumed_at + 5, story.report.steps + 1, 5))


def test_what_the_process_does_is_told(story: Story) -> None:
    phases = [phase for phase, _, _ in story.told]
    assert phases[:2] == ["loading TensorFlow", "compiling the network"]
    assert {"training", "evaluating", "exporting the network"} <= set(phases)
    assert all(step <= steps == 20 for _, step, steps in story.told)


def test_the_report_describes_the_bundle_and_judges_it_on_test_images(story: Story) -> None:
    report = story.report
    assert read_bundle(Path(report.bundle)) == report.info
    assert (report.info.dataset, report.info.classes) == (story.manifest.dataset, ("blue", "green", "red"))
    assert (report.judged_on, report.evaluation.images) == ("test", 18)
    assert report.evaluation.temperature == report.info.temperature


def test_test_answers_are_those_of_the_model_that_will_score(story: Story) -> None:
    shards = open_split(story.manifest, "test", story.workspace)
    images, labels = shards.batch(np.arange(shards.rows))
    expected = load_scorer(Path(story.report.bundle)).predict(images)
    with np.load(story.report.answers, allow_pickle=False) as kept:
        assert [key.decode() for key in kept["keys"]] == shards.keys()
        np.testing.assert_allclose(kept["probabilities"], expected, atol=1e-5)
        np.testing.assert_array_equal(kept["correct"], expected.argmax(axis=1) == labels)
        assert kept["correct"].mean() == pytest.approx(story.report.evaluation.accuracy)


def test_figures_and_tables_are_there(story: Story) -> None:
    folder = Path(story.report.figures)
    assert {path.name for path in folder.iterdir()} >= {
        "confusion.png",
        "reliability.png",
        "curves.png",
        "per_class.csv",
        "history.csv",
        "evaluation.json",
        "model.txt",
    }
    assert (folder / "per_class.csv").read_text("utf-8-sig").splitlines()[0] == "label,precision,recall,f1,images"
    assert json.loads((folder / "evaluation.json").read_text())["images"] == 18
    assert len((folder / "history.csv").read_text().splitlines()) == 1 + len(story.report.history)


# What cannot be trained on


def train_in_place(tmp_path: Path, **changes: Any) -> None:
    manifest = write_dataset(tmp_path / "w", tmp_path / "s", **changes)
    train_dataset(make_job(tmp_path / "w", manifest, tmp_path / "run"), lambda figures: None)


def test_a_dataset_that_is_not_there_is_named(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "w", tmp_path / "s")
    job = make_job(tmp_path / "w", manifest, tmp_path / "run").model_copy(update={"dataset": "birds-1"})
    with pytest.raises(DatasetError, match="birds-1"):
        train_dataset(job, lambda figures: None)


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"has one class or none \(blue\)"):
        train_in_place(tmp_path, classes=("blue",))


def test_no_training_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has no training images; lower"):
        train_in_place(tmp_path, per_class={"test": 2})


def test_a_class_without_training_images_is_named(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "w", tmp_path / "s", classes=("blue", "green"))
    wider = manifest.model_copy(update={"classes": ("blue", "green", "red"), "dataset": ""})
    wider = wider.model_copy(update={"dataset": f"wider-{wider.digest_of_content()[:12]}"})
    path = tmp_path / "w/datasets" / wider.dataset / "manifest.json"
    path.parent.mkdir()
    path.write_text(wider.to_json())
    with pytest.raises(DatasetError, match="no training images of red"):
        train_dataset(make_job(tmp_path / "w", wider, tmp_path / "run"), lambda figures: None)


@pytest.mark.parametrize(
    ("per_class", "split"),
    [(PER_CLASS, "test"), ({"train": 2, "validation": 1}, "validation"), ({"train": 2}, "train")],
)
def test_a_model_is_judged_on_what_there_is(tmp_path: Path, per_class: dict[str, int], split: str) -> None:
    assert choose_evaluation_split(write_dataset(tmp_path / "w", tmp_path / "s", per_class=per_class)) == split


def test_golden_images_are_balanced_and_seeded(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "w", tmp_path / "s", per_class={"train": 5})
    shards = open_split(manifest, "train", tmp_path / "w")
    chosen = choose_golden(shards, 6, seed=3)
    assert np.bincount(shards.labels[chosen]).tolist() == [2, 2, 2]
    np.testing.assert_array_equal(chosen, choose_golden(shards, 6, seed=3))
    assert len(choose_golden(shards, 99, seed=3)) == 15


# The process


def test_the_key_of_a_run_follows_what_is_trained(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "w", tmp_path / "s", per_class={"train": 1})
    key = name_run(manifest, "squares", MODEL, FIT)
    assert key == name_run(manifest.model_copy(update={"dataset": "renamed"}), "squares", MODEL, FIT)
    others = [
        name_run(manifest.model_copy(update={"digest": "d"}), "squares", MODEL, FIT),
        name_run(manifest, "birds", MODEL, FIT),
        name_run(manifest, "squares", ModelSpec(preset="lenet"), FIT),
        name_run(manifest, "squares", MODEL, FitSpec(epochs=5)),
    ]
    assert len({key, *others}) == 5


def test_a_process_that_died_before_its_job_is_told(tmp_path: Path) -> None:
    job = make_job(tmp_path, write_dataset(tmp_path / "w", tmp_path / "s"), tmp_path / "run")
    with TrainingProcess() as trainer:
        os.kill(trainer.pid, signal.SIGTERM)
        with pytest.raises(TrainingError, match="training was ended by SIGTERM, see"):
            trainer.run(job, lambda figures: None)


def test_stopping_ends_the_process_and_may_be_repeated() -> None:
    trainer = TrainingProcess()
    process = os.pidfd_open(trainer.pid)
    trainer.stop()
    trainer.stop()
    assert is_gone(process)


def test_an_interrupt_in_the_parent_ends_the_process() -> None:
    started: list[int] = []

    def be_interrupted() -> None:
        with TrainingProcess() as trainer:
            started.append(os.pidfd_open(trainer.pid))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    assert is_gone(started[0])


@pytest.mark.parametrize("thread", [False, True])
def test_a_process_ends_with_its_parent(thread: bool) -> None:
    """Killed outright, from a main thread and from another one, the parent takes the child with it."""
    start = "t = TrainingProcess(); print(t.pid, flush=True); signal.pause()"
    code = "import signal, threading; from tasks.train.process import TrainingProcess\n" + (
        f"def f():\n    global t\n    {start.split('; signal')[0]}\n"
        "thread = threading.Thread(target=f); thread.start(); thread.join(); signal.pause()"
        if thread
        else start
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        child = os.pidfd_open(int(parent.stdout.readline()))
        assert not is_gone(child, 0.0)
        parent.kill()
        parent.wait()
    assert is_gone(child)


def is_gone(process: int, seconds: float = 30.0) -> bool:
    """Whether the process of a pidfd ends within so many seconds; the descriptor is closed when it has."""
    gone = bool(select.select([process], [], [], seconds)[0])
    if gone:
        os.close(process)
    return gone


def test_known_errors_come_back_as_they_were() -> None:
    error = fitting._rebuild_error({"class": "ConfigError", "message": "no"}, Path("x"), 64)
    assert type(error) is ConfigError
    assert str(error) == "no"


@pytest.mark.parametrize("name", ["ValueError", "BadImage", "Exception", "__name__"])
def test_other_errors_become_one_line_that_names_the_log(name: str) -> None:
    error = fitting._rebuild_error({"class": name, "message": "odd"}, Path("run/train.log"), 64)
    assert str(error) == f"training failed ({name}: odd); see run/train.log"


def test_an_unexpected_error_is_one_line_and_its_traceback_goes_to_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError("two\nlines")

    assert fitting._catch(fail) == {"class": "ValueError", "message": "two lines"}
    assert "Traceback" in capsys.readouterr().err


def test_a_line_cut_short_is_no_message() -> None:
    assert fitting._read_line('{"result": {"bun') == {}
    assert fitting._read_line("7") == {}
    assert IMAGE.shape == (8, 8, 3)
