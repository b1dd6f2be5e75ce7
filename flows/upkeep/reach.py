"""Whether each server answers, how fast, in which version, and by which clock."""

import json
import os
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

from cnn.errors import SafelightError
from cnn.text import redact, redact_text, shorten
from flows.upkeep.findings import Finding
from infra.cluster.address import check_address
from infra.cluster.tls import check_certificates
from infra.registry.tracking import is_server
from infra.storage.store import open_store
from infra.storage.workspace import read_store_clock

SECONDS = 5.0
CLOCK_SECONDS = 30.0  # by which two clocks may differ
SLOW_SECONDS = 2.0
PACKAGES = ("safelight", "prefect", "mlflow-skinny", "dask", "tensorflow-cpu", "tensorflow", "onnxruntime", "boto3")


@dataclass(frozen=True)
class Reached:
    """What one look at something came to: a line for people, and what was found wrong."""

    check: str
    said: str
    findings: tuple[Finding, ...] = ()


def describe_versions() -> Reached:
    """The versions of what is installed."""
    found = []
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return Reached("versions", ", ".join(found))


def reach_servers(workspace: str) -> Iterator[Reached]:
    """Prefect's server, MLflow's, the S3 store and the Dask scheduler, each where one is configured."""
    if address := os.environ.get("PREFECT_API_URL"):
        yield ask_server("Prefect", address, f"{address.rstrip('/')}/admin/version", "prefect")
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if is_server(tracking):
        yield ask_server("MLflow", tracking, f"{tracking.rstrip('/')}/version", "mlflow-skinny")
    yield reach_store(workspace)
    if scheduler := os.environ.get("DASK_SCHEDULER_ADDRESS"):
        yield reach_scheduler(scheduler)


def ask_server(name: str, address: str, question: str, package: str) -> Reached:
    """What a server answers of its version, compared with what is installed, and its clock with ours."""
    began, shown = time.monotonic(), redact(address)
    parts = urlsplit(question)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    try:
        with urllib.request.build_opener().open(plain, timeout=SECONDS) as reply:
            said, date = reply.read(200).decode("utf-8", "replace").strip(), reply.headers.get("Date")
    except HTTPError as error:
        with error:
            return Reached(name, f"{shown} answers {error.code} {error.reason}: it may want a password")
    except (OSError, HTTPException, ValueError) as error:
        cause = redact_text(shorten(getattr(error, "reason", None) or error))
        mend = f"start it, or correct the variable that names {shown}"
        return Reached(name, f"{shown} does not answer", (Finding("server", f"{name} at {shown}: {cause}", mend),))
    seconds = time.monotonic() - began
    findings = [*_compare_versions(name, said, package), *_compare_clocks(f"{name} at {shown}", date)]
    if seconds > SLOW_SECONDS:
        mend = "look at the load of its machine and of its database"
        findings.append(Finding("server", f"{name} at {shown} took {seconds:.1f} s to say its version", mend))
    return Reached(name, f"{shown} {_read_version(said)} answers in {seconds * 1000:.0f} ms", tuple(findings))


def reach_store(workspace: str) -> Reached:
    """Whether the workspace can be listed and written, and its clock agrees with ours."""
    began = time.monotonic()
    try:
        store = open_store(workspace)
        if store.is_local and not store.root.is_dir():
            return Reached("workspace", f"{workspace} is not there yet")
        clock = read_store_clock(store)
        unfinished = store.count_unfinished(clock - 86_400)
    except SafelightError as error:
        mend = "look at the store, its address (AWS_ENDPOINT_URL) and the rights of its keys"
        return Reached("workspace", f"{workspace} cannot be used", (Finding("server", str(error), mend),))
    findings = []
    if abs(clock - time.time()) > CLOCK_SECONDS:
        findings.append(_find_clock(f"the store of {workspace}", clock - time.time()))
    if unfinished:
        what = f"{unfinished:,} unfinished files of more than a day ago lie in {workspace}"
        what += "" if store.is_local else " as uploads in parts, which are paid for and not listed"
        findings.append(
            Finding("unfinished", what, f"safelight gc --workspace {workspace}, or safelight doctor --repair")
        )
    said = f"{workspace} can be written, in {(time.monotonic() - began) * 1000:.0f} ms"
    return Reached("workspace", said, tuple(findings))


def reach_scheduler(address: str) -> Reached:
    """Whether somebody listens at the address of a Dask scheduler."""
    shown = redact(address)
    try:
        parts = urlsplit(check_address(address))
        if parts.scheme == "tls":
            check_certificates(address)
        with socket.create_connection((parts.hostname or "", parts.port or 0), SECONDS):
            return Reached("Dask", f"{shown} can be reached")
    except (OSError, SafelightError, ssl.SSLError) as error:
        mend = "start it (docs/deploy.md, Dask), or unset DASK_SCHEDULER_ADDRESS to work on this machine"
        return Reached("Dask", f"{shown} cannot be reached", (Finding("server", f"Dask: {shorten(error)}", mend),))


def _read_version(said: str) -> str:
    """The version in an answer: JSON text, or text alone."""
    try:
        value: Any = json.loads(said)
    except ValueError:
        value = said
    return value if isinstance(value, str) and len(value) < 40 else ""


def _compare_versions(name: str, said: str, package: str) -> Iterator[Finding]:
    theirs, ours = _read_version(said), version(package)
    if theirs and theirs.split(".")[:2] != ours.split(".")[:2]:
        mend = f"install {package} {ours} there, or release and server of one date (docs/deploy.md)"
        yield Finding("version", f"{name}'s server is {theirs}, here is {ours}", mend)


def _compare_clocks(what: str, date: str | None) -> Iterator[Finding]:
    with suppress(TypeError, ValueError):
        difference = parsedate_to_datetime(str(date)).timestamp() - time.time()
        if abs(difference) > CLOCK_SECONDS:
            yield _find_clock(what, difference)


def _find_clock(what: str, seconds: float) -> Finding:
    way = "ahead of" if seconds > 0 else "behind"
    mend = (
        "timedatectl set-ntp true on the machine whose clock is wrong: schedules and S3 signatures need the right time"
    )
    return Finding("clock", f"the clock of {what} is {abs(seconds):,.0f} s {way} this machine's", mend)
