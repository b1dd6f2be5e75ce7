"""A run that nobody watches goes on after an outage; a person gets one line at once."""

import pytest

import flows.runs.outages
from cnn.errors import ConfigError, ServerOutageError
from flows.runs.outages import PAUSES, survive_outages

FAULT = ServerOutageError("MLflow at http://mlflow:5000 does not answer")


class Work:
    """Work that meets so many outages, and then ends."""

    def __init__(self, outages: int) -> None:
        self.left, self.calls = outages, 0

    def run(self) -> str:
        self.calls += 1
        self.left -= 1
        if self.left >= 0:
            raise FAULT
        return "done"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(flows.runs.outages, "log_message", lines.append)
    monkeypatch.setattr(flows.runs.outages, "is_unattended", lambda: True)
    return lines


def test_a_run_of_a_deployment_goes_on_after_outages(told: list[str]) -> None:
    work, pauses = Work(outages=2), list[float]()
    assert survive_outages(work.run, pauses.append) == "done"
    assert (work.calls, pauses) == (3, list(PAUSES[:2]))
    assert told == [
        f"{FAULT}; the run goes on in 30 s (1 of 3)",
        f"{FAULT}; the run goes on in 2 min 0 s (2 of 3)",
    ]


def test_it_ends_when_a_server_stays_away(told: list[str]) -> None:
    work, pauses = Work(outages=100), list[float]()
    with pytest.raises(ServerOutageError):
        survive_outages(work.run, pauses.append)
    assert (work.calls, pauses) == (len(PAUSES) + 1, list(PAUSES))


def test_what_is_no_outage_ends_it_at_once(told: list[str]) -> None:
    def fail() -> None:
        raise ConfigError("no such setting")

    with pytest.raises(ConfigError):
        survive_outages(fail, lambda seconds: pytest.fail("it waited"))
    assert told == []


def test_whoever_runs_a_command_gets_the_line_at_once(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    work = Work(outages=1)
    with pytest.raises(ServerOutageError):
        survive_outages(work.run, lambda seconds: pytest.fail("it waited"))
    assert work.calls == 1
