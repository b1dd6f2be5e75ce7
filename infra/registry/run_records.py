"""What people see of a run in MLflow: its name, names of its metrics, and the dataset that it learnt from.

Imports MLflow only where its own objects are made.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cnn.text import redact_text

# MLflow's pages begin as those of chats with language models. By this tag of an experiment they are those of training;
# where newer releases no longer read it, by this end of an address, or by "Model training" on the page, once a browser.
KIND = {"mlflow.experimentKind": "custom_model_development"}
MODEL_TRAINING = "workflowType=machine_learning"
DIGEST_CHARACTERS = 36  # that MLflow keeps of a dataset's digest
NAME_CHARACTERS = 500  # and of its name
# What training measures at each evaluation on the images that it learns from. A run's figure without a prefix would be
# taken for the one that the version is known by.
TRAINING_METRICS = {"accuracy": "train_accuracy", "loss": "train_loss"}
UNSPLIT_METRICS = ("temperature",)  # of the model itself, measured on no split


@dataclass(frozen=True)
class LoggedDataset:
    """A dataset version as an input of a run: its name and digest, the address of its source, and figures about it."""

    name: str
    digest: str
    source: str
    profile: Mapping[str, object]

    def to_input(self) -> Any:
        """The entity that MLflow's client takes."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        named = name_dataset(self.name, self.digest)
        made = Dataset(
            name=named["dataset_name"],
            digest=named["dataset_digest"],
            source_type="s3" if self.source.startswith("s3://") else "local",
            source=json.dumps({"uri": redact_text(self.source)}),
            profile=json.dumps(self.profile, sort_keys=True),
        )
        return DatasetInput(made, [InputTag("mlflow.data.context", "training")])


def name_dataset(name: str, digest: str) -> dict[str, str]:
    """How a metric names the dataset that it belongs to: as its input does."""
    return {"dataset_name": name[:NAME_CHARACTERS], "dataset_digest": digest[:DIGEST_CHARACTERS]}


def title_run(name: str, what: str, seconds: float) -> str:
    """What a run is called that began so many seconds after 1970: "birds 2026-11-26 03:00", in this machine's time."""
    began = datetime.fromtimestamp(seconds).astimezone()
    return " ".join(filter(None, (name, what, f"{began:%Y-%m-%d %H:%M}")))


def name_metric(metric: str, judged_on: str) -> str:
    """A figure's name in MLflow: with the split that it was measured on before it ("test_accuracy"), where `judged_on`
    begins with one ("test split of birds-1")."""
    split, found, _ = judged_on.partition(" split of ")
    if not found or metric in UNSPLIT_METRICS:
        return metric
    return f"{split}_{metric.removeprefix('test_')}"
