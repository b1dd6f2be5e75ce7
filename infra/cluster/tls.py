"""Certificates for an encrypted Dask scheduler: seen to be there before it is called, and what a refusal means."""

import os
import ssl
from collections.abc import Iterator

from cnn.errors import ConfigError, SafelightError, ServerError, ServerOutageError
from cnn.text import redact

PREFIX = "DASK_DISTRIBUTED__COMM__TLS__"  # Dask's own settings, as the environment gives them
GUIDE = "see Dask in docs/deploy.md"


def check_certificates(address: str) -> None:
    """See that this process has what it needs to call an encrypted scheduler: an authority, a certificate and its key.

    Raises:
        ConfigError: one is not set, is not there, or cannot be used.
    """
    from distributed.security import Security

    given = Security().get_tls_config_for_role("client")  # type: ignore[no-untyped-call]
    named = {"CA_FILE": given["ca_file"], "CLIENT__CERT": given["cert"], "CLIENT__KEY": given["key"]}
    missing = [PREFIX + name for name in ("CA_FILE", "CLIENT__CERT") if not named[name]]
    if missing:
        raise ConfigError(
            f"cluster.address {redact(address)} is encrypted, and no certificate is set for this command; set"
            f" {' and '.join(missing)} to the files that the scheduler was started with; {GUIDE}"
        )
    for name, path in named.items():
        if path and "\n" not in path and not os.access(path, os.R_OK):  # Dask takes the text of a certificate as well
            raise ConfigError(f"{PREFIX}{name}: there is no file {path} that this command may read; {GUIDE}")
    try:
        Security().get_connection_args("client")  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        shown = ", ".join(path for path in named.values() if path and "\n" not in path)
        raise ConfigError(
            f"the certificates for {redact(address)} cannot be used ({error}): {shown}; {GUIDE}"
        ) from None


def explain_refusal(address: str, error: Exception, seconds: float) -> SafelightError:
    """The error to raise when a scheduler could not be joined, given what Dask raised after so many seconds."""
    place = redact(address)
    causes = list(_list_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ServerError(
                f"the Dask scheduler at {place} shows a certificate that this command does not trust"
                f" ({cause.verify_message}); {PREFIX}CA_FILE has to name the authority that signed it; {GUIDE}"
            )
    if any(map(_is_hang_up, causes)):
        hint = (
            "it does not trust the certificate of this command, or is not encrypted (tcp://)"
            if address.startswith("tls://")
            else "it is most likely encrypted: write tls://"
        )
        return ServerOutageError(f"the Dask scheduler at {place} ends the connection at once; {hint}; {GUIDE}")
    return ServerOutageError(
        f"no Dask scheduler answers at {place} within {seconds:g} seconds; start one there, or unset cluster.address"
    )


def _is_hang_up(cause: BaseException) -> bool:
    """Whether the other side took the connection and ended it, by whichever of its signs came first."""
    from tornado.iostream import StreamClosedError

    if isinstance(cause, StreamClosedError):
        return cause.real_error is None  # it read the end of the stream
    return isinstance(cause, ConnectionResetError | ConnectionAbortedError | BrokenPipeError | ssl.SSLError)


def _list_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = getattr(error, "real_error", None) or error.__cause__ or error.__context__  # the first one is Tornado's
