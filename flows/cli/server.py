"""Nothing in, the state of the local Prefect server out: what `safelight up` and `safelight down` answer."""

from typing import Any

from cnn.text import redact
from flows.progress import say
from infra.server.prefect_server import ServerSpec, ensure_prefect_server, server_status, stop_server


def start_servers(spec: ServerSpec) -> dict[str, Any]:
    """Start the local server, unless one is configured or running; it stays until it is stopped."""
    url = ensure_prefect_server(say, spec, stay=True)
    state = server_status()
    ours = state is not None and state.url == url
    return {
        "api": redact(url),
        "ui": redact(url).removesuffix("/api"),
        "started_here": ours,
        "pid": str(state.pid) if ours and state else None,
        "log": state.log if ours and state else None,
    }


def stop_servers() -> dict[str, Any]:
    """Stop the local server; a server that was started otherwise is left alone."""
    return {"stopped": stop_server()}
