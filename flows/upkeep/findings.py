"""What needs a person, in one sentence, and what mends it."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from infra.notify.spec import Notice, NoticeKind


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be, and what mends it. `model` is the name of the model that it is about, if
    any; `key` what stays the same of it from one look to the next, where `what` does not.
    """

    kind: str
    what: str
    mend: str
    model: str = ""
    key: str = ""


# The findings that are messages of a kind of their own; all others are told as such that need attention.
TOLD_AS: dict[str, NoticeKind] = {
    "missing": "missing",
    "late": "late",
    "failed": "failed",
    "crashed": "crashed",
    "held": "held",
    "review": "review",
}


def list_findings(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """The findings as JSON has them, what is missing altogether first."""
    order = list(TOLD_AS)
    rank = {kind: number for number, kind in enumerate(order)}
    return [asdict(each) for each in sorted(findings, key=lambda each: rank.get(each.kind, len(order)))]


def make_notices(findings: Sequence[dict[str, Any]]) -> list[Notice]:
    """A message for each finding, as `list_findings` has them."""
    return [
        Notice(TOLD_AS.get(each["kind"], "attention"), each["model"], f"{each['what']}; to mend it: {each['mend']}")
        for each in findings
    ]
