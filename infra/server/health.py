"""Whether a Prefect server answers at an address; if none does, what is in the way and what to do about it."""

import re
import ssl
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from cnn.errors import ServerError
from cnn.text import redact
from infra.machine.proxies import explain_proxy, find_proxy, is_address, is_loopback

EXAMPLE = "http://127.0.0.1:4200/api"


def is_healthy(address: str) -> bool:
    """Whether a server on this machine answers that it is well."""
    try:
        with _ask_health(address, 5) as reply:
            return bool(reply.status == 200)
    except (OSError, HTTPException):  # a program that speaks something else has the port
        return False


def check_prefect_server(address: str) -> None:
    """Raise ServerError when no server answers at a configured address, or a proxy in the way does not let by."""
    if address.partition("://")[0].lower() not in ("http", "https") or not is_address(address):
        raise ServerError(
            f"PREFECT_API_URL is {redact(address)}, which is no address of a server; write {_complete(address)}"
        )
    if (fault := _find_fault(address)) is not None:
        raise ServerError(
            f"no Prefect server answers at {redact(address)} ({fault}){explain_proxy(address)}; start it, or unset"
            " PREFECT_API_URL (or the profile that sets it) to have a local one"
        )


def _find_fault(address: str) -> str | None:
    """What is wrong with the answer at an address; None where it is Prefect's, or nobody can say."""
    parts, proxy = urlsplit(address), find_proxy(address)
    if proxy is not None and proxy.is_socks:
        return None  # whoever can use it will see
    if proxy is None and urllib.request.getproxies().get(parts.scheme) and not is_loopback(parts.hostname or ""):
        return None  # a proxy of the system's own settings: nobody can say what it does
    try:
        with _ask_health(address, 10, {parts.scheme: proxy.address} if proxy else {}) as reply:
            return None if proxy or reply.read(100).strip() == b"true" else _describe_stranger(address)
    except HTTPError as error:
        with error:
            if proxy is None:  # others may want a key, or be busy
                return _describe_stranger(address) if error.code in (404, 405, 501) else None
            # Through a tunnel the answer is the server's own, which may want a key; else the proxy speaks for itself.
            own = parts.scheme == "https" and error.code < 500
            return None if own else f"{error.code} {error.reason}"
    except HTTPException:
        return _describe_stranger(address)
    except URLError as error:
        if proxy is None and isinstance(error.reason, ssl.SSLError):
            return None  # Prefect's client may know more certificates
        return str(getattr(error.reason, "strerror", None) or error.reason)
    except OSError as error:
        return None if proxy is None else str(error.strerror or error)  # connected, but slow: whoever uses it will see


def _describe_stranger(address: str) -> str | None:
    """What to say of another program that answers there; None of Prefect's cloud, which does not say what it is."""
    if (urlsplit(address).hostname or "").endswith("prefect.cloud"):
        return None
    meant = _complete(address)
    return "another program does" if meant == address.rstrip("/") else f"what does is no API; {meant} may be meant"


def _complete(address: str) -> str:
    """What was probably meant by an address without its scheme or its path; else an example."""
    host = re.fullmatch(r"(?:https?://)?([\w.-]+(?::\d+)?|\[[0-9a-fA-F:]+\](?::\d+)?)/?(?:api/?)?", address)
    scheme = "https" if address.startswith("https") else "http"
    meant = f"{scheme}://{host[1]}/api" if host else ""
    return meant if is_address(meant) else EXAMPLE


def _ask_health(address: str, seconds: float, proxies: Mapping[str, str] | None = None) -> Any:
    """What a server says of its health; by no proxy but these, whatever the environment names."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(dict(proxies or {})))
    parts = urlsplit(address)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # urllib takes a password for the host
    return opener.open(f"{plain.rstrip('/')}/health", timeout=seconds)
