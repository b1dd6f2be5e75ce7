"""Groups of pictures that belong together: copies of each other, and shots of one burst."""

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.split import CopyRule

NONE = -1
CROWD = 8  # copies of each other that are always kept together; more, up to a share of their class
CROWD_SHARES: dict[CopyRule | None, float] = {"together": 0.3, "auto": 0.05}


def join_pairs(pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """int64 (count,): the lowest row that each row is tied to by pairs, (n, 2), be it through others; -1: alone."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    groups = np.full(count, NONE, np.int64)
    members = np.unique(pairs)
    if not len(members):
        return groups
    places = np.searchsorted(members, pairs)
    ties = coo_array((np.ones(len(pairs), np.bool_), (places[:, 0], places[:, 1])), (len(members), len(members)))
    _, found = connected_components(ties, directed=False)
    _, first = np.unique(found, return_index=True)
    groups[members] = members[first][found]
    return groups


def leave_out_crowds(pairs: NDArray[np.int64], labels: NDArray[np.int32], share: float) -> NDArray[np.int64]:
    """The pairs, (n, 2), without those of a group that is large, also as a share of the class of its first picture: the
    frames of a camera that stands still. `labels` (rows,) are numbers of classes, -1 where a row does not count."""
    groups = join_pairs(pairs, len(labels))
    first = groups[pairs[:, 0]]
    sizes = np.bincount(groups[groups >= 0], minlength=len(labels))[first]
    images = np.bincount(labels[labels >= 0], minlength=int(labels.max(initial=0)) + 1)
    few: NDArray[np.bool_] = sizes <= np.maximum(CROWD, share * images[labels[first]])
    return np.asarray(pairs[few], np.int64)


def find_bursts(
    times: NDArray[np.int64], cameras: NDArray[np.int32], rows: NDArray[np.int64], seconds: float
) -> NDArray[np.int64]:
    """int64 (pairs, 2): the shots, of `rows`, that follow one another within so many seconds in one camera.

    `times` in seconds and `cameras` are those of all pictures; below 0: not known.
    """
    known = rows[(times[rows] >= 0) & (cameras[rows] >= 0)]
    order = known[np.lexsort(np.stack([known, times[known], cameras[known]]))]
    one, next_one = order[:-1], order[1:]
    near = (cameras[one] == cameras[next_one]) & (times[next_one] - times[one] <= seconds)
    pairs = np.sort(np.stack([one[near], next_one[near]], axis=1), axis=1)
    return np.asarray(pairs[np.lexsort(np.stack([pairs[:, 1], pairs[:, 0]]))], np.int64)
