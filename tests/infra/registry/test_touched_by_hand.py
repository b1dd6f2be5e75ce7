"""MLflow's pages used by hand: experiments, runs, versions and models deleted, renamed, moved and edited there."""

import math
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from registries import METRICS, add_versions, register

import flows.promotion
from cnn.errors import RegistryError
from cnn.evaluation.gate import Champion, Verdict
from cnn.evaluation.gate_spec import GateSpec
from cnn.evaluation.metrics import compare_paired, evaluate_probabilities
from flows.promotion import gate_stage
from infra.registry import history as moves
from infra.registry.registry import Registry
from infra.registry.versions import read_version
from tasks.train.promotion import read_verdict

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def told(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(registry, "_announce", lines.append)
    monkeypatch.setattr(registry, "_experiments", {})  # as in a new process
    return lines


def promote(registry: Registry, name: str, *numbers: int) -> None:
    for number in numbers:
        registry.move_champion(name, number, "gate", "gate", NOON)


# Experiments and runs


def test_a_deleted_experiment_is_restored(registry: Registry, told: list[str]) -> None:
    run = registry.start_run("exp", "a" * 64, {})
    registry.finish_run(run, "FINISHED")
    registry._experiments.clear()
    registry._client.delete_experiment(registry._client.get_experiment_by_name("exp").experiment_id)
    assert registry.find_run("exp", "a" * 64) == run
    [line] = told
    assert line.startswith("MLflow: experiment exp had been deleted and is restored with its runs")
    assert registry.start_run("exp", "b" * 64, {})
    assert len(told) == 1


@pytest.mark.parametrize("what", ["run", "experiment"])
def test_what_is_deleted_while_a_run_is_under_way_is_restored(registry: Registry, told: list[str], what: str) -> None:
    run = registry.start_run(f"under-way-{what}", "a" * 64, {})
    if what == "run":
        registry._client.delete_run(run)
    else:
        registry._client.delete_experiment(registry._client.get_run(run).info.experiment_id)
    registry.log_epoch(run, {"loss": 0.5}, 1)
    registry.finish_run(run, "FINISHED")
    [line] = told
    assert "had been deleted and is restored" in line
    assert registry._client.get_run(run).data.metrics == {"train_loss": 0.5}


def test_figures_and_versions_outlive_their_run(registry: Registry, bundle: Path, told: list[str]) -> None:
    register(registry, "outlive", bundle)
    [version] = registry.versions("outlive")
    registry._client.delete_run(version.run_id)
    assert registry.versions("outlive")[0].metrics == METRICS
    again = registry.start_run("outlive", version.tags["run_key"], {})
    assert again != version.run_id
    assert registry.register_version("outlive", again, bundle, METRICS).version == 1


# The champion


def test_a_champion_whose_version_was_deleted_is_not_forgotten(registry: Registry) -> None:
    add_versions(registry, "lost", 3)
    assert registry.lost_champion("lost") is None
    promote(registry, "lost", 1, 2)
    assert registry.lost_champion("lost") is None
    registry._client.delete_model_version("lost", "2")
    lost = registry.lost_champion("lost")
    assert lost is not None
    assert (lost.version, lost.is_deleted, lost.before and lost.before.version) == (2, True, 1)
    assert "version 2, was deleted in MLflow; version 1, champion before it, counts" in lost.describe()
    with pytest.raises(RegistryError, match=r"version 2, was deleted in MLflow; `safelight rollback lost --why"):
        registry.require_champion("lost")
    [*_, last] = registry.history("lost")
    assert (last.from_version, last.to_version, last.by, last.kind) == (2, None, "outside safelight", "outside")
    assert registry.rollback_champion("lost", "it was deleted", "ada", NOON).version == 1
    assert registry.lost_champion("lost") is None
    assert [move.to_version for move in registry.history("lost")] == [1, 2, None, 1]


def test_an_only_champion_that_was_deleted_is_not_forgotten(registry: Registry) -> None:
    add_versions(registry, "only", 2)
    promote(registry, "only", 1)
    registry._client.delete_model_version("only", "1")
    lost = registry.lost_champion("only")
    assert lost is not None
    assert (lost.version, lost.before) == (1, None)
    assert "`safelight promote only VERSION --why …`" in lost.describe()
    with pytest.raises(RegistryError, match=r"version 1, was deleted in MLflow; choose a version: `safelight promote"):
        registry.require_champion("only")
    with pytest.raises(RegistryError, match=r"what was champion before, version 1, was deleted in MLflow; choose"):
        registry.rollback_champion("only", "why", "ada", NOON)


def test_an_old_history_without_marks_knows_its_champion_too(registry: Registry) -> None:
    add_versions(registry, "old", 2)
    key, value = moves.encode_move(moves.Move(None, 1, "gate", "gate", "2026"), 1)
    registry._client.set_registered_model_tag("old", key, value)
    assert registry.lost_champion("old") is None  # as a command that was killed before the alias moved leaves it
    registry._client.delete_model_version("old", "1")
    lost = registry.lost_champion("old")
    assert lost is not None
    assert (lost.version, lost.is_deleted) == (1, True)


def test_an_alias_that_was_taken_away_leaves_its_version_to_compare_with(registry: Registry) -> None:
    add_versions(registry, "alias", 2)
    promote(registry, "alias", 1, 2)
    registry._client.delete_registered_model_alias("alias", "champion")
    lost = registry.lost_champion("alias")
    assert lost is not None
    assert (lost.version, lost.is_deleted, lost.before and lost.before.version) == (2, False, 2)
    assert registry.rollback_champion("alias", "give it back", "ada", NOON).version == 2


def test_an_alias_that_was_moved_shows_in_the_history(registry: Registry) -> None:
    add_versions(registry, "elsewhere", 3)
    promote(registry, "elsewhere", 1, 2)
    registry._client.set_registered_model_alias("elsewhere", "champion", "3")
    assert registry.require_champion("elsewhere").version == 3
    shown = [(move.from_version, move.to_version, move.by) for move in registry.history("elsewhere")]
    assert shown == [(None, 1, "gate"), (1, 2, "gate"), (2, 3, "outside safelight")]
    promote(registry, "elsewhere", 1)
    assert [move.to_version for move in registry.history("elsewhere")] == [1, 2, 3, 1]
    assert registry.rollback_champion("elsewhere", "why", "ada", NOON).version == 3


def test_versions_deleted_in_between_are_passed_over(registry: Registry) -> None:
    add_versions(registry, "between", 4)
    promote(registry, "between", 1, 2, 3, 4)
    registry._client.delete_model_version("between", "3")
    assert registry.rollback_champion("between", "why", "ada", NOON).version == 2
    registry._client.delete_model_version("between", "1")
    with pytest.raises(RegistryError, match=r"what was champion before, version 1, was deleted"):
        registry.rollback_champion("between", "why", "ada", NOON)


def pass_gate(registry: Registry, name: str, number: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Verdict, list[int]]:
    """What the gate says of a version that is found to be better than whatever it is compared with, and with what."""
    compared: list[int] = []

    def measure(version: int, *_: Any) -> Champion:
        compared.append(version)
        return Champion(version, ("bat", "owl"), paired=compare_paired([True] * 20, [False] * 20))

    monkeypatch.setattr(flows.promotion, "measure_champion", measure)
    monkeypatch.setattr(registry, "fetch_bundle", lambda *_: Path("bundle"))
    looked_up = (("weigh_version", ()), ("weigh_copies", ()), ("judge_sets", None), ("digest_split", "drawn"))
    for skipped, made in (("publish_report", None), *looked_up):
        monkeypatch.setattr(flows.promotion, skipped, lambda *_, made=made: made)
    answers = [0, 1] * 10
    evaluation = evaluate_probabilities(np.eye(2)[answers], answers, ("bat", "owl"))
    job: Any = SimpleNamespace(
        name=name, registry=registry, spec=GateSpec(), manifest=SimpleNamespace(locked_sets=None), store=None
    )
    report: Any = SimpleNamespace(evaluation=evaluation, judged_on="test", answers="test.npz", confidence=None)
    verdict = read_verdict(gate_stage(job, report, registry.version(name, number)))
    assert verdict is not None
    return verdict, compared


def test_after_a_deleted_champion_no_version_is_the_first(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    add_versions(registry, "gate", 3)
    promote(registry, "gate", 1, 2)
    registry._client.delete_model_version("gate", "2")
    verdict, compared = pass_gate(registry, "gate", 3, monkeypatch)
    assert (verdict.verdict, compared) == ("promote", [1])
    assert "version 2, was deleted in MLflow; version 1" in verdict.reasons[-1]


def test_after_a_deleted_only_champion_a_version_is_held(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    add_versions(registry, "held", 2)
    promote(registry, "held", 1)
    registry._client.delete_model_version("held", "1")
    verdict, compared = pass_gate(registry, "held", 2, monkeypatch)
    assert (verdict.verdict, compared) == ("hold", [])
    assert "no former champion is left: `safelight promote held VERSION" in verdict.reasons[0]
    assert registry.champion("held") is None


# Models


def test_a_renamed_model_is_told_before_anything_is_trained(registry: Registry, told: list[str]) -> None:
    add_versions(registry, "former")
    registry.finish_run(registry.version("former", 1).run_id, "FINISHED")
    registry._client.rename_registered_model("former", "latter")
    with (
        pytest.raises(RegistryError, match=r"model former is named latter in MLflow now"),
        registry.train_alone("former"),
    ):
        pytest.fail("it began")
    with registry.train_alone("latter"):
        pass
    assert told == []


def test_a_deleted_model_begins_again_and_says_so(registry: Registry, told: list[str]) -> None:
    add_versions(registry, "gone", 2)
    registry.finish_run(registry.version("gone", 1).run_id, "FINISHED")
    registry._client.delete_registered_model("gone")
    with registry.train_alone("gone"):
        pass
    [line] = told
    assert line.startswith("MLflow: model gone was deleted there, with its versions and the history of its champion")


def test_a_new_model_and_one_whose_first_run_failed_are_no_deleted_ones(registry: Registry, told: list[str]) -> None:
    with registry.train_alone("brand-new"):
        registry.finish_run(registry.start_run("brand-new", "c" * 64, {}), "FAILED")
    with registry.train_alone("brand-new"):
        pass
    assert told == []


def test_tags_edited_to_nonsense_are_left_out(registry: Registry) -> None:
    add_versions(registry, "edited", 2)
    promote(registry, "edited", 1, 2)
    client = registry._client
    [first, _] = sorted(key for key in client.get_registered_model("edited").tags if key.startswith(moves.PREFIX))
    client.set_registered_model_tag("edited", first, "no JSON")
    client.set_registered_model_tag("edited", "move.x", "{}")
    for key, value in {"metric.accuracy": "very good", "metric.ece": "nan", "gate.reasons": "[1"}.items():
        client.set_model_version_tag("edited", "2", key, value)
    champion = registry.require_champion("edited")
    assert champion.metrics == {"macro_f1": METRICS["macro_f1"]}
    assert champion.reasons == ("[1",)
    assert registry.unreadable_moves("edited") == [first, "move.x"]
    assert [(move.to_version, move.by) for move in registry.history("edited")] == [
        (1, "outside safelight"),
        (2, "gate"),
    ]
    assert registry.rollback_champion("edited", "why", "ada", NOON).version == 1


@given(st.dictionaries(st.sampled_from(["metric.accuracy", "gate.reasons", "gate.verdict", "bundle"]), st.text()))
def test_whatever_tags_hold_a_version_can_be_read(tags: dict[str, str]) -> None:
    entry = SimpleNamespace(name="x", version="1", creation_timestamp=0, run_id=None, source="", tags=tags)
    version = read_version(entry, {})
    assert all(isinstance(reason, str) for reason in version.reasons)
    assert all(math.isfinite(value) for value in version.metrics.values())
