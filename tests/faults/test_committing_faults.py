"""The N-th call of a scoring fails, kills, or another run is faster: the batch is whole or not there."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from batch_scenes import check_batches, check_healed, score_folder, write_inbox
from faults import TALLY, Gate, failing_store, failing_system, gated_store, is_fit
from runners import open_runner
from scenes import Scene, look_at

from cnn.errors import SafelightError


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Path]:
    """Seven files, one of them no picture; nothing may be written here."""
    folder = write_inbox(tmp_path / "in")
    before = look_at(folder)
    yield folder
    assert look_at(folder) == before


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_every_storage_operation_fails_in_turn(inbox: Path, tmp_path: Path, after: bool) -> None:
    workspace, number = tmp_path / "out", 0
    while True:
        number += 1
        shutil.rmtree(workspace, ignore_errors=True)
        with failing_store(number, after) as gate:
            try:
                score_folder(inbox, workspace)
            except SafelightError as error:
                told = str(error)
                check_batches(inbox, workspace)
                assert is_fit(told)
        check_healed(inbox, workspace)
        if gate.passed < number:
            break
        TALLY["a storage operation fails in scoring", "injected"] += 1
    assert number > 20


@pytest.mark.parametrize(("call", "code"), [("replace", 5), ("fsync", 5), ("open", 28), ("unlink", 13), ("mkdir", 30)])
def test_every_system_call_fails_in_turn(inbox: Path, tmp_path: Path, call: str, code: int) -> None:
    workspace, number = tmp_path / "out", 0
    while True:
        number += 1
        shutil.rmtree(workspace, ignore_errors=True)
        with failing_system(workspace, call, number, code) as gate:
            try:
                score_folder(inbox, workspace)
            except SafelightError as error:
                assert is_fit(str(error))  # noqa: PT017
        check_healed(inbox, workspace)
        if gate.passed < number:
            break
        TALLY["a system call fails in scoring", "injected"] += 1
    assert number > 1


def test_another_run_of_the_same_batch_may_overtake_at_any_moment(inbox: Path, tmp_path: Path) -> None:
    workspace, number = tmp_path / "out", 0
    while True:
        number += 1
        shutil.rmtree(workspace, ignore_errors=True)
        gate = Overtaken(number, inbox, workspace)
        with gated_store(gate):
            record = score_folder(inbox, workspace)
        assert record.files == 7
        check_healed(inbox, workspace)
        if gate.passed < number:
            break
        TALLY["another run of the same batch overtakes", "injected"] += 1
    assert number > 20


@pytest.mark.soak
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", ["store", "system"])
def test_kill_9_at_every_call_of_a_scoring(inbox: Path, tmp_path: Path, at: str, after: bool) -> None:
    assert kill_everywhere(inbox, tmp_path / "out", at, after, 1) > 20


@pytest.mark.parametrize("at", ["store", "system"])
def test_kill_9_at_some_calls_of_a_scoring(inbox: Path, tmp_path: Path, at: str) -> None:
    assert kill_everywhere(inbox, tmp_path / "out", at, False, 13) > 1


def kill_everywhere(inbox: Path, workspace: Path, at: str, after: bool, step: int) -> int:
    """Kill at every `step`-th call until a run is not reached; returns how many runs were killed."""
    number, runs, killed = 1, -1, True
    with open_runner() as runner:
        while killed:
            shutil.rmtree(workspace, ignore_errors=True)
            runner.send(Scene(inbox, workspace), workspace, work="score", at=at, number=number, after=after)
            _, killed = runner.receive()
            check_healed(inbox, workspace)
            TALLY[f"kill -9 at a {at} call in scoring", "injected"] += killed
            number, runs = number + step, runs + 1
    return runs


class Overtaken(Gate):
    """At its N-th passage another run of the same command begins and ends."""

    def __init__(self, number: int, inbox: Path, workspace: Path) -> None:
        super().__init__(number, lambda name: self.overtake(inbox, workspace))

    def overtake(self, inbox: Path, workspace: Path) -> None:
        self.inside = True  # the other run passes without being counted
        score_folder(inbox, workspace)
        self.inside = False
