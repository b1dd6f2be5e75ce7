"""Let a test set retire (`split.refresh`) only when the champion can be judged on the one that follows it."""

from functools import partial

from cnn.dataset.locked_sets import LockedSets
from flows.models import open_registry
from flows.progress import log_message
from tasks.prepare.job import MayRetire
from tasks.train.judging_sets import has_held_out


def ask_champion(workspace: str, name: str) -> MayRetire:
    """The question whether a test set that is over is needed no more by a model; asked only where two overlap."""
    return partial(can_judge_champion, workspace, name)


def can_judge_champion(workspace: str, name: str, sets: LockedSets) -> bool:
    """Whether the present test set can judge beside the champion of a model, which has not learnt from it.

    Raises:
        RegistryError: the registry does not answer.
    """
    ready = has_held_out(open_registry(workspace).champion(name), sets)
    if not ready and sets.before is not None:
        log_message(
            f"list: the test set {sets.before.name} judges on as long as the champion of {name} is a version that was "
            f"trained on images of the test set {sets.present.name}"
        )
    return ready
