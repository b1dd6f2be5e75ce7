"""A bundle that is really scored with, and a version that carries it, made once."""

from pathlib import Path

import pytest
from classifiers import write_scored_bundle
from registries import open_registry, register


@pytest.fixture(scope="session")
def scored_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scored_bundle(tmp_path_factory.mktemp("scored"))


@pytest.fixture(scope="session")
def registered(scored_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifacts of a version that carries the bundle."""
    work = tmp_path_factory.mktemp("work")
    with open_registry(work) as registry:
        register(registry, "pets", scored_bundle)
        return Path(registry._artifacts(registry.version("pets", 1)).download_artifacts("", str(work / "mlflow")))
