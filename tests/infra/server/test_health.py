"""Whether a Prefect server answers, and what is said when none does."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler

import pytest
from web_servers import serving

import infra.server.health
import infra.server.local_server
import infra.server.prefect_server
from cnn.errors import ServerError
from cnn.text import redact_text
from infra.server.local_server import (
    find_local_server,
)
from infra.server.prefect_server import ensure_prefect_server

pytestmark = pytest.mark.usefixtures("own_home")


@contextmanager
def answering(replies: dict[str, tuple[int, bytes]]) -> Iterator[str]:
    """The address of a small web server on loopback that knows these paths."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, body = replies.get(self.path, (404, b"not here"))
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with serving(Handler) as address:
        yield address


@pytest.mark.parametrize("reply", [(200, b"true"), (401, b"Unauthorized"), (503, b"later")])
def test_a_configured_server_that_answers_is_taken_and_none_is_started(
    monkeypatch: pytest.MonkeyPatch, reply: tuple[int, bytes]
) -> None:
    with answering({"/api/health": reply}) as place:
        monkeypatch.setenv("PREFECT_API_URL", f"{place}/api")
        assert ensure_prefect_server(pytest.fail) == f"{place}/api"
    assert find_local_server() is None


def test_a_server_that_wants_a_password_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering({"/api/health": (401, b"Unauthorized")}) as place:
        address = f"{place}/api".replace("//", "//user:word@")
        monkeypatch.setenv("PREFECT_API_URL", address)
        assert ensure_prefect_server(pytest.fail) == address


@pytest.mark.parametrize("replies", [{}, {"/api/health": (200, b"<html>welcome</html>")}])
def test_another_program_at_the_address_is_told(
    monkeypatch: pytest.MonkeyPatch, replies: dict[str, tuple[int, bytes]]
) -> None:
    with answering(replies) as place:
        monkeypatch.setenv("PREFECT_API_URL", f"{place}/api")
        with pytest.raises(ServerError, match=rf"no Prefect server answers at {place}/api \(another program does\)"):
            ensure_prefect_server(pytest.fail)


def test_a_program_that_speaks_no_http_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{listener.getsockname()[1]}/api")

        def greet() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                connection.recv(1000)

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(ServerError, match="another program does"):
            ensure_prefect_server(pytest.fail)
        thread.join()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        thread = threading.Thread(target=greet)
        thread.start()
        assert not infra.server.health.is_healthy(url)
        thread.join()


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("127.0.0.1:4200", "http://127.0.0.1:4200/api"),
        ("prefect.lab", "http://prefect.lab/api"),
        ("[::1]:4200/api", "http://[::1]:4200/api"),
        ("ftp://x/api", "http://127.0.0.1:4200/api"),
        ("http://a:b/c", "http://127.0.0.1:4200/api"),
        ("http://[::1/api", "http://127.0.0.1:4200/api"),
        ("http://127.0.0.1:99999/api", "http://127.0.0.1:4200/api"),
        ("http://127.0.0.1:0/api", "http://127.0.0.1:4200/api"),
        ("http://", "http://127.0.0.1:4200/api"),
        ("localhost", "http://localhost/api"),
    ],
)
def test_an_address_without_its_parts_is_told_with_what_was_meant(
    monkeypatch: pytest.MonkeyPatch, address: str, meant: str
) -> None:
    """As a person reads it: what looks like a secret is cut out of the line on its way."""
    monkeypatch.setenv("PREFECT_API_URL", address)
    with pytest.raises(ServerError) as caught:
        ensure_prefect_server(pytest.fail)
    assert redact_text(str(caught.value)).endswith(f"which is no address of a server; write {meant}")


def test_an_address_without_the_api_s_path_is_told_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering({"/health": (200, b"<html>Prefect's pages</html>")}) as place:
        monkeypatch.setenv("PREFECT_API_URL", f"{place}/")
        with pytest.raises(ServerError, match=rf"what does is no API; {place}/api may be meant"):
            ensure_prefect_server(pytest.fail)


def test_a_configured_server_that_does_not_answer_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://user:hunter2@127.0.0.1:{unused_port}/api")
    with pytest.raises(ServerError, match=f"no Prefect server answers at http://127.0.0.1:{unused_port}/api") as caught:
        ensure_prefect_server(pytest.fail)
    assert "hunter2" not in str(caught.value)
