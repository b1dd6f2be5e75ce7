"""A registry for the tests of a module, and a bundle to register there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from registries import make_bundle, open_registry

from infra.registry.registry import Registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with open_registry(tmp_path_factory.mktemp("a workspace, 100% #1 ü")) as opened:
        yield opened


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "first")
