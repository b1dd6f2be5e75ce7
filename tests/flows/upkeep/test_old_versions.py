"""Which versions of a model keep their files when `safelight gc` is run."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from registries import add_versions, make_bundle, open_registry, register

from flows.upkeep.gc import clean_workspace
from flows.upkeep.old_versions import collect_versions, find_run_folder, list_removable
from flows.upkeep.retention import Retention
from infra.registry.registry import Registry
from infra.registry.versions import BEST, FILES_REMOVED, GATE_APPLIED, VersionInfo

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = 4e9  # seconds since 1970: all is old by then


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with open_registry(tmp_path_factory.mktemp("work")) as opened:
        yield opened


def promote(registry: Registry, name: str, *numbers: int) -> None:
    for number in numbers:
        registry.move_champion(name, number, "gate", "gate", NOON)


def gate(registry: Registry, name: str, *numbers: int) -> None:
    for number in numbers:
        registry.set_tags(name, number, {GATE_APPLIED: "2026"})


def list_numbers(registry: Registry, name: str, keep: int, before: float = LATER) -> list[int]:
    return [each.version for each in list_removable(registry, registry.versions(name), keep, before)]


def test_aliases_the_best_former_champions_and_the_newest_keep_their_files(registry: Registry) -> None:
    add_versions(registry, "birds", 12)
    gate(registry, "birds", *range(1, 13))
    promote(registry, "birds", 1, 2, 3, 4, 5)
    registry.rollback_champion("birds", "worse", "ada", NOON)
    registry.set_alias("birds", "golden", 7)
    registry.set_tags("birds", 12, {BEST: "8"})
    assert list_numbers(registry, "birds", 2) == [6, 9, 10]  # 4 scores; 3, 2 and 1 were champions before it, 5 too
    assert list_numbers(registry, "birds", 30) == []
    assert list_numbers(registry, "birds", 0, before=0.0) == []  # all are young


def test_a_version_that_is_being_trained_keeps_its_files(registry: Registry) -> None:
    add_versions(registry, "young", 2)
    assert list_numbers(registry, "young", 0) == [1]  # whose run was lost; that of 2 goes on
    registry.finish_run(registry.version("young", 2).run_id, "KILLED")
    assert list_numbers(registry, "young", 0) == [1, 2]


def test_what_was_begun_is_finished(registry: Registry) -> None:
    add_versions(registry, "begun", 3)
    gate(registry, "begun", 1, 2, 3)
    registry.set_tags("begun", 2, {FILES_REMOVED: "2026-03-01T12:00:00.000Z"})
    assert list_numbers(registry, "begun", 5) == [2]


def make_version(number: int, **values: Any) -> VersionInfo:
    empty = dict.fromkeys(("created", "judged_on", "dataset", "run_id", "location"), "")
    plain: dict[str, Any] = {
        "metrics": {},
        "unjudged": (),
        "promise": (),
        "images": None,
        "verdict": None,
        "reasons": (),
        "tags": {},
    }
    stated = {"aliases": (), "created": "2026-03-01T12:00:00.000Z", "bundle": "b", **values}
    return VersionInfo(**{**empty, **plain, "name": "birds", "version": number, **stated})


class StoredHistory:
    """A registry that knows which versions may become champion again."""

    def __init__(self, champions: set[int]) -> None:
        self.champions = champions

    def list_possible_champions(self, name: str, former: int) -> set[int]:
        return self.champions

    def is_being_trained(self, version: VersionInfo) -> bool:
        return False


@given(st.sets(st.integers(1, 20)), st.sets(st.integers(1, 20)), st.sets(st.integers(1, 20)), st.integers(0, 25))
def test_no_version_that_is_needed_is_ever_chosen(
    champions: set[int], named: set[int], gone: set[int], keep: int
) -> None:
    marks = {FILES_REMOVED: "2026", "safelight.files_removed_bytes": "1"}
    versions = [
        make_version(number, aliases=("golden",) if number in named else (), tags=marks if number in gone else {})
        for number in range(1, 21)
    ]
    registry: Any = StoredHistory(champions)
    chosen = {each.version for each in list_removable(registry, versions, keep, LATER)}
    assert not chosen & (champions | named | gone)
    whole = [number for number in range(1, 21) if number not in gone]
    assert chosen == set(whole[: len(whole) - keep if keep < len(whole) else 0]) - champions - named


def test_models_of_other_workspaces_are_left_alone(registry: Registry, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    for name in ("mine", "other"):
        register(registry, name, bundle, 3)
        gate(registry, name, 1, 2, 3)
    keys = {find_run_folder(registry.version("mine", 3))}
    told = collect_versions(registry, keys, 1, LATER, dry_run=True)
    assert told.names == ("mine@1", "mine@2")
    assert all(each.has_files for each in registry.versions("mine"))
    assert collect_versions(registry, keys, 1, LATER, dry_run=False) == told
    assert [each.has_files for each in registry.versions("mine")] == [False, False, True]
    assert all(each.has_files for each in registry.versions("other"))
    assert collect_versions(registry, keys, 1, LATER, dry_run=False).names == ()


def test_gc_of_a_workspace_answers_what_it_removed_and_tells_first(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with open_registry(work) as registry:
        register(registry, "birds", make_bundle(tmp_path / "bundle"), 3)
        gate(registry, "birds", 1, 2, 3)
        for version in registry.versions("birds"):
            folder = work / "runs" / find_run_folder(version)
            folder.mkdir(parents=True)
            (folder / "train.json").write_text("{}")
        few = Retention(keep=1, keep_models=1, grace_hours=0.0)
        told = clean_workspace(str(work), few, dry_run=True)
        assert (told["versions"], told["trainings"], told["dry_run"]) == (["birds@1", "birds@2"], 2, True)
        assert clean_workspace(str(work), few) == told | {"dry_run": False}
        assert told["bytes"] > 1_000_000
        again = clean_workspace(str(work), few)
        assert (again["versions"], again["bytes"]) == ([], 0)
