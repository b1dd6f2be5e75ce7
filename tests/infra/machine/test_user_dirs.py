"""Where state and cached files lie, who may read them, and what is said when there is no such place."""

import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from cnn.errors import StorageError
from infra.machine.user_dirs import cache_dir, state_dir


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SAFELIGHT_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


def test_own_variable_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert (state_dir(), cache_dir()) == (tmp_path / "own" / "state", tmp_path / "own" / "cache")


def test_xdg_variables_come_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "s"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert (state_dir(), cache_dir()) == (tmp_path / "s" / "safelight", tmp_path / "c" / "safelight")


def test_home_comes_last_and_a_relative_xdg_variable_does_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert state_dir() == tmp_path / ".local" / "state" / "safelight"
    assert cache_dir() == tmp_path / ".cache" / "safelight"


def test_folders_are_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path))
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (state_dir(), cache_dir())] == [0o700, 0o700]


def test_a_place_that_cannot_be_made_names_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="set SAFELIGHT_HOME to a folder that you can write to"):
        state_dir()


def test_a_read_only_place_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path))
    state_dir().chmod(0o555)
    with unprivileged(), pytest.raises(StorageError, match=r"cannot write to .* set SAFELIGHT_HOME"):
        state_dir()
