"""A year of nights at the gate: no slow decline, few good versions refused, improvements and collapses found."""

from collections.abc import Callable

import numpy as np
import pytest
from gate_nights import JudgingImages, Right, judge, live_nights, make_test_set
from scipy.stats import binom

from cnn.evaluation.gate_spec import GateSpec
from cnn.evaluation.metrics import Paired, compare_paired, find_p_better

KEEP, REPLACE = GateSpec(), GateSpec(equal="replace")
Pair = Callable[[JudgingImages, np.random.Generator], tuple[Right, Right]]  # the new version's answers, the champion's


def share(verdict: str, pair: Pair, rounds: int, classes: int = 10, spec: GateSpec = KEEP) -> float:
    """How often pairs on 1,000 images, thirty of them of the first class, come to a verdict."""
    rng = np.random.default_rng(7)
    found = 0
    for _ in range(rounds):
        images = make_test_set(1000, classes, rng, small=30)
        found += judge(*pair(images, rng), images, spec).verdict == verdict
    return found / rounds


def equal(images: JudgingImages, rng: np.random.Generator) -> tuple[Right, Right]:
    return images.answer(0.95, rng), images.answer(0.95, rng)


def independent(images: JudgingImages, rng: np.random.Generator) -> tuple[Right, Right]:
    """Two versions with no mistake in common, one of them two points better: the hardest case."""
    return rng.random(1000) < 0.97, rng.random(1000) < 0.95


def better(images: JudgingImages, rng: np.random.Generator) -> tuple[Right, Right]:
    """Two points better: half of the champion's mistakes are gone, and one image in a hundred is lost."""
    champion = rng.random(1000) < 0.95
    return np.where(champion, rng.random(1000) >= 0.0105, rng.random(1000) < 0.6), champion


def collapsed(images: JudgingImages, rng: np.random.Generator) -> tuple[Right, Right]:
    """As good over all, but the first class has a recall that is 0.3 lower on its thirty images."""
    mine, champion = equal(images, rng)
    rows = np.flatnonzero(images.labels == 0)
    lose = 9 - int(champion[rows].sum() - mine[rows].sum())
    mine[rng.choice(rows[mine[rows]], lose, replace=False)] = False
    return mine, champion


@pytest.mark.parametrize("spec", [KEEP, REPLACE], ids=["keep", "replace"])
def test_a_year_of_slow_decline_costs_no_more_than_the_margin(spec: GateSpec) -> None:
    """Without the best version to compare with, sixty such nights took the champion from 0.950 to 0.898.

    On the images, whatever the policy. In truth only where the champion stays beside what is as good: of hundreds of
    worse versions that may take its place, a lucky one does.
    """
    end = live_nights(365, 0.001, spec, np.random.default_rng(1))
    assert end.champion >= end.best - spec.margin
    assert end.champion_truth >= end.best_truth - (spec.margin if spec.equal == "keep" else 0.03)
    assert end.verdicts["hold"] > 300


def test_versions_that_are_as_good_are_seldom_refused() -> None:
    assert share("hold", equal, 200) <= 0.05
    assert share("hold", equal, 200, classes=30) <= 0.05
    assert share("promote", equal, 200, spec=REPLACE) >= 0.85


def test_a_year_of_versions_that_are_as_good_refuses_few() -> None:
    """Although the champion, picked out of many on these images, looks better there than it is."""
    end = live_nights(365, 0.0, KEEP, np.random.default_rng(3))
    assert end.verdicts["hold"] / 365 <= 0.05


def test_an_improvement_of_two_points_is_promoted() -> None:
    assert share("promote", better, 200) >= 0.95


def test_an_improvement_is_found_where_two_versions_have_no_mistake_in_common() -> None:
    """By exact sums; no test at p 0.1 finds it more than 84 times in 100."""
    won, lost = 0.97 * 0.05, 0.95 * 0.03
    found = 0.0
    for differing in range(20, 160):
        wins = np.arange(differing + 1)
        chance = binom.pmf(wins, differing, won / (won + lost)) * binom.pmf(differing, 1000, won + lost)
        better_by = np.array([find_p_better(pair_of(int(each), differing - int(each))) for each in wins])
        found += float(chance[better_by < KEEP.improvement].sum())
    assert 0.9 <= found <= 0.92


def pair_of(wins: int, losses: int) -> Paired:
    behind = [False] * (1000 - wins - losses)
    return compare_paired([True] * wins + [False] * losses + behind, [False] * wins + [True] * losses + behind)


@pytest.mark.parametrize("classes", [10, 30])
def test_a_class_that_collapses_is_refused(classes: int) -> None:
    assert share("hold", collapsed, 200, classes) >= 0.99


@pytest.mark.soak
def test_many_years_of_nights() -> None:
    for spec in (KEEP, REPLACE):
        ends = [live_nights(365, 0.001, spec, np.random.default_rng(seed)) for seed in range(60)]
        assert all(end.champion >= end.best - spec.margin for end in ends)
        drift = [end.best_truth - end.champion_truth for end in ends]
        print(f"{spec.equal}: behind the best in truth, mean {np.mean(drift):.4f}, most {max(drift):.4f}")
    held = [live_nights(365, 0.0, KEEP, np.random.default_rng(seed)).verdicts["hold"] / 365 for seed in range(40)]
    print(f"as good, a year each: {np.mean(held):.4f} held")
    assert np.mean(held) <= 0.05
    for classes in (10, 30):
        figures = {
            "as good, held": share("hold", equal, 4000, classes),
            "2 points better, promoted": share("promote", better, 4000, classes),
            "2 points better, no mistake in common, promoted": share("promote", independent, 4000, classes),
            "collapsed, held": share("hold", collapsed, 4000, classes),
        }
        print(classes, "classes:", figures)
        assert figures["as good, held"] <= 0.05
        assert figures["2 points better, promoted"] >= 0.9
        assert figures["2 points better, no mistake in common, promoted"] >= 0.9
        assert figures["collapsed, held"] >= 0.99
