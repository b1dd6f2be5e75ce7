"""Whose a deployment on Prefect's server is: this machine's, one that another machine serves now, or not Safelight's.

Deployments have the name of the model (`retrain/birds`), and Prefect lets anybody register one of a name that there is.
The tag `served on HOST` with a number of the machine says who did. Whether that machine still serves is asked of the
server: whoever serves asks for due runs every few seconds, and the server notes when it was asked last.
"""

import asyncio
import platform
import re
import secrets
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from cnn.errors import ConfigError
from infra.machine.user_dirs import state_dir

SERVED_ON = "served on "
LOOK_SECONDS = 25.0  # more than twice the pause between two questions of one that serves


def make_owner_tag() -> str:
    """The tag of this machine's deployments, such as `served on ant (1f3a9c02)`: the same one after a restart."""
    path = state_dir() / "serve" / "machine"
    try:
        number = re.findall(r"^[0-9a-f]{8}$", path.read_text("ascii"))[0]
    except (OSError, ValueError, IndexError):
        number = secrets.token_hex(4)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(number, "ascii")
    return f"{SERVED_ON}{platform.node() or 'an unnamed machine'} ({number})"


async def check_ownership(client: PrefectClient, name: str, owner: str, seconds: float = LOOK_SECONDS) -> str:
    """Who served the deployment before: "" where that was this machine, or nobody.

    Raises:
        ConfigError: it is served elsewhere now, waits in a work pool, or is a deployment of something else.
    """
    try:
        found = await client.read_deployment_by_name(name)
    except ObjectNotFound:
        return ""
    model = name.partition("/")[2]
    way_out = f"choose another --name than {model}, or remove it: prefect deployment delete {name}"
    if found.work_pool_name is not None:
        raise ConfigError(
            f"Prefect's server has a deployment {name} already, in the work pool {found.work_pool_name}; {way_out}"
        )
    if not str(found.entrypoint).startswith("flows."):
        raise ConfigError(f"Prefect's server has a deployment {name} that is not Safelight's; {way_out}")
    before = next((tag for tag in found.tags if tag.startswith(SERVED_ON)), "served on a machine that is not known")
    if _read_number(before) == _read_number(owner):
        return ""
    if await is_served_now(client, found, seconds):
        raise ConfigError(
            f"{name} is {before} at this moment; stop `safelight serve` there first, or choose another --name than"
            f" {model}"
        )
    return before.removeprefix(SERVED_ON)


async def is_served_now(client: PrefectClient, deployment: DeploymentResponse, seconds: float) -> bool:
    """Whether somebody asks for the runs of a deployment: the server is looked at for so many seconds."""
    first: Any = deployment.last_polled
    async with asyncio.timeout(2 * seconds):
        for _ in range(max(1, round(seconds))):
            await asyncio.sleep(min(1.0, seconds))
            if (await client.read_deployment(deployment.id)).last_polled != first:
                return True
    return False


def _read_number(tag: str) -> str:
    """The machine's number in a tag; its name may be another one after each start of a container."""
    found = re.search(r"\(([0-9a-f]{8})\)$", tag)
    return found[1] if found else ""
