"""S3 by scripted answers, for what a real server seldom says, and without any: addresses, settings, secrets."""

import io
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import IncompleteReadError
from botocore.response import StreamingBody
from botocore.stub import Stubber

import infra.storage.s3
from cnn.errors import BadImage, ConfigError, SourceError, StorageError
from infra.storage.entry import MOST_BYTES, Entry
from infra.storage.s3 import make_s3_client, split_s3_uri
from infra.storage.store import Source, Store, open_source, open_store

SECRET = "hunter2-secret"
KEY = "AKIAHUNTER2"


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    """The answers that the client gets, in order; every one must be asked for."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    make_s3_client.cache_clear()
    client = make_s3_client((("AWS_REGION", "eu-west-1"),))
    monkeypatch.setattr(infra.storage.s3, "make_s3_client", lambda environment: client)
    with Stubber(client) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()
    make_s3_client.cache_clear()


def a_body(data: bytes, length: int | None = None) -> StreamingBody:
    return StreamingBody(io.BytesIO(data), len(data) if length is None else length)


def an_answer(data: bytes, etag: str = '"v1"', length: int | None = None) -> dict[str, Any]:
    return {"Body": a_body(data, length), "ETag": etag, "ContentLength": length or len(data)}


def a_page(*keys: str, following: str = "", **more: Any) -> dict[str, Any]:
    items = [{"Key": f"in/{key}", "Size": 1, "ETag": '"e"', **more} for key in keys]
    return {"Contents": items} | ({"IsTruncated": True, "NextContinuationToken": following} if following else {})


def test_every_page_is_listed_and_archives_are_told(stub: Stubber) -> None:
    where = {"Bucket": "bucket", "Prefix": "in/"}
    stub.add_response("list_objects_v2", a_page("z", "b", following="t", StorageClass="GLACIER"), where)
    stub.add_response("list_objects_v2", a_page("a"), where | {"ContinuationToken": "t"})
    found = {(entry.path, entry.problem) for entry in open_source("s3://bucket/in").list()}
    assert found == {("a", None), ("b", "archived"), ("z", "archived")}


def test_an_object_is_listed_with_the_time_when_it_was_written(stub: Stubber) -> None:
    stub.add_response("list_objects_v2", a_page("a", LastModified=datetime(2026, 11, 23, 2, 15, tzinfo=UTC)))
    (found,) = open_source("s3://bucket/in").list()
    assert found == Entry("a", 1, "e", None, 1795400100.0)
    stub.add_response("list_objects_v2", a_page("a"))  # a store that does not tell
    assert list(open_source("s3://bucket/in").list()) == [Entry("a", 1, "e")]


def test_a_page_is_asked_for_when_the_one_before_is_used_up(stub: Stubber) -> None:
    stub.add_response("list_objects_v2", a_page("a", "b", following="t"))
    entries = open_source("s3://bucket/in").list()
    assert [next(entries).path, next(entries).path] == ["a", "b"]  # a further request would have no answer
    stub.add_client_error("list_objects_v2", "InternalError", http_status_code=400)
    with pytest.raises(SourceError, match=r"cannot list s3://bucket/in/: .* answered InternalError"):
        next(entries)


def test_a_reply_cut_short_is_asked_for_again_in_the_same_version(stub: Stubber) -> None:
    where = {"Bucket": "bucket", "Key": "x"}
    stub.add_response("get_object", an_answer(b"12", length=5), where)
    stub.add_response("get_object", an_answer(b"12345"), where | {"IfMatch": '"v1"'})
    assert open_source("s3://bucket").read("x") == b"12345"


def test_an_object_replaced_while_it_is_read_is_read_again_once(stub: Stubber) -> None:
    for _ in range(2):
        stub.add_response("get_object", an_answer(b"12", length=5))
        stub.add_client_error("get_object", "PreconditionFailed", http_status_code=412)
    with pytest.raises(BadImage, match="changed_during_read"):
        open_source("s3://bucket").read("x")


def test_a_server_that_always_cuts_replies_short_is_a_fault_of_the_source(stub: Stubber) -> None:
    for _ in range(3):
        stub.add_response("get_object", an_answer(b"12", length=5))
    with pytest.raises(SourceError, match=rf"no answer from AWS \({IncompleteReadError.__name__}\)"):
        open_source("s3://bucket").read("x")


@pytest.mark.parametrize(
    ("code", "reason"),
    [("NoSuchKey", "vanished"), ("AccessDenied", "unreadable"), ("InvalidObjectState", "archived")],
)
def test_a_fault_of_one_object_is_a_reason(stub: Stubber, code: str, reason: str) -> None:
    stub.add_client_error("get_object", code)
    with pytest.raises(BadImage) as caught:
        open_source("s3://bucket").read("x")
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("SlowDown", "overloaded; run again later"),
        ("InternalError", "answered InternalError; look at its logs, or run again"),
        ("PermanentRedirect", "'bucket' is in another region; set AWS_REGION"),
        ("ExpiredToken", "does not accept these credentials"),
    ],
)
def test_a_fault_of_the_server_stops_the_run_with_one_line(stub: Stubber, code: str, words: str) -> None:
    for source in (True, False):
        stub.add_client_error("get_object", code, f"{KEY} {SECRET} https://x/?X-Amz-Signature={SECRET}")
        with pytest.raises((SourceError, StorageError), match=words) as caught:
            (open_source if source else open_store)("s3://bucket").read("x")
        assert isinstance(caught.value, SourceError if source else StorageError)
        assert not any(secret in str(caught.value) for secret in (KEY, SECRET, "\n"))


def test_a_name_that_leads_out_is_refused_before_anything_is_sent(stub: Stubber) -> None:
    store = open_store("s3://bucket")
    actions: list[Callable[[str], object]] = [store.read, store.exists, store.fetch, store.delete]
    for action in actions:
        with pytest.raises(StorageError, match="is no name for a file in a workspace"):
            action("../x")


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("s3://b", ("b", "")),
        ("s3://b/", ("b", "")),
        ("s3://b/p", ("b", "p/")),
        ("s3://b/p/q/", ("b", "p/q/")),
        ("s3://b//p", ("b", "/p/")),
    ],
)
def test_an_address_has_a_bucket_and_a_prefix(address: str, parts: tuple[str, str]) -> None:
    assert split_s3_uri(address) == parts


@pytest.mark.parametrize(
    "address", ["s3://", "s3:///x", f"s3://{KEY}:{SECRET}@b/x", f"s3://b/x?X-Amz-Signature={SECRET}"]
)
def test_secrets_in_an_address_are_refused_and_not_shown(address: str) -> None:
    with pytest.raises(ConfigError, match="credentials come from the environment") as caught:
        open_store(address)
    assert KEY not in str(caught.value)
    assert SECRET not in str(caught.value)


def read_anything(source: Source | Store) -> str:
    with pytest.raises((StorageError, ConfigError)) as caught:
        source.read("x")
    return str(caught.value)


@pytest.mark.usefixtures("impatient_s3")
def test_a_server_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch, unused_port: int) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:{unused_port}")
    message = read_anything(open_store("s3://bucket"))
    assert f"no answer from http://127.0.0.1:{unused_port} (EndpointConnectionError); check the network" in message
    assert SECRET not in message


def test_missing_credentials_and_malformed_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no credentials; set AWS_ACCESS_KEY_ID" in read_anything(open_store("s3://bucket"))
    assert "'a*b' is no name for a bucket" in read_anything(open_store("s3://a*b"))
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "no such AWS profile; check AWS_PROFILE" in read_anything(open_store("s3://bucket"))
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost")
    assert "AWS_ENDPOINT_URL is no address; write http://host:port" in read_anything(open_store("s3://bucket"))


def test_the_libraries_never_log_what_they_send(stub: Stubber, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        stub.add_response("get_object", an_answer(b"1"))
        open_source("s3://bucket").read("x")
        for name in ("boto3", "botocore.auth", "botocore.endpoint", "urllib3.connectionpool", "s3transfer"):
            assert not logging.getLogger(name).isEnabledFor(logging.DEBUG)
    assert not any(SECRET in record.getMessage() for record in caplog.records)


def test_a_client_is_made_once(stub: Stubber) -> None:
    make_s3_client.cache_clear()
    one = make_s3_client((("AWS_REGION", "eu-west-1"),))
    assert make_s3_client((("AWS_REGION", "eu-west-1"),)) is one
    assert one.meta.region_name == "eu-west-1"
    assert make_s3_client((("AWS_REGION", "eu-west-2"),)) is not one


def test_an_object_too_large_to_be_a_picture_is_told_and_never_fetched(
    stub: Stubber, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = a_page("film")
    page["Contents"][0]["Size"] = MOST_BYTES + 1
    stub.add_response("list_objects_v2", page)
    assert [entry.problem for entry in open_source("s3://bucket/in").list()] == ["too_large"]
    monkeypatch.setattr(infra.storage.s3, "MOST_BYTES", 4)
    stub.add_response("get_object", an_answer(b"12345"))
    with pytest.raises(BadImage, match="too_large: 5 bytes"):  # it was smaller when it was listed
        open_source("s3://bucket").read("x")
