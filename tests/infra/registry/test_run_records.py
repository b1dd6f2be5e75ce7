"""Names of metrics, and what a dataset says of itself in MLflow, whatever it is called."""

import json

import pytest

from infra.registry.run_records import DIGEST_CHARACTERS, NAME_CHARACTERS, LoggedDataset, name_metric


@pytest.mark.parametrize(
    ("metric", "judged_on", "name"),
    [
        ("accuracy", "test split of birds-1", "test_accuracy"),
        ("test_images", "validation split of birds-1", "validation_images"),
        ("accuracy", "train split of birds-1, the images that it was trained on", "train_accuracy"),
        ("temperature", "test split of birds-1", "temperature"),
        ("accuracy", "", "accuracy"),
    ],
)
def test_a_metric_says_on_which_images_it_was_measured(metric: str, judged_on: str, name: str) -> None:
    assert name_metric(metric, judged_on) == name


@pytest.mark.filterwarnings("ignore")  # what MLflow itself deprecates
def test_a_dataset_fits_into_mlflow_and_shows_no_credential() -> None:
    dataset = LoggedDataset("x" * 900, "d" * 64, "s3://key:secret@bucket/photos", {"num_rows": 1})
    made = dataset.to_input().dataset
    assert (len(made.name), len(made.digest)) == (NAME_CHARACTERS, DIGEST_CHARACTERS)
    assert "secret" not in json.loads(made.source)["uri"]
    assert LoggedDataset("x", "d", "file:///photos", {}).to_input().dataset.source_type == "local"
