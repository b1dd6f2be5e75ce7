"""Credentials in the environment and in addresses: no log, database, manifest or message ever holds them."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from image_folders import MakeImageFolder
from s3server import SECRET, upload

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

WRONG = {"AWS_ACCESS_KEY_ID": "CANARYWRONGID", "AWS_SECRET_ACCESS_KEY": "canary-wrong-secret"}
CANARIES = (SECRET, "test:tester", *WRONG.values(), "canary-user", "canary-word")
# Whatever can log does so at its loudest, into Prefect's database and onto the terminal.
LOUD = {
    "PREFECT_LOGGING_LEVEL": "DEBUG",
    "PREFECT_LOGGING_ROOT_LEVEL": "DEBUG",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "DEBUG",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "boto3,botocore,urllib3,s3transfer,httpx,mlflow",
    "MLFLOW_LOGGING_LEVEL": "DEBUG",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
SETTINGS = "image.size=[16,16] model.preset=notes fit.epochs=1 split.validation=0.2 split.test=0.2 cluster.workers=1"


def safelight(home: Path, *words: str, code: int = 0, **environment: str) -> str:
    """All that a command prints."""
    settings = SETTINGS.split() if words[0] in ("prepare", "retrain", "score") else []
    given = [*words, *(part for setting in settings for part in ("--set", setting))]
    homes = {"SAFELIGHT_HOME": str(home / "safelight"), "PREFECT_HOME": str(home / "prefect")}
    done = subprocess.run(
        [Path(sys.executable).with_name("safelight"), *given],
        env=os.environ | LOUD | homes | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def find_canaries(place: str, data: bytes) -> list[str]:
    """The canaries in the data, each with some bytes around it."""
    spots = [(canary, data.find(canary.encode())) for canary in CANARIES]
    return [f"{canary} in {place}: {data[max(0, at - 60) : at + 60]!r}" for canary, at in spots if at >= 0]


def read_tables(path: Path) -> bytes:
    """Every value of every table of a SQLite database, as text."""
    connection = sqlite3.connect(path)
    try:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = [connection.execute(f'SELECT * FROM "{name}"').fetchall() for name in names]  # noqa: S608 - its own names
        return repr(rows).encode()
    finally:
        connection.close()


def test_no_credential_is_ever_written_down(
    s3_bucket: str, tmp_path: Path, make_image_folder: MakeImageFolder, unused_port: int
) -> None:
    client, bucket = boto3.session.Session().client("s3"), s3_bucket.removeprefix("s3://")
    make_image_folder(tmp_path / "photos", ("bat", "cat"), 15)
    upload(tmp_path / "photos", f"{s3_bucket}/photos")
    home, work = tmp_path / "home", f"{s3_bucket}/work"
    photos, closed = f"{s3_bucket}/photos", f"http://canary-user:canary-word@127.0.0.1:{unused_port}"
    hostile = f"s3://canary-user:canary-word@{bucket}/photos"
    place = ["--workspace", work]
    try:
        told = [
            safelight(home, "retrain", photos, "--name", "birds", *place),
            safelight(home, "promote", "birds", "1", "--why", "three test images show nothing", *place),
            safelight(home, "score", photos, "--name", "birds", *place),
            safelight(home, "prepare", photos, *place, code=1, **WRONG),
            safelight(home, "prepare", hostile, *place, code=1),
            safelight(home, "score", photos, "--name", "birds", "--workspace", hostile, code=1),
            safelight(home, "score", photos, "--name", "birds", *place, code=1, MLFLOW_TRACKING_URI=closed),
            safelight(home, "prepare", photos, *place, code=1, PREFECT_API_URL=f"{closed}/api"),
        ]
    finally:
        safelight(home, "down")
    assert all("error: " in text for text in told[3:])
    found = [hit for text in told for hit in find_canaries("what was printed", text.encode())]
    files = [path for path in home.rglob("*") if path.is_file()]
    found += [hit for path in files for hit in find_canaries(str(path), path.read_bytes())]
    databases = {path.name: read_tables(path) for path in files if path.suffix == ".db"}
    found += [hit for name, data in databases.items() for hit in find_canaries(name, data)]
    for entry in client.list_objects_v2(Bucket=bucket)["Contents"]:
        found += find_canaries(entry["Key"], client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read())
    assert found == []
    assert b"birds" in databases["mlflow.db"]  # what was searched is what was written
    assert photos.encode() in databases["prefect.db"]
