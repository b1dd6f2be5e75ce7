"""Where runs and versions are kept, which names they may have, and what is never written down."""

import json
import re
import string
from pathlib import Path

import pytest
import sqlalchemy

from cnn.errors import ConfigError
from cnn.text import redact_text as redact
from infra.registry.tracking import (
    check_model_name,
    describe_lonely_registry,
    flatten_parameters,
    holds_registry,
    resolve_tracking,
)
from infra.server.local_server import _name_database


def test_a_local_workspace_keeps_its_registry_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    expected = (f"sqlite:///{tmp_path}/mlflow/mlflow.db", f"file://{tmp_path}/mlflow/artifacts")
    assert resolve_tracking(str(tmp_path)) == expected
    assert resolve_tracking(tmp_path.as_uri()) == expected


def test_a_bucket_keeps_artifacts_and_this_machine_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path))
    uri, root = resolve_tracking("s3://bucket/prefix/")
    assert root == "s3://bucket/prefix/mlflow/artifacts"
    assert uri.startswith(f"sqlite:///{tmp_path}")
    assert uri == resolve_tracking("s3://bucket/prefix")[0]
    assert uri != resolve_tracking("s3://bucket/other")[0]


@pytest.mark.parametrize(
    ("address", "root"),
    [("https://mlflow.example", None), ("postgresql://db/mlflow", "s3://bucket/mlflow/artifacts")],
)
def test_a_configured_server_is_obeyed(monkeypatch: pytest.MonkeyPatch, address: str, root: str | None) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert resolve_tracking("s3://bucket") == (address, root)


@pytest.mark.parametrize("address", ["http://[::1/x", "http://127.0.0.1:99999", "https://", "http://:5000"])
def test_what_is_no_address_of_a_server_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(ConfigError, match=r"MLFLOW_TRACKING_URI is .+, which is no address of a server; write http://"):
        resolve_tracking("s3://bucket")


# Every character that a keyboard has, and some that none has; together in one name too, as no two may help each other.
CHARACTERS = [*sorted(set(string.printable) - {"/"}), "é", "日", "%20", "%%", "%41"]


@pytest.mark.parametrize("text", [*CHARACTERS, "".join(CHARACTERS)])
def test_a_workspace_of_any_name_holds_its_own_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace = tmp_path / "places" / f"a{text}b"
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "home"))
    uri, _ = resolve_tracking(str(workspace))
    assert not holds_registry(uri)
    (workspace / "mlflow").mkdir(parents=True)
    write_table(uri)
    assert holds_registry(uri)
    assert resolve_tracking(str(workspace))[0] == uri
    assert list(tmp_path.rglob("*.db")) == [workspace / "mlflow" / "mlflow.db"]


@pytest.mark.parametrize("text", [*CHARACTERS, "".join(CHARACTERS)])
def test_a_home_of_any_name_holds_the_servers_database(tmp_path: Path, text: str) -> None:
    database = tmp_path / f"a{text}b" / "prefect.db"
    database.parent.mkdir()
    write_table(_name_database(database).replace("+aiosqlite", ""))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [database]


def write_table(uri: str) -> None:
    """By SQLAlchemy, as MLflow and Prefect do it: it reads the address in its own way."""
    engine = sqlalchemy.create_engine(uri)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE numbers (value INTEGER)"))
    engine.dispose()


def test_a_home_that_no_database_address_can_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "what?"))
    with pytest.raises(ConfigError, match="set SAFELIGHT_HOME"):
        resolve_tracking(str(tmp_path / "what?"))


@pytest.mark.parametrize("name", ["", "a/b", "a:b", ".hidden", "..", "a b", "x" * 65, "tab\t", "naïve", "-x", "a\n"])
def test_names_that_mlflow_or_a_folder_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="model name"):
        check_model_name(name)


@pytest.mark.parametrize("name", ["digits", "v1.2", "Birds_2-x", "7"])
def test_plain_names_are_taken(name: str) -> None:
    assert check_model_name(name) == name


def test_parameters_carry_no_credentials() -> None:
    flat = flatten_parameters(
        {
            "source": "s3://key:sesame@bucket/photos?X-Amz-Signature=sesame",
            "store": {"secret_access_key": "sesame", "region": "eu"},
            "urls": ["https://me:sesame@host/x"],
            "long": "x" * 9000,
        }
    )
    assert "sesame" not in json.dumps(flat)
    assert flat["source"] == "s3://bucket/photos"
    assert flat["store.region"] == "eu"
    assert len(flat["long"]) == 500


@pytest.mark.parametrize(
    "address",
    [
        "http://ada:sesame@host:5000/api",
        "http://ada:se/same@host",
        "s3://ada:sesame@bucket/key",
        "https://host/key?X-Amz-Signature=sesame&X-Amz-Credential=ada",
        "postgresql+pg8000://ada:sesame@db/mlflow",
        "http://ada:sesame@[bad",
    ],
)
def test_an_address_is_shown_without_what_opens_it(address: str) -> None:
    shown = redact(f"cannot reach '{address}', try again")
    assert not re.search("ada|same", shown)
    assert shown.endswith("', try again")


@pytest.mark.parametrize(
    "address",
    [
        "sqlite:////home/ada/work/mlflow/mlflow.db",
        "sqlite:///mlflow.db",
        "file:///home/ada",
        "s3://bucket//a",
        "http://h",
    ],
)
def test_an_address_without_secrets_is_shown_as_it_is(address: str) -> None:
    assert redact(f"see {address} for more") == f"see {address} for more"


def test_an_address_that_cannot_be_read_is_not_shown() -> None:
    assert redact("see http://[bad:sesame@x for more") == "see http://... for more"


def test_a_registry_that_other_machines_do_not_reach_is_told_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path))
    line = describe_lonely_registry("s3://bucket/prefix")
    assert line is not None
    assert str(tmp_path) in line
    assert "set MLFLOW_TRACKING_URI=http://HOST:PORT" in line
    assert describe_lonely_registry(str(tmp_path)) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert describe_lonely_registry("s3://bucket/prefix") is None
