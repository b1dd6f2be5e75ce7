"""Which Prefect server is used, and what Prefect reads."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import infra.server.health
import infra.server.local_server
import infra.server.prefect_server
from infra.server.health import is_healthy
from infra.server.prefect_server import find_prefect_api, find_prefect_home, open_prefect
from infra.server.spec import CONSOLE_LEVEL, ServerSpec

pytestmark = pytest.mark.usefixtures("own_home")


def write_profiles(tmp_path: Path, text: str) -> None:
    (tmp_path / "prefect").mkdir(exist_ok=True)
    (tmp_path / "prefect" / "profiles.toml").write_text(text)


PROFILES = """
active = "local"
[profiles.local]
[profiles.team]
PREFECT_API_URL = "http://team:4200/api"
"""


def test_nothing_is_configured_at_first() -> None:
    assert find_prefect_api() is None


def test_the_active_profile_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_profiles(tmp_path, PROFILES)
    assert find_prefect_api() is None
    monkeypatch.setenv("PREFECT_PROFILE", "team")
    assert find_prefect_api() == "http://team:4200/api"
    monkeypatch.delenv("PREFECT_PROFILE")
    write_profiles(tmp_path, PROFILES.replace('"local"', '"team"'))
    assert find_prefect_api() == "http://team:4200/api"


def test_a_project_file_comes_before_the_profile_and_the_environment_before_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_profiles(tmp_path, PROFILES.replace('"local"', '"team"'))
    (tmp_path / "prefect.toml").write_text('[api]\nurl = "http://project:4200/api"\n')
    assert find_prefect_api() == "http://project:4200/api"
    monkeypatch.setenv("PREFECT_API_URL", "http://environment:4200/api")
    assert find_prefect_api() == "http://environment:4200/api"


@pytest.mark.parametrize("text", ["", "active = 1", "no toml", 'active = "x"\nprofiles = 3', "profiles = {x = 1}"])
def test_a_damaged_profile_names_no_server(tmp_path: Path, text: str) -> None:
    write_profiles(tmp_path, text)
    assert find_prefect_api() is None


def test_prefect_itself_finds_the_same_address(tmp_path: Path) -> None:
    write_profiles(tmp_path, PROFILES.replace('"local"', '"team"'))
    ask = "from prefect.settings import get_current_settings as now; print(now().api.url)"
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == find_prefect_api()


def test_what_prefect_reads_is_set_once_and_never_over_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    address = "http://127.0.0.1:1/api"
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED", CONSOLE_LEVEL):
        monkeypatch.setenv(name, "")  # so that what is set below is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    monkeypatch.setattr(infra.server.prefect_server, "ensure_prefect_server", lambda announce, spec: address)
    open_prefect(pytest.fail, ServerSpec())
    assert (os.environ["PREFECT_API_URL"], os.environ["DO_NOT_TRACK"]) == (address, "0")
    assert os.environ[CONSOLE_LEVEL] == "CRITICAL"
    assert "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED" not in os.environ  # a server of someone else is asked
    monkeypatch.setattr(infra.server.prefect_server, "is_own_server", lambda asked: asked == address)
    open_prefect(pytest.fail, ServerSpec())
    assert os.environ["PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED"] == "false"


def test_prefect_keeps_its_files_with_ours_where_home_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "safelight"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_prefect_home() == tmp_path / ".prefect"
    monkeypatch.setenv("HOME", "/proc")
    assert find_prefect_home() == tmp_path / "safelight" / "state" / "prefect-client"


@pytest.mark.integration
def test_a_flow_runs_against_the_server(prefect_server: str) -> None:
    script = "from prefect import flow\n@flow\ndef f():\n    return 3\nprint(f())"
    environment = os.environ | {"PREFECT_API_URL": prefect_server}
    started = time.monotonic()
    answer = subprocess.run([sys.executable, "-"], input=script, env=environment, capture_output=True, text=True)
    assert answer.stdout.strip().endswith("3"), answer.stderr
    assert time.monotonic() - started < 60
    assert is_healthy(prefect_server)
