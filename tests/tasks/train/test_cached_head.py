"""The head that is fitted on cached features: its form in the network's description, and groups that stay together."""

from pathlib import Path

import numpy as np
import pytest
from small_dataset import write_dataset

import tasks.train.cached_head
from cnn.dataset.manifest import Manifest
from cnn.models.architecture import ModelSpec
from cnn.training.plan import TrainingSize, plan_fit
from cnn.training.spec import FitSpec, Recipe
from infra.storage.store import Store, open_store
from tasks.features.read import FeatureRows
from tasks.train.cached_head import CachedHead, fit_cached_head

SIZES = {"train": 36, "validation": 12, "test": 18}


def make_rows(split: str) -> FeatureRows:
    """Features of three classes that lie apart."""
    labels = np.arange(SIZES[split]) % 3
    draw = np.random.default_rng(len(labels))
    features = np.eye(3, 8)[labels][:, None] * 3 + draw.random((len(labels), 2, 8))
    return FeatureRows(
        [f"{split}{row}" for row in range(len(labels))], labels.astype(np.int64), features.astype(np.float16)
    )


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, Manifest]:
    manifest = write_dataset(tmp_path / "work", tmp_path / "source")
    monkeypatch.setattr(
        tasks.train.cached_head, "read_features", lambda store, manifest, split, backbone: make_rows(split)
    )
    return open_store(str(tmp_path / "work")), manifest


def fit(dataset: tuple[Store, Manifest], recipe: Recipe) -> CachedHead:
    plan = plan_fit(FitSpec(), recipe, TrainingSize(36, True))
    return fit_cached_head(*dataset, None, plan)  # type: ignore[arg-type]


def test_the_description_of_the_network_gets_the_form_of_the_head(dataset: tuple[Store, Manifest]) -> None:
    named = fit(dataset, "quick").name_in(ModelSpec(backbone="efficientnet_lite0", weights="imagenet"))
    assert (named.backbone, named.head, named.landmarks) == ("efficientnet_lite0", "unit", 0)


def test_validation_images_are_learnt_from_only_where_nothing_is_trained_afterwards(
    dataset: tuple[Store, Manifest],
) -> None:
    quick, balanced = fit(dataset, "quick"), fit(dataset, "balanced")
    assert (quick.fit.images, balanced.fit.images) == (36 + 12, 36)
    assert set(quick.splits) == {"train", "validation", "test"}
