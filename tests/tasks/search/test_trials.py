"""The trials of a search: what is tried first, what wins, and that a search which was killed goes on."""

import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn.errors import IntegrityError, StorageError, TrainingError
from cnn.models.architecture import ModelSpec
from cnn.training.plan import TrainingSize, plan_fit
from cnn.training.spec import FitPlan, FitSpec, Recipe
from tasks.search.journal import (
    COMPLETE,
    FAILED,
    JOURNAL,
    PRUNED,
    Journal,
    TrialRecord,
    cut_torn_end,
    open_journal,
)
from tasks.search.space import (
    AUTO,
    BATCHES,
    RATES,
    USUAL_BATCHES,
    SearchSpace,
    TrialSettings,
    choose_backbones,
    choose_recipes,
)
from tasks.search.trials import RunningTrial, TrialLoop, choose_winner
from tasks.train.spec import TrialResult

LITE = ("efficientnet_lite0", "efficientnet_lite2")
SIZE = TrainingSize(600, may_mirror=True)


def make_space(
    recipes: tuple[Recipe, ...] = ("balanced", "best"), backbones: tuple[str, ...] = LITE, **fit: object
) -> SearchSpace:
    spec = FitSpec.model_validate(fit)

    def plan_usual(recipe: Recipe) -> FitPlan:
        return plan_fit(spec, recipe, SIZE)

    return SearchSpace(recipes, backbones, spec, plan_usual)


class Clock:
    """Seconds that pass only where a trial takes some."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Lab:
    """Runs trials that take a minute each, and whose losses are as given by what is tried."""

    def __init__(
        self, folder: Path, minutes: float, losses: dict[str, float], space: SearchSpace | None = None
    ) -> None:
        self.folder, self.minutes, self.losses = folder, minutes, losses
        self.space = space or make_space()
        self.clock = Clock()
        self.tried: list[tuple[str, float]] = []
        self.ended: list[str] = []
        self.act: Callable[[RunningTrial], None] = lambda trial: None

    @contextmanager
    def open(self) -> Iterator[tuple[TrialLoop, Journal]]:
        with open_journal(self.folder, seed=0) as journal:
            journal.fail_running()
            yield TrialLoop(journal, self.space, self.minutes, self.note, self.clock), journal

    def note(self, record: TrialRecord) -> None:
        self.ended.append(f"{record.settings.what}: {record.state}")

    def run_trial(self, trial: RunningTrial) -> TrialResult:
        self.tried.append((trial.settings.what, trial.minutes))
        self.clock.now += 60.0
        self.act(trial)
        loss = self.losses.get(trial.settings.what, 0.5)
        return make_result(loss)

    def search(self) -> list[TrialRecord]:
        with self.open() as (loop, _):
            return loop.run(self.run_trial)


def make_result(loss: float, noise: float = 0.0) -> TrialResult:
    losses = loss + noise * np.random.default_rng(0).standard_normal(40)
    return TrialResult(losses=tuple(losses.tolist()), accuracy=0.9)


def test_auto_and_heads_come_first_and_the_minutes_bound_all(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 6.0, {})
    records = lab.search()
    assert [what for what, _ in lab.tried[:3]] == [AUTO, "head on efficientnet_lite0", "head on efficientnet_lite2"]
    assert [minutes for _, minutes in lab.tried] == [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    assert [record.number for record in records] == list(range(6))
    assert {record.settings.fit["recipe"] for record in records[3:]} <= {"balanced", "best"}
    assert lab.search() == records  # nothing is left, so nothing is tried
    assert len(lab.tried) == 6


def test_more_minutes_go_on_with_the_same_search(tmp_path: Path) -> None:
    first = Lab(tmp_path, 3.0, {}).search()
    more = Lab(tmp_path, 5.0, {})
    assert more.search()[:3] == first
    assert [minutes for _, minutes in more.tried] == [2.0, 1.0]
    assert AUTO not in [what for what, _ in more.tried]


def test_a_search_that_was_stopped_tries_auto_again_with_the_minutes_that_are_left(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 4.0, {})

    def stop(trial: RunningTrial) -> None:
        raise KeyboardInterrupt

    lab.act = stop
    with pytest.raises(KeyboardInterrupt):
        lab.search()
    lab.act = lambda trial: None
    records = lab.search()
    assert [(record.settings.what, record.state) for record in records[:2]] == [(AUTO, FAILED), (AUTO, COMPLETE)]
    assert lab.tried[1] == (AUTO, 3.0)


def test_a_search_whose_auto_fails_says_why(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 4.0, {})

    def fail(trial: RunningTrial) -> None:
        raise TrainingError("the loss is no number")

    lab.act = fail
    with pytest.raises(TrainingError, match="the loss is no number"):
        lab.search()
    with pytest.raises(TrainingError, match="with more --minutes"), lab.open() as (_, journal):
        choose_winner(journal.read_records())


def test_trials_that_fail_do_not_go_on_for_ever(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 60.0, {})

    def fail(trial: RunningTrial) -> None:
        if trial.settings.what != AUTO:
            raise TrainingError("out of memory")

    lab.act = fail
    records = lab.search()
    assert [record.state for record in records] == [COMPLETE, FAILED, FAILED, FAILED]
    assert [record.error for record in records] == ["", *["out of memory"] * 3]
    assert choose_winner(records).settings.what == AUTO


def test_a_training_that_is_worse_than_the_others_is_ended_early(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 12.0, {})
    ends: list[int] = []

    def report(trial: RunningTrial) -> None:
        if trial.settings.fit.get("recipe") == "quick":
            return
        for part in range(11):
            ends.append(part)
            trial.report(10 * part, 100, 0.1 if trial.number == 8 else 0.5 + part / 25)

    lab.act = report
    records = lab.search()
    assert [record.number for record in records if record.state == PRUNED] == [8]
    assert records[8].result is None
    assert ends.count(10) == len(records) - 3  # heads have no parts, the pruned one has not come to its end


def test_reports_of_one_tenth_count_once_and_keep_the_seconds(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 1.0, {})

    def report(trial: RunningTrial) -> None:
        for step in (0, 1, 2, 100):
            trial.report(step, 100, 0.9)

    lab.act = report
    lab.search()
    with lab.open() as (_, journal):
        (trial,) = journal.study.get_trials()
    assert trial.intermediate_values == {0: pytest.approx(0.1), 10: pytest.approx(0.1)}
    assert trial.user_attrs["seconds"] == 60.0


def test_only_one_process_has_a_search_open(tmp_path: Path) -> None:
    with (
        open_journal(tmp_path, 0),
        pytest.raises(StorageError, match="running in another process"),
        open_journal(tmp_path, 0),
    ):
        pytest.fail("it was opened twice")


def record(number: int, what: str, result: TrialResult | None, state: str = COMPLETE) -> TrialRecord:
    return TrialRecord(number, TrialSettings(what=what), state, 1.0, 1.0, result)


def test_the_winner_beats_auto_by_more_than_noise_or_is_auto() -> None:
    auto = record(0, AUTO, make_result(0.30))
    worse, better, best = (
        record(1, "a", make_result(0.31)),
        record(2, "b", make_result(0.2)),
        record(3, "c", make_result(0.1)),
    )
    assert choose_winner([auto, worse]) == auto
    assert choose_winner([auto, worse, better, best]) == best
    assert choose_winner([worse, best, auto]) == best
    by_luck = record(4, "d", make_result(0.29, noise=1.0))
    assert choose_winner([auto, by_luck]) == auto
    assert choose_winner([auto, record(5, "e", make_result(0.0), PRUNED)]) == auto


def test_a_line_that_was_half_written_is_cut_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 2.0, {})
    records = lab.search()
    path = tmp_path / JOURNAL
    with path.open("ab") as file:
        file.write(b'{"op_code":4,"wor')
    more = Lab(tmp_path, 3.0, {})
    assert more.search()[:2] == records
    assert [json.loads(line) for line in path.read_bytes().splitlines()]
    path.write_bytes(b"{}\nno line\n" + path.read_bytes())
    with pytest.raises(IntegrityError, match=r"journal\.log, line 2: damaged"):
        cut_torn_end(path)


KILLED = """
import sys
from pathlib import Path
from typing import Any
sys.path[:0] = {path!r}
from test_trials import Lab
lab = Lab(Path(sys.argv[1]), 5.0, {{}})
def report(trial):
    trial.report(10, 100, 0.9)
    if trial.number == 2:
        print("begun", flush=True)
        sys.stdin.read()
lab.act = report
lab.search()
"""


def test_a_search_that_was_killed_goes_on(tmp_path: Path) -> None:
    script = KILLED.format(path=[str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        os.kill(process.pid, signal.SIGKILL)
    lab = Lab(tmp_path, 5.0, {})
    records = lab.search()
    assert [(record.state, record.seconds) for record in records] == [(COMPLETE, 60.0)] * 2 + [(FAILED, 60.0)] + [
        (COMPLETE, 60.0)
    ] * 2
    assert lab.tried[0] == ("head on efficientnet_lite2", 2.0)  # the one that was killed, with what is left


@given(st.integers(0, 2**31), st.sampled_from([("balanced", "best"), ("scratch",)]))
def test_what_is_drawn_is_in_the_space_and_reads_as_settings(seed: int, recipes: tuple[Recipe, ...]) -> None:
    space = make_space(recipes, LITE if "best" in recipes else ())
    settings = space.draw(RandomDraw(seed))
    assert settings is not None
    values = tomllib.loads("\n".join(settings.to_lines()))
    fit, model = FitSpec.model_validate(values["fit"]), ModelSpec.model_validate(values.get("model", {}))
    assert fit.recipe in recipes
    plan = plan_fit(fit, fit.recipe, SIZE)
    usual = space.plan_usual(plan.recipe)
    assert RATES[0] * 0.95 <= plan.learning_rate / usual.learning_rate <= RATES[1] * 1.05
    assert plan.batch_size in BATCHES.get(plan.recipe, USUAL_BATCHES)
    images = usual.steps * usual.batch_size
    assert 0.45 * images <= plan.steps * plan.batch_size <= 2.1 * images
    assert (model.backbone in LITE) if "best" in recipes else not model.is_chosen


class RandomDraw:
    """Proposes anything that it is allowed to."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return choices[int(self.random.integers(len(choices)))]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(np.exp(self.random.uniform(np.log(low), np.log(high))))


def test_what_the_user_has_set_is_not_searched() -> None:
    fixed = {"learning_rate": 0.01, "steps": 7, "batch_size": 4, "label_smoothing": 0.1, "augment": "light"}
    space = make_space(("balanced",), ("efficientnet_lite0",), recipe="balanced", **fixed)
    settings = space.draw(RandomDraw(0))
    assert settings is not None
    assert settings.fit == {"recipe": "balanced"}
    assert space.list_heads() == []
    assert set(make_space(epochs=3).draw(RandomDraw(0)).fit) <= {  # type: ignore[union-attr]
        "recipe",
        "learning_rate",
        "label_smoothing",
        "augment",
    }


def test_recipes_and_backbones_follow_the_images_and_the_user() -> None:
    photographs = ModelSpec(backbone="efficientnet_lite0", weights="imagenet")
    assert choose_recipes(FitSpec(), "balanced") == ("balanced", "best")
    assert choose_recipes(FitSpec(), "scratch") == ("scratch",)
    assert choose_recipes(FitSpec(recipe="quick"), "quick") == ("quick",)
    assert choose_backbones(photographs, photographs, (224, 224)) == ()
    assert choose_backbones(ModelSpec(), ModelSpec(preset="residual"), (32, 32)) == ()
    assert set(LITE) <= set(choose_backbones(ModelSpec(), photographs, (224, 224)))


def test_where_only_heads_are_asked_for_the_search_ends_with_them(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 60.0, {}, make_space(("quick",), recipe="quick"))
    lab.search()
    assert [what for what, _ in lab.tried] == [AUTO, *(f"head on {name}" for name in LITE)]
