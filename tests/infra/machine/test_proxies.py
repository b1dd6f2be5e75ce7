"""Proxies of the environment: every client reaches loopback without them; one that is in the way elsewhere is named."""

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import requests
from botocore.utils import get_environ_proxies
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

import infra.machine.proxies
from cnn.errors import ServerError
from infra.machine.proxies import (
    LOOPBACK,
    bypass_loopback,
    check_socks,
    explain_proxy,
    find_proxy,
    is_loopback,
    set_socks_aside,
)
from infra.registry.tracking import resolve_tracking
from infra.server.prefect_server import ensure_prefect_server
from infra.storage.s3 import S3Source, make_s3_client
from infra.storage.s3_errors import explain_s3_error

TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without certificates, which take long to load
DEAD = "http://127.0.0.1:9"  # nobody listens there
ELSEWHERE = "http://prefect.corp.example:4200/api"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Whatever a test leaves in the environment is gone after it."""
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "safelight"))
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
    make_s3_client.cache_clear()


class Server(BaseHTTPRequestHandler):
    """SplitPredictions every request with its status, and remembers nothing."""

    status = 200

    def do_GET(self) -> None:
        body = b"true"
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_CONNECT(self) -> None:
        self.send_error(403, "Forbidden by policy")

    def log_message(self, *args: Any) -> None:
        """No line on stderr."""


class Refusing(Server):
    """A proxy that lets nobody by."""

    status = 403


def listen(handler: type[Server], host: str = "127.0.0.1") -> Iterator[str]:
    class Bound(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    with Bound((host, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(params=["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def local_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of an HTTP server on loopback, under each name that loopback goes by."""
    try:
        yield from listen(Server, request.param)
    except OSError as error:
        pytest.skip(f"{request.param} is no address of this machine ({error})")


@pytest.fixture
def refusing_proxy() -> Iterator[str]:
    yield from listen(Refusing)


@pytest.mark.parametrize(
    "variables", [{"HTTP_PROXY": DEAD, "http_proxy": DEAD}, {"ALL_PROXY": DEAD, "NO_PROXY": "corp.example,10.0.0.0/8"}]
)
def test_every_client_reaches_loopback_without_the_proxy(local_server: str, variables: dict[str, str]) -> None:
    os.environ |= variables
    bypass_loopback(local_server)
    assert httpx.get(local_server).status_code == 200
    assert requests.get(local_server, timeout=10).status_code == 200
    assert get_proxy(parse_uri(local_server.replace("http://", "ws://"))) is None
    os.environ |= {"AWS_ENDPOINT_URL": local_server, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    client = make_s3_client((("AWS_ENDPOINT_URL", local_server),))
    assert client.get_object(Bucket="bucket", Key="key")["Body"].read() == b"true"
    assert find_proxy(local_server) is None


def test_every_client_still_goes_elsewhere_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    os.environ |= {"HTTP_PROXY": DEAD, "NO_PROXY": "corp.example"}
    bypass_loopback("http://other.example:5000")
    for failing in (lambda: httpx.get("http://other.example"), lambda: requests.get("http://other.example", timeout=9)):
        with pytest.raises((httpx.ConnectError, requests.exceptions.ProxyError)):
            failing()
    assert get_environ_proxies("http://other.example")["http"] == DEAD
    found = find_proxy("http://other.example")
    assert found is not None
    assert str(found) == f"{DEAD} (HTTP_PROXY)"
    assert find_proxy("http://prefect.corp.example:4200") is None  # as NO_PROXY says


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        ({"NO_PROXY": "corp"}, {"NO_PROXY": "corp"}),
        ({"HTTP_PROXY": DEAD}, {"NO_PROXY": ",".join(LOOPBACK), "no_proxy": ",".join(LOOPBACK)}),
        ({"HTTP_PROXY": DEAD, "NO_PROXY": "*"}, {"NO_PROXY": "*", "no_proxy": "*"}),
        ({"HTTP_PROXY": DEAD, "NO_PROXY": "localhost"}, {"NO_PROXY": "localhost,127.0.0.1,::1"}),
        ({"HTTP_PROXY": DEAD, "NO_PROXY": "up"}, {"no_proxy": "up,localhost,127.0.0.1,::1"}),
        ({"HTTP_PROXY": DEAD, "NO_PROXY": "up", "no_proxy": "low"}, {"no_proxy": "low,localhost,127.0.0.1,::1"}),
        ({"HTTP_PROXY": DEAD, "NO_PROXY": "up", "no_proxy": ""}, {"no_proxy": "localhost,127.0.0.1,::1"}),
        ({"HTTP_PROXY": " "}, {}),
        ({"NO_PROXY": "[::1],fe80::/10,corp"}, {"NO_PROXY": "::1,corp"}),  # httpx fails at the first two
    ],
)
def test_what_no_proxy_named_stays(before: dict[str, str], after: dict[str, str]) -> None:
    os.environ |= before
    bypass_loopback()
    found = {name: os.environ[name] for name in ("NO_PROXY", "no_proxy") if name in os.environ}
    assert found.items() >= after.items()
    assert found or not after
    assert bool(found) == bool(after)


HOSTS = st.from_regex(r"(\.?[a-z][a-z0-9-]{0,8}(\.[a-z]{2,5}){0,2}|10\.[0-9]\.0\.0/8|\[?fe80::1\]?)", fullmatch=True)


@settings(max_examples=20)
@given(st.lists(HOSTS, max_size=5), st.sampled_from(["NO_PROXY", "no_proxy"]), st.sampled_from([",", ", ", " ,"]))
def test_loopback_is_added_once_and_nothing_is_lost(hosts: list[str], variable: str, comma: str) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        os.environ.pop(name, None)
    os.environ |= {"HTTPS_PROXY": DEAD, variable: comma.join(hosts)}
    bypass_loopback("http://127.0.0.3:1")
    for name in ("NO_PROXY", "no_proxy"):
        names = os.environ[name].split(",")
        assert {host.strip("[]") for host in hosts} | {*LOOPBACK, "127.0.0.3"} == set(names)
        assert len(names) == len(set(names))
    once = dict(os.environ)
    bypass_loopback("http://127.0.0.3:1")
    assert dict(os.environ) == once
    httpx.Client(verify=TLS).close()  # it reads all of NO_PROXY, and fails at what it cannot read


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1]", True),
        ("LOCALHOST", True),
        ("s3.localhost", True),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_loopback_is_known_by_all_its_names(host: str, ours: bool) -> None:
    assert is_loopback(host) is ours


# --- SOCKS: clients need packages for it, and httpx fails even where the proxy is not to be used ---------------------


@pytest.fixture
def no_socks_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infra.machine.proxies, "find_spec", lambda name: None)


@pytest.mark.parametrize("variable", ["ALL_PROXY", "all_proxy", "HTTP_PROXY", "https_proxy"])
def test_a_socks_proxy_stops_nobody_from_reaching_loopback(no_socks_packages: None, variable: str) -> None:
    os.environ[variable] = "socks5://me:hunter2@127.0.0.1:9"
    bypass_loopback()
    set_socks_aside()
    httpx.Client().close()
    assert variable not in os.environ
    scheme = "https" if variable == "https_proxy" else "http"
    found = find_proxy(f"{scheme}://mlflow.corp.example")  # it is known still, to those whom it is in the way of
    assert found is not None
    assert str(found) == f"socks5://127.0.0.1:9 ({variable})"


def test_a_socks_proxy_stays_where_its_package_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    os.environ["ALL_PROXY"] = "socks5://127.0.0.1:9"
    monkeypatch.setattr(infra.machine.proxies, "find_spec", lambda name: object())
    set_socks_aside()
    assert os.environ["ALL_PROXY"] == "socks5://127.0.0.1:9"
    check_socks(ELSEWHERE, "Prefect's client", "socksio")


def test_a_socks_proxy_before_a_server_elsewhere_is_named_before_anything_is_asked(no_socks_packages: None) -> None:
    os.environ["ALL_PROXY"] = "socks5://me:hunter2@10.0.0.1:1080"
    os.environ["PREFECT_API_URL"] = ELSEWHERE
    with pytest.raises(ServerError, match=r"SOCKS proxy socks5://10\.0\.0\.1:1080 \(ALL_PROXY\), which Prefect's cli"):
        ensure_prefect_server(pytest.fail)
    set_socks_aside()
    os.environ["MLFLOW_TRACKING_URI"] = "https://mlflow.corp.example"
    with pytest.raises(ServerError, match=r"which MLflow cannot use here; .* add mlflow\.corp\.example to NO_PROXY"):
        resolve_tracking("/work")
    os.environ |= {"NO_PROXY": "corp.example", "no_proxy": "corp.example"}
    assert resolve_tracking("/work") == ("https://mlflow.corp.example", None)


def test_boto3_is_not_sent_around_a_socks_proxy(no_socks_packages: None) -> None:
    os.environ["https_proxy"] = "socks5h://10.0.0.1:1080"
    set_socks_aside()  # else it would go there directly, which whoever set the proxy does not want
    with pytest.raises(ServerError, match=r"socks5h://10\.0\.0\.1:1080 \(https_proxy\), which boto3 cannot"):
        make_s3_client((("AWS_ENDPOINT_URL", ""),))


# --- a proxy in the way ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "fault"),
    [("http://prefect.corp.example:4200/api", "403"), ("https://prefect.corp.example/api", "403 Forbidden by policy")],
)
def test_a_proxy_that_does_not_let_by_is_named_without_its_password(
    refusing_proxy: str, address: str, fault: str
) -> None:
    variable = f"{address.partition(':')[0].upper()}_PROXY"
    os.environ |= {variable: refusing_proxy.replace("//", "//me:hunter2@"), "PREFECT_API_URL": address}
    with pytest.raises(ServerError, match=fault) as caught:
        ensure_prefect_server(pytest.fail)
    told = str(caught.value)
    assert f"through the proxy {refusing_proxy} ({variable})" in told
    assert "add prefect.corp.example to NO_PROXY" in told
    assert "hunter2" not in told


def test_a_proxy_that_is_not_there_is_named(unused_port: int) -> None:
    os.environ |= {"HTTP_PROXY": f"me:hunter2@127.0.0.1:{unused_port}", "PREFECT_API_URL": ELSEWHERE}
    with pytest.raises(ServerError, match=rf"\(Connection refused\) through the proxy http://127.0.0.1:{unused_port} "):
        ensure_prefect_server(pytest.fail)


def test_a_server_that_answers_through_the_proxy_is_taken() -> None:
    for proxy in listen(Server):
        os.environ |= {"HTTP_PROXY": proxy, "PREFECT_API_URL": ELSEWHERE}
        assert ensure_prefect_server(pytest.fail) == ELSEWHERE


def test_a_proxy_before_s3_is_named() -> None:
    os.environ |= {"HTTPS_PROXY": "http://me:hunter2@10.0.0.1:3128", "ALL_PROXY": "http://10.0.0.2"}
    told = explain_s3_error(OSError("x"), "bucket")
    assert "no answer from AWS (OSError) through the proxy http://10.0.0.1:3128 (HTTPS_PROXY); " in told
    os.environ["AWS_ENDPOINT_URL"] = "http://store.example:9000"
    assert "proxy" not in explain_s3_error(OSError("x"), "bucket")  # boto3 does not read ALL_PROXY
    assert "http://10.0.0.2 (ALL_PROXY)" in explain_proxy("http://store.example:9000")  # MLflow's client does


# --- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.integration
def test_a_store_on_loopback_is_read_past_the_proxy(s3_bucket: str) -> None:
    bucket = s3_bucket.removeprefix("s3://")
    boto3.session.Session().client("s3").put_object(Bucket=bucket, Key="cat/a.jpg", Body=b"a picture")
    os.environ |= {"HTTP_PROXY": DEAD, "AWS_MAX_ATTEMPTS": "1"}
    bypass_loopback()
    source = S3Source(s3_bucket)
    (entry,) = source.list()
    assert source.read(entry.path) == b"a picture"


@pytest.mark.integration
@pytest.mark.parametrize(
    "proxies",
    [{"HTTP_PROXY": DEAD, "HTTPS_PROXY": DEAD, "NO_PROXY": "corp.example"}, {"all_proxy": "socks5://127.0.0.1:9"}],
    ids=["http", "socks"],
)
def test_a_command_runs_at_a_desk_with_a_proxy(
    prefect_server: str, tmp_path: Path, make_image_folder: Any, proxies: dict[str, str]
) -> None:
    """The server is the local one, found by its address as a profile names it, so that each of its clients is asked."""
    make_image_folder(tmp_path / "photos", per_class=4, size=16)
    environment = os.environ | proxies | {"PREFECT_API_URL": prefect_server}
    command = [sys.executable, "-c", "from flows.cli.start import main; main()"]
    arguments = ["prepare", str(tmp_path / "photos"), "--workspace", str(tmp_path / "work"), "--json"]
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"] == 8
    assert "Traceback" not in done.stderr
    assert "rror" not in done.stderr
