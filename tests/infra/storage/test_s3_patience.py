"""How long S3 is asked again, by a clock that only pauses move; and a server that refuses connections for seconds."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, IncompleteReadError, NoCredentialsError
from faulty_s3 import BUCKET, Fault, Memory, reach_faulty_s3

import infra.storage.s3
from cnn.errors import OutageError, SourceOutageError, StorageError, StorageOutageError
from infra.machine.outages import announce_outages, log_outage
from infra.storage.s3_errors import is_s3_outage
from infra.storage.s3_patience import FIRST_SECONDS, PATIENCE_SECONDS, PAUSES, S3Patience
from infra.storage.store import open_source, open_store

REFUSED = EndpointConnectionError(endpoint_url="http://127.0.0.1:1")


class Requests:
    """Requests of one client, whose pauses move the clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.patience = S3Patience(lambda: self.now)

    def ask(self, fault: BaseException | dict[str, Any], until: float) -> bool:
        """Whether a request is answered before it is given up, where the fault ends at this moment."""
        context: dict[str, Any] = {"context": {}}
        for attempt in range(1, 1000):
            over = self.now >= until
            caught = fault if isinstance(fault, BaseException) and not over else None
            response = None if caught is not None else (None, {} if over else fault)
            pause = self.patience.choose_pause(
                response=response, caught_exception=caught, attempts=attempt, request_dict=context, operation=None
            )
            if pause is None:
                return over
            assert 0.0 < pause <= 8.0
            self.now += pause
        raise AssertionError("it is asked for ever")


def an_answer(status: int, code: str = "") -> dict[str, Any]:
    return {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code}}


@pytest.mark.parametrize(
    "fault", [REFUSED, an_answer(503, "SlowDown"), an_answer(500), an_answer(400, "RequestTimeout")]
)
def test_a_server_that_has_answered_is_waited_for_a_minute(fault: BaseException | dict[str, Any]) -> None:
    requests = Requests()
    assert requests.ask(fault, until=3.0)
    began = requests.now
    assert requests.ask(fault, until=began + 50.0)
    began = requests.now
    assert not requests.ask(fault, until=began + 1e9)
    assert requests.now == pytest.approx(began + PATIENCE_SECONDS, abs=PAUSES[0])


def test_a_server_that_never_answered_is_given_up_sooner() -> None:
    requests = Requests()
    assert not requests.ask(REFUSED, until=1e9)
    assert requests.now == pytest.approx(FIRST_SECONDS, abs=PAUSES[0])


@pytest.mark.parametrize("fault", [an_answer(404, "NoSuchKey"), an_answer(403, "AccessDenied"), NoCredentialsError()])
def test_what_is_an_answer_is_not_asked_for_again(fault: BaseException | dict[str, Any]) -> None:
    requests = Requests()
    assert not requests.ask(fault, until=1e9)
    assert requests.now == 0.0


def test_an_outage_is_told_once_and_its_end_too() -> None:
    requests, told = Requests(), list[str]()
    with announce_outages(told.append):
        assert requests.ask(REFUSED, until=1.0)
        assert told == []
        assert requests.ask(REFUSED, until=requests.now + 30.0)
        assert not requests.ask(REFUSED, until=1e9)
    log_outage("nobody hears this")
    assert told == [
        "S3: AWS does not answer; each request is sent again for 60 s",
        "S3: AWS answers again",
        "S3: AWS does not answer; each request is sent again for 60 s",
    ]


def test_the_fault_behind_that_of_an_upload_counts() -> None:
    from boto3.exceptions import S3UploadFailedError

    def upload(fault: Exception) -> Exception:
        try:
            try:
                raise fault
            except Exception as error:
                raise S3UploadFailedError("Failed to upload") from error
        except S3UploadFailedError as error:
            return error

    answer: Any = an_answer(503, "SlowDown")
    denied: Any = an_answer(403, "AccessDenied")
    assert is_s3_outage(upload(REFUSED))
    assert is_s3_outage(upload(ClientError(answer, "PutObject")))
    assert not is_s3_outage(upload(ClientError(denied, "PutObject")))
    assert is_s3_outage(IncompleteReadError(actual_bytes=1, expected_bytes=2))
    assert not is_s3_outage(None)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Memory]:
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "home"))
    with reach_faulty_s3(monkeypatch) as memory:
        yield memory


def test_a_store_is_asked_more_often_than_botocore_would(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infra.storage.s3_patience, "PAUSES", (0.001,))
    memory.reset({"work/a": b"1"}, Fault(1, "503 SlowDown", lasts=20))
    assert open_store(f"s3://{BUCKET}/work").read("a") == b"1"
    assert memory.passed == 21
    memory.reset({}, Fault(1, "reset", lasts=20))
    open_store(f"s3://{BUCKET}/work").write("b", b"2")
    assert memory.objects["work/b"][0] == b"2"
    memory.reset({"work/a": b"1"}, Fault(1, "500 InternalError", lasts=20))
    assert [entry.path for entry in open_source(f"s3://{BUCKET}/work").list()] == ["a"]


@pytest.mark.usefixtures("impatient_s3")
def test_an_outage_that_lasts_is_told_from_other_faults(memory: Memory) -> None:
    memory.reset({"work/a": b"1"}, Fault(1, "503 SlowDown", lasts=100))
    with pytest.raises(StorageOutageError, match=r"^cannot read s3://.*overloaded; run again later$"):
        open_store(f"s3://{BUCKET}/work").read("a")
    with pytest.raises(SourceOutageError, match=r"^cannot list s3://"):
        list(open_source(f"s3://{BUCKET}/work").list())
    memory.reset({}, Fault())
    with pytest.raises(StorageError, match="it is not there") as caught:
        open_store(f"s3://{BUCKET}/work").read("a")
    assert not isinstance(caught.value, OutageError)


def test_lines_come_from_any_thread() -> None:
    told = list[str]()
    with announce_outages(told.append):
        thread = threading.Thread(target=log_outage, args=("gone",))
        thread.start()
        thread.join()
    assert told == ["gone"]
