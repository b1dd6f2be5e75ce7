"""The address of a Dask scheduler in, the same with its scheme out, if whoever listens there may be trusted."""

import ipaddress
import os
from urllib.parse import urlsplit

from cnn.errors import ConfigError
from cnn.text import redact

TRUST = "SAFELIGHT_TRUST_PLAIN_TCP"


def check_address(address: str, trust_plain_tcp: bool) -> str:
    """The address with its scheme, if what travels there is encrypted or stays on this machine.

    Other addresses need two words of trust: the setting, which may come from a file that somebody else wrote, and
    SAFELIGHT_TRUST_PLAIN_TCP=1 in the environment, which only whoever starts the process sets.

    Raises:
        ConfigError: it is no address, or a word of trust is missing; the line says which.
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
    words = {"cluster.trust_plain_tcp=true": trust_plain_tcp, f"{TRUST}=1": os.environ.get(TRUST) == "1"}
    if parts.scheme == "tcp" and not all(words.values()) and not _is_loopback(host):
        missing = " and ".join(word for word, said in words.items() if not said)
        raise ConfigError(
            f"cluster.address {redact(full)} is not encrypted, and whoever reaches a Dask scheduler runs code on it;"
            " use tls://, or, on a network that only you reach, set both cluster.trust_plain_tcp=true and"
            f" {TRUST}=1 in the environment (missing: {missing})"
        )
    return full


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
