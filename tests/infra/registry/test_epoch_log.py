"""Figures of a training reach MLflow once each, whatever MLflow does meanwhile, and nobody waits for them."""

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from registries import open_registry

from cnn.errors import ServerOutageError
from infra.registry import epoch_log
from infra.registry.epoch_log import EpochLog


class Store:
    """A store of figures that can be away; it keeps what it was given as MLflow does, once for each time."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, float], Mapping[str, float]] = {}
        self.is_away = False
        self.asked: list[int] = []
        self.came = threading.Event()

    def log_epoch(self, run_id: str, metrics: Mapping[str, float], step: int, at: float | None = None) -> None:
        self.asked.append(step)
        self.came.set()
        if self.is_away:
            raise ServerOutageError("MLflow does not answer")
        assert at is not None
        self.kept[step, at] = metrics

    def list_steps(self, run_id: str, metric: str) -> set[int]:
        return {step for (step, _), metrics in self.kept.items() if metric in metrics}

    @property
    def steps(self) -> list[int]:
        return sorted(step for step, _ in self.kept)


def test_figures_arrive_while_the_training_goes_on() -> None:
    store = Store()
    with EpochLog(store, "run") as epochs:
        epochs.add({"loss": 0.5}, 10)
        assert store.came.wait(10)
        epochs.add({"loss": 0.4}, 20)
        epochs.finish()
    assert store.steps == [10, 20]
    assert store.asked == [10, 20]


def test_figures_that_were_refused_are_sent_when_the_training_has_ended() -> None:
    store = Store()
    store.is_away = True
    with EpochLog(store, "run") as epochs:
        epochs.add({"loss": 0.5}, 10)
        assert store.came.wait(10)
        store.is_away = False
        epochs.add({"loss": 0.4}, 20)
        epochs.finish([{"step": 10.0, "epoch": 1.0, "loss": 0.5}, {"step": 20.0, "epoch": 2.0, "loss": 0.4}])
    assert store.steps == [10, 20]
    assert list(store.kept.values()) != [{}, {}]


def test_figures_of_a_run_that_ended_before_it_sent_them_are_sent_by_the_next() -> None:
    store = Store()
    store.kept[10, 1.0] = {"loss": 0.5}
    history = [{"step": float(step), "epoch": 1.0, "loss": 0.1, "val_loss": None} for step in (10, 20, 30)]
    with EpochLog(store, "run") as epochs:
        epochs.add({"loss": 0.1}, 30)
        epochs.finish(history)
    assert store.steps == [10, 20, 30]
    assert store.kept[10, 1.0] == {"loss": 0.5}
    assert {tuple(metrics) for metrics in store.kept.values()} == {("loss",)}


def test_a_server_that_stays_away_ends_the_run_and_not_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    store.is_away = True
    with EpochLog(store, "run") as epochs:
        for step in range(5):
            epochs.add({"loss": 0.1}, step)
        with pytest.raises(ServerOutageError):
            epochs.finish()
    assert store.steps == []


def test_a_request_that_hangs_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch_log, "END_SECONDS", 0.05)
    store, release = Store(), threading.Event()
    real = store.log_epoch

    def hang(*values: object, **named: object) -> None:
        store.came.set()
        release.wait(30)

    store.log_epoch = hang  # type: ignore[method-assign]
    epochs = EpochLog(store, "run")
    epochs.add({"loss": 0.1}, 1)
    assert store.came.wait(10)
    epochs.add({"loss": 0.2}, 2)
    store.log_epoch = real  # type: ignore[method-assign]
    epochs.finish()
    release.set()
    assert store.steps == [1, 2]


def test_the_same_figures_sent_twice_are_one_in_mlflow(tmp_path: Path) -> None:
    with open_registry(tmp_path) as registry:
        run = registry.start_run("birds", "a" * 64, {})
        for _ in range(2):
            registry.log_epoch(run, {"loss": 0.5}, 10, at=1000.0)
        registry.log_epoch(run, {"loss": 0.4}, 20, at=1001.0)
        assert registry.list_steps(run, "loss") == {10, 20}
        assert registry.list_steps(run, "val_loss") == set()
        assert len(registry._ask("get_metric_history", run, "train_loss")) == 2
