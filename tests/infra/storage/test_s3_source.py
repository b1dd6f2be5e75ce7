"""A source on an S3 server whose requests go wrong: what is read is the object, and what cannot be read is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_s3 import BUCKET, Fault, Memory, reach_faulty_s3, run_faulty_s3

from cnn.errors import BadImage, SourceError
from infra.storage.s3 import S3Source
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
    with reach_faulty_s3(monkeypatch) as memory:
        memory.reset({f"in/{name}": name.encode() * 9 for name in NAMES}, Fault())
        yield memory


@pytest.fixture
def source(memory: Memory) -> S3Source:
    return S3Source(f"s3://{BUCKET}/in")


def test_every_key_gives_its_own_object_by_one_request(source: S3Source, memory: Memory) -> None:
    assert [source.read(name) for name in NAMES] == [name.encode() * 9 for name in NAMES]
    assert memory.passed == len(NAMES)


@pytest.mark.parametrize("kind", ["503 SlowDown", "500 InternalError", "reset", "lost", "cut", "slow"])
def test_what_goes_wrong_once_is_read_all_the_same(source: S3Source, memory: Memory, kind: str) -> None:
    memory.reset({"in/a.jpg": b"12345678"}, Fault(1, kind))
    assert source.read("a.jpg") == b"12345678"
    assert memory.passed == (1 if kind == "slow" else 2)


def test_what_is_missing_is_told(source: S3Source) -> None:
    with pytest.raises(BadImage, match="vanished"):
        source.read("none.jpg")


def test_what_is_read_follows_the_environment(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is used again, by a run with other variables."""
    uri = f"s3://{BUCKET}/in"
    assert reuse_source(uri) is reuse_source(uri)
    assert reuse_source(uri).read("a.jpg") == b"a.jpg" * 9
    with run_faulty_s3() as (other, environment):
        other.reset({"in/a.jpg": b"elsewhere"}, Fault())
        monkeypatch.setenv("AWS_ENDPOINT_URL", environment["AWS_ENDPOINT_URL"])
        assert reuse_source(uri).read("a.jpg") == b"elsewhere"
        assert other.passed == 1


def test_without_credentials_it_says_so(memory: Memory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(SourceError, match=r"^cannot read s3://bucket/in/a\.jpg: no credentials; set "):
        S3Source(f"s3://{BUCKET}/in").read("a.jpg")
    monkeypatch.setenv("AWS_PROFILE", "none-such")
    with pytest.raises(SourceError, match=r"^cannot read s3://bucket/in/a\.jpg: no such AWS profile"):
        S3Source(f"s3://{BUCKET}/in").read("a.jpg")
