"""Real servers are killed in the middle of a run and come back: the run ends as if nothing had been, and says what was.

An S3 server and an MLflow server; both hold what they held when they are started again.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_folders import MakeImageFolder
from listened_commands import ListenedCommand
from mlflow_server import MlflowServer, run_mlflow_server
from s3server import S3Server, find_obstacle, serve_s3

from infra.registry.registry import Registry

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(900)]

TINY = ["image.size=[16,16]", "model.preset=notes", "split.validation=0.2", "split.test=0.2"]
TINY += ["fit.epochs=12", "fit.batch_size=4", "fit.patience=12"]
SETTINGS = [word for setting in TINY for word in ("--set", setting)]


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server of this test alone, with a bucket; the environment leads to it."""
    import boto3

    if obstacle := find_obstacle(tmp_path):
        pytest.skip(f"no S3 server: {obstacle}")
    (folder := tmp_path / "s3").mkdir()
    with serve_s3(folder) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        boto3.session.Session().client("s3").create_bucket(Bucket="bucket")
        yield server


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    (folder := tmp_path / "mlflow").mkdir()
    with run_mlflow_server(folder) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # patience is Safelight's own
        yield server


def test_a_retraining_outlives_both_servers(
    prefect_api: str, s3: S3Server, mlflow: MlflowServer, tmp_path: Path, make_image_folder: MakeImageFolder
) -> None:
    make_image_folder(tmp_path / "photos", ("bat", "cat", "owl"), 40)
    words = ["retrain", tmp_path / "photos", "--name", "birds", "--workspace", "s3://bucket/work", "--json"]
    command = ListenedCommand(*words, *SETTINGS)
    try:
        command.wait_for("step ")  # the first evaluation of the training
        mlflow.kill()
        command.wait_for(f"MLflow: {mlflow.address} does not answer; it is asked again for 90 s")
        mlflow.start()
        command.wait_for(f"MLflow: {mlflow.address} answers again")
        s3.kill_proxy()
        command.wait_for(f"S3: {s3.environment['AWS_ENDPOINT_URL']} does not answer")
        s3.start_proxy()
        answer = json.loads(command.finish())
    finally:
        command.kill()
    assert (answer["version"], answer["trained"]) == (1, True)
    evaluations = [line for line in command.told if line.startswith("step ")]
    registry = Registry(mlflow.address, None)
    assert len(registry.list_steps(answer["run_id"], "val_accuracy")) == len(evaluations) > 3
    assert registry._ask("get_run", answer["run_id"]).info.status == "FINISHED"
    assert [version.version for version in registry.versions("birds")] == [1]


def test_a_night_in_which_the_store_is_away_for_longer_goes_on_by_itself(
    prefect_api: str, s3: S3Server, tmp_path: Path, make_image_folder: MakeImageFolder
) -> None:
    make_image_folder(tmp_path / "photos", ("bat", "cat", "owl"), 20)
    where = ["--source", tmp_path / "photos", "--workspace", "s3://bucket/work"]
    command = ListenedCommand("serve", "--name", "birds", *where, "--nightly", "10s", *SETTINGS)
    try:
        command.wait_for("serving retrain/birds")
        s3.kill_proxy()
        line = command.wait_for("the run goes on in 30 s (1 of 3)")
        assert "no answer from" in line
        s3.start_proxy()
        assert "retrain birds: version 1" in command.wait_for("retrain birds: version")
        command.stop()
    finally:
        command.kill()
