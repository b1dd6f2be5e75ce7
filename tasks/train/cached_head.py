"""Fit the head of a pretrained network on the features that the workspace keeps: seconds, and no network runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.calibrate_half import draw_calibrate_half
from cnn.dataset.manifest import Manifest
from cnn.inference.backbone import BackboneSpec
from cnn.models.architecture import ModelSpec
from cnn.training.heads import FeatureSet, HeadFit, HeadPlan, fit_head
from cnn.training.spec import FitPlan
from infra.storage.store import Store
from tasks.dataset.version import read_ledger
from tasks.features.read import FeatureRows, read_features


@dataclass(frozen=True)
class CachedHead:
    """A head, the plan that it was fitted by, and the features of each split that has images."""

    fit: HeadFit
    plan: HeadPlan
    splits: dict[str, FeatureRows]

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
    groups = number_groups(store, manifest, splits) if manifest.split.group else {}
    sets = {split: FeatureSet(rows.features, rows.labels, groups.get(split)) for split, rows in splits.items()}
    if plan.steps and "validation" in splits:  # the half that calibrates the network has no say in its head
        sets["validation"] = sets["validation"].take(~draw_calibrate_half(splits["validation"].keys))
    head_plan = HeadPlan(
        imbalance=plan.imbalance,
        seed=plan.seed,
        refit=plan.steps == 0,
        label_smoothing=plan.label_smoothing if plan.steps else 0.0,
    )
    fit = fit_head(sets["train"], sets.get("validation"), len(manifest.classes), head_plan)
    return CachedHead(fit, head_plan, splits)


def number_groups(store: Store, manifest: Manifest, splits: dict[str, FeatureRows]) -> dict[str, NDArray[np.int64]]:
    """By split, a number for the group of each row (`split.group`); an image of no group is one of its own."""
    table = read_ledger(store, manifest, ["digest", "group"])
    pairs = zip(table.column("digest").to_pylist(), table.column("group").to_pylist(), strict=True)
    names = {digest: f"group {group}" if group is not None else f"image {digest}" for digest, group in pairs}
    numbers: dict[str, int] = {}

    def number(keys: Sequence[str]) -> NDArray[np.int64]:
        return np.array([numbers.setdefault(names.get(key, key), len(numbers)) for key in keys], np.int64)

    return {split: number(rows.keys) for split, rows in splits.items()}
