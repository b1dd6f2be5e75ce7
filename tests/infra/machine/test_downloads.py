"""Hosts of downloads: which answers count, and what is said of those that do not come."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest
from web_servers import serving

from infra.machine.downloads import find_host_fault


@contextmanager
def answering(code: int) -> Iterator[str]:
    """The address of a web server on loopback that answers each HEAD with this code, and knows nothing else."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(code)
            self.end_headers()

    with serving(Handler) as address:
        yield f"{address}/weights.h5"


@pytest.mark.parametrize("code", [200, 403, 405])
def test_a_host_that_answers_has_no_fault(code: int) -> None:
    with answering(code) as address:
        assert find_host_fault(address) is None


@pytest.mark.parametrize(("code", "told"), [(404, "it answers 404 Not Found"), (503, "it answers 503")])
def test_a_file_that_is_gone_and_a_host_that_is_ill_are_told(code: int, told: str) -> None:
    with answering(code) as address:
        assert told in str(find_host_fault(address))


def test_a_port_where_nobody_listens_is_told() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert find_host_fault(f"http://127.0.0.1:{bound.getsockname()[1]}/") == "Connection refused"


def test_a_host_that_keeps_silent_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        fault = find_host_fault(f"http://127.0.0.1:{silent.getsockname()[1]}/", 0.2)
    assert fault in ("no answer within 0.2 s", "timed out")


def test_a_proxy_in_the_way_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("https_proxy", f"http://me:word@127.0.0.1:{bound.getsockname()[1]}")
        fault = str(find_host_fault("https://weights.example/file"))
    assert "Connection refused, by the proxy http://127.0.0.1" in fault
    assert "word" not in fault
