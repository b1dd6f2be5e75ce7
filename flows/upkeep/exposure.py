"""Ports that other machines reach: servers of Prefect, MLflow and Dask that listen beyond this machine."""

import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

import psutil

from cnn.text import redact
from flows.upkeep.findings import Finding
from infra.cluster.address import TRUST
from infra.machine.proxies import is_loopback

# What a process is by the words of its command line, and what whoever reaches it may do.
SERVERS = {
    "dask": "runs any code that whoever reaches it sends",
    "prefect": "lets whoever reaches it run and change deployments",
    "mlflow": "lets whoever reaches it read, change and delete models",
}
VERSION_PATHS = {"prefect": "/api/version", "mlflow": "/version"}  # refused by a server that asks for a password
SECONDS = 2.0  # that a server of this machine has to answer in
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where a server listens that listens everywhere


@dataclass(frozen=True)
class OpenPort:
    """A port at which a server listens, which program, and its process."""

    address: str
    port: int
    server: str
    pid: int


def find_exposed(ports: Iterator[OpenPort]) -> Iterator[Finding]:
    """The servers that listen beyond this machine and ask for neither certificate nor password, each port once."""
    beyond = {port.port: port for port in ports if not is_loopback(port.address)}  # one may have two kinds of address
    for port in sorted(beyond.values(), key=lambda each: each.port):
        if refuses_strangers(port):
            continue
        what = f"{port.server} listens on {port.address}:{port.port} (process {port.pid}) and {SERVERS[port.server]}"
        mend = "start it with --host 127.0.0.1, or have it ask for a certificate or a password (docs/deploy.md)"
        yield Finding("exposed", what, mend)


def refuses_strangers(port: OpenPort) -> bool:
    """Whether a server asks whoever calls it for a certificate (Dask: always when it speaks TLS) or a password."""
    host = ANYWHERE.get(port.address, port.address)
    if port.server == "dask":
        return _speaks_tls(host, port.port)
    connection = HTTPConnection(host, port.port, timeout=SECONDS)
    try:
        connection.request("GET", VERSION_PATHS[port.server])
        return connection.getresponse().status in (401, 403)
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is said to it
    try:
        with socket.create_connection((host, port), SECONDS) as plain, context.wrap_socket(plain):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # TLS 1.2 asks for the certificate before the handshake is done
    except OSError:
        return False


def list_open_ports() -> Iterator[OpenPort]:
    """The ports at which servers that Safelight uses listen, as far as this user may see them."""
    for process in psutil.process_iter(["pid", "cmdline"]):
        server = name_server(process.info["cmdline"] or []) or _name_parent(process)
        if server is None:
            continue
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:
            continue  # another user's, or it has ended
        for each in connections:
            if each.status == psutil.CONN_LISTEN:
                yield OpenPort(each.laddr.ip, each.laddr.port, server, process.pid)


def name_server(words: list[str]) -> str | None:
    """Which server a command line starts, or None."""
    names = [word.rpartition("/")[2] for word in words]
    text = " ".join(names)
    if "prefect server start" in text or "prefect.server.api.server" in text:
        return "prefect"
    if "mlflow server" in text or "mlflow ui" in text or "mlflow.server" in text:
        return "mlflow"
    if any(f"dask {kind}" in text or f"dask-{kind}" in names for kind in ("scheduler", "worker")):
        return "dask"
    return None


def _name_parent(process: psutil.Process) -> str | None:
    """What a server is part of which Python's multiprocessing has started: Dask's workers have a parent each."""
    if not any("multiprocessing" in word for word in process.info["cmdline"] or []):
        return None
    try:
        parent = process.parent()
        return name_server(parent.cmdline()) if parent else None
    except psutil.Error:
        return None


def find_plain(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Servers elsewhere that are spoken to without encryption."""
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL"):
        address = environment.get(name, "")
        if urlsplit(address).scheme == "http" and not is_loopback(urlsplit(address).hostname or ""):
            what = f"{name} is {redact(address)}: what goes there can be read and changed on the way"
            yield Finding("plain", what, "put the server behind https, or reach it through a tunnel on loopback")
    if environment.get(TRUST) == "1":
        what = f"{TRUST}=1: Dask is spoken to without encryption, and runs any code that it is sent"
        yield Finding("plain", what, "use tls:// addresses (docs/deploy.md, Dask), and unset the variable")
