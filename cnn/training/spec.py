"""How a network is trained: the settings, the plan made of them, and one training's job.

Imports no Keras.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from cnn.dataset.manifest import Manifest
from cnn.digest import hash_json
from cnn.images.spec import AugmentSpec
from cnn.models.architecture import ModelSpec
from cnn.models.head import FittedHead
from cnn.spec import Settings, Spec

Recipe = Literal["quick", "balanced", "best", "scratch"]
Schedule = Literal["one_cycle", "cosine", "constant"]
Optimizer = Literal["adam", "adamw", "sgd"]
Imbalance = Literal["none", "weights", "sampling"]
Strength = Literal["none", "light", "medium", "strong"]


class FitSpec(Settings):
    """How a network is trained; what is not set follows from the recipe, and the recipe from the images."""

    recipe: Literal["auto", "quick", "balanced", "best", "scratch"] = Field(
        "auto",
        description="quick: a pretrained network as it is, and a head that is fitted in seconds; balanced: the whole "
        "pretrained network learns, from quick's head on; best: the same with a larger network and more steps; "
        "scratch: a network of random weights, for small images, drawings and sensors; auto: what the images suggest",
    )
    minutes: float | None = Field(
        None, gt=0.0, examples=[10.0], description="minutes that training may take; not set: what the recipe needs"
    )
    steps: int | None = Field(
        None, ge=1, le=10_000_000, examples=[500], description="batches that the network learns from, at most"
    )
    epochs: int | None = Field(
        None,
        ge=1,
        le=100_000,
        examples=[15],
        description="passes over the training images, at most; takes the place of fit.steps",
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        le=65_536,
        examples=[64],
        description="images in one step; fewer take less memory, and learn more from few",
    )
    learning_rate: float | None = Field(
        None, gt=0.0, examples=[1e-3], description="size of the steps where it is largest"
    )
    schedule: Schedule | None = Field(
        None,
        examples=["cosine"],
        description="learning rate over the steps: cosine: falls to zero; one_cycle: rises, then falls to zero; "
        "constant: stays as it is",
    )
    optimizer: Optimizer | None = Field(
        None,
        examples=["adam"],
        description="method by which Keras changes the weights; adamw also keeps them small",
    )
    patience: int | None = Field(
        None,
        ge=1,
        examples=[5],
        description="evaluations on the validation images without a better result before training stops",
    )
    label_smoothing: float | None = Field(
        None,
        ge=0.0,
        lt=1.0,
        examples=[0.1],
        description="share of the certainty that is spread over all classes, so that wrong labels count for less",
    )
    augment: Strength | None = Field(
        None,
        examples=["medium"],
        description="how much the images are changed each time they are learnt from (crop, rotation, color); copies "
        "that are written: augment.copies",
    )
    mirror: bool | None = Field(
        None, examples=[True], description="whether a mirrored picture is of the same class; not set: for photographs"
    )
    imbalance: Imbalance | None = Field(
        None,
        examples=["weights"],
        description="what is done for rare classes: none: nothing; weights: their "
        "images count more; sampling: their images come more often; not set: weights",
    )
    class_weights: bool | None = Field(
        None, examples=[True], description="older name: true is fit.imbalance = weights, false is none"
    )
    mixed_precision: bool = Field(True, description="faster arithmetic with 16 bits, where there is a GPU")
    deterministic: bool = Field(
        False,
        description="the same weights to the last bit from the same images, on the same kind of processor; slower",
    )
    freeze_epochs: int | None = Field(
        None,
        ge=0,
        examples=[3],
        description="with a backbone: epochs in which its pretrained weights stay as they are",
    )
    fine_tune: float | None = Field(
        None,
        gt=0.0,
        le=1.0,
        examples=[0.1],
        description="with a backbone: factor on the learning rate after these epochs",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="another number draws other first weights and another order")


class FitPlan(Spec):
    """All that a training obeys, with nothing left to choose; `cnn.training.plan` makes it.

    `steps`, `freeze_steps` and `evaluate_every` are in batches, `patience` in evaluations on the validation images,
    `minutes` bounds the whole training. With `steps` 0 nothing but the head is fitted, on cached features.
    """

    recipe: Recipe
    steps: int = Field(ge=0)
    evaluate_every: int = Field(ge=1)
    patience: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0.0)  # the peak
    schedule: Schedule
    warmup: float = Field(ge=0.0, le=1.0)  # share of the steps in which the rate rises
    optimizer: Optimizer
    weight_decay: float = Field(0.0, ge=0.0)
    layer_decay: float = Field(1.0, gt=0.0, le=1.0)  # factor on the rate, block by block towards the input; 1: none
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    mixup: float = Field(0.0, ge=0.0)  # parameter of the beta distribution; 0: none
    frozen_groups: int = Field(0, ge=0)  # groups of a pretrained backbone's layers, from the input on, that never learn
    freeze_steps: int = Field(0, ge=0)  # in which a pretrained backbone stays as it is
    fine_tune: float = Field(1.0, gt=0.0, le=1.0)  # factor on the rate after them
    early_scale: float = Field(1.0, gt=0.0, le=1.0)  # of the images' sides in the first two thirds of the steps
    average: int = Field(1, ge=1)  # so many of the best checkpoints are averaged where that is better; 1: none
    augment: AugmentSpec | None = None  # drawn anew in every epoch; None: none
    imbalance: Imbalance = "none"
    mirror: bool = False  # answers are averaged over the mirror image
    minutes: float | None = None
    mixed_precision: bool = True
    deterministic: bool = False
    seed: int = 0


@dataclass(frozen=True)
class FitJob:
    """One training: the dataset, the folder its shard paths are relative to, the folder for checkpoints, and the head
    to start from, if one was fitted on features of the pretrained network."""

    manifest: Manifest
    root: Path
    model: ModelSpec
    plan: FitPlan
    checkpoints: Path
    head: FittedHead | None = None

    def digest(self) -> str:
        """sha256 (hex) of all that decides what is learned; a checkpoint of another digest is foreign."""
        manifest = self.manifest
        shards = {split: [ref.digest for ref in manifest.splits.get(split, ())] for split in ("train", "validation")}
        parts = (manifest.image, manifest.normalization, self.model, self.plan)
        facts = [3, list(manifest.classes), shards, [part.model_dump(mode="json") for part in parts]]
        if self.head is not None:
            arrays = (self.head.weights, self.head.bias, self.head.landmarks, self.head.gamma)
            facts.append([hash_json(np.asarray(array).tolist()) for array in arrays if array is not None])
        return hash_json(facts)
