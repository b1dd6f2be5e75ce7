"""HTTP and SOCKS proxies that the environment names: none before this machine's own servers, and the one in the way.

HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY are read as Python's urllib does: what is written small comes first.
Prefect's client (httpx), its websockets, MLflow (requests) and boto3 each read them for themselves.
"""

import ipaddress
import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

from cnn.errors import ServerError
from cnn.text import redact

LOOPBACK = ("localhost", "127.0.0.1", "::1")
SCHEMES = ("http", "https", "all")
ASIDE = "SAFELIGHT_SOCKS_"  # what begins the names under which SOCKS proxies are kept from clients that cannot use them


@dataclass(frozen=True)
class Proxy:
    """A proxy, and the variable that names it; an address without a scheme is that of an HTTP proxy."""

    variable: str
    address: str

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS, for which Python's HTTP clients need a package more."""
        return self.address.startswith("socks")

    def __str__(self) -> str:
        """Both, without a user's name and password."""
        return f"{redact(self.address)} ({self.variable})"


def bypass_loopback(*addresses: str | None) -> None:
    """Where a proxy is set, have NO_PROXY name loopback for this process and its children; what it named stays.

    Of the addresses of servers, those that are on loopback under another name, such as 127.0.0.2, are named too. Names
    that httpx cannot read, and fails at, are written in the way that it can, or left out where no client reads them.
    """
    proxied = any(_read(f"{scheme}_proxy") for scheme in SCHEMES)
    hosts = {_host(address) for address in addresses if address} if proxied else set()
    wanted = [*LOOPBACK, *sorted(host for host in hosts if is_loopback(host) and host not in LOOPBACK)] * proxied
    named = {variable: os.environ.get(variable) for variable in ("no_proxy", "NO_PROXY")}
    for variable, other in (("no_proxy", "NO_PROXY"), ("NO_PROXY", "no_proxy")):
        own = named[variable] if named[variable] is not None or not proxied else named[other]
        # With any variable set Python no longer asks macOS and Windows for their own settings: none is set for nothing.
        if own is not None or proxied:
            os.environ[variable] = _join(own or "", wanted)


def find_proxy(address: str, catch_all: bool = True) -> Proxy | None:
    """The proxy that the environment puts between this machine and an http(s) address; None for loopback.

    Without `catch_all`, ALL_PROXY does not count: boto3 does not read it.
    """
    scheme, host = address.partition("://")[0].lower(), _host(address)
    named = _read("no_proxy")
    if is_loopback(host) or (named and proxy_bypass_environment(host, {"no": named[1]})):
        return None
    for name in (scheme, "all") if catch_all else (scheme,):
        if found := _read(f"{name}_proxy") or _read_aside(name):
            return Proxy(found[0], found[1] if "://" in found[1] else f"http://{found[1]}")
    return None


def set_socks_aside() -> None:
    """Take SOCKS proxies out of the environment, unless the package is there without which httpx fails at once.

    It fails for every server then, also for one that it would reach without a proxy. `find_proxy` knows them still.
    """
    if find_spec("socksio") is not None:
        return
    for scheme in SCHEMES:
        found = _read(f"{scheme}_proxy")
        if found and found[1].startswith("socks"):
            os.environ[f"{ASIDE}{scheme.upper()}"] = " ".join(found)
            for variable in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY"):
                os.environ.pop(variable, None)


def check_socks(address: str, who: str, package: str | None) -> None:
    """Raise ServerError when a SOCKS proxy is between this machine and an address, and `who` cannot go through it.

    `package` is what `who` needs for it; None for boto3, which cannot at all.
    """
    proxy = find_proxy(address, catch_all=package is not None)
    if proxy is None or not proxy.is_socks:
        return
    aside = any(name.startswith(ASIDE) for name in os.environ)
    if package is not None and find_spec(package) is not None and not aside:
        return
    more = " install socksio and PySocks," if package else ""
    raise ServerError(
        f"{redact(address)} is behind the SOCKS proxy {proxy}, which {who} cannot use here;{more} name an HTTP proxy in"
        f" {urlsplit(address).scheme.upper()}_PROXY, or add {_host(address)} to NO_PROXY if it is reached without one"
    )


def explain_proxy(address: str, catch_all: bool = True) -> str:
    """For the end of a sentence on a server that does not answer: the proxy in the way, and the way out; or nothing."""
    if (proxy := find_proxy(address, catch_all)) is None:
        return ""
    return f" through the proxy {proxy}; if it is reached without one, add {_host(address)} to NO_PROXY"


def is_address(address: str) -> bool:
    """Whether an address is one of a server: a host, and a port where it names any."""
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket that is not closed, a port above 65535
        return False


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own, whatever the network."""
    host = host.strip("[]").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _join(own: str, wanted: list[str]) -> str:
    names = [_rewrite(name) for name in re.split(r"[\s,]+", own) if name]
    if names == ["*"]:
        return "*"  # for urllib it stands for all only when it stands alone
    return ",".join(dict.fromkeys(name for name in [*names, *wanted] if name))


def _rewrite(name: str) -> str:
    """A name of NO_PROXY for all clients: IPv6 addresses without brackets, and no networks of them."""
    plain = name.strip("[]")
    try:
        network = ipaddress.ip_network(plain, strict=False)
    except ValueError:
        return name
    if network.version == 4:
        return name
    return "" if "/" in plain else plain


def _read(variable: str) -> tuple[str, str] | None:
    """(the variable as it is set, its value); set to nothing, the small one counts as much as any."""
    for name in (variable, variable.upper()):
        if (value := os.environ.get(name)) is not None:
            return (name, value.strip()) if value.strip() else None
    return None


def _read_aside(scheme: str) -> tuple[str, str] | None:
    variable, _, address = os.environ.get(f"{ASIDE}{scheme.upper()}", "").partition(" ")
    return (variable, address) if address else None


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
