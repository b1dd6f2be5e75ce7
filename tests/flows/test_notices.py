"""What people are told of a run: a fault, a version that was held back, more to review than usual; else nothing."""

from typing import Any

import pytest

from flows.config import Config, load_config
from flows.notices import find_notice

LIMIT = 0.5


def answer(trained: bool, verdict: str) -> dict[str, Any]:
    gate = {"verdict": verdict, "reasons": ["less accurate than the champion by 2 points"]}
    return {"model": "birds", "version": 4, "trained": trained, "gate": gate}


def test_a_fault_is_told_in_its_own_words() -> None:
    notice = find_notice("score", "birds", {"error": "/inbox: No such file"}, LIMIT)
    assert notice is not None
    assert (notice.kind, notice.text) == ("failed", "score birds failed: /inbox: No such file")


@pytest.mark.parametrize(
    ("trained", "verdict", "told"),
    [(True, "hold", True), (True, "keep", False), (True, "promote", False), (False, "hold", False)],
)
def test_a_version_is_told_of_once_when_it_is_held_back(trained: bool, verdict: str, told: bool) -> None:
    notice = find_notice("retrain", "birds", answer(trained, verdict), LIMIT)
    assert (notice is not None) == told
    if notice is not None:
        assert notice.text == "birds version 4 was held back: less accurate than the champion by 2 points"


@pytest.mark.parametrize(
    ("accept", "review", "told"), [(10, 10, False), (9, 11, True), (0, 19, False), (200, 100, False)]
)
def test_a_share_to_review_counts_from_twenty_new_images_on(accept: int, review: int, told: bool) -> None:
    new = {"accept": accept, "review": review}
    notice = find_notice("score", "birds", {"new": new, "report": "/r.html"}, LIMIT)
    assert (notice is not None) == told
    if notice is not None:
        assert notice.text == "birds: 11 of 20 new images (55%) are for review, more than 50% (report /r.html)"


def test_no_deployment_learns_whom_to_tell() -> None:
    """Prefect's server keeps parameters, and whoever may change them would have a program started."""
    config = load_config(None, ['notify.command="rm x"', 'notify.webhook="https://h/KEY"', "notify.review_share=0.25"])
    kept = config.dump_parameters()
    assert kept["notify"] == {"review_share": 0.25}
    assert Config.model_validate(kept).notify.command is None
