"""What follows from the gate's verdict, also after a crash at any step."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from cnn.errors import RegistryError
from cnn.evaluation.gate import Verdict
from cnn.evaluation.weighed import Weighed
from infra.registry.mlflow_client import AbsentError
from infra.registry.versions import CHALLENGER, CHAMPION, GATE_APPLIED, JUDGED_ON, UNJUDGED, Versions
from tasks.train.promotion import MOST, apply_verdict, read_verdict, read_weighed, write_weighed

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
WEIGHED = (
    Weighed("accuracy", 0.9, 0.95, -0.01, False, "broken", 1000, 0.001),
    Weighed("size", 3.0, None, None, True, ""),
)
PROMOTE, HOLD, KEEP = Verdict("promote", ("better",)), Verdict("hold", ("worse",), WEIGHED), Verdict("keep", ("equal",))


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
    assert read_verdict(found) == HOLD


def test_the_numbers_of_thousands_of_classes_fit_into_a_tag() -> None:
    parts = [Weighed(f"class {n}", 0.9, 0.9, 0.01, n != 7, "x" * 80, 30, n / 5000) for n in range(5000)]
    text = write_weighed(parts)
    assert len(text) <= MOST
    kept = read_weighed(text)
    assert kept[7].name == "class 7"
    assert kept == tuple(parts[: len(kept)])
    assert read_weighed("edited") == read_weighed('{"a": 1}') == read_weighed("[3]") == ()


@pytest.mark.parametrize("verdict", [PROMOTE, HOLD, KEEP])
@pytest.mark.parametrize("changes", range(9))
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
    assert GATE_APPLIED in registry.versions_tags[2]


def test_a_version_says_what_its_figures_were_measured_on() -> None:
    registry = FakeRegistry(3)
    figures = {"accuracy": 0.997, "accuracy_low": 0.9909, "accuracy_high": 1.0, "test_images": 1329.0}
    registry.versions_tags[1] |= {f"metric.{name}": repr(value) for name, value in figures.items()}
    registry.versions_tags[1] |= {JUDGED_ON: "test split of birds-1", UNJUDGED: '["owl", "été"]'}
    registry.versions_tags[2] |= {"metric.accuracy": "0.5", "judged_on": "validation", "dataset": "birds-1"}
    registry.versions_tags[3] |= {UNJUDGED: "edited by hand"}
    full, older, edited = registry.versions("m")
    assert full.describe_accuracy() == "accuracy 0.9970 (0.9909 to 1.0000) on 1,329 images, test split of birds-1"
    assert (full.judged_on, full.unjudged) == ("test split of birds-1", ("owl", "été"))
    assert (older.judged_on, older.unjudged) == ("validation split of birds-1", ())  # of an older release
    assert older.describe_accuracy() == "accuracy 0.5000 on images of an unknown number, validation split of birds-1"
    assert (edited.judged_on, edited.unjudged, edited.describe_accuracy()) == ("", (), "")


def test_a_version_without_a_bundle_is_no_champion() -> None:
    registry = FakeRegistry(1)
    registry.versions_tags[1].clear()
    with pytest.raises(RegistryError, match="carries no Safelight bundle"):
        apply_verdict(registry, registry.version("m", 1), PROMOTE, "gate", NOON)


@pytest.mark.parametrize(
    ("aliases", "named"),
    [((), ""), (("x", CHALLENGER), CHALLENGER), ((CHALLENGER, CHAMPION), CHAMPION)],
)
def test_the_alias_that_says_most_is_named(aliases: tuple[str, ...], named: str) -> None:
    registry = FakeRegistry(1)
    registry.aliases = dict.fromkeys(aliases, 1)
    assert registry.version("m", 1).alias == named
