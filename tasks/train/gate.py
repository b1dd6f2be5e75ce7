"""What a new version and the champion answered on the same images in, a verdict out; then the aliases that follow.

Aliases: a new version is `challenger` until the gate has spoken. Promoted, it becomes `champion` and gives `challenger`
up, so that `challenger` always names a version that was held back: the latest one.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import Field

from cnn.evaluation.metrics import Evaluation, Paired, compare_chance
from cnn.spec import Settings
from cnn.text import name_some
from infra.registry.history import format_time
from infra.registry.versions import CHALLENGER, CHAMPION, VersionInfo, Versions

APPLIED = "gate.applied"
FIRST, NO_CHAMPION = "first version", "no champion to compare with"  # the latter of a later version
JUDGED_ON, UNJUDGED = "safelight.judged_on", "safelight.unjudged"  # tags: beside which figures mean little


class GateSpec(Settings):
    """When a new version becomes champion (the one that scores) by itself."""

    margin: float = Field(
        0.01,
        ge=0.0,
        le=1.0,
        description="how much less accurate than the champion a new version may be, as a share of the images",
    )
    significance: float = Field(
        0.05,
        gt=0.0,
        lt=1.0,
        description="p value below which a difference is no chance: a version that is so surely worse than the "
        "champion is held back, and a first version that is not so surely better than always the same answer",
    )


@dataclass(frozen=True)
class Verdict:
    """What the gate says, with its reasons in plain sentences."""

    verdict: Literal["promote", "hold"]
    reasons: tuple[str, ...]


def decide(
    challenger: Evaluation,
    paired: Paired | None,
    spec: GateSpec,
    unjudged: str | None = None,
    judged_on: str = "test",
    number: int = 1,
) -> Verdict:
    """Promote when the new version is not worse than the champion on the same images.

    Without `paired` there is no champion yet, unless `unjudged` says why the champion could not be judged: then the
    version is held, because nobody knows whether it is worse. Not worse means both: its accuracy is at most
    `spec.margin` behind, and the exact one-sided paired test has p >= `spec.significance`. `number` is the version's.
    """
    if unjudged is not None:
        return Verdict("hold", (f"the champion could not be judged on the same images: {unjudged}",))
    if paired is None:
        return decide_first(challenger, spec, judged_on, number)
    if not paired.images:
        return Verdict("hold", ("there are no test images to compare with the champion on; raise split.test",))
    near = paired.difference >= -spec.margin
    plausible = paired.p_worse >= spec.significance
    reasons = (_compare(paired), _say_margin(paired, spec, near), _say_test(paired, spec, plausible))
    return Verdict("promote" if near and plausible else "hold", reasons)


def decide_first(evaluation: Evaluation, spec: GateSpec, judged_on: str = "test", number: int = 1) -> Verdict:
    """Promote a version that no champion stands beside when it is better than a constant answer: of all that there is
    to compare it with, the least.

    Better means that one of two tests (`metrics.compare_chance`) finds it so, at half of `spec.significance` each: of
    its accuracy, or of its mean recall. So six images, three of each of two classes, are enough when all answers are
    right; four are not, which guessing has right once in sixteen times.
    """
    chance = compare_chance(evaluation)
    low, high = evaluation.accuracy_interval
    figures = f"accuracy {evaluation.accuracy:.4f} ({low:.4f} to {high:.4f}) on {evaluation.images} {judged_on} images"
    if judged_on == "train":
        figures += "; these are the images that it was trained on: there are no others"
    unjudged = (say_unjudged(evaluation.unjudged, judged_on),) if evaluation.unjudged else ()
    first = FIRST if number == 1 else NO_CHAMPION
    if min(chance.p_accuracy, chance.p_recall) < spec.significance / 2:
        return Verdict("promote", (first, figures, *unjudged))
    doubt = f"not shown to be better than always answering {chance.commonest!r} ({chance.share:.4f})"
    remedy = (
        "retrain with more images or with other settings (fit.epochs, fit.learning_rate, model, image.size), or raise "
        "split.test, so that more images judge it"
    )
    return Verdict("hold", (f"{first}, {doubt}", figures, *unjudged, remedy))


def say_unjudged(classes: Sequence[str], judged_on: str = "test") -> str:
    """One line on the classes that nothing was found out about."""
    shown = name_some(list(map(repr, classes)))
    return f"not judged, for want of {judged_on} images: {shown}"


def note_left_out(verdict: Verdict, paired: Paired, images: int) -> Verdict:
    """The verdict with a line on what it rests on, where only some of the `images` test images could be compared."""
    if paired.images == images:
        return verdict
    note = (
        f"compared on the {paired.images:,} of {images:,} test images that the champion was not trained on: accuracy "
        f"{paired.challenger:.4f}, the champion's {paired.champion:.4f}"
    )
    return Verdict(verdict.verdict, (verdict.reasons[0], note, *verdict.reasons[1:]))


def hold_for_lost_classes(champion: Sequence[str], classes: Sequence[str]) -> Verdict | None:
    """Hold a version that cannot name a class which the champion knows; None when it knows them all."""
    lost = sorted(set(champion) - set(classes))
    if not lost:
        return None
    shown = name_some(list(map(repr, lost)))
    return Verdict(
        "hold", (f"it does not know {shown}, which the champion knows; promote it by hand if that is meant",)
    )


def hold_for_unjudged_classes(champion: Sequence[str], judged: Sequence[str]) -> Verdict | None:
    """Hold a version without test images of a class that the champion was judged on; None when it has them all."""
    lost = sorted(set(champion) - set(judged))
    if not lost:
        return None
    shown = name_some(list(map(repr, lost)))
    return Verdict(
        "hold",
        (
            f"it is not judged on {shown}, for want of test images; the champion was",
            "add test images of it, or where splits are drawn, raise split.test or choose another split.group",
        ),
    )


def point_out(verdict: Verdict, name: str, version: int) -> Verdict:
    """A verdict to hold that ends with what a person can do who knows better; another one as it is."""
    if verdict.verdict == "promote":
        return verdict
    way = f"if it is to be the champion all the same: `safelight promote {name} {version} --why TEXT`"
    return Verdict("hold", (*verdict.reasons, way))


def apply_verdict(registry: Versions, version: VersionInfo, verdict: Verdict, by: str, at: datetime) -> VersionInfo:
    """The version with the verdict as its tags and the alias that follows from it. Repeated after a crash, it goes on
    where it stopped, with the verdict that it began with (by then the version may be the champion that it would be
    compared with); once it has come to its end it never moves anything again.

    Raises:
        RegistryError: the registry refuses.
    """
    name, number = version.name, version.version
    present = registry.version(name, number)
    if APPLIED in present.tags:
        return present
    verdict = _kept_verdict(present) or verdict
    reasons = json.dumps(verdict.reasons, ensure_ascii=False)
    registry.set_tags(name, number, {"gate.reasons": reasons, "gate.verdict": verdict.verdict})  # complete by the last
    registry.set_alias(name, CHALLENGER, number)
    if verdict.verdict == "promote":
        registry.move_champion(name, number, f"gate: {'; '.join(verdict.reasons)}", by, at)
        registry.drop_alias(name, CHALLENGER)
    registry.set_tags(name, number, {APPLIED: format_time(at)})
    return registry.version(name, number)


def read_judgement(version: VersionInfo) -> tuple[str, tuple[str, ...]]:
    """(what a version was judged on, such as `test split of birds-1`, or "" where nobody knows; the classes that had no
    images there)."""
    split = version.tags.get("judged_on", "")  # of an older release
    known = version.tags.get(JUDGED_ON, f"{split} split of {version.dataset}" if split and version.dataset else "")
    try:
        unjudged = json.loads(version.tags.get(UNJUDGED, "[]"))
    except ValueError:  # tags can be edited by hand
        unjudged = []
    return known, tuple(map(str, unjudged)) if isinstance(unjudged, list) else ()


def describe_judgement(version: VersionInfo) -> str:
    """One line of a version's figures and what they were measured on; "" where it has none."""
    figures, judged_on = version.metrics, read_judgement(version)[0]
    if "accuracy" not in figures:
        return ""
    told = f"accuracy {figures['accuracy']:.4f}"
    if {"accuracy_low", "accuracy_high"} <= set(figures):
        told += f" ({figures['accuracy_low']:.4f} to {figures['accuracy_high']:.4f})"
    images = f"{figures['test_images']:,.0f} images" if "test_images" in figures else "images of an unknown number"
    return f"{told} on {images}" + (f", {judged_on}" if judged_on else ", nobody knows which")


def read_verdict(version: VersionInfo) -> Verdict | None:
    """What the gate said about a version when it had come to its end; None before."""
    return _kept_verdict(version) if APPLIED in version.tags else None


def name_alias(aliases: Sequence[str]) -> str | None:
    """The alias that says most: champion, else challenger, else none."""
    return next((alias for alias in (CHAMPION, CHALLENGER) if alias in aliases), None)


def _kept_verdict(version: VersionInfo) -> Verdict | None:
    if version.verdict is None:
        return None
    return Verdict("promote" if version.verdict == "promote" else "hold", version.reasons)


def _compare(paired: Paired) -> str:
    what = (
        "as accurate as" if not paired.difference else ("more" if paired.difference > 0 else "less") + " accurate than"
    )
    points = f" by {abs(paired.difference) * 100:.2f} points" if paired.difference else ""
    return (
        f"on the same {paired.images} test images it is {what} the champion{points} "
        f"({paired.wins} only it has right, {paired.losses} only the champion)"
    )


def _say_margin(paired: Paired, spec: GateSpec, near: bool) -> str:
    rule = f"gate.margin allows {spec.margin * 100:.2f} points behind"
    return f"{rule}: kept" if near else f"{rule}: broken, it is {-paired.difference * 100:.2f} behind"


def _say_test(paired: Paired, spec: GateSpec, plausible: bool) -> str:
    finding = "does not find it worse" if plausible else "finds it worse"
    sign = "at least" if plausible else "below"
    return f"the exact paired test {finding} (p {paired.p_worse:.3g}, {sign} gate.significance {spec.significance:g})"
