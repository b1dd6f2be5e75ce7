"""Carry out the gate's verdict: keep it with the version, and move the aliases that follow from it.

Aliases: a new version is `challenger` until the gate has spoken. Promoted, it becomes `champion` and gives `challenger`
up, so that `challenger` always names a version that did not become champion: the latest one.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

import numpy as np

from cnn.evaluation.gate import Verdict
from cnn.evaluation.weighed import Weighed
from infra.registry.history import format_time
from infra.registry.versions import CHALLENGER, GATE_APPLIED, WEIGHED, VersionInfo, Versions

MOST = 90_000  # characters of all numbers as JSON: MLflow keeps tags of 100,000


def apply_verdict(registry: Versions, version: VersionInfo, verdict: Verdict, by: str, at: datetime) -> VersionInfo:
    """The version with the verdict as its tags and the alias that follows from it. Repeated after a crash, it goes on
    where it stopped, with the verdict that it began with (by then the version may be the champion that it would be
    compared with); once it has come to its end it never moves anything again.

    Raises:
        RegistryError: the registry refuses.
    """
    name, number = version.name, version.version
    present = registry.version(name, number)
    if present.is_gated:
        return present
    verdict = _read_begun(present) or verdict
    reasons = json.dumps(verdict.reasons, ensure_ascii=False)
    weighed = {WEIGHED: write_weighed(verdict.weighed)} if verdict.weighed else {}
    tags = weighed | {"gate.reasons": reasons, "gate.verdict": verdict.verdict}
    registry.set_tags(name, number, tags)  # complete by the last
    registry.set_alias(name, CHALLENGER, number)
    if verdict.verdict == "promote":
        registry.move_champion(name, number, f"gate: {'; '.join(verdict.reasons)}", by, at)
        registry.drop_alias(name, CHALLENGER)
    registry.set_tags(name, number, {GATE_APPLIED: format_time(at)})
    return registry.version(name, number)


def read_verdict(version: VersionInfo) -> Verdict | None:
    """What the gate said about a version when it had come to its end; None before."""
    return _read_begun(version) if version.is_gated else None


def write_weighed(weighed: Sequence[Weighed]) -> str:
    """What the gate weighed, as a JSON list of objects; of thousands of classes, those that matter least are left
    out."""
    rows = [json.dumps(asdict(each), ensure_ascii=False) for each in weighed]
    worst_first = sorted(range(len(rows)), key=lambda place: (weighed[place].kept, weighed[place].p or 0.0, place))
    sizes = np.cumsum([len(rows[place]) + 2 for place in worst_first])
    kept = worst_first[: int((sizes <= MOST - 2).sum())]
    return f"[{', '.join(rows[place] for place in sorted(kept))}]"


def read_weighed(text: str) -> tuple[Weighed, ...]:
    """What `write_weighed` wrote; () for what somebody has edited so that it cannot be read."""
    try:
        return tuple(Weighed(**row) for row in json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return ()


def _read_begun(version: VersionInfo) -> Verdict | None:
    """The verdict that is written down, also where the aliases have not followed yet."""
    if version.verdict is None:
        return None
    weighed = read_weighed(version.tags.get(WEIGHED, "[]"))
    if version.verdict in ("promote", "keep"):
        return Verdict("promote" if version.verdict == "promote" else "keep", version.reasons, weighed)
    return Verdict("hold", version.reasons, weighed)
