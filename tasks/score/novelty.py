"""Which images are marked unknown: the threshold of a version and the setting `score.novelty`, as plain numbers."""

from cnn.inference.bundle import NOVELTY, read_bundle
from cnn.inference.novelty import NoveltyIndex, describe_untold_novelty, read_novelty
from infra.registry.bundles import locate_bundle
from infra.storage.store import Store
from tasks.score.decision import DecisionRule
from tasks.score.spec import ModelRef, ScoreSpec


def add_unknown(rule: DecisionRule, store: Store, model: ModelRef, spec: ScoreSpec) -> tuple[DecisionRule, str]:
    """(the rule with the threshold above which an image is unknown, one line on it).

    Raises:
        IntegrityError: the bundle in the workspace is damaged.
    """
    index = find_index(store, model, spec)
    threshold = None if index is None else index.find_threshold(spec.novelty)
    if threshold is not None:
        rule = rule.model_copy(update={"unknown_from": threshold.novelty, "unknown_rate": threshold.rate})
    return rule, describe_unknown(rule, index, spec)


def find_index(store: Store, model: ModelRef, spec: ScoreSpec) -> NoveltyIndex | None:
    """What a version knows of the images that it learnt from; None where it keeps nothing of them, and of int8, whose
    features are others. Raises: IntegrityError."""
    if spec.precision != "float32":
        return None
    folder = locate_bundle(store, model.bundle)
    info = read_bundle(folder)
    return read_novelty(folder, info) if NOVELTY in info.files else None


def describe_unknown(rule: DecisionRule, index: NoveltyIndex | None, spec: ScoreSpec) -> str:
    """From where on images are unknown, or why none is; empty where the user does not want any."""
    if spec.novelty == 0.0:
        return ""
    if spec.precision != "float32":
        return "no image is marked unknown: that takes the float32 network (score.precision)"
    if index is None:
        return "no image is marked unknown: this version keeps no features of its training images; train again"
    images = f"{len(index.held_out):,} held-out images"
    if rule.unknown_from is None or rule.unknown_rate is None:
        doubt = describe_untold_novelty(len(index.held_out))
        return f"no image is marked unknown: {doubt}; train on more images, or raise split.validation"
    few = f" ({images} can tell no less)" if rule.unknown_rate > spec.novelty else ""
    return (
        f"images that resemble none of those learnt from are marked unknown, above novelty {rule.unknown_from:.2f}; by "
        f"mistake at most {100 * rule.unknown_rate:.2g} % of others{few}"
    )
