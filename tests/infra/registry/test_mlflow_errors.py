"""Which errors of MLflow's client say that a server is away; then the same question is asked again, for a while."""

from types import SimpleNamespace
from typing import Any

import pytest
import requests
from mlflow.exceptions import MlflowException

from cnn.errors import OutageError, RegistryError, ServerOutageError
from infra.machine.outages import announce_outages
from infra.registry.mlflow_client import RETRY_SECONDS, MlflowConnection
from infra.registry.mlflow_errors import is_away

REFUSED = "API request to http://127.0.0.1:5000/api/2.0/mlflow/runs/log-batch failed with exception HTTPConnectionPool"
AWAY = [
    MlflowException(f"{REFUSED}: Max retries exceeded with url: (Caused by NewConnectionError('Connection refused'))"),
    MlflowException("API request to endpoint /api/2.0/x failed with error code 503 != 200. Response body: ''"),
    MlflowException("The following failures occurred while uploading: x: ConnectionError('Connection aborted.')"),
    requests.exceptions.ConnectionError("Max retries exceeded with url: /x (Caused by NewConnectionError)"),
    requests.exceptions.HTTPError("502 Server Error: Bad Gateway for url"),
]
REFUSALS = [
    MlflowException("API request to endpoint /api/2.0/x failed with error code 404 != 200. Response body: 'nginx'"),
    MlflowException("INVALID_PARAMETER_VALUE: Model name must not be empty"),
    requests.exceptions.HTTPError("403 Client Error: Forbidden for url"),
    OSError("Connection refused"),  # none of MLflow's
]


class ScriptedConnection(MlflowConnection):
    """A connection whose client gives these answers, by a clock that only its pauses move."""

    def __init__(self, answers: list[object]) -> None:
        self.now, self.answers, self.asked = 0.0, answers, 0
        super().__init__("http://mlflow:5000", None, sleep=self.sleep, elapsed=lambda: self.now)
        self.__dict__["_client"] = SimpleNamespace(ask=self.answer)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def answer(self) -> object:
        self.asked += 1
        self.now += 28.0  # what MLflow's client waits by itself
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(found, Exception):
            raise found
        return found


@pytest.mark.parametrize("error", AWAY)
def test_a_server_that_is_away_is_told_from_one_that_refuses(error: Exception) -> None:
    assert is_away(error)


@pytest.mark.parametrize("error", REFUSALS)
def test_a_refusal_is_an_answer(error: Exception) -> None:
    assert not is_away(error)


@pytest.mark.parametrize("error", AWAY)
def test_a_server_that_has_answered_is_asked_again_and_that_is_told(error: Exception) -> None:
    connection, told = ScriptedConnection(["one", error, error, "two"]), list[str]()
    with announce_outages(told.append):
        assert connection._ask("ask") == "one"
        assert connection._ask("ask") == "two"
    assert told == [
        f"MLflow: http://mlflow:5000 does not answer; it is asked again for {RETRY_SECONDS:.0f} s",
        "MLflow: http://mlflow:5000 answers again",
    ]


def test_it_ends_as_an_outage_in_one_line_after_a_while() -> None:
    connection = ScriptedConnection(["one", AWAY[0]])
    connection._ask("ask")
    with pytest.raises(
        ServerOutageError, match=r"does not answer \(API request.*; check MLFLOW_TRACKING_URI$"
    ) as caught:
        connection._ask("ask")
    assert "\n" not in str(caught.value)
    assert RETRY_SECONDS < connection.now < RETRY_SECONDS + 90.0
    with pytest.raises(ServerOutageError, match="does not answer"):
        ScriptedConnection([AWAY[3]])._ask("ask")


def test_a_server_that_never_answered_is_not_waited_for() -> None:
    connection = ScriptedConnection([AWAY[0]])
    with pytest.raises(ServerOutageError):
        connection._ask("ask")
    assert connection.asked == 1


@pytest.mark.parametrize("error", REFUSALS[:2])
def test_a_refusal_is_raised_at_once_and_is_no_outage(error: Exception) -> None:
    connection = ScriptedConnection(["one", error])
    connection._ask("ask")
    with pytest.raises(RegistryError) as caught:
        connection._ask("ask")
    assert (connection.asked, isinstance(caught.value, OutageError)) == (2, False)


def test_a_version_whose_making_was_not_answered_is_not_made_twice() -> None:
    from infra.registry.registry import Registry

    made: list[str] = []
    registry = Registry("http://mlflow:5000", None, sleep=lambda seconds: None)
    registry._has_answered = True

    def search(query: str, max_results: int) -> list[Any]:
        return [SimpleNamespace(version="1")] if made else []

    def make(*values: object, **named: object) -> None:
        made.append("version")
        raise AWAY[0]

    client = SimpleNamespace(search_model_versions=search, create_model_version=make)
    registry.__dict__["_client"] = client
    assert registry._make_version("birds", "run", "mlflow-artifacts:/x", {}) == 1
    assert made == ["version"]
