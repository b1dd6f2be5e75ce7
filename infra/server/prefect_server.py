"""Which Prefect server a command uses: the one that is configured, else a local one that is started when needed.

Prefect is never imported here: what it reads is set before.
"""

import os
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from infra.machine.proxies import bypass_loopback, check_socks, set_socks_aside
from infra.machine.user_dirs import state_dir
from infra.server.health import check_prefect_server
from infra.server.local_server import (
    cancel_idle_stop,
    find_local_server,
    is_own_server,
    start_server,
    use_server,
    wait_for_server,
)
from infra.server.spec import CONSOLE_LEVEL, ServerSpec


def open_prefect(announce: Callable[[str], None], spec: ServerSpec) -> None:
    """Point Prefect at a server: the one configured, else a local one that is started now and reused later.

    Called before Prefect is imported, and the one place that sets what it reads: a variable that is set already stays.
    """
    address = ensure_prefect_server(announce, spec)
    wanted = {
        CONSOLE_LEVEL: "CRITICAL",  # its log goes to the server, and to the terminal only where nothing else tells
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # nor its own tracebacks, when its server is away for a while
        "DO_NOT_TRACK": "1",  # nothing is sent out
        "PREFECT_API_URL": address,
        "PREFECT_HOME": str(find_prefect_home()),  # it warns before every answer where it cannot make its own
    }
    if is_own_server(address):
        # Two requests, each over a client of its own, would ask this server for a version that is known here.
        wanted["PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED"] = "false"
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


def ensure_prefect_server(announce: Callable[[str], None], spec: ServerSpec | None = None, stay: bool = False) -> str:
    """The API address of a Prefect server that answers; a local one is started, and announced, when there is none.

    With `stay` the local server does not end when it is idle. From here on proxies are kept from loopback.

    Raises:
        ServerError: the configured server cannot be reached, or the local one does not start.
    """
    spec = spec or ServerSpec()
    configured = find_prefect_api()
    bypass_loopback(configured)
    if configured:
        check_socks(configured, "Prefect's client", "socksio")
        set_socks_aside()
        check_prefect_server(configured)
        if (running := find_local_server()) and running.url == configured:
            use_server()
        return configured
    set_socks_aside()
    use_server()
    if running := find_local_server():
        if spec.port and spec.port != running.port:
            announce(f"Prefect server runs at {running.ui}; server.port counts when it starts (`safelight down` first)")
        return wait_for_server(cancel_idle_stop(running) if stay else running).url
    state = start_server(spec.model_copy(update={"idle_minutes": None}) if stay else spec)
    announce(f"Prefect server starting, its pages will be at {state.ui} (`safelight down` stops it)")
    return wait_for_server(state).url


def find_prefect_api() -> str | None:
    """The API address that the environment, prefect.toml or the active Prefect profile names; None without one."""
    if address := os.environ.get("PREFECT_API_URL"):
        return address
    project = _read_toml(Path("prefect.toml")).get("api")
    if isinstance(project, dict) and project.get("url"):
        return str(project["url"])
    home = Path(os.environ.get("PREFECT_HOME") or os.path.expanduser("~/.prefect"))
    content = _read_toml(Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml"))
    profiles, active = content.get("profiles"), os.environ.get("PREFECT_PROFILE") or content.get("active")
    profile = profiles.get(active) if isinstance(profiles, dict) else None
    address = profile.get("PREFECT_API_URL") if isinstance(profile, dict) else None
    return str(address) if address else None


def has_local_history() -> bool:
    """Whether a local server was ever started by this user, so that there may be runs to tell of."""
    return (state_dir() / "prefect" / "prefect.db").exists() or find_local_server() is not None


def find_prefect_home() -> Path:
    """Where Prefect's client keeps its files: where it always does, or among ours when that cannot be written to."""
    usual = Path(os.environ.get("PREFECT_HOME") or os.path.expanduser("~/.prefect"))
    with suppress(OSError):
        usual.mkdir(mode=0o700, parents=True, exist_ok=True)
    return usual if os.access(usual, os.W_OK | os.X_OK) else state_dir() / "prefect-client"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError):
        return {}  # Prefect itself says what is wrong with it
