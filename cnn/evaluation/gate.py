"""The gate: whether a new model version takes the champion's place.

A pure rule: what is known of the two versions comes in as values, the verdict goes out with its reasons.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from cnn.dataset.seen_images import UnseenImages
from cnn.evaluation.metrics import Evaluation, Paired, compare_chance
from cnn.spec import Settings
from cnn.text import name_some

ENOUGH = 30  # unseen test images on which two models may be compared, whatever share of all they are


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
        description="how sure a comparison must be, as a p value: a new version that is worse than the champion at a "
        "smaller p is held back, and so is a first version that is not better than a constant answer at a smaller p",
    )


@dataclass(frozen=True)
class Challenger:
    """A new version and its figures. `judged_on` is the split that they were measured on: test, or where there are no
    test images validation or train."""

    name: str
    version: int
    evaluation: Evaluation
    judged_on: str = "test"

    @property
    def tested(self) -> set[str]:
        """The classes with images to judge on."""
        return set(self.evaluation.classes) - set(self.evaluation.unjudged)


@dataclass(frozen=True)
class Champion:
    """What is known of the champion; None stands for what has not been found out.

    `classes` are those that it names (None: it was not made by Safelight), `tested` those that it was tested on,
    `unseen` the challenger's test images that it has not learnt from, and `paired` compares the two on these.
    `unscored` says why there is no comparison.
    """

    version: int
    classes: tuple[str, ...] | None = None
    tested: tuple[str, ...] = ()
    unseen: UnseenImages | None = None
    paired: Paired | None = None
    unscored: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What the gate says, with its reasons in plain sentences."""

    verdict: Literal["promote", "hold"]
    reasons: tuple[str, ...]


def decide_promotion(
    challenger: Challenger, champion: Champion | None, spec: GateSpec, lost: str | None = None
) -> Verdict:
    """Promote a version that is not worse than the champion on the same images, or, without a champion, better than a
    constant answer.

    `lost` says what became of a champion that somebody deleted: `champion` is then the one before it, and where there
    is none the version is held, for it is not the first. A version that is held ends with what a person can do who
    knows better.
    """
    if champion is not None:
        verdict = _compare(challenger, champion, spec)
    else:
        verdict = Verdict("hold", ()) if lost else _decide_first(challenger, spec)
    reasons = (*verdict.reasons, lost) if lost else verdict.reasons
    if verdict.verdict == "hold":
        command = f"safelight promote {challenger.name} {challenger.version} --why TEXT"
        reasons = (*reasons, f"if it is to be the champion all the same: `{command}`")
    return Verdict(verdict.verdict, reasons)


def judge_int8(paired: Paired, spec: GateSpec) -> Verdict:
    """Whether a version gets an int8 network: by the rule for a new version, with its float32 network as champion."""
    near, plausible = paired.difference >= -spec.margin, paired.p_worse >= spec.significance
    found = (
        f"int8 answers {paired.challenger:.4f} of {paired.images:,} test images right, float32 {paired.champion:.4f}"
    )
    if near and plausible:
        return Verdict("promote", (f"{found}: registered with it",))
    rule = _describe_test(paired, spec, plausible) if near else _describe_margin(paired, spec, near)
    return Verdict("hold", (f"{found}: registered without int8; {rule}",))


def find_obstacle(challenger: Challenger, champion: Champion) -> tuple[str, ...]:
    """Why the version is held whatever a comparison would say, from what is known of the champion so far; () where
    nothing stands in the way."""
    if champion.classes is None:
        return (f"the champion, version {champion.version}, was not made by Safelight and cannot be compared with",)
    if lost := sorted(set(champion.classes) - set(challenger.evaluation.classes)):
        return (f"it does not know {_quote(lost)}, which the champion knows",)
    if challenger.judged_on != "test":
        return ("there are no test images to compare with the champion on; raise split.test",)
    if untested := sorted(set(champion.tested) - challenger.tested):
        return (
            f"there are no test images of {_quote(untested)}, on which the champion was tested",
            "add test images of it, or where splits are drawn, raise split.test or choose another split.group",
        )
    refused = champion.unscored or (champion.unseen and explain_overlap(champion.unseen, champion.classes))
    return (f"the champion could not be judged on the same images: {refused}",) if refused else ()


def explain_overlap(unseen: UnseenImages, known: Iterable[str]) -> str | None:
    """Why a champion of the classes `known` cannot be judged on the images that it has not learnt from; None where it
    can: half of the test images, or `ENOUGH`, and some of each class that it knows."""
    familiar, left = unseen.images - len(unseen.keys), len(unseen.keys)
    if not familiar:
        return None
    overlap = (
        f"{familiar:,} of {unseen.images:,} test images, or others like them, are among those that it was trained on"
    )
    if unseen.related:
        overlap += f" ({unseen.related:,} of them by their split.group)"
    if left < min(ENOUGH, -(-unseen.images // 2)):
        are = "is" if left == 1 else "are"
        return f"{overlap}; {left:,} {are} left, too few: half of them or {ENOUGH} are needed"
    if lost := sorted(set(unseen.lost) & set(known)):
        return f"{overlap}, and so are all of {_quote(lost)}"
    return None


def describe_unjudged(classes: Sequence[str], judged_on: str = "test") -> str:
    """One line on the classes that nothing was found out about."""
    return f"there are no {judged_on} images of {_quote(classes)}: how well it knows them was not measured"


def _compare(challenger: Challenger, champion: Champion, spec: GateSpec) -> Verdict:
    """Promote when the new version is not worse on the same images, which means both: its accuracy is at most
    `spec.margin` behind, and the exact one-sided paired test has p >= `spec.significance`."""
    if obstacle := find_obstacle(challenger, champion):
        return Verdict("hold", obstacle)
    paired = champion.paired
    if paired is None or not paired.images:
        return Verdict("hold", ("there are no test images to compare with the champion on; raise split.test",))
    near, plausible = paired.difference >= -spec.margin, paired.p_worse >= spec.significance
    reasons = (
        _describe_difference(paired),
        *_describe_left_out(paired, challenger.evaluation.images),
        _describe_margin(paired, spec, near),
        _describe_test(paired, spec, plausible),
    )
    return Verdict("promote" if near and plausible else "hold", reasons)


def _decide_first(challenger: Challenger, spec: GateSpec) -> Verdict:
    """Promote a version that no champion stands beside when it is better than a constant answer: of all that there is
    to compare it with, the least.

    Better means that one of two tests (`cnn.evaluation.metrics.compare_chance`) finds it so, at half of
    `spec.significance` each: of its accuracy, or of its mean recall. So six images, three of each of two classes, are
    enough when all answers are right; four are not, which guessing has right once in sixteen times.
    """
    evaluation, judged_on = challenger.evaluation, challenger.judged_on
    chance = compare_chance(evaluation)
    low, high = evaluation.accuracy_interval
    figures = f"accuracy {evaluation.accuracy:.4f} ({low:.4f} to {high:.4f}) on {evaluation.images} {judged_on} images"
    if judged_on == "train":
        figures += "; these are the images that it was trained on: there are no others"
    unjudged = (describe_unjudged(evaluation.unjudged, judged_on),) if evaluation.unjudged else ()
    first = "first version" if challenger.version == 1 else "no champion to compare with"
    if min(chance.p_accuracy, chance.p_recall) < spec.significance / 2:
        return Verdict("promote", (first, figures, *unjudged))
    doubt = f"not shown to be better than always answering {chance.commonest!r} ({chance.share:.4f})"
    remedy = (
        "retrain with more images or with other settings (fit.batch_size = 8 where images are few, fit.epochs, model), "
        "or raise split.test, so that more images judge it"
    )
    return Verdict("hold", (f"{first}, {doubt}", figures, *unjudged, remedy))


def _describe_difference(paired: Paired) -> str:
    what = (
        "as accurate as" if not paired.difference else ("more" if paired.difference > 0 else "less") + " accurate than"
    )
    points = f" by {abs(paired.difference) * 100:.2f} points" if paired.difference else ""
    return (
        f"on the same {paired.images} test images it is {what} the champion{points} "
        f"({paired.wins} only it has right, {paired.losses} only the champion)"
    )


def _describe_left_out(paired: Paired, images: int) -> tuple[str, ...]:
    """What the comparison rests on, where only some of the `images` test images could be compared; else ()."""
    if paired.images == images:
        return ()
    return (
        f"compared on the {paired.images:,} of {images:,} test images that the champion was not trained on: accuracy "
        f"{paired.challenger:.4f}, the champion's {paired.champion:.4f}",
    )


def _describe_margin(paired: Paired, spec: GateSpec, near: bool) -> str:
    rule = f"gate.margin allows {spec.margin * 100:.2f} points behind"
    return f"{rule}: kept" if near else f"{rule}: broken, it is {-paired.difference * 100:.2f} behind"


def _describe_test(paired: Paired, spec: GateSpec, plausible: bool) -> str:
    finding = "does not find it worse" if plausible else "finds it worse"
    sign = "at least" if plausible else "below"
    return f"the exact paired test {finding} (p {paired.p_worse:.3g}, {sign} gate.significance {spec.significance:g})"


def _quote(names: Sequence[str]) -> str:
    return name_some([repr(name) for name in names])
