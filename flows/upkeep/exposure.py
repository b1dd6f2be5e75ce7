"""Ports that other machines reach: servers of Prefect, MLflow and Dask that listen beyond this machine."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class OpenPort:
    """A port at which a server listens, which program, and its process."""

    address: str
    port: int
    server: str
    pid: int


def find_exposed(ports: Iterator[OpenPort]) -> Iterator[Finding]:
    """The servers that listen beyond this machine, each port once."""
    for port in sorted({port for port in ports if not is_loopback(port.address)}, key=lambda each: each.port):
        what = f"{port.server} listens on {port.address}:{port.port} (process {port.pid}) and {SERVERS[port.server]}"
        mend = "start it with --host 127.0.0.1, or put it behind TLS, a password and a firewall"
        yield Finding("exposed", what, mend)


def list_open_ports() -> Iterator[OpenPort]:
    """The ports at which servers that Safelight uses listen, as far as this user may see them."""
    for process in psutil.process_iter(["pid", "cmdline"]):
        server = name_server(process.info["cmdline"] or [])
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
