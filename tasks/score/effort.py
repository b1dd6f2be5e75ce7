"""How much there is to look at in a batch, and how many mistakes remain in the rest: told before anybody looks."""

from cnn.evaluation.binomial import bound_errors
from cnn.spec import Spec
from tasks.score.decision import DecisionRule


class Effort(Spec):
    """Of `of` predictions `look_at` wait for a look; of the others at most `wrong_at_most` are wrong (95 %), on images
    like those of the test split. None: there are no test images to tell by. `tested` images of the test split would
    have been accepted, and `tested_wrong` of these are wrong."""

    look_at: int
    of: int
    wrong_at_most: int | None
    tested: int = 0
    tested_wrong: int = 0


def measure_effort(images: int, accepted: int, rule: DecisionRule) -> Effort:
    """The effort of a batch with so many predictions, of which so many are accepted."""
    if rule.tested is None or not rule.tested[0]:
        return Effort(look_at=images - accepted, of=images, wrong_at_most=None if accepted else 0)
    tested, wrong = rule.tested
    most = bound_errors(wrong, tested, accepted)
    return Effort(look_at=images - accepted, of=images, wrong_at_most=most, tested=tested, tested_wrong=wrong)


def describe_effort(effort: Effort) -> str:
    """One line: look at so many; among the rest at most so many are wrong."""
    start = f"look at {effort.look_at:,} of {effort.of:,}"
    if effort.look_at == effort.of:
        return start
    if effort.wrong_at_most is None:
        return f"{start}; how many of the rest are wrong is not known, for want of test images"
    are = "is" if effort.wrong_at_most == 1 else "are"
    bound = f"at most {effort.wrong_at_most:,} {are} wrong (95 %)"
    return f"{start}; among the rest {bound}, if these are like the test images"
