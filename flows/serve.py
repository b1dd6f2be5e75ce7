"""A model's name, its folders and cron lines in; deployments served by this process until it is stopped."""

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.runner import Runner
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType

from cnn.errors import ConfigError
from flows.config import Config
from flows.progress import say
from flows.retrain import retrain
from flows.score import score
from infra.keeping import keep_server
from infra.spawning import leave_working_folder


@dataclass(frozen=True)
class Served:
    """What is to be served; a deployment without a folder is there, but its schedule is paused."""

    name: str
    workspace: str
    config: Config
    source: str | None
    inbox: str | None


def make_deployments(served: Served) -> list[Any]:
    """The deployments `retrain/nightly` and `score/hourly`, one run at a time each."""
    common = {"name": served.name, "workspace": served.workspace, "config": served.config.model_dump(mode="json")}
    plans = (
        (retrain, "nightly", served.config.schedule.retrain, served.source),
        (score, "hourly", served.config.schedule.score, served.inbox),
    )
    try:
        return [_make_deployment(served, common, plan) for plan in plans]
    except ValueError as error:  # Prefect reads cron lines and zones
        text = " ".join(str(error).split())[:200]
        raise ConfigError(f"[schedule]: {text}; cron lines have five fields, zones an IANA name") from None


def _make_deployment(served: Served, common: dict[str, Any], plan: tuple[Any, str, str, str | None]) -> Any:
    flow, title, cron, folder = plan
    return flow.to_deployment(
        name=title,
        # The slug says which schedule of an earlier deployment this one replaces.
        schedules=[Cron(cron, timezone=served.config.schedule.timezone, active=folder is not None, slug=title)],
        parameters=common | ({"source": folder} if folder else {}),
        concurrency_limit=1,
        entrypoint_type=EntrypointType.MODULE_PATH,  # of an installed package, from whichever folder it is served
    )


def replace_pooled(names: list[str]) -> None:
    """Remove deployments of these names that wait in a work pool: Prefect would mix their settings with ours."""
    with get_client(sync_client=True) as client:
        for name in names:
            try:
                found = client.read_deployment_by_name(name)
            except ObjectNotFound:
                continue
            if found.work_pool_name is not None:
                client.delete_deployment(found.id)
                say(f"serving {name} in place of the deployment in the work pool {found.work_pool_name}")


class _Runner(Runner):
    """Prefect's, which on SIGTERM ends as it does on Ctrl-C; its own way leaves a coroutine behind, and says so."""

    _serving: "asyncio.Task[None] | None" = None

    async def serve(self) -> None:
        """Run until this task is cancelled."""
        self._serving = asyncio.current_task()
        await self.start()

    def handle_sigterm(self, *args: Any, **kwargs: Any) -> None:
        if self._serving is not None:
            self._serving.get_loop().call_soon_threadsafe(self._serving.cancel)


def serve_deployments(served: Served) -> dict[str, Any]:
    """Serve until Ctrl-C or SIGTERM; runs come from the schedules and from `prefect deployment run`."""
    leave_working_folder()
    deployments = make_deployments(served)
    names = ["retrain/nightly", "score/hourly"]
    replace_pooled(names)
    for title, folder, option in zip(names, (served.source, served.inbox), ("--source", "--inbox"), strict=True):
        state = f"on schedule, from {folder}" if folder else f"paused: give {option}"
        say(f"serving {title} ({state})")
    runner = _Runner(limit=1)
    with keep_server(os.environ.get("PREFECT_API_URL", "")), suppress(KeyboardInterrupt, asyncio.CancelledError):
        for deployment in deployments:
            runner.add_deployment(deployment)
        asyncio.run(runner.serve())
    return {"served": names, "model": served.name}
