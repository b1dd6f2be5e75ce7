"""The gate's stage: whom a version is held against, and what is written down for the next one."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import flows.promotion
from cnn.errors import IntegrityError, RegistryError, SafelightError
from cnn.evaluation.gate import Champion, Verdict
from cnn.evaluation.gate_spec import GateSpec
from cnn.evaluation.metrics import Paired, compare_paired, evaluate_probabilities
from flows.promotion import gate_stage, make_gate_result
from infra.registry.versions import BEST, GATE_APPLIED, LOOKS, SPLIT_DRAWN, VersionInfo, read_version

SAID = [0, 1] * 500


def make_version(number: int, best: str = "") -> VersionInfo:
    tags = {"bundle": str(number), GATE_APPLIED: "now"} | ({BEST: best} if best else {})
    facts = {"name": "m", "version": number, "tags": tags, "creation_timestamp": 0, "run_id": "r", "source": "x"}
    return read_version(type("Entry", (), facts), {})


def pair(wins: int, losses: int) -> Paired:
    both = [True] * (1000 - wins - losses)
    return compare_paired([True] * wins + [False] * losses + both, [False] * wins + [True] * losses + both)


def run_gate(
    monkeypatch: pytest.MonkeyPatch,
    pairs: dict[int, Paired | SafelightError],
    classes: tuple[str, ...] = ("bat", "owl"),
    best: str = "3",
) -> tuple[Verdict, dict[str, str], list[str]]:
    """Version 9 at the gate, whose champion is version 8 and whose best is version 3: verdict, tags and log."""
    verdicts: list[Verdict] = []
    tags: dict[str, str] = {}
    log: list[str] = []

    def measure(version: int, *_: Any) -> Champion:
        found = pairs[version]
        assert isinstance(found, Paired)
        return Champion(version, classes if version == 3 else ("bat", "owl"), paired=found)

    def fetch(version: VersionInfo, folder: Path) -> Path:
        found = pairs[version.version]
        if isinstance(found, SafelightError):
            raise found
        return folder

    registry: Any = SimpleNamespace(
        lost_champion=lambda name: None,
        champion=lambda name: make_version(8, best),
        versions=lambda name: [make_version(3, "3"), make_version(8, best), make_version(9)],
        fetch_bundle=fetch,
        set_tags=lambda name, number, given: tags.update(given),
    )
    for name, made in (
        ("publish_report", None),
        ("weigh_version", ()),
        ("weigh_copies", ()),
        ("judge_sets", None),
        ("dump_held_out", {}),
        ("digest_split", "drawn"),
    ):
        monkeypatch.setattr(flows.promotion, name, lambda *_, made=made: made)
    monkeypatch.setattr(flows.promotion, "measure_champion", measure)
    monkeypatch.setattr(flows.promotion, "log_message", log.append)
    monkeypatch.setattr(flows.promotion, "apply_verdict", lambda *given: verdicts.append(given[2]))
    evaluation = evaluate_probabilities(np.eye(2)[SAID], SAID, ("bat", "owl"))
    job: Any = SimpleNamespace(name="m", registry=registry, spec=GateSpec(), manifest=None, store=None)
    result: Any = SimpleNamespace(evaluation=evaluation, judged_on="test", answers="test.npz", confidence=None)
    gate_stage(job, result, make_version(9))
    return verdicts[0], tags, log


def test_a_version_that_is_better_than_a_worse_champion_meets_the_best_one_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verdict, tags, _ = run_gate(monkeypatch, {8: pair(40, 10), 3: pair(5, 20)})
    assert verdict.verdict == "keep"
    assert tags == {LOOKS: "3", SPLIT_DRAWN: "drawn", BEST: "3"}
    assert verdict.weighed[-1].line == "these test images have judged 2 versions before this one"


def test_a_version_that_is_better_than_both_is_the_best_now(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict, tags, _ = run_gate(monkeypatch, {8: pair(40, 10), 3: pair(20, 5)})
    assert (verdict.verdict, tags[BEST]) == ("promote", "9")


@pytest.mark.parametrize(
    ("best", "classes", "left", "why"),
    [
        (
            RegistryError("the bundle cannot be fetched"),
            ("bat", "owl"),
            "9 3",
            "does not count this time: the bundle cannot be fetched",
        ),
        (pair(5, 20), ("ape", "bat", "owl"), "9", "counts no more: it does not know 'ape', which the champion knows"),
    ],
)
def test_a_best_version_that_cannot_be_compared_is_remembered_where_it_may_be_the_next_time(
    monkeypatch: pytest.MonkeyPatch, best: Paired | RegistryError, classes: tuple[str, ...], left: str, why: str
) -> None:
    verdict, tags, log = run_gate(monkeypatch, {8: pair(40, 10), 3: best}, classes)
    assert (verdict.verdict, tags[BEST]) == ("promote", left)
    assert log == [f"gate: version 3, the best that these test images have judged, {why}"]
    assert verdict.weighed[-1].name == "best version"


def test_a_best_version_that_could_not_be_judged_for_a_night_counts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each night in which it is away would give another margin away."""
    verdict, tags, _ = run_gate(monkeypatch, {8: pair(40, 10), 3: pair(5, 20)}, best="8 3")
    assert (verdict.verdict, tags[BEST]) == ("keep", "3")


def test_a_champion_whose_files_are_damaged_holds_the_version_and_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    damage = IntegrityError("model m version 8: model.onnx is not what was registered")
    verdict, tags, log = run_gate(monkeypatch, {8: damage, 3: pair(20, 5)})
    assert (verdict.verdict, tags[BEST]) == ("hold", "3")
    assert verdict.reasons[0] == (
        "the champion could not be judged on the same images: the files of m@8 are not those that were registered; "
        "roll back"
    )
    assert log == [f"gate: {damage}"]
    assert "safelight promote m 9" in verdict.reasons[-1]
    with pytest.raises(RegistryError, match="no answer"):  # of a server that is away: the run is tried again
        run_gate(monkeypatch, {8: RegistryError("no answer"), 3: pair(20, 5)})


def test_the_answer_of_the_command_has_every_number(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict, _, _ = run_gate(monkeypatch, {8: pair(40, 10), 3: pair(20, 5)})
    found = make_gate_result(verdict)
    assert found.reasons == list(verdict.reasons)
    assert found.weighed[0]["p"] == pytest.approx(pair(40, 10).p_worse)
    assert make_gate_result(None).verdict == ""
