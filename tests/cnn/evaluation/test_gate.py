"""The gate's rule: when a new version takes over, when it is held, and the reasons that a person reads."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cnn.dataset.seen_images import UnseenImages
from cnn.evaluation.gate import (
    ENOUGH,
    SHARED_GROUPS,
    TURN,
    AlsoWeighed,
    Challenger,
    Champion,
    SetsOfVersion,
    Verdict,
    decide_promotion,
    explain_overlap,
    find_obstacle,
)
from cnn.evaluation.gate_spec import GateSpec
from cnn.evaluation.metrics import Evaluation, Paired, compare_paired, evaluate_probabilities
from cnn.evaluation.part_tests import ComparedPart
from cnn.evaluation.weighed import Weighed

CLASSES = ("cat", "dog")
BY_HAND = "if it is to be the champion all the same: `safelight promote birds 2 --why TEXT`"


def evaluate(said: Any, labels: Any, classes: tuple[str, ...] = CLASSES) -> Evaluation:
    return evaluate_probabilities(np.eye(len(classes))[np.asarray(said)], labels, classes)


def pair(wins: int, losses: int, both: int) -> Paired:
    challenger = [True] * wins + [False] * losses + [True] * both
    champion = [False] * wins + [True] * losses + [True] * both
    return compare_paired(challenger, champion)


MOST_RIGHT = evaluate([0] * 10 + [1] * 9 + [0], [0] * 10 + [1] * 10)  # nineteen of twenty: ten cats, nine of ten dogs


def decide_first(
    evaluation: Evaluation, spec: GateSpec | None = None, *, judged_on: str = "test", version: int = 1
) -> Verdict:
    return decide_promotion(Challenger("birds", version, evaluation, judged_on), None, spec or GateSpec())


def decide_beside(paired: Paired | None, spec: GateSpec | None = None, **champion: Any) -> Verdict:
    facts: dict[str, Any] = {"version": 1, "classes": CLASSES, "paired": paired} | champion
    return decide_promotion(Challenger("birds", 2, MOST_RIGHT), Champion(**facts), spec or GateSpec())


# Beside a champion


@pytest.mark.parametrize(
    ("wins", "losses", "both", "verdict", "why"),
    [
        (0, 0, 100, "promote", "as accurate as the champion"),
        (5, 0, 95, "promote", "more accurate than the champion by 5.00 points"),
        (0, 1, 99, "promote", "gate.margin allows 1.00 points behind: kept"),
        (0, 2, 98, "keep", "broken, it is 2.00 behind"),
        (0, 9, 991, "hold", "finds it worse (p 0.00195, below 0.0075)"),  # 0.9 points, but no chance
        (0, 5, 995, "keep", "too far behind to take the champion's place"),  # half a point, hardly chance (p 0.03)
        (20, 24, 956, "promote", "does not find it worse (p 0.326"),
    ],
)
def test_a_version_replaces_the_champion_when_it_is_not_worse(
    wins: int, losses: int, both: int, verdict: str, why: str
) -> None:
    found = decide_beside(pair(wins, losses, both), GateSpec(equal="replace"))
    assert found.verdict == verdict
    assert why in " | ".join(found.reasons)


@pytest.mark.parametrize(
    ("wins", "losses", "verdict", "policy"),
    [
        (0, 0, "keep", 'as good within noise (p 1 of being better): gate.equal = "keep" lets the champion stay'),
        (3, 2, "keep", 'as good within noise (p 0.5 of being better): gate.equal = "keep" lets the champion stay'),
        (4, 0, "promote", "the exact paired test finds it better (p 0.0625, below gate.improvement)"),
        (30, 10, "promote", "the exact paired test finds it better (p 0.00111, below gate.improvement)"),
    ],
)
def test_the_champion_stays_beside_a_version_that_is_as_good(wins: int, losses: int, verdict: str, policy: str) -> None:
    found = decide_beside(pair(wins, losses, 1000 - wins - losses))
    assert found.verdict == verdict
    assert policy in found.reasons
    replaced = decide_beside(pair(wins, losses, 1000 - wins - losses), GateSpec(equal="replace"))
    assert replaced.verdict == "promote"


def test_a_version_that_knows_one_class_more_replaces_one_that_is_as_good() -> None:
    labels = [0, 1, 2] * 5
    challenger = Challenger("birds", 2, evaluate(labels, labels, ("ape", "cat", "dog")))
    found = decide_promotion(challenger, Champion(1, CLASSES, tested=CLASSES, paired=pair(0, 0, 15)), GateSpec())
    assert (found.verdict, found.reasons[-1]) == (
        "promote",
        "as good within noise, and it knows 'ape', which the champion does not",
    )


def test_a_new_class_that_it_never_names_is_no_reason_to_promote() -> None:
    challenger = Challenger("birds", 2, evaluate([1, 1, 2] * 5, [0, 1, 2] * 5, ("ape", "cat", "dog")))
    champion = Champion(1, CLASSES, tested=CLASSES, paired=pair(0, 0, 15), known=pair(0, 0, 10))
    assert decide_promotion(challenger, champion, GateSpec()).verdict == "keep"


def test_images_of_a_new_class_do_not_hide_what_was_lost_of_the_others() -> None:
    """Of 1,100 images the new version has 3.6 points more right, since it knows an ape; of cats and dogs 5 less."""
    labels = [0, 1, 2] * 5
    challenger = Challenger("birds", 2, evaluate(labels, labels, ("ape", "cat", "dog")))
    champion = Champion(1, CLASSES, tested=CLASSES, paired=pair(90, 50, 960), known=pair(0, 50, 950))
    found = decide_promotion(challenger, champion, GateSpec())
    assert found.verdict == "hold"
    assert (
        "on the 1,000 of them whose class the champion knows, which are tested: 0.9500 right, the champion 1.0000 "
        "(0 only it has right, 50 only the champion)"
    ) in found.reasons
    assert "the exact paired test finds it worse (p 8.88e-16, below 0.0075)" in found.reasons
    best = AlsoWeighed(replace(champion, version=3))
    beside = decide_promotion(challenger, replace(champion, known=pair(5, 5, 990)), GateSpec(), also=best)
    assert beside.verdict == "hold"  # the best version ever judged lacks the class, too


@pytest.mark.parametrize(("lost", "verdict"), [(42, "promote"), (55, "keep")])
def test_a_new_class_is_let_in_though_some_images_of_the_others_are_lost_by_chance(lost: int, verdict: str) -> None:
    """Of 900 images of the others the version wins 30, and loses more than the margin: 1.3 points, or 2.8."""
    labels = [0, 1, 2] * 5
    challenger = Challenger("birds", 2, evaluate(labels, labels, ("ape", "cat", "dog")))
    rival = Champion(1, CLASSES, tested=CLASSES, paired=pair(130, lost, 870 - lost), known=pair(30, lost, 870 - lost))
    champion = replace(rival, known=pair(30, 30, 840))
    found = decide_promotion(challenger, champion, GateSpec(), also=AlsoWeighed(replace(rival, version=3)))
    assert found.verdict == verdict
    assert ("broken, it is 2.78 behind" in " ".join(found.reasons)) == (verdict == "keep")


def test_the_best_version_ever_judged_counts_beside_a_worse_champion() -> None:
    """As good as the champion, and better; but the champion lost two points since the best version."""
    challenger, champion = Challenger("birds", 9, MOST_RIGHT), Champion(8, CLASSES, paired=pair(20, 5, 975))
    assert decide_promotion(challenger, champion, GateSpec()).verdict == "promote"
    best = AlsoWeighed(Champion(3, CLASSES, paired=pair(5, 20, 975)), looks=9)
    kept = decide_promotion(challenger, champion, GateSpec(), also=best)
    assert kept.verdict == "keep"
    told = "beside the best version judged on these images, 3 (0.9950 on 1,000 images): gate.margin allows 1.00 points"
    assert any(line.startswith(f"{told} behind: broken, it is 1.50 behind") for line in kept.reasons)
    worse = AlsoWeighed(Champion(3, CLASSES, paired=pair(5, 40, 955)), looks=9)
    assert decide_promotion(challenger, champion, GateSpec(), also=worse).verdict == "hold"


def test_a_class_that_collapses_holds_a_version_that_is_better_over_all() -> None:
    parts = (ComparedPart("class", "cat", pair(0, 9, 21)), ComparedPart("class", "dog", pair(40, 5, 925)))
    found = decide_beside(pair(40, 14, 946), parts=parts)
    assert found.verdict == "hold"
    assert found.reasons[0] == (
        "class 'cat': 0.7000 of its 30 test images right, the champion 1.0000 (9 lost, 0 won; p 0.00195, at most "
        "0.0319 after Holm's correction over classes and slices)"
    )
    assert [(each.name, each.kept) for each in found.weighed[1:]] == [("class cat", False), ("class dog", True)]


def test_of_very_many_worse_classes_the_first_are_reasons() -> None:
    """MLflow keeps tags of 100,000 characters: a line for each of a thousand classes that collapsed ended the night."""
    parts = tuple(ComparedPart("class", f"species {number:04}", pair(0, 30, 0)) for number in range(1000))
    found = decide_beside(pair(0, 30_000, 0), parts=parts)
    assert found.verdict == "hold"
    assert sum(line.startswith("class 'species") for line in found.reasons) == 20
    assert "and 980 more classes and slices are worse: see the training report" in found.reasons
    assert sum(not each.kept for each in found.weighed) == 1001


SITES = GateSpec(slices=("column:site", "column:season"))


def test_a_version_that_fails_at_one_site_alone_is_held_where_the_column_is_compared() -> None:
    parts = (ComparedPart("column:site", "A3", pair(0, 14, 26)), ComparedPart("column:site", "B1", pair(40, 2, 918)))
    found = decide_beside(pair(40, 16, 944), SITES, parts=parts)
    assert found.verdict == "hold"
    assert found.reasons[0].startswith("site 'A3': 0.6500 of its 40 test images right, the champion 1.0000 (14 lost,")
    assert [(each.name, each.kept) for each in found.weighed[1:]] == [
        ("column:site A3", False),
        ("column:site B1", True),
    ]
    assert sum("column 'season' is not compared" in line for line in found.reasons) == 1
    assert decide_beside(pair(40, 16, 944), parts=parts).verdict == "promote"  # not asked for


def test_one_broken_threshold_holds_a_version_and_says_which() -> None:
    leak = Weighed("leak certificate", 0.02, None, 0.01, False, "2.0 points of it are leaks; gate.leak allows 1.0")
    size = Weighed("size", 3.0, 2.0, None, True, "the network has 3 MB")
    found = decide_promotion(
        Challenger("birds", 2, MOST_RIGHT),
        Champion(1, CLASSES, paired=pair(9, 0, 91)),
        GateSpec(),
        also=AlsoWeighed(weighed=(leak, size)),
    )
    assert found.verdict == "hold"
    assert leak.line in found.reasons
    assert size.line not in found.reasons
    assert not any("gate.improvement" in reason for reason in found.reasons)  # it is not promoted
    assert found.weighed[-2:] == (leak, size)
    first = decide_promotion(Challenger("birds", 1, MOST_RIGHT), None, GateSpec(), also=AlsoWeighed(weighed=(leak,)))
    assert (first.verdict, first.reasons[0]) == ("hold", leak.line)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 400), st.floats(0, 0.2))
def test_winning_one_more_image_never_turns_a_promotion_into_a_hold(
    wins: int, losses: int, both: int, margin: float
) -> None:
    spec = GateSpec(margin=margin)
    if wins + losses + both and losses:
        order = ("hold", "keep", "promote")
        before = decide_beside(pair(wins, losses, both), spec).verdict
        after = decide_beside(pair(wins + 1, losses - 1, both), spec).verdict
        assert order.index(after) >= order.index(before)


def test_what_a_comparison_rests_on_is_told_where_images_were_left_out() -> None:
    assert not [line for line in decide_beside(pair(2, 1, 17)).reasons if line.startswith("compared on")]
    assert decide_beside(pair(2, 1, 7)).reasons[1] == (
        "compared on the 10 of 20 test images that the champion was not trained on: accuracy 0.9000, the champion's "
        "0.8000"
    )


def test_a_version_that_is_held_says_how_a_person_can_promote_it() -> None:
    assert decide_beside(pair(0, 2, 98)).reasons[-1] == BY_HAND
    assert BY_HAND not in decide_beside(pair(4, 0, 96)).reasons


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"classes": None}, "the champion, version 1, was not made by Safelight and cannot be compared with"),
        ({"classes": ("cat", "dog", "frog")}, "it does not know 'frog', which the champion knows"),
        (
            {"tested": ("ape", "bat", "cat")},
            "there are no test images of 'ape', 'bat', on which the champion was tested",
        ),
        (
            {"unscored": "3 of 20 test images are gone"},
            "the champion could not be judged on the same images: 3 of 20 test images are gone",
        ),
        (
            {"unseen": UnseenImages(frozenset("a"), 20, (), 0)},
            "the champion could not be judged on the same images: 19 of 20 test images, or others like them, are among "
            "those that it was trained on; 1 is left, too few: half of them or 30 are needed",
        ),
        ({"paired": None}, "there are no test images to compare with the champion on; raise split.test"),
        ({"paired": pair(0, 0, 0)}, "there are no test images to compare with the champion on; raise split.test"),
    ],
)
def test_a_champion_that_cannot_be_compared_with_stays(facts: dict[str, Any], why: str) -> None:
    """However much better the new version looks."""
    found = decide_beside(**{"paired": pair(20, 0, 0)} | facts)
    assert found.verdict == "hold"
    assert found.reasons[0] == why
    assert found.reasons[-1] == BY_HAND


def test_groups_that_all_splits_share_are_told_with_the_way_out() -> None:
    champion = Champion(1, CLASSES, paired=pair(20, 0, 0), unseen=UnseenImages(frozenset(), 20, (), 20))
    why, way_out = find_obstacle(Challenger("birds", 2, MOST_RIGHT), champion)
    assert "20 of them by their split.group" in why
    assert way_out == SHARED_GROUPS


def test_a_version_without_test_images_is_held_beside_a_champion() -> None:
    challenger = Challenger("birds", 2, MOST_RIGHT, "validation")
    assert find_obstacle(challenger, Champion(1, CLASSES, paired=pair(20, 0, 0)))[0].startswith(
        "there are no test images"
    )


def test_more_classes_than_the_champion_are_no_obstacle() -> None:
    challenger = Challenger("birds", 2, evaluate([0, 1, 2] * 5, [0, 1, 2] * 5, ("ape", "cat", "dog")))
    assert find_obstacle(challenger, Champion(1, CLASSES, tested=CLASSES)) == ()


@pytest.mark.parametrize(
    ("images", "left", "lost", "told"),
    [
        (18, 18, (), None),
        (18, 9, (), None),
        (18, 8, (), "10 of 18 test images, .* 8 are left, too few: half of them or 30 are needed"),
        (1000, ENOUGH, (), None),
        (1000, ENOUGH - 1, (), "29 are left, too few"),
        (1000, 500, ("dog",), "and so are all of 'dog'"),
        (1000, 500, ("new",), None),  # the champion never learnt that one
    ],
)
def test_how_many_unseen_images_are_enough(images: int, left: int, lost: tuple[str, ...], told: str | None) -> None:
    keys = frozenset(str(number) for number in range(left))
    refused = explain_overlap(UnseenImages(keys, images, lost, 0), CLASSES)
    assert refused is None if told is None else re.search(told, str(refused))


# Without a champion


def test_the_first_version_is_promoted_with_its_figures() -> None:
    found = decide_first(MOST_RIGHT)
    assert found.verdict == "promote"
    assert found.reasons[0].startswith("first version")
    assert "accuracy 0.9500" in found.reasons[1]
    assert "20 test images" in found.reasons[1]


def test_a_later_version_without_a_champion_is_not_called_the_first() -> None:
    found = decide_first(MOST_RIGHT, version=2)
    assert (found.verdict, found.reasons[0]) == ("promote", "no champion to compare with")
    held = decide_first(MOST_RIGHT, GateSpec(significance=1e-12), version=2)
    assert held.reasons[0].startswith("no champion to compare with, not shown to be better than always answering")


def test_a_first_version_that_is_judged_on_what_it_learnt_from_says_so() -> None:
    verdict = decide_first(MOST_RIGHT, judged_on="train")
    assert verdict.verdict == "promote"
    assert verdict.reasons[-1].endswith("; these are the images that it was trained on: there are no others")


@pytest.mark.parametrize(
    ("right", "verdict", "first"),
    [
        (
            60,
            "hold",
            "first version, not shown to be better than always answering 'owl' (0.6000): with 97.5% confidence it is "
            "right on 0.4972 or more",
        ),
        (95, "promote", "first version"),
    ],
)
def test_a_first_version_is_champion_when_it_is_better_than_a_constant_answer(
    right: int, verdict: str, first: str
) -> None:
    """Sixty owls and forty bats; of `right` 60 all are called owls."""
    labels = np.array([1] * 60 + [0] * 40)
    said = np.where(np.arange(100) < right, labels, 1 - labels)
    found = decide_first(evaluate(said, labels, ("bat", "owl")))
    assert (found.verdict, found.reasons[0]) == (verdict, first)
    assert verdict == "promote" or "retrain with more images or another recipe (fit.recipe)" in found.reasons[-2]


def test_a_first_version_that_only_its_mean_recall_promotes_says_so() -> None:
    """Ninety owls, of which ten are called bats, and ten bats: no more right than by always answering "owl"."""
    labels = np.array([1] * 90 + [0] * 10)
    found = decide_first(evaluate(np.where(np.arange(100) < 10, 0, labels), labels, ("bat", "owl")))
    assert found.verdict == "promote"
    assert "mean recall, in which each class counts alike, is better than chance" in found.weighed[0].line


def test_a_first_version_that_has_a_fifth_right_of_four_classes_is_held() -> None:
    labels = np.arange(24) % 4
    said = np.where(np.arange(24) < 5, labels, (labels + 1) % 4)
    found = decide_first(evaluate(said, labels, ("a", "b", "c", "d")))
    assert found.verdict == "hold"
    assert "accuracy 0.2083" in found.reasons[1]


def test_classes_that_are_not_judged_are_told() -> None:
    said = [0] * 5 + [1] * 5
    found = decide_first(evaluate(said, said, ("ape", "bat", "cat", "owl")))
    assert found.verdict == "promote"
    assert found.reasons[-1].startswith("there are no test images of 'cat', 'owl'")


def test_after_a_deleted_champion_no_version_is_the_first() -> None:
    challenger, lost = Challenger("birds", 2, MOST_RIGHT), "the champion, version 1, was deleted"
    held = decide_promotion(challenger, None, GateSpec(), lost)
    assert held == Verdict("hold", (lost, BY_HAND))
    beside = decide_promotion(challenger, Champion(1, CLASSES, paired=pair(4, 0, 16)), GateSpec(), lost)
    assert (beside.verdict, beside.reasons[-1]) == ("promote", lost)


@pytest.mark.parametrize("values", [{"margin": -0.01}, {"margin": 1.01}, {"significance": 0.0}, {"significance": 1.0}])
def test_a_rule_that_makes_no_sense_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        GateSpec.model_validate(values)


# Test sets that are drawn anew


@pytest.mark.parametrize(
    ("wins", "losses", "both", "is_turn", "verdict"),
    [
        (3, 3, 994, False, "keep"),
        (3, 3, 994, True, "promote"),
        (0, 5, 995, True, "keep"),  # hardly chance: the champion stays, and the set before judges on
        (3, 20, 977, True, "hold"),
    ],
)
def test_where_a_new_set_cannot_judge_the_champion_an_equal_version_takes_its_place(
    wins: int, losses: int, both: int, is_turn: bool, verdict: str
) -> None:
    champion = Champion(1, CLASSES, paired=pair(wins, losses, both))
    line = Weighed("test set 2027-Q1", 0.9, None, None, True, "on both", 500)
    sets = SetsOfVersion((line,), "judged beside the champion on 500 images of the test set 2026-Q4", is_turn)
    found = decide_promotion(Challenger("birds", 2, MOST_RIGHT), champion, GateSpec(), also=AlsoWeighed(sets=sets))
    assert found.verdict == verdict
    assert sets.judges in found.reasons
    assert line in found.weighed
    assert (found.reasons[-1] == TURN) == (verdict == "promote")
