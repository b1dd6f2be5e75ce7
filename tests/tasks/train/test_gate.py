"""The gate's rule, and the aliases that follow from a verdict, also after a crash at any step."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cnn.errors import RegistryError
from cnn.evaluation.metrics import Evaluation, Paired, compare_paired, evaluate_probabilities
from infra.registry.versions import CHALLENGER, CHAMPION, AbsentError, VersionInfo, Versions
from tasks.train.gate import (
    APPLIED,
    JUDGED_ON,
    UNJUDGED,
    GateSpec,
    Verdict,
    apply_verdict,
    decide,
    describe_judgement,
    hold_for_lost_classes,
    hold_for_unjudged_classes,
    name_alias,
    note_left_out,
    point_out,
    read_judgement,
    read_verdict,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PROMOTE, HOLD = Verdict("promote", ("better",)), Verdict("hold", ("worse",))


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Nineteen of twenty right: ten cats, nine of ten dogs."""
    said = np.array([0] * 10 + [1] * 9 + [0])
    return evaluate_probabilities(np.eye(2)[said], [0] * 10 + [1] * 10, ("cat", "dog"))


def pair(wins: int, losses: int, both: int) -> Paired:
    challenger = [True] * wins + [False] * losses + [True] * both
    champion = [False] * wins + [True] * losses + [True] * both
    return compare_paired(challenger, champion)


@pytest.mark.parametrize(
    ("wins", "losses", "both", "verdict", "why"),
    [
        (0, 0, 100, "promote", "as accurate as the champion"),
        (5, 0, 95, "promote", "more accurate than the champion by 5.00 points"),
        (0, 1, 99, "promote", "gate.margin allows 1.00 points behind: kept"),
        (0, 2, 98, "hold", "broken, it is 2.00 behind"),
        (0, 9, 991, "hold", "finds it worse (p 0.00195, below gate.significance 0.05)"),  # 0.9 points, but no chance
        (20, 24, 956, "promote", "does not find it worse (p 0.326"),
    ],
)
def test_a_version_is_promoted_when_it_is_not_worse(
    evaluation: Evaluation, wins: int, losses: int, both: int, verdict: str, why: str
) -> None:
    found = decide(evaluation, pair(wins, losses, both), GateSpec())
    assert found.verdict == verdict
    assert why in " | ".join(found.reasons)


def test_the_first_version_is_promoted_with_its_figures(evaluation: Evaluation) -> None:
    found = decide(evaluation, None, GateSpec())
    assert found.verdict == "promote"
    assert found.reasons[0].startswith("first version")
    assert "accuracy 0.9500" in found.reasons[1]
    assert "20 test images" in found.reasons[1]


def test_a_later_version_without_a_champion_is_not_called_the_first(evaluation: Evaluation) -> None:
    found = decide(evaluation, None, GateSpec(), number=2)
    assert (found.verdict, found.reasons[0]) == ("promote", "no champion to compare with")
    held = decide(evaluation, None, GateSpec(significance=1e-12), number=2)
    assert held.reasons[0].startswith("no champion to compare with, not shown to be better than always answering")


def test_a_first_version_that_is_judged_on_what_it_learnt_from_says_so(evaluation: Evaluation) -> None:
    verdict = decide(evaluation, None, GateSpec(), judged_on="train")
    assert verdict.verdict == "promote"
    assert verdict.reasons[-1].endswith("; these are the images that it was trained on: there are no others")


@pytest.mark.parametrize(
    ("right", "verdict", "first"),
    [
        (60, "hold", "first version, not shown to be better than always answering 'owl' (0.6000)"),
        (95, "promote", "first version"),
    ],
)
def test_a_first_version_is_champion_when_it_is_better_than_a_constant_answer(
    right: int, verdict: str, first: str
) -> None:
    """Sixty owls and forty bats; of `right` 60 all are called owls."""
    labels = np.array([1] * 60 + [0] * 40)
    said = np.where(np.arange(100) < right, labels, 1 - labels)
    found = decide(evaluate_probabilities(np.eye(2)[said], labels, ("bat", "owl")), None, GateSpec())
    assert (found.verdict, found.reasons[0]) == (verdict, first)
    assert verdict == "promote" or "retrain with more images" in found.reasons[-1]


def test_a_first_version_that_has_a_fifth_right_of_four_classes_is_held() -> None:
    labels = np.arange(24) % 4
    said = np.where(np.arange(24) < 5, labels, (labels + 1) % 4)
    found = decide(evaluate_probabilities(np.eye(4)[said], labels, ("a", "b", "c", "d")), None, GateSpec())
    assert found.verdict == "hold"
    assert "accuracy 0.2083" in found.reasons[1]


def test_a_version_that_is_held_says_how_a_person_can_promote_it() -> None:
    assert point_out(PROMOTE, "birds", 3) == PROMOTE
    assert point_out(HOLD, "birds", 3).reasons == (
        "worse",
        "if it is to be the champion all the same: `safelight promote birds 3 --why TEXT`",
    )


def test_classes_that_are_not_judged_are_told() -> None:
    said = np.array([0] * 5 + [1] * 5)
    found = decide(evaluate_probabilities(np.eye(4)[said], said, ("ape", "bat", "cat", "owl")), None, GateSpec())
    assert found.verdict == "promote"
    assert found.reasons[-1] == "not judged, for want of test images: 'cat', 'owl'"


def test_a_version_that_is_no_longer_judged_on_a_class_is_held() -> None:
    assert hold_for_unjudged_classes(("ape", "owl"), ("owl", "bat", "ape")) is None
    verdict = hold_for_unjudged_classes(("ape", "bat", "owl"), ("owl",))
    assert verdict is not None
    assert verdict.verdict == "hold"
    assert verdict.reasons[0] == "it is not judged on 'ape', 'bat', for want of test images; the champion was"


def test_what_a_comparison_rests_on_is_told_where_images_were_left_out() -> None:
    paired = pair(2, 1, 7)
    assert note_left_out(PROMOTE, paired, 10) == PROMOTE
    assert note_left_out(PROMOTE, paired, 40).reasons == (
        "better",
        "compared on the 10 of 40 test images that the champion was not trained on: accuracy 0.9000, the champion's "
        "0.8000",
    )


def test_a_champion_that_cannot_be_judged_stays(evaluation: Evaluation) -> None:
    found = decide(evaluation, None, GateSpec(), unjudged="3 of 20 test images are gone from the source")
    assert found.verdict == "hold"
    assert "3 of 20 test images are gone" in found.reasons[0]


def test_without_test_images_nothing_moves(evaluation: Evaluation) -> None:
    assert decide(evaluation, pair(0, 0, 0), GateSpec()).verdict == "hold"


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 400), st.floats(0, 0.2))
def test_winning_one_more_image_never_turns_a_promotion_into_a_hold(
    wins: int, losses: int, both: int, margin: float
) -> None:
    spec = GateSpec(margin=margin)
    if wins + losses + both and losses:
        before = decide(EVALUATION, pair(wins, losses, both), spec).verdict
        after = decide(EVALUATION, pair(wins + 1, losses - 1, both), spec).verdict
        assert (before, after) != ("promote", "hold")


EVALUATION = evaluate_probabilities(np.tile([0.9, 0.1], (20, 1)), [0] * 20, ("cat", "dog"))


@pytest.mark.parametrize("values", [{"margin": -0.01}, {"margin": 1.01}, {"significance": 0.0}, {"significance": 1.0}])
def test_a_rule_that_makes_no_sense_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        GateSpec.model_validate(values)


class FakeRegistry(Versions):
    """A registry in memory that can be killed before its n-th change."""

    def __init__(self, versions: int) -> None:
        self.tags: dict[str, str] = {}
        self.aliases: dict[str, int] = {}
        self.versions_tags: dict[int, dict[str, str]] = {n: {"bundle": "b"} for n in range(1, versions + 1)}
        self.changes_left = 10**9

    def _ask(self, verb: str, *values: Any, **named: Any) -> Any:
        if not verb.startswith("get_"):
            if not self.changes_left:
                raise KeyboardInterrupt
            self.changes_left -= 1
        answer: Callable[..., Any] = getattr(self, f"on_{verb}")
        return answer(*values)

    def _pages(self, verb: str, *values: Any, **named: Any) -> Any:
        assert verb == "search_model_versions"
        return [self.on_get_model_version("m", str(number)) for number in self.versions_tags]

    def on_get_registered_model(self, name: str) -> Any:
        return type("Model", (), {"aliases": dict(self.aliases), "tags": dict(self.tags), "name": name})

    def on_get_model_version(self, name: str, number: str) -> Any:
        if int(number) not in self.versions_tags:
            raise AbsentError("no such version")
        return type(
            "Entry",
            (),
            {
                "name": name,
                "version": number,
                "tags": dict(self.versions_tags[int(number)]),
                "creation_timestamp": 0,
                "run_id": "r",
                "source": "file:///x",
            },
        )

    def on_set_model_version_tag(self, name: str, number: str, key: str, value: str) -> None:
        self.versions_tags[int(number)][key] = value

    def on_set_registered_model_alias(self, name: str, alias: str, number: str) -> None:
        self.aliases[alias] = int(number)

    def on_delete_registered_model_alias(self, name: str, alias: str) -> None:
        del self.aliases[alias]

    def on_set_registered_model_tag(self, name: str, key: str, value: str) -> None:
        self.tags[key] = value


def test_a_promoted_version_is_champion_and_no_longer_challenger() -> None:
    registry = FakeRegistry(1)
    found = apply_verdict(registry, registry.version("m", 1), PROMOTE, "gate", NOON)
    assert found.aliases == (CHAMPION,)
    assert (found.verdict, found.reasons) == ("promote", ("better",))
    assert read_verdict(found) == PROMOTE
    assert [move.why for move in registry.history("m")] == ["gate: better"]


def test_a_version_that_is_held_is_challenger() -> None:
    registry = FakeRegistry(2)
    apply_verdict(registry, registry.version("m", 1), PROMOTE, "gate", NOON)
    found = apply_verdict(registry, registry.version("m", 2), HOLD, "gate", NOON)
    assert found.aliases == (CHALLENGER,)
    assert registry.aliases == {CHAMPION: 1, CHALLENGER: 2}


@pytest.mark.parametrize("verdict", [PROMOTE, HOLD])
@pytest.mark.parametrize("changes", range(8))
def test_killed_at_any_step_and_repeated_it_ends_the_same(verdict: Verdict, changes: int) -> None:
    registry, undisturbed = FakeRegistry(2), FakeRegistry(2)
    for one in (registry, undisturbed):
        apply_verdict(one, one.version("m", 1), PROMOTE, "gate", NOON)
    apply_verdict(undisturbed, undisturbed.version("m", 2), verdict, "gate", NOON)
    registry.changes_left = changes
    try:
        apply_verdict(registry, registry.version("m", 2), verdict, "gate", NOON)
    except KeyboardInterrupt:
        assert read_verdict(registry.version("m", 2)) is None
    registry.changes_left = 10**9
    apply_verdict(registry, registry.version("m", 2), verdict, "gate", NOON)
    assert registry.aliases == undisturbed.aliases
    assert registry.versions_tags == undisturbed.versions_tags
    assert registry.history("m") == undisturbed.history("m")


def test_a_verdict_that_was_begun_is_the_one_that_is_finished() -> None:
    """Killed after the alias moved, the version would be compared with itself: what it began with stands."""
    registry = FakeRegistry(1)
    registry.changes_left = 5  # reasons, verdict, challenger, move, champion
    with pytest.raises(KeyboardInterrupt):
        apply_verdict(registry, registry.version("m", 1), PROMOTE, "gate", NOON)
    assert registry.aliases[CHAMPION] == 1
    registry.changes_left = 10**9
    assert read_verdict(apply_verdict(registry, registry.version("m", 1), HOLD, "gate", NOON)) == PROMOTE
    assert registry.aliases == {CHAMPION: 1}


def test_a_verdict_that_was_applied_never_overrules_a_person() -> None:
    registry = FakeRegistry(2)
    for number in (1, 2):
        apply_verdict(registry, registry.version("m", number), PROMOTE, "gate", NOON)
    registry.rollback_champion("m", "2 is bad", "ada", NOON)
    apply_verdict(registry, registry.version("m", 2), PROMOTE, "gate", NOON)
    assert registry.aliases == {CHAMPION: 1}
    assert APPLIED in registry.versions_tags[2]


def test_a_version_says_what_its_figures_were_measured_on() -> None:
    registry = FakeRegistry(3)
    figures = {"accuracy": 0.997, "accuracy_low": 0.9909, "accuracy_high": 1.0, "test_images": 1329.0}
    registry.versions_tags[1] |= {f"metric.{name}": repr(value) for name, value in figures.items()}
    registry.versions_tags[1] |= {JUDGED_ON: "test split of birds-1", UNJUDGED: '["owl", "été"]'}
    assert describe_judgement(registry.version("m", 1)) == (
        "accuracy 0.9970 (0.9909 to 1.0000) on 1,329 images, test split of birds-1"
    )
    assert read_judgement(registry.version("m", 1)) == ("test split of birds-1", ("owl", "été"))
    registry.versions_tags[2] |= {"metric.accuracy": "0.5", "judged_on": "validation", "dataset": "birds-1"}
    assert read_judgement(registry.version("m", 2)) == ("validation split of birds-1", ())  # of an older release
    assert describe_judgement(registry.version("m", 2)) == (
        "accuracy 0.5000 on images of an unknown number, validation split of birds-1"
    )
    registry.versions_tags[3] |= {UNJUDGED: "edited by hand"}
    assert read_judgement(registry.version("m", 3)) == ("", ())
    assert describe_judgement(registry.version("m", 3)) == ""


def test_a_version_without_a_bundle_is_no_champion() -> None:
    registry = FakeRegistry(1)
    registry.versions_tags[1].clear()
    with pytest.raises(RegistryError, match="carries no Safelight bundle"):
        apply_verdict(registry, registry.version("m", 1), PROMOTE, "gate", NOON)


@pytest.mark.parametrize(
    ("aliases", "named"),
    [((), None), (("x", CHALLENGER), CHALLENGER), ((CHALLENGER, CHAMPION), CHAMPION)],
)
def test_the_alias_that_says_most_is_named(aliases: tuple[str, ...], named: str | None) -> None:
    assert name_alias(aliases) == named
    assert isinstance(FakeRegistry(1).version("m", 1), VersionInfo)


def test_a_version_that_lost_a_class_is_held() -> None:
    assert hold_for_lost_classes(("cat", "owl"), ("ape", "owl", "cat")) is None
    verdict = hold_for_lost_classes(("cat", "frog", "owl"), ("cat", "owl"))
    assert verdict is not None
    assert verdict.verdict == "hold"
    assert "'frog'" in verdict.reasons[0]
