"""The SQLite database of MLflow in a workspace: made, migrated and repaired by one process at a time.

MLflow lays its tables out in dozens of steps, most of them committed one by one: two processes that begin at once, or
one that is killed, leave a database between two versions, which no later command can open. So tables are laid out and
migrated in a file beside the database, by one process at a time, and arrive in it in one transaction. A database that
was hurt before is repaired the same way. Imports no MLflow: what changes tables is an argument.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cnn.errors import RegistryError, StorageError
from cnn.text import shorten
from infra.registry.tracking import database_path, describe_absence, describe_lonely_registry, resolve_tracking
from infra.storage.locks import lock_path

BUSY_SECONDS = 60.0  # a migration by another program that holds the database
LEFT_OVER = "_alembic_tmp_"  # how the names of tables begin that a migration has not finished
HOLDS_DATA = ("registered_models", "model_versions", "runs", "logged_models")
Announce = Callable[[str], None]


@dataclass(frozen=True)
class Schema:
    """MLflow's tables as the installed MLflow wants them: its latest revision, those that it can begin from, and what
    brings the database at an address there."""

    head: str
    known: frozenset[str]
    upgrade: Callable[[str], None]


@dataclass(frozen=True)
class Tables:
    """What a database holds: its tables, the revision they are at, and how many rows of each kind of data."""

    names: frozenset[str]
    revision: str | None
    rows: dict[str, int]

    @property
    def left_over(self) -> frozenset[str]:
        """The tables of a migration that did not come to its end."""
        return frozenset(name for name in self.names if name.startswith(LEFT_OVER))

    def fit(self, schema: Schema) -> bool:
        """Whether MLflow can work with them as they are."""
        return self.revision == schema.head and not self.left_over


def prepare_database(path: Path, schema: Schema, announce: Announce) -> None:
    """See that MLflow can open the database: made, migrated or repaired where need be, by one process at a time.

    Raises:
        StorageError: it cannot be opened, made or repaired; the line says what to do.
    """
    try:
        path.parent.resolve().mkdir(parents=True, exist_ok=True)  # it may be a link to a folder that is not there yet
        if not read_tables(path).fit(schema):
            with lock_path(path.with_name(path.name + ".lock")):
                _make_fit(path, schema, announce)
        with closing(_connect(path)) as connection:
            _switch_to_wal(connection)
    except (sqlite3.DatabaseError, OSError) as error:
        raise StorageError(
            f"{path}: MLflow's database does not open ({error}); check the file and its folder"
        ) from None


def read_tables(path: Path) -> Tables:
    """What the database holds now; a file that is not there holds nothing, and is not made."""
    if not path.exists():
        return Tables(frozenset(), None, {})
    with closing(_connect(path)) as connection:
        names = frozenset(row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'"))
        found = connection.execute("SELECT version_num FROM alembic_version") if "alembic_version" in names else ()
        revisions = [str(row[0]) for row in found]
        rows = {
            name: int(connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0])  # noqa: S608 - our own names
            for name in HOLDS_DATA
            if name in names
        }
    return Tables(names, revisions[0] if len(revisions) == 1 else None, rows)


def read_model_names(path: Path) -> list[str]:
    """Names of the registered models, read without MLflow, whose import takes seconds; none where nothing can be read.

    Meant for the shell, which completes a name while somebody waits: the database is not made, changed or waited for.
    """
    try:
        return _read_model_names(path)
    except sqlite3.Error:
        return []


def _read_model_names(path: Path) -> list[str]:
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=0.0)) as connection:
        return [str(row[0]) for row in connection.execute("SELECT name FROM registered_models ORDER BY name")]


def check_registered(workspace_uri: str, name: str) -> None:
    """See that a workspace's registry holds a model, without MLflow; one that is no file here is not asked.

    Raises:
        RegistryError: it does not; those that it holds are named.
    """
    path = database_path(resolve_tracking(workspace_uri)[0])
    if path is None or describe_lonely_registry(workspace_uri):  # it may be on another machine
        return
    try:
        known = _read_model_names(path) if path.exists() else []
    except sqlite3.Error:
        return  # MLflow says why, and waits where another process writes
    if name not in known:
        raise RegistryError(describe_absence(name, known))


def _make_fit(path: Path, schema: Schema, announce: Announce) -> None:
    """The work of whoever came first; for those who waited it is done."""
    if path.exists():
        _wait_for_writer(path)
    tables = read_tables(path)
    if tables.fit(schema):
        return
    if tables.revision is not None and tables.revision not in schema.known:
        raise StorageError(
            f"{path}: MLflow's tables are at {tables.revision}, which the installed MLflow does not know: a newer one"
            " made them; install that one, or choose another workspace"
        )
    if any(tables.rows.values()):
        _continue_migration(path, tables, schema, announce)
    else:
        _begin_anew(path, tables, schema, announce)


def _begin_anew(path: Path, tables: Tables, schema: Schema, announce: Announce) -> None:
    """Lay the tables out in a new file; a database without runs or models that stands in the way is set aside."""
    with _draft(path) as draft:
        schema.upgrade(_address(draft))
        if tables.names:
            kept = save_database_copy(path, "broken")
            announce(
                f"{path} was left half-made by an earlier command and held no runs or models: made anew (the former"
                f" file is {kept})"
            )
        _copy(draft, path)


def _continue_migration(path: Path, tables: Tables, schema: Schema, announce: Announce) -> None:
    """Bring the tables to the latest revision in a copy, without the leftovers of a migration that was cut short."""
    with _draft(path) as draft:
        try:
            _copy(path, draft)
            _drop_left_over(draft, tables)
            schema.upgrade(_address(draft))
            reached = read_tables(draft)
        except (sqlite3.DatabaseError, StorageError) as error:
            raise StorageError(_describe_stuck(path, str(error))) from None
        if not reached.fit(schema) or any(reached.rows.get(name) != count for name, count in tables.rows.items()):
            raise StorageError(_describe_stuck(path, "rows would be lost"))
        kept = save_database_copy(path, "before")
        _copy(draft, path)
    cause = "was left half-migrated and is repaired" if tables.left_over else "is migrated to the installed MLflow"
    announce(f"{path} {cause} (the former file is {kept})")


def _drop_left_over(draft: Path, tables: Tables) -> None:
    with closing(_connect(draft)) as connection:
        for name in tables.left_over:
            if name.removeprefix(LEFT_OVER) not in tables.names:
                raise StorageError(f"table {name.removeprefix(LEFT_OVER)} is gone")
            quoted = name.replace('"', '""')
            connection.execute(f'DROP TABLE "{quoted}"')
        connection.commit()


def _describe_stuck(path: Path, cause: str) -> str:
    return (
        f"{path}: MLflow's tables were left half-migrated and cannot be brought to their end"
        f" ({shorten(cause)}); bring back a copy of the file, or move it away to begin without its runs"
        " and models"
    )


def _wait_for_writer(path: Path) -> None:
    """Wait until nobody writes: a program that knows nothing of the lock file may be laying the tables out just now."""
    with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """The path of a new file beside the database, gone after the block; only its lock's holder writes there."""
    draft = path.with_name(path.name + ".new")
    _remove(draft)
    try:
        yield draft
    finally:
        _remove(draft)


def _remove(draft: Path) -> None:
    for ending in ("", "-wal", "-shm", "-journal"):
        with suppress(FileNotFoundError):
            os.unlink(f"{draft}{ending}")


def _copy(source: Path, target: Path) -> None:
    """Make `target` hold exactly what `source` holds, in one transaction: whoever has it open sees all or nothing."""
    until = time.monotonic() + BUSY_SECONDS

    def look_at_clock(status: int, remaining: int, pages: int) -> None:
        if time.monotonic() > until:  # `backup` itself would wait for ever for whoever holds the target
            raise sqlite3.OperationalError("database is locked")

    with closing(_connect(source)) as read, closing(_connect(target)) as write:
        read.backup(write, progress=look_at_clock)


def save_database_copy(path: Path, what: str) -> Path:
    """The path of a copy of the database beside it, whole even while others write; `what` is part of its name."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    kept = path.with_name(f"{path.name}.{what}-{stamp}")
    _copy(path, kept)
    return kept


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=20.0)


def _address(path: Path) -> str:
    return f"sqlite:///{path}"


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Network file systems and read-only folders have no WAL: the rollback journal serves there too."""
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
