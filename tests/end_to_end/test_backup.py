"""Databases that were backed up are restored and upgraded: the deployments and versions are there again."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres import PASSWORD, find_obstacle, find_program, run_postgres
from prefect_servers import run_prefect_with
from s3server import choose_ports

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(900)]

BIN = Path(sys.executable).parent
BEFORE, AFTER = ("prefect", "mlflow"), ("prefect2", "mlflow2")


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    """`USER:PASSWORD@HOST:PORT` of a PostgreSQL server with two pairs of empty databases."""
    if obstacle := find_obstacle():
        if os.environ.get("SAFELIGHT_REQUIRE_SERVERS") == "1":
            pytest.fail(f"no PostgreSQL, though SAFELIGHT_REQUIRE_SERVERS=1: {obstacle}")
        pytest.skip(f"no PostgreSQL: {obstacle}")
    with run_postgres() as address:
        place = address.rpartition("/")[0]
        for name in (*BEFORE, *AFTER):
            run_program("psql", f"postgresql://{address}", "--command", f"CREATE DATABASE {name}")
        yield place


def run_program(name: str, *words: str) -> None:
    """One of PostgreSQL's own programs."""
    done = subprocess.run([str(find_program(name)), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def run_command(name: str, *words: str, **names: str) -> str:
    """What a command of the environment prints."""
    done = subprocess.run([BIN / name, *words], env=os.environ | names, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def deploy(api: str, folder: Path, *words: str) -> dict[str, Any]:
    command = ["deploy", "--name", "birds", "--workspace", str(folder / "workspace"), "--json", *words]
    answer: dict[str, Any] = json.loads(run_command("safelight", *command, PREFECT_API_URL=api))["deployments"]
    return answer


def test_what_was_backed_up_is_there_again(host: str, tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    store = "postgresql+pg8000://{}/{}"
    tables = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
    (port,), url = choose_ports(1), f"postgresql+asyncpg://{host}/prefect"
    with run_prefect_with({tables: url}, tmp_path, port) as api:
        made = deploy(api, tmp_path, "--inbox", str(tmp_path / "inbox"), "--every", "3h")
    register(store.format(host, "mlflow"))
    for before, after in zip(BEFORE, AFTER, strict=True):
        dump = str(tmp_path / f"{before}.dump")
        run_program("pg_dump", "--format=custom", f"--file={dump}", f"postgresql://{host}/{before}")
        run_program("pg_restore", "--no-owner", f"--dbname=postgresql://{host}/{after}", dump)
    run_command("prefect", "server", "database", "upgrade", "-y", **{tables: f"{url}2"})
    run_command("mlflow", "db", "upgrade", store.format(host, "mlflow2"))
    assert read_versions(store.format(host, "mlflow2")) == ["1"]
    with run_prefect_with({tables: f"{url}2"}, tmp_path, port) as api:
        again = deploy(api, tmp_path)
    assert again["score/birds"] == made["score/birds"] | {"change": "unchanged"}
    assert again["score/birds"]["when"].startswith("every 3h")
    assert PASSWORD not in str(again)


def register(store: str) -> None:
    """A model with one version, in a registry that is new."""
    from mlflow import MlflowClient

    client = MlflowClient(store, store)
    client.create_registered_model("birds")
    client.create_model_version("birds", "s3://nowhere/birds")


def read_versions(store: str) -> list[str]:
    from mlflow import MlflowClient

    return [str(one.version) for one in MlflowClient(store, store).search_model_versions("name='birds'")]
