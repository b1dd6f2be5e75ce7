"""Prefect's API obeys its own pages and programs that know its password; a page of another site gets nothing of it.

What compose.yaml sets, and what the server gets that commands start by themselves.
"""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prefect_servers import run_prefect_with
from s3server import choose_ports
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

pytestmark = pytest.mark.integration

COMPOSE = Path(__file__).parents[3] / "infra/deploy/compose.yaml"
FOREIGN = "https://evil.example"
PASSWORD = "a password"
ORDER = {
    "name": "evil",
    "type": "process",
    "base_job_template": {"job_configuration": {"command": "touch /tmp/obeyed"}},
}


@dataclass(frozen=True)
class Api:
    """A server's address, and the variables of a client that may use it."""

    address: str
    client: dict[str, str] = field(default_factory=dict)

    @property
    def port(self) -> str:
        return self.address.rpartition(":")[2].partition("/")[0]

    @property
    def headers(self) -> dict[str, str]:
        """What a client sends to show that it knows the password, where there is one."""
        login = self.client.get("PREFECT_API_AUTH_STRING")
        return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}


@pytest.fixture(scope="module", params=["local", pytest.param("compose", marks=pytest.mark.long)])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    if request.param == "local":
        yield Api(request.getfixturevalue("prefect_server"))
        return
    with run_as_composed(tmp_path_factory.mktemp("composed")) as composed:
        yield composed


@contextmanager
def run_as_composed(folder: Path) -> Iterator[Api]:
    """A server with the environment that compose.yaml gives it, but for port, database and folders."""
    (port,) = choose_ports(1)
    services = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]
    names = {name: adapt(value, port) for name, value in services["prefect"]["environment"].items()}
    names["PREFECT_SERVER_UI_STATIC_DIRECTORY"] = str(folder / "pages")
    del names["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    login = adapt(services["worker"]["environment"]["PREFECT_API_AUTH_STRING"], port)
    with run_prefect_with(names, folder, port) as address:
        yield Api(address, {"PREFECT_API_AUTH_STRING": login})


def adapt(value: str, port: int) -> str:
    """A value of compose.yaml on this machine."""
    return value.replace("4200", str(port)).replace(
        "${PREFECT_PASSWORD:?fill in infra/deploy/.env, see infra/deploy/env.example}", PASSWORD
    )


def list_pools(api: Api) -> list[str]:
    with httpx.Client(headers=api.headers) as client:
        page = client.get(f"{api.address}/csrf-token", params={"client": "test"}).json()
        token = {"Prefect-Csrf-Token": page["token"], "Prefect-Csrf-Client": "test"}
        answer = client.post(f"{api.address}/work_pools/filter", json={}, headers=token)
    return [str(pool["name"]) for pool in answer.raise_for_status().json()]


def test_a_page_of_another_site_is_shown_nothing(api: Api) -> None:
    for origin in (FOREIGN, "null", "http://127.0.0.1:1", f"http://127.0.0.1.evil.example:{api.port}"):
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        before = httpx.options(f"{api.address}/work_pools/", headers=asked)
        answer = httpx.get(
            f"{api.address}/csrf-token", params={"client": "evil"}, headers={"Origin": origin} | api.headers
        )
        for told in (before, answer):
            assert "access-control-allow-origin" not in told.headers


def test_what_a_page_of_another_site_sends_blindly_is_refused(api: Api) -> None:
    """Browsers send such a request without asking first, and with the password that they remember."""
    headers = {"Origin": FOREIGN, "Content-Type": "text/plain"} | api.headers
    answer = httpx.post(f"{api.address}/work_pools/", content=json.dumps(ORDER), headers=headers)
    assert answer.status_code == 403
    assert "evil" not in list_pools(api)


def test_a_name_of_another_site_that_leads_to_this_machine_does_not_help(api: Api) -> None:
    """To a browser such a page and the server are one site: it reads and sends whatever it likes."""
    answer = httpx.get(f"{api.address}/csrf-token?client=evil", headers={"Host": f"evil.example:{api.port}"})
    assert answer.status_code in (401, 403)


def test_the_servers_own_pages_may_ask(api: Api) -> None:
    for host in ("127.0.0.1", "localhost"):
        origin = f"http://{host}:{api.port}"
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        answer = httpx.options(f"{api.address}/work_pools/filter", headers=asked)
        assert answer.headers["access-control-allow-origin"] == origin
    page = httpx.get(api.address.removesuffix("/api"), follow_redirects=True, headers={"Accept": "text/html"})
    assert "<html" in page.text.lower()


@pytest.mark.parametrize("channel", ["events/in", "events/out", "logs/out"])
def test_a_page_of_another_site_opens_no_channel(api: Api, channel: str) -> None:
    """CORS holds for no WebSocket: the server itself has to look where it comes from."""
    assert not can_open(api, channel, FOREIGN)
    assert can_open(api, channel, None), "a program, which has no origin"
    assert can_open(api, channel, f"http://127.0.0.1:{api.port}"), "the server's own pages"


def can_open(api: Api, channel: str, origin: Any) -> bool:
    """Whether a channel is opened for a client that comes from there, and knows the password if `origin` is ours."""
    login = None if origin == FOREIGN else api.client.get("PREFECT_API_AUTH_STRING")
    address = f"{api.address.replace('http', 'ws', 1)}/{channel}"
    try:
        with connect(address, origin=origin, subprotocols=["prefect"], open_timeout=60) as socket:  # type: ignore[list-item]
            socket.send(json.dumps({"type": "auth", "token": login}))
            return bool(json.loads(socket.recv(60))["type"] == "auth_success")
    except (WebSocketException, OSError):
        return False


def test_without_the_password_nothing_but_health_is_told(api: Api) -> None:
    if not api.client:
        pytest.skip("the local server has none: it listens on loopback alone")
    assert httpx.get(f"{api.address}/health").is_success
    for path in ("version", "csrf-token?client=evil", "admin/version"):
        assert httpx.get(f"{api.address}/{path}").status_code == 401
    login = {"Authorization": "Basic " + base64.b64encode(b"safelight:wrong").decode()}
    assert httpx.get(f"{api.address}/version", headers=login).status_code == 401


def test_a_worker_and_a_command_that_know_the_password_are_served(api: Api, tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    words = ["deploy", "--name", "owls", "--inbox", str(tmp_path / "inbox"), "--pool", "composed", "--json"]
    names = os.environ | {"PREFECT_API_URL": api.address} | api.client
    command = [str(Path(sys.executable).with_name("safelight")), *words]
    done = subprocess.run(command, env=names, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    assert "composed" in list_pools(api)
