"""Carry out the gate's verdict: keep it with the version, and move the aliases that follow from it.

Aliases: a new version is `challenger` until the gate has spoken. Promoted, it becomes `champion` and gives `challenger`
up, so that `challenger` always names a version that was held back: the latest one.
"""

import json
from datetime import datetime

from cnn.evaluation.gate import Verdict
from infra.registry.history import format_time
from infra.registry.versions import CHALLENGER, GATE_APPLIED, VersionInfo, Versions


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
    registry.set_tags(name, number, {"gate.reasons": reasons, "gate.verdict": verdict.verdict})  # complete by the last
    registry.set_alias(name, CHALLENGER, number)
    if verdict.verdict == "promote":
        registry.move_champion(name, number, f"gate: {'; '.join(verdict.reasons)}", by, at)
        registry.drop_alias(name, CHALLENGER)
    registry.set_tags(name, number, {GATE_APPLIED: format_time(at)})
    return registry.version(name, number)


def read_verdict(version: VersionInfo) -> Verdict | None:
    """What the gate said about a version when it had come to its end; None before."""
    return _read_begun(version) if version.is_gated else None


def _read_begun(version: VersionInfo) -> Verdict | None:
    """The verdict that is written down, also where the aliases have not followed yet."""
    if version.verdict is None:
        return None
    return Verdict("promote" if version.verdict == "promote" else "hold", version.reasons)
