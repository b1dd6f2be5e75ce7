"""Aliases, the champion and its history, on a real SQLite registry; nothing is trained."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from registries import register

from cnn.errors import RegistryError
from cnn.evaluation.gate import Verdict
from infra.registry.history import Move
from infra.registry.registry import Registry
from infra.registry.versions import CHALLENGER
from tasks.train.promotion import apply_verdict

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_the_champion_moves_with_its_reason(registry: Registry, bundle: Path) -> None:
    register(registry, "moves", bundle, 2)
    assert registry.champion("moves") is None
    assert registry.move_champion("moves", 1, "gate: first version", "gate", NOON)
    assert registry.move_champion("moves", 2, "looks\nbetter", "ada", NOON)
    assert not registry.move_champion("moves", 2, "again", "ada", NOON)
    champion = registry.require_champion("moves")
    assert (champion.version, champion.aliases) == (2, ("champion",))
    assert registry.history("moves") == [
        Move(None, 1, "gate: first version", "gate", "2026-03-01T12:00:00.000Z"),
        Move(1, 2, "looks better", "ada", "2026-03-01T12:00:00.000Z"),
    ]


def test_rollback_returns_to_the_champion_before(registry: Registry, bundle: Path) -> None:
    register(registry, "back", bundle, 3)
    for number in (1, 2, 3):
        registry.move_champion("back", number, "gate", "gate", NOON)
    assert registry.rollback_champion("back", "3 is bad", "ada", NOON).version == 2
    assert registry.rollback_champion("back", "so is 2", "ada", NOON).version == 1
    with pytest.raises(RegistryError, match="model back had no champion before version 1"):
        registry.rollback_champion("back", "and 1", "ada", NOON)
    assert [(move.to_version, move.kind) for move in registry.history("back")][-1] == (1, "rollback")


def test_a_clock_that_is_set_back_changes_neither_the_champion_nor_the_order(registry: Registry, bundle: Path) -> None:
    register(registry, "clock", bundle, 3)
    for number in (1, 2, 3):
        registry.move_champion("clock", number, "gate", "gate", NOON - timedelta(hours=number))
    assert registry.require_champion("clock").version == 3
    assert [move.to_version for move in registry.history("clock")] == [1, 2, 3]
    assert registry.rollback_champion("clock", "3 is bad", "ada", NOON - timedelta(days=1)).version == 2


def test_a_move_cut_short_is_made_good_by_the_next(
    registry: Registry, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(registry, "short", bundle, 2)
    registry.move_champion("short", 1, "gate", "gate", NOON)
    with monkeypatch.context() as patch:
        patch.setattr(registry._client, "set_registered_model_alias", lambda *a: pytest.fail("killed here"))
        with pytest.raises(pytest.fail.Exception):
            registry.move_champion("short", 2, "gate", "gate", NOON)
    assert [move.to_version for move in registry.history("short")] == [1]
    registry.move_champion("short", 2, "gate", "gate", NOON)
    assert [move.to_version for move in registry.history("short")] == [1, 2]


def test_without_a_champion_it_is_said_why_and_what_to_do(registry: Registry, bundle: Path) -> None:
    register(registry, "held", bundle)
    held = Verdict("hold", ("first version, not shown to be better than always answering 'owl' (0.2500)", "more"))
    apply_verdict(registry, registry.version("held", 1), held, "gate", NOON)
    with pytest.raises(RegistryError) as told:
        registry.require_champion("held")
    assert str(told.value) == (
        "model held has no champion yet: version 1 was held back (first version, not shown to be better than always "
        "answering 'owl' (0.2500)); choose a version: `safelight promote held VERSION --why …`, or retrain with more "
        "images or other settings"
    )


def test_other_aliases_come_and_go(registry: Registry, bundle: Path) -> None:
    register(registry, "alias", bundle, 2)
    registry.set_alias("alias", CHALLENGER, 1)
    registry.set_alias("alias", CHALLENGER, 2)
    assert [version.aliases for version in registry.versions("alias")] == [(), (CHALLENGER,)]
    registry.drop_alias("alias", CHALLENGER)
    registry.drop_alias("alias", CHALLENGER)
    assert registry.version("alias", 2).aliases == ()
    with pytest.raises(RegistryError, match="safelight promote"):
        registry.set_alias("alias", "champion", 1)


def test_what_is_not_there_is_said_in_one_line(registry: Registry, bundle: Path) -> None:
    register(registry, "a-present", bundle)
    with pytest.raises(
        RegistryError, match=r"no model is named a-presnet: there (is|are) .*\(did you mean a-present\?\)"
    ):
        registry.versions("a-presnet")
    with pytest.raises(RegistryError, match=r"no model is named zzz: there (is|are) [^(]*; `safelight retrain"):
        registry.versions("zzz")
    with pytest.raises(RegistryError, match="model a-present has no version 9"):
        registry.version("a-present", 9)
    with pytest.raises(RegistryError, match=r"no champion yet.*safelight promote a-present VERSION --why"):
        registry.require_champion("a-present")
    with pytest.raises(RegistryError, match="has no version 9"):
        registry.move_champion("a-present", 9, "why", "me", NOON)
    assert registry.champion("absent") is None
