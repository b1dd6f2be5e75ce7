"""What is told of a run to people who did not watch it: failed, held back, more to review than usual."""

from collections.abc import Mapping
from typing import Any

from infra.notify.spec import Notice

FEWEST_NEW = 20  # new images of a batch, below which a share says nothing


def find_notice(flow: str, model: str, answer: Mapping[str, Any], review_share: float) -> Notice | None:
    """What a person is to be told of the answer of a run (see `flows.serving.process`), or None."""
    if "error" in answer:
        return Notice("failed", model, f"{flow} {model} failed: {answer['error']}")
    if flow == "retrain":
        return find_held_back(answer)
    return find_review_excess(model, answer.get("new") or {}, review_share, str(answer.get("report", "")))


def find_held_back(answer: Mapping[str, Any]) -> Notice | None:
    """What to tell of a training (its answer) whose version the gate held back now, or None."""
    gate, model = answer["gate"], str(answer["model"])
    if not answer["trained"] or gate["verdict"] != "hold":
        return None
    reason = f": {gate['reasons'][0]}" if gate["reasons"] else ""
    return Notice("held", model, f"{model} version {answer['version']} was held back{reason}")


def find_review_excess(model: str, new: Mapping[str, int], limit: float, report: str) -> Notice | None:
    """What to tell of a batch whose new images (counts by decision) are for review or unknown more often than `limit`,
    or None."""
    images, unknown = sum(new.values()), new.get("unknown", 0)
    review = new.get("review", 0) + unknown
    if images < FEWEST_NEW or review <= limit * images:
        return None
    kinds = f" or unknown ({unknown:,})" if unknown else ""
    shares = f"{review:,} of {images:,} new images ({review / images:.0%}) are for review{kinds}, more than {limit:.0%}"
    return Notice("review", model, f"{model}: {shares} (report {report})")
