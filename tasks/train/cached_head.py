"""Fit the head of a pretrained network on the features that the workspace keeps: seconds, and no network runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.calibrate_half import draw_calibrate_half
from cnn.dataset.manifest import Manifest
from cnn.inference.backbone import BackboneSpec
from cnn.models.architecture import ModelSpec
from cnn.training.heads import FeatureSet, HeadFit, HeadPlan, fit_head, join_sets
from cnn.training.spec import FitPlan
from infra.storage.store import Store
from tasks.features.read import FeatureRows, read_features
from tasks.train.ties import number_ties


@dataclass(frozen=True)
class CachedHead:
    """A head, the plan that it was fitted by, and by split that has images their features and what each is tied to (see
    `number_ties`)."""

    fit: HeadFit
    plan: HeadPlan
    splits: dict[str, FeatureRows]
    ties: dict[str, NDArray[np.int64]]

    def join_splits(self, *names: str) -> FeatureSet:
        """The images of some splits, of those that have any, one split after the other."""
        sets = _make_sets(self.splits, self.ties)
        return reduce(join_sets, [images for split, images in sets.items() if split in names and len(images)])

    def name_in(self, model: ModelSpec) -> ModelSpec:
        """The network with a head of this form."""
        landmarks = self.fit.head.landmarks
        count = 0 if landmarks is None else len(landmarks)
        return model.model_copy(update={"head": self.fit.head.kind, "landmarks": count})


def fit_cached_head(store: Store, manifest: Manifest, backbone: BackboneSpec, plan: FitPlan) -> CachedHead:
    """The head of a dataset's training images. Where nothing is trained after it, it learns from validation images too,
    once they have chosen its strength.

    Raises:
        DatasetError: there is too little to learn from.
        IntegrityError: features are damaged, or missing.
    """
    splits = {
        split: read_features(store, manifest, split, backbone)
        for split in ("train", "validation", "test")
        if manifest.rows(split)
    }
    ties = number_ties(store, manifest, {split: rows.keys for split, rows in splits.items()})
    sets = _make_sets(splits, ties)
    if plan.steps and "validation" in splits:  # the half that calibrates the network has no say in its head
        sets["validation"] = sets["validation"].take(~draw_calibrate_half(splits["validation"].keys))
    head_plan = HeadPlan(
        imbalance=plan.imbalance,
        seed=plan.seed,
        refit=plan.steps == 0,
        label_smoothing=plan.label_smoothing if plan.steps else 0.0,
    )
    fit = fit_head(sets["train"], sets.get("validation"), len(manifest.classes), head_plan)
    return CachedHead(fit, head_plan, splits, ties)


def _make_sets(splits: Mapping[str, FeatureRows], ties: Mapping[str, NDArray[np.int64]]) -> dict[str, FeatureSet]:
    return {split: FeatureSet(rows.features, rows.labels, ties[split]) for split, rows in splits.items()}
