"""The address of a Dask scheduler, checked: what travels there is encrypted, or stays on this machine."""

import os
from urllib.parse import urlsplit

from cnn.errors import ConfigError
from cnn.text import redact
from infra.machine.proxies import is_loopback

TRUST = "SAFELIGHT_TRUST_PLAIN_TCP"


def check_address(address: str) -> str:
    """The address with its scheme. One that is neither encrypted nor on loopback needs SAFELIGHT_TRUST_PLAIN_TCP=1 in
    the environment, which only whoever starts the process sets: a settings file may come from somebody else.

    Raises:
        ConfigError: it is no address, or is not trusted.
    """
    full = address if "://" in address else f"tcp://{address}"
    try:
        parts = urlsplit(full)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or port is None or parts.scheme not in ("tls", "tcp") or parts.path.strip("/"):
        raise ConfigError(
            f"cluster.address {redact(full)} is no scheduler; write tls://host:port or tcp://127.0.0.1:port"
        )
    if parts.scheme == "tcp" and os.environ.get(TRUST) != "1" and not is_loopback(host):
        raise ConfigError(
            f"cluster.address {redact(full)} is not encrypted, and whoever reaches a Dask scheduler runs code on it;"
            f" use tls://, or, on a network that only you reach, set {TRUST}=1 in the environment"
        )
    return full
