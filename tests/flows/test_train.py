"""What training says of a version: on what it was judged, which classes were not, and why it was held."""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mlflow.utils.validation import validate_param_and_metric_name
from small_dataset import write_dataset

import flows.promotion
import flows.retrain
import flows.train
from cnn.dataset.manifest import Manifest
from cnn.errors import ConfigError
from cnn.evaluation.gate_spec import GateSpec
from cnn.evaluation.held_out import CalibratedOn
from cnn.evaluation.metrics import Evaluation, evaluate_probabilities
from cnn.evaluation.validity import UnseenGroups
from cnn.models.architecture import ModelSpec
from cnn.models.pretrained import Download
from flows.config import Config
from flows.promotion import gate_stage, log_verdict
from flows.results import GateResult, TrainResult
from flows.retrain import drop_foreign_report
from flows.train import describe_evaluation, register_stage
from infra.registry.versions import JUDGED_ON, PROMISE, PROMISE_BY, UNJUDGED
from infra.storage.store import open_store
from tasks.score.spec import ScoreSpec
from tasks.train.facts import read_dataset_facts
from tasks.train.overlap import list_seen
from tasks.train.train import doubt_validation

CLASSES = ("ape", "bat", "owl")


def evaluate(labels: list[int]) -> Evaluation:
    return evaluate_probabilities(np.eye(3)[labels], labels, CLASSES)


def report(evaluation: Evaluation, judged_on: str = "test", groups: tuple[UnseenGroups, ...] = ()) -> Any:
    facts: dict[str, Any] = {"best_step": 3, "steps": 5, "resumed_at": 0, "figures": "figures", "bundle": "bundle"}
    facts["unseen_groups"] = groups
    facts |= {"confidence": None, "copies": None, "summary": evaluation.summary}
    return SimpleNamespace(evaluation=evaluation, judged_on=judged_on, info=SimpleNamespace(dataset="birds-1"), **facts)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    for module in (flows.train, flows.promotion):
        monkeypatch.setattr(module, "log_message", lines.append)
    return lines


def test_the_line_says_on_which_images_a_version_was_judged() -> None:
    line = describe_evaluation(report(evaluate([0, 1, 2] * 20)))
    assert "on 60 images of the test split of birds-1; macro F1 1.0000, ECE" in line
    line = describe_evaluation(report(evaluate([0, 1, 2]), "train"))
    assert "on 3 images of the train split of birds-1: those that it was trained on, so this says little;" in line


def test_the_line_counts_a_class_without_test_images_as_nothing() -> None:
    line = describe_evaluation(report(evaluate([0, 1] * 20)))
    assert "accuracy 1.0000" in line
    assert "macro F1 0.6667 (1 of 3 classes not judged, each counted as 0; 1.0000 over the others)" in line


def make_job(registry: Any, promise: float | None = None) -> Any:
    """What `register_stage` needs of a training."""
    config = SimpleNamespace(score=ScoreSpec(promise=promise, promise_by="class"))
    return SimpleNamespace(registry=registry, name="birds", manifest=SimpleNamespace(dataset="birds-1"), config=config)


def test_a_version_is_registered_with_what_it_was_judged_on(said: list[str]) -> None:
    asked: list[tuple[Any, ...]] = []

    def register(*values: Any) -> Any:
        asked.append(values)
        return SimpleNamespace(version=4)

    registry = SimpleNamespace(log_figures=lambda *_: None, register_version=register)
    register_stage(make_job(registry, promise=0.98), report(evaluate([0, 0, 0])), "run")
    _, _, _, metrics, tags = asked[0]
    assert metrics["test_images"] == 3
    promised = {PROMISE: "0.98", PROMISE_BY: "class"}
    assert tags == {JUDGED_ON: "test split of birds-1", UNJUDGED: '["bat", "owl"]', **promised}
    assert json.dumps(metrics, allow_nan=False)


def test_a_version_says_in_its_tags_what_it_is_worth_at_a_new_camera() -> None:
    asked: list[tuple[Any, ...]] = []

    def register(*facts: Any) -> Any:
        asked.append(facts)
        return SimpleNamespace(version=1)

    registry = SimpleNamespace(log_figures=lambda *_: None, register_version=register)
    figures = {"groups": 4, "images": 90, "left_out": 0, "known": 0.94, "unseen": 0.71, "interval": (0.5, 0.9)}
    groups = UnseenGroups(kind="camera", p=0.001, worst=(), **figures)
    sites = groups.model_copy(update={"kind": "column:Site (new)/side"})
    register_stage(make_job(registry), report(evaluate([0, 1, 2]), groups=(groups, sites)), "run")
    assert PROMISE not in asked[0][-1]
    kept = json.loads(asked[0][-1]["safelight.unseen_camera"])
    column = next(name for name in asked[0][-1] if "column" in name)
    assert validate_param_and_metric_name(column)  # type: ignore[no-untyped-call]
    assert json.loads(asked[0][-1][column])["kind"] == "column:Site (new)/side"
    assert (kept["known"], kept["unseen"]) == (0.94, 0.71)
    assert groups.describe().startswith("accuracy 0.94 at cameras it knows, 0.71 (0.50 to 0.90) at a new one")


def test_a_version_that_is_held_is_told_with_every_reason(said: list[str]) -> None:
    log_verdict(GateResult(verdict="hold", reasons=["it is worse", "by much", "what to do"]))
    log_verdict(GateResult(verdict="promote", reasons=["it is better", "by much"]))
    assert said == ["gate: hold: it is worse", "gate: by much", "gate: what to do", "gate: promote: it is better"]


def test_the_report_of_another_machine_is_named_only_where_it_is_on_this_one(tmp_path: Path) -> None:
    gate = GateResult(verdict="promote", reasons=[])
    facts: dict[str, Any] = {"model": "birds", "version": 1, "trained": True, "alias": "champion", "run_id": "1"}
    facts |= {"dataset": "birds-1", "metrics": {}, "gate": gate, "seconds": 1.0}
    (tmp_path / "my report.html").write_text("<p>")
    for name, is_here in (("my report.html", True), ("gone.html", False)):
        result = TrainResult(**facts, report=(tmp_path / name).as_uri())
        assert bool(drop_foreign_report(result).report) == is_here
    assert drop_foreign_report(TrainResult(**facts)).report == ""


@pytest.mark.parametrize(
    ("begun", "order"),
    [(None, ["report with promote", "verdict promote"]), ("promote", ["verdict promote"])],
)
def test_a_version_has_its_report_before_its_verdict_and_only_once(
    monkeypatch: pytest.MonkeyPatch, begun: str | None, order: list[str]
) -> None:
    """A run that is killed between the two writes it again; one that is killed later would compare with itself."""
    done: list[str] = []
    monkeypatch.setattr(
        flows.promotion, "publish_report", lambda *given: done.append(f"report with {given[4].verdict}")
    )
    monkeypatch.setattr(flows.promotion, "apply_verdict", lambda *given: done.append(f"verdict {given[2].verdict}"))
    for skipped, made in (("weigh_version", ()), ("weigh_copies", ()), ("judge_sets", None), ("digest_split", "drawn")):
        monkeypatch.setattr(flows.promotion, skipped, lambda *_, made=made: made)
    registry = SimpleNamespace(
        lost_champion=lambda name: None, champion=lambda name: None, versions=lambda name: [], set_tags=lambda *_: None
    )
    job: Any = SimpleNamespace(
        registry=registry, name="birds", spec=GateSpec(), manifest=SimpleNamespace(locked_sets=None), store=None
    )
    version: Any = SimpleNamespace(version=1, verdict=begun)
    gate_stage(job, report(evaluate([0, 1, 2] * 20)), version)
    assert done == order


@pytest.mark.parametrize(
    ("per_class", "calibrated_on", "told"),
    [
        ({"train": 3, "validation": 2, "test": 2}, "epoch", None),
        ({"train": 3, "test": 2}, "epoch", "there are no validation images"),
        ({"train": 3, "test": 2}, "crossed", None),
    ],
)
def test_a_version_without_validation_images_is_told(
    tmp_path: Path, per_class: Mapping[str, int], calibrated_on: CalibratedOn, told: str | None
) -> None:
    """Unless a cross-validation chose and calibrated: nothing is missing then."""
    manifest = write_dataset(tmp_path / "w", tmp_path / "s", per_class=per_class)
    found = doubt_validation(manifest, tmp_path / "w", calibrated_on)
    assert found == () if told is None else found[0].startswith(told)


def test_a_class_without_validation_images_is_told(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "w", tmp_path / "s")
    more = manifest.model_copy(update={"classes": (*manifest.classes, "yellow")})
    (line,) = doubt_validation(more, tmp_path / "w", "half")
    assert line.startswith("no validation images of 'yellow'")


def test_the_classes_that_a_dataset_judges_are_kept_with_the_model(tmp_path: Path) -> None:
    manifest: Manifest = write_dataset(tmp_path / "w", tmp_path / "s")
    seen = list_seen(open_store(str(tmp_path / "w")), manifest)
    assert seen.judged == ("blue", "green", "red")
    assert (len(seen.facts), int(seen.learnt.sum())) == (66, 48)


def test_weights_that_cannot_be_had_are_told_before_anything_is_listed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No image is looked at, and no training is begun, for a file that is not there."""
    monkeypatch.setattr(flows.retrain, "TrainingProcess", nullcontext)
    monkeypatch.setattr(flows.retrain, "prepare_dataset", pytest.fail)
    config = Config.model_validate({"model": {"backbone": "mobilenet_v2", "weights": str(tmp_path / "my.weights.h5")}})
    with pytest.raises(ConfigError, match=r"model.weights: .*my\.weights\.h5 is no file"):
        flows.retrain.retrain_here(str(tmp_path), "birds", str(tmp_path / "workspace"), config, verify=False)
    assert not (tmp_path / "workspace").exists()


def test_a_dataset_that_was_trained_on_already_needs_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(flows.train, "make_sure_of_weights", lambda *values: asked.append(values))
    monkeypatch.setattr(flows.train, "run_training_stages", lambda *_: None)
    for name in ("make_train_result", "link_version", "log_verdict", "log_message", "result_path", "find_held_back"):
        made = SimpleNamespace(to_json=str, alias=None, gate=None, model_dump=dict)
        monkeypatch.setattr(flows.train, name, lambda *_, made=made, **__: made)
    monkeypatch.setattr(flows.train, "emit_notice", lambda *_: None)
    image = SimpleNamespace(size=(224, 224))
    job: Any = SimpleNamespace(
        choice=SimpleNamespace(model="spec"),
        manifest=SimpleNamespace(image=image),
        store=SimpleNamespace(write=lambda *_: None),
        registry=SimpleNamespace(figures_of=None),
        key="key",
    )
    for version in (SimpleNamespace(is_gated=True, version=1), None):
        monkeypatch.setattr(flows.train, "find_version", lambda _, version=version: version)
        flows.train.train_opened(job, SimpleNamespace(), 0.0)  # type: ignore[arg-type]
    assert asked == [("spec", (224, 224))]


def test_what_will_be_downloaded_is_logged(monkeypatch: pytest.MonkeyPatch, said: list[str], tmp_path: Path) -> None:
    there = Download("https://storage.googleapis.com/a/w.h5", tmp_path / "w.h5")
    monkeypatch.setattr(flows.train, "require_weights", lambda spec, size: there)
    flows.train.make_sure_of_weights(ModelSpec(), (96, 96))
    assert said == [f"weights: downloaded once, from storage.googleapis.com to {tmp_path / 'w.h5'}"]


@pytest.mark.parametrize(
    ("steps", "best", "said_of_it"),
    [
        (0, 0, "the head alone was fitted"),
        (40, 0, "40 steps made the fitted head no better, and it stays"),
        (1_200, 600, "best of 1,200 steps: 600"),
    ],
)
def test_the_line_says_which_weights_were_kept(steps: int, best: int, said_of_it: str) -> None:
    result = report(evaluate([0, 1, 2]))
    result.steps, result.best_step = steps, best
    assert describe_evaluation(result).endswith(said_of_it)


def test_the_ledger_is_read_only_where_something_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_dataset(tmp_path / "w", tmp_path / "source")
    reads: list[str] = []

    def read(*arguments: Any) -> Any:
        reads.append("ledger")
        return read_dataset_facts(*arguments)

    monkeypatch.setattr(flows.train, "read_dataset_facts", read)
    job = flows.train.open_training(manifest.dataset, "birds", str(tmp_path / "w"), Config())
    assert reads == []
    assert (job.choice.recipe, replace(job, key="other").choice) == ("scratch", job.choice)
    assert reads == ["ledger"]
