"""`safelight doctor` names registered versions that read paths when they are served."""

import importlib
import warnings
from pathlib import Path
from typing import Any

import pytest
from registries import add_versions, make_bundle, open_registry, register

from flows.upkeep.served_versions import check_served_versions
from infra.registry import mlflow_model


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def register_as_before(name: str, workspace: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version whose MLmodel file says what earlier releases said: nothing of what its code can be told."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns about type hints of its own
        pyfunc: Any = importlib.import_module("mlflow.pyfunc")
    save = pyfunc.save_model

    def save_as_before(*words: Any, model_config: Any = None, **facts: Any) -> Any:
        return save(*words, **facts)

    with monkeypatch.context() as patch, open_registry(workspace) as registry:
        patch.setattr(pyfunc, "save_model", save_as_before)
        register(registry, name, bundle)


def test_a_version_of_an_earlier_release_is_named_with_its_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    register_as_before("birds", tmp_path, bundle, monkeypatch)
    with open_registry(tmp_path) as registry:
        run = registry.start_run("birds", "k" * 64, {})
        registry.register_version("birds", run, bundle, {"accuracy": 0.9})  # by this release
        registry.set_alias("birds", "challenger", 1)
        add_versions(registry, "flowers")  # without files: nobody can serve it
    checked = check_served_versions(str(tmp_path))
    (finding,) = checked.findings
    assert (finding.kind, finding.model) == ("served", "birds")
    read = "of an earlier release, reads paths of the server's disk when served"
    assert finding.what == f"birds version 1 (challenger), {read}"
    assert "safelight retrain FOLDER --name birds --set fit.seed=1" in finding.mend
    assert checked.said == "1 found, see below"


def test_versions_of_this_release_are_well(tmp_path: Path) -> None:
    with open_registry(tmp_path) as registry:
        register(registry, "birds", make_bundle(tmp_path / "bundle"))
        (version,) = registry.versions("birds")
        assert registry.read_flavor(version)["loader_module"] == mlflow_model.LOADER
    assert check_served_versions(str(tmp_path)).findings == ()


def test_a_workspace_without_versions_is_well_and_stays_empty(tmp_path: Path) -> None:
    assert check_served_versions(str(tmp_path)).findings == ()
    assert list(tmp_path.iterdir()) == []


def test_a_registry_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow/mlflow.db").write_bytes(b"no database" * 100)
    (finding,) = check_served_versions(str(tmp_path)).findings
    assert finding.kind == "server"
