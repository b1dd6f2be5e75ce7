"""infra/quick_s3.py: what it answers is what boto3 would; for anything else boto3 is asked."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from faulty_s3 import BUCKET, Fault, Memory, run_faulty_s3
from hypothesis import given
from hypothesis import strategies as st

import infra.quick_s3
import infra.s3
from cnn.errors import BadImage
from infra.quick_s3 import MOST_FAILURES, PLAIN, choose_reader
from infra.s3 import S3Source
from infra.storage import open_source

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
        monkeypatch.setattr(infra.s3, "CONFIG", infra.s3.CONFIG.merge(Config(retries={"total_max_attempts": 2})))
        infra.s3.make_client.cache_clear()
        memory.reset({f"in/{name}": name.encode() * 9 for name in NAMES}, Fault())
        yield memory
        infra.s3.make_client.cache_clear()


@pytest.fixture
def source(memory: Memory) -> S3Source:
    return S3Source(f"s3://{BUCKET}/in")


@pytest.fixture
def without_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: S3Source, path: str, most: int | None = None) -> bytes:
        raise AssertionError(f"boto3 was asked for {path}")

    monkeypatch.setattr(S3Source, "_get", refuse)


@pytest.mark.usefixtures("without_boto3")
def test_a_plain_key_needs_one_request_and_no_boto3(source: S3Source, memory: Memory) -> None:
    assert source.read("cat/b-1.jpg") == b"cat/b-1.jpg" * 9
    assert memory.passed == 1


def test_every_key_gives_its_own_object(source: S3Source) -> None:
    assert {name: source.read(name) for name in NAMES} == {name: name.encode() * 9 for name in NAMES}


@pytest.mark.parametrize("kind", ["503 SlowDown", "500 InternalError", "reset", "lost", "cut", "slow"])
def test_what_goes_wrong_once_is_read_all_the_same(source: S3Source, memory: Memory, kind: str) -> None:
    memory.reset({"in/a.jpg": b"12345678"}, Fault(1, kind))
    assert source.read("a.jpg") == b"12345678"
    assert memory.passed == (1 if kind == "slow" else 2)


def test_what_is_missing_is_told_by_boto3(source: S3Source) -> None:
    with pytest.raises(BadImage, match="vanished"):
        source.read("none.jpg")


def test_after_too_many_failures_boto3_does_it_all(source: S3Source, memory: Memory) -> None:
    for _ in range(MOST_FAILURES):
        memory.reset({"in/a.jpg": b"1"}, Fault(1, "403 AccessDenied"))  # to boto3's request alone it says yes
        assert source.read("a.jpg") == b"1"
        assert memory.passed == 2
    memory.reset({"in/a.jpg": b"1"}, Fault())
    assert source.read("a.jpg") == b"1"
    assert source._reader is not None
    assert source._reader.read("in/a.jpg") is None
    assert memory.passed == 1


def test_a_large_object_is_left_to_boto3(source: S3Source, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infra.quick_s3, "MOST_BYTES", 3)
    assert source.read("a.jpg") == b"a.jpg" * 9
    assert memory.passed == 2


def test_where_boto3_would_do_more_it_is_asked(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_quick(**variables: str) -> bool:
        with monkeypatch.context() as patch:
            for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
                patch.delenv(name, raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            client = boto3.session.Session().client("s3")
            return choose_reader(client, BUCKET) is not None

    assert is_quick()
    assert not is_quick(AWS_RESPONSE_CHECKSUM_VALIDATION="when_supported")
    assert not is_quick(http_proxy="http://127.0.0.1:9")
    assert is_quick(http_proxy="http://127.0.0.1:9", no_proxy="127.0.0.1")
    assert is_quick(AWS_CA_BUNDLE="/no.pem")
    assert is_quick(AWS_ENDPOINT_URL="https://127.0.0.1:9")
    assert not is_quick(AWS_ENDPOINT_URL="https://127.0.0.1:9", AWS_CA_BUNDLE="/no.pem")


def test_without_credentials_boto3_is_asked(memory: Memory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    client = boto3.session.Session().client("s3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    assert choose_reader(client, BUCKET) is None


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
def test_a_real_server_gives_the_same_either_way(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put = boto3.session.Session().client("s3").put_object
    for name in NAMES[:3]:
        put(Bucket=s3_bucket.removeprefix("s3://"), Key=f"in/{name}", Body=name.encode() * 100_000)
    source = open_source(f"{s3_bucket}/in")
    expected = {name: source.read(name) for name in NAMES[:3]}
    monkeypatch.setattr(S3Source, "_reader", None)
    assert {name: source.read(name) for name in NAMES[:3]} == expected
