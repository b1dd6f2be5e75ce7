"""Artifacts of a workspace that was moved: MLflow's records of where they lie, found and brought up to date.

MLflow keeps the whole address of every run, model and version. Safelight finds them below the workspace wherever that
is now; other programs that ask MLflow look in the folder that is gone. MLflow knows no relative addresses (it reckons
them from the folder in which a program happens to run), so the records themselves are changed.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from cnn.errors import StorageError
from cnn.text import redact, shorten
from infra.registry.database import save_database_copy
from infra.registry.tracking import database_path, holds_registry, is_server
from infra.storage.store import parse_folder

# Every column of MLflow's tables that holds the address of artifacts.
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
# Of what lies in a folder of its own: table, its id, its address, and that address below the folder of all artifacts.
FOLDERS = (
    ("runs", "run_uuid", "artifact_uri", "/{}/artifacts"),
    ("logged_models", "model_id", "artifact_location", "/models/{}/artifacts"),
)


@dataclass(frozen=True)
class MovedArtifacts:
    """Artifacts that lie below `present` now, while `records` runs and models in MLflow name `former`: addresses of
    folders."""

    former: str
    present: str
    records: int

    def count_records(self) -> str:
        """How many there are, as words."""
        return "1 run or model" if self.records == 1 else f"{self.records:,} runs and models"

    def describe_change(self) -> str:
        """What that means."""
        former, present = parse_folder(self.former), parse_folder(self.present)
        return (
            f"the workspace was moved: MLflow looks for the files of {self.count_records()} in {former}, and they lie"
            f" in {present} now"
        )

    def describe(self) -> str:
        """What that means, and the way out."""
        return (
            f"{self.describe_change()}; Safelight finds them, and for other programs that ask MLflow `safelight doctor"
            " --repair` mends it"
        )


def find_moved_artifacts(tracking_uri: str, artifact_root: str | None) -> tuple[MovedArtifacts, ...]:
    """What MLflow's records look for in folders that it has left, one entry for each such folder. Changes nothing.

    There is none for a server, which keeps its artifacts itself, and none for those on S3. A copy of a workspace whose
    original is still there counts as moved where the database was copied with it, not where both share one.

    Raises:
        StorageError: the database cannot be read.
    """
    if artifact_root is None or not artifact_root.startswith("file:") or not _has_database(tracking_uri):
        return ()
    with _connect(tracking_uri) as connection:
        counted = Counter(_list_former_roots(connection, artifact_root))
    found = (MovedArtifacts(former, artifact_root, count) for former, count in sorted(counted.items()))
    return tuple(moved for moved in found if _has_left(moved, is_own=database_path(tracking_uri) is not None))


def repair_artifact_addresses(tracking_uri: str, artifact_root: str | None) -> tuple[MovedArtifacts, ...]:
    """Have MLflow's records name the folder in which the artifacts lie now; what was found and mended.

    All of it in one transaction; of a SQLite database a copy is kept beside it first.

    Raises:
        StorageError: the database cannot be read or written.
    """
    found = find_moved_artifacts(tracking_uri, artifact_root)
    if not found:
        return ()
    if (path := database_path(tracking_uri)) is not None:
        save_database_copy(path, "before")
    with _connect(tracking_uri) as connection:
        for moved in found:
            _replace_root(connection, moved)
    return found


def _has_database(tracking_uri: str) -> bool:
    return not is_server(tracking_uri) and "://" in tracking_uri and holds_registry(tracking_uri)


@contextmanager
def _connect(tracking_uri: str) -> Iterator[Connection]:
    """A connection to MLflow's database, and one transaction for the block."""
    try:
        engine = create_engine(tracking_uri)
        try:
            with engine.begin() as connection:
                yield connection
        finally:
            engine.dispose()
    except (SQLAlchemyError, ImportError, OSError) as error:
        raise StorageError(
            f"MLflow's database {redact(tracking_uri)} cannot be read or written ({shorten(error)}); look whether it is"
            " running and whole, and try again"
        ) from None


def _list_former_roots(connection: Connection, present: str) -> Iterator[str]:
    """For each run and model with artifacts below `present`, the folder of all artifacts that its record names."""
    tables = inspect(connection).get_table_names()
    for table, key, column, below in FOLDERS:
        if table not in tables:
            continue
        for number, address in connection.execute(text(f"SELECT {key}, {column} FROM {table}")):  # noqa: S608 - ours
            end = below.format(number)
            root = str(address or "").removesuffix(end)
            if root not in (address, present) and root.startswith(("file:", "/")) and _lies_in(present, end):
                yield root


def _lies_in(root: str, below: str) -> bool:
    return (parse_folder(root) / below.lstrip("/")).exists()


def _has_left(moved: MovedArtifacts, is_own: bool) -> bool:
    """Whether the former folder is another one than the present; in a database that workspaces share, whether it is
    gone, since else it is an original whose records must stay."""
    former, present = parse_folder(moved.former), parse_folder(moved.present)
    if not _is_folder(former):
        return True
    return is_own and not os.path.samefile(former, present)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _replace_root(connection: Connection, moved: MovedArtifacts) -> None:
    """Put the present folder in place of the former one, at the beginning of every address."""
    tables = inspect(connection).get_table_names()
    values = {
        "former": moved.former,
        "below": moved.former + "/",
        "length": len(moved.former) + 1,
        "present": moved.present,
    }
    for table, column in ADDRESSES:
        if table in tables:
            connection.execute(
                text(
                    f"UPDATE {table} SET {column} = :present || substr({column}, :length)"  # noqa: S608 - ours
                    f" WHERE {column} = :former OR substr({column}, 1, :length) = :below"
                ),
                values,
            )
