"""Sources and workspaces on a real S3 server."""

import os
from pathlib import Path

import boto3
import pytest
from boto3.s3.transfer import TransferConfig

import infra.storage.s3
from cnn.errors import BadImage, SourceError, StorageError
from infra.storage.store import Store, open_source, open_store

pytestmark = pytest.mark.integration
SECRET = "hunter2-secret"


@pytest.fixture
def store(s3_bucket: str) -> Store:
    return open_store(f"{s3_bucket}/work space")


def put(address: str, **objects: bytes) -> None:
    """Put objects under keys that are exactly these, beside any rule of ours."""
    for key, data in objects.items():
        boto3.session.Session().client("s3").put_object(Bucket=address.removeprefix("s3://"), Key=key, Body=data)


def test_what_was_written_is_read(store: Store) -> None:
    files = {"a.txt": b"", "a/b.txt": b"1", "a/c é.txt": b"\0" * 1000}
    for path, data in files.items():
        store.write(path, b"before")
        store.write(path, data)
    assert {entry.path: entry.size for entry in store.list()} == {path: len(data) for path, data in files.items()}
    assert [entry.path for entry in store.list("a/c")] == ["a/c é.txt"]
    for path, data in files.items():
        assert store.exists(path)
        assert store.read(path) == store.fetch(path).read_bytes() == data
        assert store.fetch(path) == store.root / path
        store.delete(path)
        store.delete(path)
        assert not store.exists(path)
    assert list(store.list()) == []


def test_a_second_store_from_the_same_address_is_the_same_store(store: Store) -> None:
    store.write("x", b"1")
    other = open_store(store.uri)
    assert (other.read("x"), other.root, other.is_local) == (b"1", store.root, False)
    assert store.uri_of("x") == f"{store.uri}/x"


def test_a_fetched_file_follows_its_object(store: Store) -> None:
    store.write("x", b"1")
    before = store.fetch("x")
    times = before.stat().st_mtime_ns
    assert store.fetch("x").stat().st_mtime_ns == times  # not downloaded again
    store.write("x", b"2")  # as long as before
    assert store.fetch("x").read_bytes() == b"2"
    before.write_bytes(b"cut")
    assert store.fetch("x").read_bytes() == b"2"


def test_a_big_file_goes_up_in_parts_and_comes_back_whole(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfer = TransferConfig(multipart_threshold=1 << 20, multipart_chunksize=5 << 20)
    monkeypatch.setattr(infra.storage.s3, "TRANSFER", transfer)
    data = os.urandom(11 << 20)
    (tmp_path / "big").write_bytes(data)
    store.put_file("big", tmp_path / "big")
    assert store.fetch("big").read_bytes() == data
    assert store.read("big") == data


def test_keys_are_opaque_and_empty_folders_are_no_files(s3_bucket: str) -> None:
    names = ["/a", "../b", "./c", "%2e", "a b+c?&=#", "é\u0301☃", "new\nline", "\x01", "a", "a/b"]
    put(s3_bucket, **{f"in/{name}": name.encode() for name in names}, **{"in/": b"", "in/a/": b"", "other": b"1"})
    source = open_source(f"{s3_bucket}/in")
    entries = list(source.list())
    assert sorted(entry.path for entry in entries) == sorted(names)
    assert {entry.path: source.read(entry.path) for entry in entries} == {name: name.encode() for name in names}
    assert not any(entry.problem for entry in entries)


def test_an_entry_changes_when_its_object_does(s3_bucket: str) -> None:
    source = open_source(s3_bucket)
    put(s3_bucket, x=b"1")
    (before,) = source.list()
    put(s3_bucket, x=b"2")
    (after,) = source.list()
    assert (before.path, before.size) == (after.path, after.size)
    assert before.modified != after.modified


def test_what_is_missing_is_named_with_the_way_out(s3_bucket: str, store: Store) -> None:
    with pytest.raises(BadImage, match="vanished"):
        open_source(s3_bucket).read("nothing")
    for action in (store.read, store.fetch):
        with pytest.raises(StorageError, match=r"^cannot read s3://bucket-\d+/work space/x: it is not there; prepare"):
            action("x")
    with pytest.raises(SourceError, match=r"cannot list s3://no-such/: there is no bucket 'no-such'; create it, or"):
        list(open_source("s3://no-such").list())
    with pytest.raises(SourceError, match="there is no bucket 'no-such'"):
        open_source("s3://no-such").read("x")
    with pytest.raises(StorageError, match="there is no bucket 'no-such'"):
        open_store("s3://no-such").write("x", b"")


def test_wrong_credentials_are_named_and_not_shown(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with pytest.raises(StorageError, match="does not accept these credentials; check AWS_ACCESS_KEY_ID") as caught:
        store.read("x")
    assert SECRET not in str(caught.value)
