"""Files of a version that are removed through an MLflow server that serves them, and from S3."""

import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import mlflow
import pytest
from mlflow_server import MlflowServer, run_mlflow_server
from registries import METRICS, make_bundle, shown_to_mlflow

from cnn.errors import RegistryError
from infra.registry.registry import Registry
from infra.registry.version_files import find_model_id
from infra.registry.versions import FREED, VersionInfo

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(400)]

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with run_mlflow_server(tmp_path_factory.mktemp("server")) as server:
        yield server


def register_two(registry: Registry, folder: Path) -> list[VersionInfo]:
    """Two versions, each with a report and a figure; the second one is the champion."""
    made = []
    for number in (1, 2):
        run = registry.start_run("birds", str(number) * 64, {})
        (folder / "figures").mkdir(exist_ok=True)
        (folder / "figures/curves.png").write_bytes(b"png")
        (folder / "report.html").write_text("<p>birds</p>")
        registry.log_figures(run, folder / "figures")
        registry.log_pages(run, [folder / "report.html"])
        bundle = make_bundle(folder / f"bundle-{number}", bytes([number]))
        made.append(registry.register_version("birds", run, bundle, METRICS))
        registry.finish_run(run, "FINISHED")
    registry.move_champion("birds", 2, "gate", "gate", NOON)
    return made


def expect_removed(registry: Registry, first: VersionInfo, folder: Path) -> None:
    """The first version is told of, and trains no more; the second loads as before."""
    with pytest.raises(RegistryError, match=r"the files of birds@1 were removed by `safelight gc` on"):
        registry.fetch_bundle(first, folder / "cache")
    registry.fetch_bundle(registry.require_champion("birds"), folder / "cache")
    assert (registry.fetch_pages(first, folder / "pages") / "report.html").read_text() == "<p>birds</p>"
    with shown_to_mlflow(registry), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RegistryError, match=r"the files of birds@1 were removed by `safelight gc` on"):
            mlflow.pyfunc.load_model("models:/birds/1")


def test_a_server_removes_them_and_its_pages_go_on_to_show_the_version(server: MlflowServer, tmp_path: Path) -> None:
    registry = Registry(server.address, None)
    first, second = register_two(registry, tmp_path)

    def measure() -> int:
        return sum(path.stat().st_size for path in (server.folder / "kept").rglob("*") if path.is_file())

    before = measure()
    freed = registry.remove_files(first, lambda: False)
    assert before - measure() == pytest.approx(freed.bytes, abs=3_000)  # the notice
    assert freed.bytes > 0.4 * before
    assert registry.version("birds", 1).tags[FREED] == str(freed.bytes)
    expect_removed(registry, first, tmp_path)

    with httpx.Client(base_url=server.address) as pages:  # what MLflow's pages of a version, its run and model ask for
        named = {"name": "birds", "version": "1"}
        shown = pages.get("/ajax-api/2.0/mlflow/model-versions/get", params=named).raise_for_status().json()
        assert shown["model_version"]["status"] == "READY"
        for each in (first, second):
            model = find_model_id(each)
            address = f"/ajax-api/2.0/mlflow/logged-models/{model}"
            assert pages.get(address).raise_for_status().json()["model"]["info"]["status"] == "LOGGED_MODEL_READY"
            listed = pages.get(f"{address}/artifacts/directories").raise_for_status().json()
            assert "MLmodel" in {file["path"] for file in listed["files"]}
            described = pages.get(f"{address}/artifacts/files", params={"artifact_file_path": "MLmodel"})
            assert "cnn.pyfunc" in described.raise_for_status().text
            files = pages.get("/ajax-api/2.0/mlflow/artifacts/list", params={"run_id": each.run_id})
            assert "report.html" in {file["path"] for file in files.raise_for_status().json()["files"]}


def test_s3_gives_the_room_back(s3_bucket: str, tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db", f"{s3_bucket}/mlflow/artifacts")
    first, _ = register_two(registry, tmp_path)
    told = registry.measure_files(first)
    assert registry.remove_files(first, lambda: False) == told
    assert told.bytes > 500_000
    assert registry.measure_files(first).bytes < 2_000  # the notice
    expect_removed(registry, first, tmp_path)
