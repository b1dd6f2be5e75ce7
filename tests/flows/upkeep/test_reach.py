"""`safelight doctor` on servers: clocks that are wrong, versions, uploads that were left unfinished, open ports."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from typing import ClassVar

import pytest
from faulty_s3 import BUCKET, reach_faulty_s3
from s3server import choose_ports
from web_servers import serving

from flows.upkeep.exposure import OpenPort, find_exposed, find_plain, list_open_ports, name_server
from flows.upkeep.reach import Reached, ask_server, reach_scheduler, reach_store

DAY = 86_400.0
ANYWHERE = "0.0.0.0"  # noqa: S104 - what is to be found
LISTENER = """
import socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("listening", flush=True)
sys.stdin.read()
"""


class Versioned(BaseHTTPRequestHandler):
    """A server that says its version, by a clock that may be wrong."""

    ahead: ClassVar[float] = 0.0
    version: ClassVar[str] = "0.0.1"

    def do_GET(self) -> None:
        body = json.dumps(self.version).encode()
        self.send_response_only(200)  # without a date of its own
        self.send_header("Date", formatdate(time.time() + self.ahead, usegmt=True))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def ask(monkeypatch: pytest.MonkeyPatch, ahead: float, version: str) -> Reached:
    monkeypatch.setattr(Versioned, "ahead", ahead)
    monkeypatch.setattr(Versioned, "version", version)
    with serving(Versioned) as address:
        return ask_server("MLflow", address, f"{address}/version", "mlflow-skinny")


def read_installed() -> str:
    from importlib.metadata import version

    return version("mlflow-skinny")


def test_a_server_whose_clock_is_wrong_is_found_with_what_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for ahead, way in ((600.0, "ahead of"), (-600.0, "behind")):
        (found,) = ask(monkeypatch, ahead, read_installed()).findings
        assert found.kind == "clock"
        assert f" s {way} this machine's" in found.what
        assert abs(int(found.what.split(" is ")[1].split()[0]) - 600) <= 2
        assert "timedatectl set-ntp true" in found.mend
    assert ask(monkeypatch, 10.0, read_installed()).findings == ()


def test_a_server_of_another_version_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = ask(monkeypatch, 0.0, "1.30.1").findings
    assert found.what == f"MLflow's server is 1.30.1, here is {read_installed()}"
    assert found.mend.startswith(f"install mlflow-skinny {read_installed()} there")


def test_uploads_that_were_left_unfinished_a_day_ago_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with reach_faulty_s3(monkeypatch) as memory:
        assert reach_store(f"s3://{BUCKET}/work").findings == ()
        memory.uploads = {
            "old": ("work/shards/a.tfrecord", time.time() - 2 * DAY),
            "older": ("work/shards/b.tfrecord", time.time() - 9 * DAY),
            "new": ("work/shards/c.tfrecord", time.time() - 60),
        }
        (found,) = reach_store(f"s3://{BUCKET}/work").findings
    assert found.kind == "unfinished"
    assert found.what.startswith("2 unfinished files of more than a day ago lie in s3://")
    assert "as uploads in parts, which are paid for and not listed" in found.what
    assert f"safelight gc --workspace s3://{BUCKET}/work, or safelight doctor --repair" in found.mend


@contextmanager
def listen(address: str, *words: str) -> Iterator[int]:
    """The port of a process with these words in its command line that listens at an address."""
    [port] = choose_ports(1)
    command = [sys.executable, "-c", LISTENER, address, str(port), *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        yield port
        process.communicate("")


def test_a_server_that_other_machines_reach_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with listen(ANYWHERE, "mlflow", "server") as port, listen("127.0.0.1", "dask", "scheduler") as closed:
        found = [each for each in list_open_ports() if each.port in (port, closed)]
        findings = [
            each for each in find_exposed(iter(found)) if f":{port} " in each.what or f":{closed} " in each.what
        ]
    assert {(each.server, each.port) for each in found} == {("mlflow", port), ("dask", closed)}
    (exposed,) = findings
    assert exposed.what.startswith(f"mlflow listens on 0.0.0.0:{port} (process ")
    assert exposed.what.endswith("and lets whoever reaches it read, change and delete models")
    assert "--host 127.0.0.1" in exposed.mend


class Password(BaseHTTPRequestHandler):
    """A server that answers nobody without a password."""

    def do_GET(self) -> None:
        self.send_response_only(401)
        self.end_headers()


@pytest.mark.parametrize("server", ["prefect", "mlflow"])
def test_a_server_that_asks_for_a_password_is_not_exposed(server: str) -> None:
    for handler, expected in ((Password, 0), (Versioned, 1)):
        with serving(handler) as address:
            port = OpenPort(ANYWHERE, int(address.rpartition(":")[2]), server, 7)
            assert len([*find_exposed(iter([port]))]) == expected


def test_a_scheduler_that_this_command_has_no_certificate_for_is_found() -> None:
    (found,) = reach_scheduler("tls://127.0.0.1:1").findings
    assert "no certificate is set for this command" in found.what


@pytest.mark.parametrize(
    ("words", "server"),
    [
        (["/usr/bin/python", "-m", "prefect", "server", "start"], "prefect"),
        (["/venv/bin/dask", "scheduler", "--host", "127.0.0.1"], "dask"),
        (["/venv/bin/dask-worker", "tcp://10.0.0.1:8786"], "dask"),
        (["/venv/bin/mlflow", "ui"], "mlflow"),
        (["/usr/bin/vim", "prefect.yaml"], None),
        ([], None),
    ],
)
def test_servers_are_known_by_their_command_lines(words: list[str], server: str | None) -> None:
    assert name_server(words) == server


def test_one_port_is_told_once_and_loopback_never() -> None:
    [port] = choose_ports(1)
    ports = [OpenPort("::", port, "dask", 7), OpenPort(ANYWHERE, port, "dask", 7), OpenPort("::1", port + 1, "dask", 7)]
    assert len([*find_exposed(iter(ports))]) == 1


def test_what_goes_unencrypted_to_other_machines_is_found_without_the_password() -> None:
    names = {"PREFECT_API_URL": "http://ada:secret@10.0.0.2:4200/api", "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}
    (found,) = find_plain(names)
    assert found.what.startswith("PREFECT_API_URL is http://")
    assert "secret" not in found.what
    (found,) = find_plain({"SAFELIGHT_TRUST_PLAIN_TCP": "1"})
    assert "runs any code that it is sent" in found.what
