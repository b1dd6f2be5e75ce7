"""How a network is trained: the settings, one training's job, and how far it has come. Imports no Keras."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from cnn.dataset.manifest import Manifest
from cnn.digest import hash_json
from cnn.models.architecture import ModelSpec
from cnn.spec import Settings


class FitSpec(Settings):
    """How a network is trained; an epoch is one pass over all training images."""

    epochs: int = Field(
        15,
        ge=1,
        le=100_000,
        description="passes over the training images, at most; the learning rate is planned over them",
    )
    batch_size: int = Field(
        64, ge=1, le=65_536, description="images in one step; fewer take less memory, and learn more from few"
    )
    learning_rate: float = Field(1e-3, gt=0.0, description="size of the steps at the start of training")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="learning rate over the epochs: cosine: falls to zero; constant: stays as it is"
    )
    optimizer: Literal["adam", "adamw", "sgd"] = Field(
        "adam", description="method by which Keras changes the weights; adamw also keeps them small"
    )
    patience: int = Field(
        5, ge=1, description="epochs without a better result on the validation images before training stops"
    )
    class_weights: bool = Field(True, description="whether rare classes count as much as frequent ones")
    mixed_precision: bool = Field(True, description="faster arithmetic with 16 bits, where there is a GPU")
    freeze_epochs: int = Field(
        3, ge=0, description="with a backbone: epochs in which its pretrained weights stay as they are"
    )
    fine_tune: float = Field(
        0.1, gt=0.0, le=1.0, description="with a backbone: factor on the learning rate after these epochs"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="another number draws other first weights and another order")


@dataclass(frozen=True)
class FitJob:
    """One training: the dataset, the folder its shard paths are relative to, and the folder for checkpoints."""

    manifest: Manifest
    root: Path
    model: ModelSpec
    fit: FitSpec
    checkpoints: Path

    def digest(self) -> str:
        """sha256 (hex) of all that decides what is learned; a checkpoint of another digest is foreign."""
        manifest = self.manifest
        shards = {split: [ref.digest for ref in manifest.splits.get(split, ())] for split in ("train", "validation")}
        parts = (manifest.image, manifest.normalization, self.model, self.fit)
        facts = [1, list(manifest.classes), shards, [part.model_dump(mode="json") for part in parts]]
        return hash_json(facts)


@dataclass(frozen=True)
class Progress:
    """Whole epochs so far (they count from 1), how many since the best one, and the figures of each."""

    epoch: int = 0
    wait: int = 0
    best_epoch: int = 0
    best_value: float = math.inf
    history: tuple[dict[str, float], ...] = ()
