"""Prediction sets hold the true class as often as they say, in all and in each class that has images enough."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom, binom

from cnn.evaluation.conformal import bound_probability, build_sets, find_class_bounds, measure_coverage
from cnn.evaluation.held_out import make_held_out


def draw(rng: np.random.Generator, shares: list[float], images: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Answers to images of unequally frequent classes, of which the last is hard."""
    truth = rng.choice(len(shares), images, p=shares)
    logits = rng.normal(size=(images, len(shares)))
    logits[np.arange(images), truth] += np.where(truth == len(shares) - 1, 0.5, 2.0)
    values = np.exp(logits)
    return values / values.sum(axis=1, keepdims=True), truth


def test_coverage_on_test_lies_in_its_binomial_interval() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(100):
        bounds = find_class_bounds(make_held_out(*draw(rng, [0.5, 0.3, 0.2], 2000)), 3, 0.9)
        assert bounds is not None
        covered = measure_coverage(make_held_out(*draw(rng, [0.5, 0.3, 0.2], 300)), bounds)
        low, high = binom.interval(0.95, 300, 0.9)
        inside += low <= covered <= high
    assert inside >= 88  # the calibration draws, too; of 100 at 95 %


def test_a_hard_class_is_covered_like_the_others() -> None:
    rng = np.random.default_rng(1)
    shares = [0.6, 0.2, 0.2]
    bounds = find_class_bounds(make_held_out(*draw(rng, shares, 2000)), 3, 0.9)
    assert bounds is not None
    many = make_held_out(*draw(rng, shares, 50_000))
    for number in range(3):
        mine = many.take(many.labels == number)
        assert measure_coverage(mine, bounds) / len(mine) > 0.87


def test_rare_classes_share_one_bound_or_all_do() -> None:
    rng = np.random.default_rng(2)
    bounds = find_class_bounds(make_held_out(*draw(rng, [0.8, 0.1, 0.1], 300)), 3, 0.9)
    assert bounds is not None
    assert bounds[1] == bounds[2] != bounds[0]
    bounds = find_class_bounds(make_held_out(*draw(rng, [0.96, 0.02, 0.02], 300)), 3, 0.9)
    assert bounds is not None
    assert len(set(bounds)) == 1


def test_too_few_images_make_no_set() -> None:
    probabilities, labels = draw(np.random.default_rng(3), [0.5, 0.5], 18)
    assert find_class_bounds(make_held_out(probabilities, labels), 2, 0.95) is None
    assert bound_probability(np.full(19, 0.5), 0.95) == 0.5
    assert find_class_bounds(make_held_out(np.zeros((0, 2)), np.zeros(0, int)), 2, 0.95) is None


def test_the_rank_is_that_of_the_published_rule() -> None:
    """With n images the true class of another one reaches the bound with probability ceil((n + 1) c) / (n + 1)."""
    rng = np.random.default_rng(4)
    images, others = 39, 200
    covered = [int((rng.random(others) >= (bound_probability(rng.random(images), 0.9) or 0)).sum()) for _ in range(500)]
    expected = betabinom(others, 36, 4)  # 36 = ceil(40 * 0.9)
    assert abs(np.mean(covered) - expected.mean()) < 3 * expected.std() / 500**0.5


def test_the_most_probable_class_is_always_in_its_set() -> None:
    probabilities, labels = draw(np.random.default_rng(5), [0.5, 0.5], 50)
    sets = build_sets(probabilities, (1.1, 1.1))
    assert (sets.sum(axis=1) == 1).all()
    assert (sets.argmax(axis=1) == probabilities.argmax(axis=1)).all()
    held = make_held_out(probabilities, labels)
    assert measure_coverage(held, (1.1, 1.1)) == held.right.sum()
    bounds = (0.3, 0.4)
    truth = build_sets(probabilities, bounds)[np.arange(50), labels]
    assert measure_coverage(held, bounds) == truth.sum()


def test_sets_are_those_of_crepes() -> None:
    """The package of Boström 2022 ("crepes: a Python package for generating conformal regressors and predictive
    systems"), by another hand than ours: the same sets for the same answers, in all and by class."""
    from crepes import ConformalClassifier
    from crepes.extras import hinge

    rng = np.random.default_rng(6)
    for coverage in (0.8, 0.9, 0.95):
        probabilities, labels = draw(rng, [1 / 3] * 3, 2000)
        # Where (n + 1)(1 - coverage) is a whole number, crepes takes one image more: with these numbers it is none.
        taken = np.concatenate([np.flatnonzero(labels == each)[:n] for each, n in enumerate((401, 241, 161))])
        probabilities, labels = probabilities[taken], labels[taken]
        asked, _ = draw(rng, [0.5, 0.3, 0.2], 400)
        scores, places = hinge(asked), np.tile(np.arange(3), (400, 1))
        own = hinge(probabilities, np.arange(3), labels)

        bound = bound_probability(make_held_out(probabilities, labels).own, coverage)
        assert bound is not None
        theirs = ConformalClassifier().fit(own).predict_set(scores, confidence=coverage, smoothing=False)
        assert np.array_equal(asked >= bound, theirs.astype(bool))

        bounds = find_class_bounds(make_held_out(probabilities, labels), 3, coverage)
        assert bounds is not None
        by_class = ConformalClassifier().fit(own, bins=labels)
        theirs = np.stack(
            [
                by_class.predict_set(scores[:, [each]], bins=places[:, each], confidence=coverage, smoothing=False)[
                    :, 0
                ]
                for each in range(3)
            ],
            axis=1,
        ).astype(bool)
        theirs[np.arange(400), asked.argmax(axis=1)] = True  # ours are never empty
        assert np.array_equal(build_sets(asked, bounds), theirs)
