"""The flow `search`: settings of trials, what is kept of them, and what is printed."""

import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_dataset import write_dataset

import flows.search
from cnn.errors import ConfigError
from flows.cli.search import show_search
from flows.config import Config
from flows.search import (
    Search,
    apply_settings,
    check_searchable,
    describe_trial,
    keep_winner,
    run_trial,
    shorten_steps,
    trial_stage,
)
from flows.train import Training
from infra.storage.store import open_store
from tasks.search.journal import COMPLETE, FAILED, PRUNED, TrialRecord
from tasks.search.space import AUTO, TrialSettings
from tasks.search.trials import PrunedError, RunningTrial
from tasks.train.facts import read_dataset_facts
from tasks.train.spec import TrialResult

DRAWN = TrialSettings(what="scratch", fit={"recipe": "scratch", "steps": 60, "batch_size": 32, "learning_rate": 0.002})


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Search:
    monkeypatch.setattr(flows.search, "log_message", lambda line: None)
    manifest = write_dataset(tmp_path / "w", tmp_path / "s")
    store = open_store(str(tmp_path / "w"))
    facts = read_dataset_facts(store, manifest, 0)
    config = Config.model_validate({"fit": {"seed": 3, "minutes": 5.0}})
    registry: Any = SimpleNamespace(
        start_run=lambda *_: "run",
        finish_run=lambda *values: ended.append(values),
        log_epoch=lambda *_: None,
        log_dataset=lambda *_: None,
    )
    ended: list[Any] = []
    registry.ended = ended
    return Search(Training(manifest, "sq", str(tmp_path / "w"), config, store, registry, "k" * 64, lambda: facts))


def make_record(number: int, what: str, loss: float | None, state: str = COMPLETE) -> TrialRecord:
    result = None if loss is None else TrialResult(losses=(loss, loss), accuracy=0.9, steps=30, planned=40)
    return TrialRecord(number, TrialSettings(what=what), state, 1.0, 2.0, result)


def test_a_trial_has_the_settings_of_both_and_no_more_minutes_than_are_left() -> None:
    config = Config.model_validate({"fit": {"seed": 3, "minutes": 5.0}, "model": {"preset": "notes"}})
    settings = TrialSettings(what="x", model={"backbone": "efficientnet_lite0"}, fit={"steps": 9})
    both = apply_settings(config, settings, 2.5)
    assert (both.fit.seed, both.fit.steps, both.fit.minutes) == (3, 9, 2.5)
    assert (both.model.preset, both.model.backbone) == ("notes", "efficientnet_lite0")
    assert apply_settings(config, settings, 60.0).fit.minutes == 5.0
    assert apply_settings(Config(), settings, 60.0).fit.minutes == 60.0


def test_a_trial_is_the_same_training_each_time_it_is_opened(search: Search) -> None:
    one, same = (search.open_trial(4, DRAWN, 1 / 3) for _ in range(2))
    assert (one.key, one.choice, one.folder) == (same.key, same.choice, same.folder)
    assert (one.choice.plan.steps, one.choice.plan.batch_size) == (60, 32)
    assert search.open_trial(5, DRAWN, 1 / 3).key != one.key
    auto = search.open_trial(0, TrialSettings(what=AUTO), 5.0)
    assert auto.choice == search.base.choice


def test_small_images_are_searched_from_scratch(search: Search) -> None:
    space = search.declare_space()
    assert (space.recipes, space.backbones, space.list_heads()) == (("scratch",), (), [])
    assert space.plan_usual("scratch") == search.base.choice.plan


def test_files_of_trials_that_can_win_no_more_go(search: Search) -> None:
    records = [make_record(0, AUTO, 0.5), make_record(1, "b", 0.4), make_record(2, "c", 0.6)]
    folders = [search.open_trial(each.number, each.settings, each.minutes).folder for each in records]
    for folder in folders:
        folder.mkdir(parents=True)
    keep_winner(search, records[1:])  # auto is still to come
    assert all(folder.exists() for folder in folders)
    keep_winner(search, records)
    assert [folder.exists() for folder in folders] == [False, True, False]
    (folders[1] / "report.html").write_text("<p>")  # it became a version, before a longer search found a better one
    keep_winner(search, [*records, make_record(3, "d", 0.3)])
    assert folders[1].exists()


def run_one(search: Search, monkeypatch: pytest.MonkeyPatch, stage: Any) -> list[Any]:
    monkeypatch.setattr(flows.search, "run_stage", lambda name, work: work())
    monkeypatch.setattr(flows.search, "trial_stage", stage)
    trial: Any = SimpleNamespace(set_user_attr=lambda *_: None)
    run_trial(search, RunningTrial(0, DRAWN, 1.0, trial, lambda: 0.0), "parent")
    return search.base.registry.ended  # type: ignore[attr-defined, no-any-return]


def test_a_run_ends_with_its_trial(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    result = TrialResult(losses=(0.1,), accuracy=1.0)
    assert run_one(search, monkeypatch, lambda *_: result) == [("run", "FINISHED")]
    with pytest.raises(PrunedError):
        run_one(search, monkeypatch, lambda *_: None)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_one(search, monkeypatch, stop)
    assert search.base.registry.ended[-1] == ("run", "KILLED")  # type: ignore[attr-defined]


class FakeProcess:
    """A training process whose trial has one evaluation and then ends."""

    def __enter__(self) -> "FakeProcess":
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def measure(self, order: Any, on_evaluation: Any, on_progress: Any) -> TrialResult:
        on_progress("training", 10, order.plan.steps)
        on_evaluation({"step": 10.0, "epoch": 1.0, "val_accuracy": 0.5, "val_loss": 1.0, "images_per_second": 9.0})
        return TrialResult(losses=(0.1,), accuracy=1.0)


@pytest.mark.parametrize("pruned", [False, True])
def test_evaluations_reach_the_trial_which_may_end_by_them(
    search: Search, monkeypatch: pytest.MonkeyPatch, pruned: bool
) -> None:
    monkeypatch.setattr(flows.search, "TrainingProcess", FakeProcess)
    reported: dict[int, float] = {}
    trial: Any = SimpleNamespace(
        set_user_attr=lambda *_: None,
        report=lambda value, part: reported.update({part: value}),
        should_prune=lambda: pruned,
    )
    running = RunningTrial(1, DRAWN, 1.0, trial, lambda: 7.0)
    result = trial_stage(search.open_trial(1, DRAWN, 1.0), running, "run")
    assert reported == {2: 0.5}  # 10 of 60 steps
    assert (result is None) == pruned


def test_without_validation_images_nothing_can_be_compared(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "w", tmp_path / "s", per_class={"train": 4, "test": 2})
    with pytest.raises(ConfigError, match=r"no validation images.*raise split\.validation"):
        check_searchable(manifest)


def test_a_deployment_is_refused_before_anything_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.search, "prepare_dataset", pytest.fail)
    config = Config.model_validate({"train": {"deployment": "train/gpu"}})
    with pytest.raises(ConfigError, match=r"without train\.deployment"):
        flows.search.search.fn("/nowhere", "sq", 1.0, "/nowhere", config)


def test_steps_are_those_that_there_was_time_for() -> None:
    settings = TrialSettings(what="x", fit={"recipe": "scratch", "steps": 60})
    short = TrialRecord(0, settings, COMPLETE, 1.0, 1.0, TrialResult(losses=(1.0,), accuracy=1.0, steps=40, planned=40))
    assert shorten_steps(short).fit == {"recipe": "scratch", "steps": 40}
    whole = TrialRecord(0, settings, COMPLETE, 1.0, 1.0, TrialResult(losses=(1.0,), accuracy=1.0, steps=60, planned=60))
    assert shorten_steps(whole) == settings


def test_each_end_of_a_trial_is_told() -> None:
    assert describe_trial(make_record(0, AUTO, 0.25)) == (
        "trial 0 (auto): log loss 0.2500, accuracy 0.9000 on 2 validation images in 1 s"
    )
    assert describe_trial(make_record(1, "b", None, PRUNED)).endswith(
        "pruned after 1 s: worse than half of the others at this point"
    )
    assert describe_trial(make_record(2, "c", None, FAILED)) == "trial 2 (c): failed after 1 s: it was stopped"


def test_the_table_and_the_lines_for_the_settings_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"trial": 0, "what": AUTO, "state": COMPLETE, "log_loss": 0.5, "accuracy": 0.9, "seconds": 12.34}]
    rows.append({"trial": 1, "what": "scratch", "state": PRUNED, "log_loss": None, "accuracy": None, "seconds": 3.0})
    version = {"model": "sq", "version": 1, "gate": {"verdict": "promote", "reasons": ["first version"]}}
    show_search({"trials": rows, "winner": 0, "settings": [], "version": version})
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines()]
    assert ["0", "auto", "winner", "0.5", "0.9", "12.3"] in lines
    assert ["1", "scratch", "pruned", "-", "-", "3"] in lines
    assert "it needs no settings" in text
    show_search({"trials": rows, "winner": 1, "settings": DRAWN.to_lines(), "version": version})
    assert tomllib.loads(capsys.readouterr().out.partition("retrain does the same:")[2]) == {"fit": DRAWN.fit}
