"""What an address opens, what is said when it opens nothing, and that no secret in one is ever shown."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn.errors import ConfigError, SourceError, StorageError
from cnn.text import redact
from infra.storage.store import open_source, open_store

Unprivileged = Callable[[], AbstractContextManager[None]]


def test_a_folder_opens_by_path_and_by_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a b%?é"
    folder.mkdir()
    (folder / "x").write_bytes(b"1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for address in (str(folder), folder.as_uri(), folder.name, f"./{folder.name}", f"~/{folder.name}", f"{folder}/"):
        source = open_source(address)
        assert source.uri == open_store(address).uri == str(folder)
        assert [entry.path for entry in open_source(source.uri).list()] == ["x"]


@pytest.mark.parametrize("address", ["gs://bucket/x", "http://user:pw@host/x", "", "file://elsewhere/x", "s3:///x"])
def test_other_addresses_are_refused_without_their_secrets(address: str) -> None:
    for action in (open_source, open_store):
        with pytest.raises(ConfigError, match=r"folder|s3://bucket/prefix") as caught:
            action(address)
        assert "pw" not in str(caught.value)


def test_a_source_that_is_no_readable_folder_says_so(tmp_path: Path, unprivileged: Unprivileged) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "closed").mkdir(mode=0o000)
    with pytest.raises(SourceError, match=f"{tmp_path}/file is no folder; give the folder that holds the images"):
        open_source(str(tmp_path / "file"))
    with pytest.raises(SourceError, match="nothing cannot be read: no such file or directory; give a folder"):
        open_source(str(tmp_path / "nothing"))
    with unprivileged(), pytest.raises(SourceError, match="permission denied; give this user read access"):
        open_source(str(tmp_path / "closed"))


def test_a_workspace_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="is a file, no workspace"):
        open_store(str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("/a/b?c", "/a/b?c"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("s3://key:secret@bucket/prefix", "s3://bucket/prefix"),
        ("https://host/x?X-Amz-Signature=secret#secret", "https://host/x"),
        ("postgresql://user:secret@host:5432/db", "postgresql://host:5432/db"),
        ("https://a:secret@b:secret@host/", "https://host/"),
        ("http://[secret", "http://..."),
    ],
)
def test_secrets_are_cut_out_of_addresses(address: str, shown: str) -> None:
    assert redact(address) == shown


@given(st.text(alphabet="ab:.%+ é", max_size=9), st.text(alphabet="ab/.%é", max_size=9))
def test_no_secret_passes_whatever_stands_around_it(before: str, after: str) -> None:
    shown = redact(f"https://{before}hunter2@host/{after}?{before}hunter2#{after}hunter2")
    assert "hunter2" not in shown
    assert shown.startswith("https://host/")
