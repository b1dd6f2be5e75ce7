"""Where images are when test sets take turns (`split.refresh`): in the new set, the one before, or training again."""

from dataclasses import dataclass

from cnn.dataset.locked_sets import LockedSets
from cnn.dataset.split import SPLITS, TEST, SplitSpec, choose_split

RETIRING = len(SPLITS)  # while splits are drawn, the place of an image of the test set before


@dataclass(frozen=True)
class SetTurn:
    """The step from the test sets of the version before to those of this one.

    `present` and `before` are the numbers by which they are drawn (None: there is none before). `is_new`: the present
    set was not there yet; `is_released`: that which retired then is learnt from again.
    """

    present: int
    before: int | None = None
    is_new: bool = False
    is_released: bool = False

    @property
    def moves_images(self) -> bool:
        """Whether images that were there in the version before change their places."""
        return self.is_new or self.is_released

    def draw(self, key: str, group: str | None, split: SplitSpec) -> int:
        """The place of an image that is new, or of a group: a number of SPLITS, or `RETIRING`."""
        drawn = SPLITS.index(choose_split(key, group, split, self.present))
        if drawn != TEST and self.before is not None and choose_split(key, group, split, self.before) == "test":
            return RETIRING
        return drawn

    def move(self, place: int, drawn: int) -> int:
        """The place of what was in one in the version before, and would be drawn for another if it were new."""
        if place == RETIRING and self.is_released:
            return drawn
        if not self.is_new:
            return place
        if place == TEST:
            return RETIRING
        return TEST if drawn == TEST and place != RETIRING else place


def find_turn(sets: LockedSets | None, earlier: LockedSets | None) -> SetTurn | None:
    """The step from the sets of the version before (None: nothing is known of it); None where none are drawn anew."""
    if sets is None:
        return None
    before = None if sets.before is None else sets.before.turn
    if earlier is None:
        return SetTurn(sets.present.turn, before)
    released = earlier.before is not None and earlier.before != sets.before
    return SetTurn(sets.present.turn, before, sets.present != earlier.present, released)
