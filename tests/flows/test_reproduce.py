"""The settings of a version that is made again: those of its day, whatever has become the default since."""

from types import SimpleNamespace
from typing import Any

import pytest

from cnn.images.spec import ImageSpec
from flows.config import Config
from flows.reproduce import read_settings
from tasks.train.record import TrainingRecord


@pytest.mark.parametrize(
    ("settings", "copies"),
    [
        ({}, "ignore"),  # of a release that looked for no copies unless it was told to
        ({"split": {"test": 0.2}}, "ignore"),
        ({"split": {"copies": "together"}}, "together"),
        (Config().dump_parameters(), "auto"),
    ],
)
def test_a_record_says_which_copies_were_kept_together(settings: dict[str, Any], copies: str) -> None:
    facts: dict[str, Any] = {"settings": settings, "dataset": SimpleNamespace(image=ImageSpec(size=(64, 48)))}
    config = read_settings(TrainingRecord.model_construct(None, **facts))
    assert config.split.copies == copies
    assert config.image.size == (64, 48)
