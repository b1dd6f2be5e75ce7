"""What it answers is what boto3 would; for anything else boto3 is asked."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from faulty_s3 import BUCKET, Fault, Memory, md5, run_faulty_s3
from hypothesis import given
from hypothesis import strategies as st
from obstore.auth.boto3 import Boto3CredentialProvider

import infra.storage.s3
import infra.storage.s3_obstore
from cnn.errors import BadImage, SourceError
from infra.storage.s3 import S3Source
from infra.storage.s3_obstore import MOST_FAILURES, PLAIN, choose_reader, find_address
from infra.storage.store import reuse_source

NAMES = [
    "a.jpg",
    "cat/b-1.jpg",
    "cat/.hidden",
    "a//b",
    "./a",
    "cat/../b",
    "é.jpg",
    "a b+c?&=#",
    "%2e",
    "new\nline",
    "a/",
]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    with run_faulty_s3() as (memory, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(
            infra.storage.s3, "CONFIG", infra.storage.s3.CONFIG.merge(Config(retries={"total_max_attempts": 2}))
        )
        infra.storage.s3.make_client.cache_clear()
        memory.reset({f"in/{name}": name.encode() * 9 for name in NAMES}, Fault())
        yield memory
        infra.storage.s3.make_client.cache_clear()


@pytest.fixture
def source(memory: Memory) -> S3Source:
    return S3Source(f"s3://{BUCKET}/in")


@pytest.fixture
def without_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: S3Source, path: str, most: int | None = None) -> bytes:
        raise AssertionError(f"boto3 was asked for {path}")

    monkeypatch.setattr(S3Source, "_get", refuse)


def read(source: S3Source, name: str, expected: bytes) -> bool:
    """Whether these bytes are read, when the listing has their ETag."""
    return source.read(name, md5(expected)) == expected


def is_quick(monkeypatch: pytest.MonkeyPatch, **variables: str) -> bool:
    with monkeypatch.context() as patch:
        for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
            patch.delenv(name, raising=False)
        for name, value in variables.items():
            patch.setenv(name, value)
        return choose_reader(boto3.session.Session().client("s3"), BUCKET) is not None


@pytest.mark.usefixtures("without_boto3")
def test_a_plain_key_needs_one_request_and_no_boto3(source: S3Source, memory: Memory) -> None:
    assert read(source, "cat/b-1.jpg", b"cat/b-1.jpg" * 9)
    assert memory.passed == 1


def test_every_key_gives_its_own_object(source: S3Source) -> None:
    assert all(read(source, name, name.encode() * 9) for name in NAMES)


@pytest.mark.parametrize("kind", ["503 SlowDown", "500 InternalError", "reset", "lost", "cut", "slow"])
def test_what_goes_wrong_once_is_read_all_the_same(source: S3Source, memory: Memory, kind: str) -> None:
    memory.reset({"in/a.jpg": b"12345678"}, Fault(1, kind))
    assert read(source, "a.jpg", b"12345678")
    assert memory.passed == (1 if kind == "slow" else 2)


def test_what_is_missing_is_told_by_boto3(source: S3Source) -> None:
    with pytest.raises(BadImage, match="vanished"):
        source.read("none.jpg", "0" * 32)


def test_after_too_many_failures_boto3_does_it_all(source: S3Source, memory: Memory) -> None:
    for _ in range(MOST_FAILURES):
        memory.reset({"in/a.jpg": b"1"}, Fault(1, "403 AccessDenied"))  # to boto3's request alone it says yes
        assert read(source, "a.jpg", b"1")
        assert memory.passed == 2
    memory.reset({"in/a.jpg": b"1"}, Fault())
    assert read(source, "a.jpg", b"1")
    reader = source._quick_reader
    assert reader is not None
    assert reader.read("in/a.jpg", md5(b"1")) is None
    assert memory.passed == 1


def test_a_large_object_is_left_to_boto3(source: S3Source, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infra.storage.s3_obstore, "MOST_BYTES", 3)
    assert read(source, "a.jpg", b"a.jpg" * 9)
    assert memory.passed == 2


def test_an_answer_with_another_etag_is_not_believed(source: S3Source, memory: Memory) -> None:
    """It may be a page for logging in, or the object of a bucket elsewhere; boto3 alone knows what to do then."""
    memory.reset({"in/a.jpg": b"new"}, Fault())
    assert source.read("a.jpg", md5(b"old")) == b"new"
    assert memory.passed == 2


def test_without_the_listing_s_word_boto3_reads(source: S3Source, memory: Memory) -> None:
    reader = source._quick_reader
    assert reader is not None
    assert source.read("a.jpg") == b"a.jpg" * 9
    assert memory.passed == 1
    assert reader.read("in/a.jpg", "") is None


def test_requests_are_signed_whatever_obstore_is_told(
    source: S3Source, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SKIP_SIGNATURE", "AWS_REQUEST_PAYER"):
        monkeypatch.setenv(name, "true")
    assert read(source, "a.jpg", b"a.jpg" * 9)
    assert memory.passed == 1
    assert memory.headers["authorization"].startswith("AWS4-HMAC-SHA256 ")
    assert "x-amz-request-payer" not in memory.headers


def test_what_is_read_follows_the_environment(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is used again, by a run with other variables."""
    uri = f"s3://{BUCKET}/in"
    assert reuse_source(uri) is reuse_source(uri)
    assert reuse_source(uri).read("a.jpg", md5(b"a.jpg" * 9)) == b"a.jpg" * 9
    with run_faulty_s3() as (other, environment):
        other.reset({"in/a.jpg": b"elsewhere"}, Fault())
        monkeypatch.setenv("AWS_ENDPOINT_URL", environment["AWS_ENDPOINT_URL"])
        assert reuse_source(uri).read("a.jpg", md5(b"elsewhere")) == b"elsewhere"
        assert other.passed == 1


def test_where_boto3_would_do_more_it_is_asked(memory: Memory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quick = partial(is_quick, monkeypatch)
    assert quick()
    assert not quick(AWS_RESPONSE_CHECKSUM_VALIDATION="when_supported")
    assert not quick(http_proxy="http://127.0.0.1:9")
    assert quick(http_proxy="http://127.0.0.1:9", no_proxy="127.0.0.1")
    assert quick(AWS_CA_BUNDLE="/no.pem")
    secure = "https://127.0.0.1:9"
    assert quick(AWS_ENDPOINT_URL=secure)
    assert not quick(AWS_ENDPOINT_URL=secure, AWS_CA_BUNDLE="/no.pem")
    (tmp_path / "config").write_text("[default]\nca_bundle = /no.pem\n")
    assert not quick(AWS_ENDPOINT_URL=secure, AWS_CONFIG_FILE=str(tmp_path / "config"))


def test_where_obstore_would_ask_another_address_or_otherwise_boto3_reads(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quick = partial(is_quick, monkeypatch)
    assert not quick(AWS_ENDPOINT_URL="http://127.0.0.1:9/storage/v1/s3")
    (tmp_path / "config").write_text("[default]\ns3 =\n    addressing_style = virtual\n")
    virtual = {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_ENDPOINT_URL": "http://localhost:9"}
    assert quick(**virtual)
    assert not quick(**virtual, AWS_ENDPOINT_URL_S3="http://localhost:9")
    assert not quick(AWS_CHECKSUM_ALGORITHM="none such")


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "cn-north-1"])
def test_aws_is_asked_where_boto3_asks(memory: Memory, monkeypatch: pytest.MonkeyPatch, region: str) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    client = boto3.session.Session(region_name=region).client("s3")
    asked: list[str] = []

    def note(request: Any, **facts: Any) -> None:
        asked.append(request.url)
        raise ConnectionError

    client.meta.events.register("before-send.s3.GetObject", note)
    with pytest.raises(ConnectionError):
        client.get_object(Bucket=BUCKET, Key="x")
    address = find_address(client, BUCKET)
    assert asked == [f"{address.scheme}://{address.netloc}{address.path}"]
    assert choose_reader(client, BUCKET) is not None


def test_credentials_are_asked_for_every_few_minutes_only(source: S3Source, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    ask = Boto3CredentialProvider.__call__

    def count(provider: Boto3CredentialProvider) -> Any:
        calls.append(1)
        return ask(provider)

    monkeypatch.setattr(Boto3CredentialProvider, "__call__", count)
    assert all(read(source, "a.jpg", b"a.jpg" * 9) for _ in range(20))
    assert 1 <= len(calls) <= 2


def test_without_credentials_boto3_says_so(memory: Memory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(SourceError, match=r"^cannot read s3://bucket/in/a\.jpg: no credentials; set "):
        S3Source(f"s3://{BUCKET}/in").read("a.jpg", "0" * 32)
    monkeypatch.setenv("AWS_PROFILE", "none-such")
    with pytest.raises(SourceError, match=r"^cannot read s3://bucket/in/a\.jpg: no such AWS profile"):
        S3Source(f"s3://{BUCKET}/in").read("a.jpg", "0" * 32)


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", ".", "..", "./a", "a/.", "a/../b", "a b", "a%20", "ä", "a\n", "a*", "a#"]
)
def test_keys_that_obstore_would_write_otherwise_are_not_plain(key: str) -> None:
    assert PLAIN.fullmatch(key) is None


@given(
    st.lists(
        st.from_regex(r"[A-Za-z0-9_=.-]+", fullmatch=True).filter(lambda part: part not in (".", "..")), min_size=1
    )
)
def test_keys_of_plain_parts_are_plain(parts: list[str]) -> None:
    assert PLAIN.fullmatch("/".join(parts)) is not None


@pytest.mark.integration
def test_a_real_server_gives_the_same_either_way(s3_bucket: str) -> None:
    put = boto3.session.Session().client("s3").put_object
    for name in NAMES[:3]:
        put(Bucket=s3_bucket.removeprefix("s3://"), Key=f"in/{name}", Body=name.encode() * 100_000)
    source = S3Source(f"{s3_bucket}/in")
    stamps = {entry.path: entry.modified for entry in source.list()}
    reader = source._quick_reader
    assert reader is not None
    quick = {name: reader.read(f"in/{name}", stamps[name]) for name in NAMES[:3]}
    assert quick == {name: source.read(name) for name in NAMES[:3]}
