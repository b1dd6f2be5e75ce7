"""Whether Prefect's server can be asked how the nights went. Imports no Prefect: what that reads is set here."""

from collections.abc import Callable
from dataclasses import dataclass

from cnn.errors import SafelightError
from flows.upkeep.findings import Finding
from infra.server.prefect_server import find_prefect_api, has_local_history, open_prefect
from infra.server.spec import ServerSpec


@dataclass(frozen=True)
class ServerProbe:
    """Whether a server was found; if not, the fault, or None where there never was one on this machine."""

    is_open: bool
    fault: Finding | None = None


def probe_prefect(announce: Callable[[str], None], spec: ServerSpec) -> ServerProbe:
    """Open the server that commands use, started when it is a local one that has runs to tell of."""
    if find_prefect_api() is None and not has_local_history():
        return ServerProbe(False)
    try:
        open_prefect(announce, spec)
    except SafelightError as error:
        mend = "start it: while it is away, no run comes and nobody is told"
        return ServerProbe(False, Finding("server", str(error), mend))
    return ServerProbe(True)
