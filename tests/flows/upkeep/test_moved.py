"""A workspace that was moved is found by `safelight doctor`, and mended."""

from pathlib import Path

import pytest
from registries import make_bundle, open_registry, register

from flows.upkeep.moved import check_artifact_addresses, mend_artifact_addresses


def test_a_workspace_that_was_moved_is_found_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "here").mkdir()
    with open_registry(tmp_path / "here") as registry:
        register(registry, "birds", make_bundle(tmp_path / "bundle"))
    assert check_artifact_addresses(str(tmp_path / "here")).findings == ()
    (tmp_path / "here").rename(tmp_path / "there")
    workspace = str(tmp_path / "there")
    (finding,) = check_artifact_addresses(workspace).findings
    assert (finding.kind, finding.mend) == ("moved", "safelight doctor --repair")
    assert f"of 1 run or model in {tmp_path}/here/mlflow/artifacts" in finding.what
    (mended,) = mend_artifact_addresses(workspace)
    assert mended.startswith("MLflow's records of 1 run or model name file:///")
    assert check_artifact_addresses(workspace).findings == ()
    assert list(mend_artifact_addresses(workspace)) == []


def test_a_database_that_cannot_be_read_is_a_finding_and_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow/mlflow.db").write_bytes(b"no database" * 100)
    (finding,) = check_artifact_addresses(str(tmp_path)).findings
    assert "mlflow.db cannot be read or written" in finding.what
    (line,) = mend_artifact_addresses(str(tmp_path))
    assert line.startswith("MLflow's records could not be brought up to date")


def test_a_folder_without_models_has_nothing_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert check_artifact_addresses(str(tmp_path)).findings == ()
    assert list(tmp_path.iterdir()) == []
