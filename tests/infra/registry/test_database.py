"""The database of a new workspace that many commands open at once, and one that an earlier command left half-made."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from registries import make_bundle, open_registry, register

from cnn.errors import StorageError
from infra.registry.database import prepare_database, read_tables
from infra.registry.mlflow_client import import_mlflow, read_schema
from infra.registry.registry import Registry
from infra.registry.tracking import resolve_tracking

ONE_AFTER_IMPORT = """
import os, sys
from pathlib import Path
from infra.registry.mlflow_client import import_mlflow
from infra.registry.registry import Registry
from infra.registry.tracking import resolve_tracking
import_mlflow()
from mlflow.store.tracking import sqlalchemy_store  # what every process loads, before they start together
waiting, start = os.pipe()
children = []
for number in range(3):
    child = os.fork()
    if not child:
        os.close(start)
        os.read(waiting, 1)
        registry = Registry(*resolve_tracking(sys.argv[1]), announce=print)
        registry.register_version("same", registry.start_run("same", f"{number:064d}", {}), Path(sys.argv[2]), {})
        os._exit(0)
    children.append(child)
os.close(start)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A database with a version in it, to be copied."""
    folder = tmp_path_factory.mktemp("filled")
    with open_registry(folder) as registry:
        register(registry, "birds", make_bundle(folder / "bundle"))
        database = folder / "mlflow.db"
        with closing(sqlite3.connect(folder / "mlflow/mlflow.db")) as live, closing(sqlite3.connect(database)) as copy:
            live.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
        yield database


@pytest.fixture
def workspace(tmp_path: Path, filled: Path) -> Path:
    (tmp_path / "mlflow").mkdir()
    shutil.copyfile(filled, tmp_path / "mlflow/mlflow.db")
    return tmp_path


def open_told(workspace: Path) -> tuple[Registry, list[str]]:
    told: list[str] = []
    return Registry(*resolve_tracking(str(workspace)), announce=told.append), told


def run_sql(workspace: Path, *statements: str) -> None:
    with closing(sqlite3.connect(workspace / "mlflow/mlflow.db")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def leave_migration(workspace: Path, steps: int = 2) -> str:
    """Take the last steps of MLflow's migrations back, as a command that was killed in them leaves it."""
    import_mlflow()
    from alembic import command
    from mlflow.store.db import utils

    made: Any = utils
    engine = made.create_sqlalchemy_engine(f"sqlite:///{workspace}/mlflow/mlflow.db")
    config = made._get_alembic_config(str(engine.url))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, f"-{steps}")
    engine.dispose()
    return str(read_tables(workspace / "mlflow/mlflow.db").revision)


def test_many_first_uses_at_once_all_succeed(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_IMPORT, str(tmp_path / "work"), str(bundle)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    registry, told = open_told(tmp_path / "work")
    assert [version.version for version in registry.versions("same")] == [1, 2, 3]
    assert told == []
    assert sorted(path.name for path in (tmp_path / "work/mlflow").glob("mlflow.db.*")) == ["mlflow.db.lock"]


def test_a_half_made_database_without_data_is_set_aside(workspace: Path) -> None:
    database = workspace / "mlflow/mlflow.db"
    database.unlink()
    run_sql(workspace, "CREATE TABLE runs (x)", "CREATE TABLE _alembic_tmp_runs (x)", "CREATE TABLE metrics (x)")
    registry, told = open_told(workspace)
    registry.warm_up()
    [line] = told
    assert line.startswith(f"{database} was left half-made by an earlier command and held no runs or models: made anew")
    [kept] = database.parent.glob("mlflow.db.broken-*")
    assert str(kept) in line
    assert "_alembic_tmp_runs" in read_tables(kept).names
    assert registry.start_run("birds", "0" * 64, {})
    assert open_told(workspace)[0].names() == []


def test_a_half_migrated_database_with_data_is_brought_to_its_end(workspace: Path) -> None:
    database = workspace / "mlflow/mlflow.db"
    old = leave_migration(workspace)
    run_sql(workspace, "CREATE TABLE _alembic_tmp_runs (x)")
    registry, told = open_told(workspace)
    assert [version.version for version in registry.versions("birds")] == [1]
    [line] = told
    assert line.startswith(f"{database} was left half-migrated and is repaired (the former file is ")
    [kept] = database.parent.glob("mlflow.db.before-*")
    assert read_tables(kept).revision == old
    assert read_tables(database).fit(read_schema())
    again, told = open_told(workspace)
    assert (again.names(), told) == (["birds"], [])


def test_a_database_of_an_older_mlflow_is_migrated(workspace: Path) -> None:
    leave_migration(workspace)
    registry, told = open_told(workspace)
    assert registry.names() == ["birds"]
    assert [" is migrated to the installed MLflow " in line for line in told] == [True]


def test_a_database_beyond_repair_is_named_and_left_as_it_is(workspace: Path) -> None:
    database = workspace / "mlflow/mlflow.db"
    leave_migration(workspace, 2)
    run_sql(workspace, "ALTER TABLE runs RENAME TO _alembic_tmp_runs")
    before = database.read_bytes()
    with pytest.raises(StorageError, match=r"mlflow\.db: MLflow's tables were left half-migrated.*runs is gone"):
        open_told(workspace)[0].warm_up()
    assert database.read_bytes() == before
    assert not list(database.parent.glob("mlflow.db.[!l]*"))


def test_a_database_of_a_newer_mlflow_is_left_alone(workspace: Path) -> None:
    run_sql(workspace, "UPDATE alembic_version SET version_num = 'ffffffffffff'")
    with pytest.raises(StorageError, match=r"ffffffffffff.*a newer one made them; install that one") as caught:
        open_told(workspace)[0].warm_up()
    assert "\n" not in str(caught.value)


def test_a_repair_that_is_killed_leaves_the_database_as_it_was(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sql(workspace, "CREATE TABLE _alembic_tmp_runs (x)")
    tables = read_tables(workspace / "mlflow/mlflow.db")
    with monkeypatch.context() as patch:
        patch.setattr("infra.registry.database.save_database_copy", lambda *a: pytest.fail("killed here"))
        with pytest.raises(pytest.fail.Exception):
            open_told(workspace)[0].warm_up()
    assert read_tables(workspace / "mlflow/mlflow.db") == tables
    assert open_told(workspace)[0].names() == ["birds"]


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(b"not a database, but long enough to look like one" * 30)
    with pytest.raises(StorageError, match=r"mlflow\.db: MLflow's database does not open"):
        prepare_database(path, read_schema(), print)
