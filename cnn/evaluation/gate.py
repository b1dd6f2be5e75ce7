"""The gate: whether a new model version takes the champion's place.

A pure rule: what is known of the two versions comes in as values, the verdict goes out with its reasons.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cnn.dataset.seen_images import UnseenImages
from cnn.dataset.split import find_column
from cnn.evaluation.gate_spec import GateSpec
from cnn.evaluation.metrics import Evaluation, Paired, bound_accuracy, compare_chance, find_p_better
from cnn.evaluation.part_tests import ComparedPart, describe_worse_parts, find_worse_parts, weigh_part
from cnn.evaluation.weighed import Weighed
from cnn.text import quote_some

ENOUGH = 30  # unseen test images on which two models may be compared, whatever share of all they are
OVERALL = 0.15  # share of gate.significance that the comparisons over all images have; classes and slices have the rest

SHARED_GROUPS = (
    "where train/ and test/ folders of your own hold images of the same groups, leave split.group out, since no "
    "version could ever be compared; a table's column in gate.slices compares its groups without it"
)
TURN = (
    "as good within noise, and the champion was trained on most images of the new test set, this version on none: it "
    "takes the champion's place, so that the new set can judge"
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

    @property
    def recognized(self) -> set[str]:
        """The classes of which it has an image right."""
        return {each.label for each in self.evaluation.per_class if each.recall > 0}


@dataclass(frozen=True)
class Champion:
    """What is known of the champion; None stands for what has not been found out.

    `classes` are those that it names (None: it was not made by Safelight), `tested` those that it was tested on,
    `unseen` the challenger's test images that it has not learnt from, and `paired` compares the two on these, `parts`
    on each class and slice of them. `known` compares them on the images of classes that it names, where that is not
    all of them: of a new class it has none right, so that to win there hides what was lost elsewhere. `unscored` says
    why there is no comparison; `eces` are calibration errors there: that of the challenger and that of the champion.
    """

    version: int
    classes: tuple[str, ...] | None = None
    tested: tuple[str, ...] = ()
    unseen: UnseenImages | None = None
    paired: Paired | None = None
    unscored: str | None = None
    parts: tuple[ComparedPart, ...] = ()
    eces: tuple[float, float] | None = None
    known: Paired | None = None

    @property
    def tested_pair(self) -> Paired | None:
        """The comparison that is tested: on the images of classes that it names."""
        return self.paired if self.known is None else self.known


@dataclass(frozen=True)
class SetsOfVersion:
    """A version on each test set that is kept from training (`split.refresh`): a line for each, and `judges`, those
    that held it against the champion.

    `is_turn`: the champion was trained on most images of the present set, which this version was not, and the set
    before goes on judging for a while only.
    """

    weighed: tuple[Weighed, ...]
    judges: str = ""
    is_turn: bool = False


@dataclass(frozen=True)
class AlsoWeighed:
    """What decides beside the comparison with the champion.

    `best` is the most accurate version ever judged on these images, where that is not the champion; `looks` counts the
    versions that these images have judged, this one among them; `weighed` is what else was measured, each with its own
    threshold: one that is not kept holds the version back; `sets` are the test sets, where they are drawn anew.
    """

    best: Champion | None = None
    looks: int = 1
    weighed: tuple[Weighed, ...] = ()
    sets: SetsOfVersion | None = None


@dataclass(frozen=True)
class Verdict:
    """What the gate says, with its reasons in plain sentences, and everything that it weighed with all numbers.

    `keep`: the champion stays because the new version is as good within noise, or not surely worse; `hold`: something
    was found wrong with it, which a person should know.
    """

    verdict: Literal["promote", "keep", "hold"]
    reasons: tuple[str, ...]
    weighed: tuple[Weighed, ...] = ()


def decide_promotion(
    challenger: Challenger,
    champion: Champion | None,
    spec: GateSpec,
    lost: str | None = None,
    also: AlsoWeighed = AlsoWeighed(),
) -> Verdict:
    """Promote a version that is not worse than the champion and the best version on the same images, in no class or
    slice, and breaks no threshold; without a champion, one that is better than a constant answer.

    `lost` says what became of a champion that somebody deleted: `champion` is then the one before it, and where there
    is none the version is held, for it is not the first. A version that is not promoted ends with what a person can do
    who knows better.
    """
    if champion is not None:
        found = _compare(challenger, champion, spec, also)
    else:
        found = Verdict("hold", ()) if lost else _decide_first(challenger, spec)
    found = _apply_thresholds(found, _list_thresholds(also))
    reasons = (*found.reasons, lost) if lost else found.reasons
    if found.verdict != "promote":
        command = f"safelight promote {challenger.name} {challenger.version} --why TEXT"
        reasons = (*reasons, f"if it is to be the champion all the same: `{command}`")
    return replace(found, reasons=reasons)


def _list_thresholds(also: AlsoWeighed) -> tuple[Weighed, ...]:
    return (*(also.sets.weighed if also.sets else ()), *also.weighed)


def _apply_thresholds(found: Verdict, weighed: Sequence[Weighed]) -> Verdict:
    """The verdict with what else was weighed: one broken threshold holds the version back."""
    broken = tuple(each.line for each in weighed if not each.kept)
    verdict = "hold" if broken else found.verdict
    return Verdict(verdict, (*broken, *found.reasons), (*found.weighed, *weighed))


def judge_int8(paired: Paired, spec: GateSpec) -> Verdict:
    """Whether a version gets an int8 network: by the rule for a new version, with its float32 network as champion."""
    near, plausible = paired.difference >= -spec.margin, paired.p_worse >= spec.significance
    found = (
        f"int8 answers {paired.challenger:.4f} of {paired.images:,} test images right, float32 {paired.champion:.4f}"
    )
    if near and plausible:
        return Verdict("promote", (f"{found}: registered with it",))
    rule = _describe_test(paired, spec.significance, plausible) if near else _describe_margin(paired, spec, near)
    return Verdict("hold", (f"{found}: registered without int8; {rule}",))


def find_obstacle(challenger: Challenger, champion: Champion) -> tuple[str, ...]:
    """Why the version is held whatever a comparison would say, from what is known of the champion so far; () where
    nothing stands in the way."""
    if champion.classes is None:
        return (f"the champion, version {champion.version}, was not made by Safelight and cannot be compared with",)
    if lost := sorted(set(champion.classes) - set(challenger.evaluation.classes)):
        return (f"it does not know {quote_some(lost)}, which the champion knows",)
    if challenger.judged_on != "test":
        return ("there are no test images to compare with the champion on; raise split.test",)
    if untested := sorted(set(champion.tested) - challenger.tested):
        return (
            f"there are no test images of {quote_some(untested)}, on which the champion was tested",
            "add test images of it, or where splits are drawn, raise split.test or choose another split.group",
        )
    refused = champion.unscored or (champion.unseen and explain_overlap(champion.unseen, champion.classes))
    if not refused:
        return ()
    found = f"the champion could not be judged on the same images: {refused}"
    return (found, SHARED_GROUPS) if champion.unseen and champion.unseen.related else (found,)


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
        return f"{overlap}, and so are all of {quote_some(lost)}"
    return None


def describe_unjudged(classes: Sequence[str], judged_on: str = "test") -> str:
    """One line on the classes that nothing was found out about."""
    return f"there are no {judged_on} images of {quote_some(classes)}: how well it knows them was not measured"


def _compare(challenger: Challenger, champion: Champion, spec: GateSpec, also: AlsoWeighed) -> Verdict:
    """Hold a version that is found worse, keep the champion where nothing is found, promote one that is found better.

    Found worse: by the exact paired test over all images of classes that the other knows, at `OVERALL` of
    `spec.significance`, halved where the best is another version than the champion, and divided by the number of
    earlier versions, out of which these two were picked (Bonferroni); or in a class or slice (`find_worse_parts`),
    which share the rest. So a version that is as good is held at most as often as `spec.significance` says. It takes
    the champion's place only if its accuracy on these images is at most `spec.margin` behind the best there has been:
    nights add up to no more than that.
    """
    if obstacle := find_obstacle(challenger, champion):
        return Verdict("hold", obstacle)
    paired = champion.paired
    if paired is None or not paired.images:
        return Verdict("hold", ("there are no test images to compare with the champion on; raise split.test",))
    compared = [part for part in champion.parts if part.kind in ("class", *spec.slices)]
    parts = find_worse_parts(compared, (1 - OVERALL) * spec.significance, spec.support, spec.class_margin)
    rivals = _list_rivals(champion, spec, also)
    reasons = (
        *_describe_difference(paired, challenger.evaluation.images),
        *_describe_known(champion.known),
        *([also.sets.judges] if also.sets else []),
        *_name_uncompared(champion.parts, spec),
        *(line for rival in rivals for line in _describe_rival(rival)),
    )
    weighed = (*map(_weigh_rival, rivals), *map(weigh_part, parts))
    if any(each.is_worse for each in rivals) or any(each.is_worse for each in parts):
        return Verdict("hold", (*describe_worse_parts(parts), *reasons), weighed)
    behind = rivals[0].tested.p_worse < spec.significance or not all(rival.is_near for rival in rivals)
    verdict, policy = _choose_equal(challenger, champion, rivals[0].tested, spec, behind)
    if verdict == "keep" and not behind and also.sets is not None and also.sets.is_turn:
        verdict, policy = "promote", (TURN,)
    if not all(each.kept for each in _list_thresholds(also)):
        policy = ()  # it is held, whatever it would have come to
    return Verdict(verdict, (*reasons, *policy), weighed)


@dataclass(frozen=True)
class _ComparedRival:
    """The champion, or the best version ever judged on these images, and what its comparison says at `level`: `paired`
    on all images, `tested` on those of classes that it knows."""

    role: str
    paired: Paired
    tested: Paired
    level: float
    spec: GateSpec

    @property
    def held_to_margin(self) -> Paired:
        """What may be no further behind than the margin: all images, or those of classes that it knows where so many
        of these are lost that it is hardly chance, lest a few images keep a new class out."""
        lost = self.tested.difference < -self.spec.margin and self.tested.p_worse < self.spec.significance
        return self.tested if lost else self.paired

    @property
    def is_near(self) -> bool:
        return self.held_to_margin.difference >= -self.spec.margin

    @property
    def is_worse(self) -> bool:
        return self.tested.p_worse < self.level

    @property
    def lines(self) -> tuple[str, str]:
        """What the margin says, and what the test says."""
        margin = _describe_margin(self.held_to_margin, self.spec, self.is_near)
        return margin, _describe_test(self.tested, self.level, not self.is_worse)


def _list_rivals(champion: Champion, spec: GateSpec, also: AlsoWeighed) -> tuple[_ComparedRival, ...]:
    """Who the version is held against over all images, the champion first."""
    found = [("the champion", champion)]
    if also.best is not None:
        found.append((f"the best version judged on these images, {also.best.version}", also.best))
    pairs = [(role, each.paired, each.tested_pair) for role, each in found]
    compared = [(role, paired, tested) for role, paired, tested in pairs if paired and tested and paired.images]
    level = OVERALL * spec.significance / max(also.looks - 1, 1) / len(compared)
    return tuple(_ComparedRival(role, paired, tested, level, spec) for role, paired, tested in compared)


def _choose_equal(
    challenger: Challenger, champion: Champion, paired: Paired, spec: GateSpec, behind: bool
) -> tuple[Literal["promote", "keep"], tuple[str, ...]]:
    """What becomes of a version that was not found worse, and the policy that was applied."""
    if behind:
        return "keep", ("not surely worse, but too far behind to take the champion's place: the champion stays",)
    p = find_p_better(paired)
    if p < spec.improvement:
        return "promote", (f"the exact paired test finds it better (p {p:.3g}, below gate.improvement)",)
    if new := sorted(challenger.recognized - set(champion.classes or ())):
        return "promote", (f"as good within noise, and it knows {quote_some(new)}, which the champion does not",)
    if spec.equal == "replace":
        return "promote", ('as good within noise: gate.equal = "replace" gives it the champion\'s place',)
    return "keep", (f'as good within noise (p {p:.3g} of being better): gate.equal = "keep" lets the champion stay',)


def _describe_rival(rival: _ComparedRival) -> tuple[str, ...]:
    """The margin and the test for the champion; for another version that is the best, its difference as well."""
    if rival.role == "the champion":
        return rival.lines
    beside = f"beside {rival.role} ({rival.paired.champion:.4f} on {rival.paired.images:,} images)"
    return tuple(f"{beside}: {line}" for line in rival.lines)


def _name_uncompared(parts: Sequence[ComparedPart], spec: GateSpec) -> list[str]:
    """A line for each column of the user's table that was to be compared, and gives no slices."""
    there = {find_column(part.kind) for part in parts}
    return [
        f"gate.slices: column {column!r} is not compared: fewer than two values of it are among these test images "
        "(source.table is read when the dataset is prepared)"
        for column in spec.list_columns()
        if column not in there
    ]


def _weigh_rival(rival: _ComparedRival) -> Weighed:
    paired, name = rival.paired, f"accuracy beside {rival.role}"
    kept = rival.is_near and not rival.is_worse
    facts = (name, paired.challenger, paired.champion, -rival.spec.margin, kept, "; ".join(rival.lines))
    return Weighed(*facts, paired.images, rival.tested.p_worse)


def _decide_first(challenger: Challenger, spec: GateSpec) -> Verdict:
    """Promote a version that no champion stands beside when it is better than the best constant answer: of all that
    there is to compare it with, the least.

    Better means that one of two tests (`cnn.evaluation.metrics.compare_chance`) finds it so, at half of
    `spec.significance` each: of its accuracy (its exact lower bound, Clopper and Pearson 1934, is above the share of
    the commonest class), or of its mean recall. So six images, three of each of two classes, are enough when all
    answers are right; four are not, which guessing has right once in sixteen times.
    """
    evaluation, judged_on = challenger.evaluation, challenger.judged_on
    chance = compare_chance(evaluation)
    low, high = evaluation.accuracy_interval
    figures = f"accuracy {evaluation.accuracy:.4f} ({low:.4f} to {high:.4f}) on {evaluation.images} {judged_on} images"
    level = spec.significance / 2
    better = min(chance.p_accuracy, chance.p_recall) < level
    bound = bound_accuracy(evaluation, level)
    rule = f"surely right on more than {bound:.4f} of them, always answering {chance.commonest!r} on {chance.share:.4f}"
    if chance.p_accuracy >= level:
        shown = "is" if better else "is not shown to be"
        rule += (
            f"; its mean recall, in which each class counts alike, {shown} better than chance (p {chance.p_recall:.2g})"
        )
    facts = ("accuracy beside the best constant answer", evaluation.accuracy, chance.share, chance.share, better, rule)
    weighed = (Weighed(*facts, evaluation.images, chance.p_accuracy),)
    if judged_on == "train":
        figures += "; these are the images that it was trained on: there are no others"
    unjudged = (describe_unjudged(evaluation.unjudged, judged_on),) if evaluation.unjudged else ()
    first = "first version" if challenger.version == 1 else "no champion to compare with"
    if better:
        return Verdict("promote", (first, figures, *unjudged), weighed)
    doubt = (
        f"not shown to be better than always answering {chance.commonest!r} ({chance.share:.4f}): with "
        f"{1 - level:.1%} confidence it is right on {bound:.4f} or more"
    )
    remedy = (
        "look whether the images lie in the folders of their classes; retrain with more images or another recipe "
        "(fit.recipe), or raise split.test, so that more images judge it"
    )
    return Verdict("hold", (f"{first}, {doubt}", figures, *unjudged, remedy), weighed)


def _describe_known(known: Paired | None) -> tuple[str, ...]:
    """How the two do where the champion can be right, if it lacks a class of the new version."""
    if known is None:
        return ()
    return (
        f"on the {known.images:,} of them whose class the champion knows, which are tested: {known.challenger:.4f} "
        f"right, the champion {known.champion:.4f} ({known.wins} only it has right, {known.losses} only the champion)",
    )


def _describe_difference(paired: Paired, images: int) -> tuple[str, ...]:
    what = (
        "as accurate as" if not paired.difference else ("more" if paired.difference > 0 else "less") + " accurate than"
    )
    points = f" by {abs(paired.difference) * 100:.2f} points" if paired.difference else ""
    found = (
        f"on the same {paired.images} test images it is {what} the champion{points} "
        f"({paired.wins} only it has right, {paired.losses} only the champion)"
    )
    return (found, *_describe_left_out(paired, images))


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


def _describe_test(paired: Paired, level: float, plausible: bool) -> str:
    finding = "does not find it worse" if plausible else "finds it worse"
    sign = "at least" if plausible else "below"
    return f"the exact paired test {finding} (p {paired.p_worse:.3g}, {sign} {level:.3g})"
