"""A deployment of somebody else is neither taken over unseen nor deleted."""

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate

from cnn.errors import ConfigError
from flows.serving.ownership import check_ownership, make_owner_tag

pytestmark = pytest.mark.integration
HERE, THERE = "served on ant (11111111)", "served on bee (22222222)"


@flow(name="retrain")
def night() -> None:
    """Something to be deployed."""


async def make(client: PrefectClient, entrypoint: str = "flows.retrain.retrain", tag: str = "", pool: str = "") -> str:
    """The full name of a new deployment."""
    name = f"birds-{uuid4()}"
    tags = ["safelight", tag] if tag else []
    number = await client.create_flow(night)
    await client.create_deployment(number, name, entrypoint=entrypoint, tags=tags, work_pool_name=pool or None)
    return f"retrain/{name}"


def test_the_tag_of_a_machine_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path))
    first = make_owner_tag()
    assert make_owner_tag() == first
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "other"))
    assert make_owner_tag() != first


def test_whose_a_deployment_is(prefect_api: str) -> None:
    async def check() -> None:
        async with get_client() as client:
            assert await check_ownership(client, "retrain/nobody", HERE, 0.1) == ""
            own = await make(client, tag=HERE.replace("ant", "another-name"))
            assert await check_ownership(client, own, HERE, 0.1) == ""
            left = await make(client, tag=THERE)
            assert await check_ownership(client, left, HERE, 0.1) == "bee (22222222)"
            assert "not known" in await check_ownership(client, await make(client), HERE, 0.1)
            stranger = await make(client, entrypoint="theirs.py:retrain", tag=HERE)
            with pytest.raises(ConfigError, match="is not Safelight's; choose another --name"):
                await check_ownership(client, stranger, HERE, 0.1)
            assert (await client.read_deployment_by_name(stranger)).entrypoint == "theirs.py:retrain"

    asyncio.run(check())


def test_one_in_a_work_pool_is_left_where_it_is(prefect_api: str) -> None:
    async def check() -> None:
        async with get_client() as client:
            pool = await client.create_work_pool(WorkPoolCreate(name=f"pool-{uuid4()}", type="process"))
            name = await make(client, pool=pool.name)
            with pytest.raises(ConfigError, match=f"in the work pool {pool.name}; choose another --name"):
                await check_ownership(client, name, HERE, 0.1)
            assert (await client.read_deployment_by_name(name)).work_pool_name == pool.name
            await client.delete_work_pool(pool.name)

    asyncio.run(check())


def test_one_that_another_machine_serves_now_is_refused(prefect_api: str) -> None:
    async def check() -> None:
        async with get_client() as client:
            name = await make(client, tag=THERE)
            number = (await client.read_deployment_by_name(name)).id
            ended = asyncio.Event()

            async def serve() -> None:
                while not ended.is_set():
                    await client.get_scheduled_flow_runs_for_deployments([number])
                    await asyncio.sleep(0.1)

            serving = asyncio.create_task(serve())
            with pytest.raises(ConfigError, match=r"is served on bee \(22222222\) at this moment; stop"):
                await check_ownership(client, name, HERE, 20)
            ended.set()
            await serving
            assert await check_ownership(client, name, HERE, 0.5) == "bee (22222222)"

    asyncio.run(check())
