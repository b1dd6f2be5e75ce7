"""A home of its own for each test of servers."""

from pathlib import Path

import pytest


@pytest.fixture
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No server, setting or profile of anyone else is found."""
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "safelight"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.chdir(tmp_path)
