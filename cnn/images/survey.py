"""What the images of a source are like: their usual size, and whether they are grey."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cnn.spec import Spec

SMALL_SIDE = 64  # pixels of the shorter side: below, a picture is no photograph
GREY_LEVELS = 8  # by so much the colours of a pixel may differ in a grey picture: scanners tint, JPEG rounds


class ImageSurvey(Spec):
    """The usual `height` and `width` (medians, in pixels), and whether all images that were looked at are grey;
    `files`: how many there were to choose from."""

    height: int
    width: int
    is_grey: bool
    files: int

    @property
    def is_small(self) -> bool:
        """Whether these are no photographs, but small images: digits, drawings, cells, what sensors give."""
        return min(self.height, self.width) < SMALL_SIDE


def sum_survey(sizes: Sequence[tuple[int, int]], is_grey: bool, files: int) -> ImageSurvey | None:
    """The survey of images with these (height, width); None without any."""
    if not sizes:
        return None
    height, width = np.median(np.array(sizes), axis=0).tolist()
    return ImageSurvey(height=int(height), width=int(width), is_grey=is_grey, files=files)


def looks_grey(pixels: NDArray[np.uint8]) -> bool:
    """Whether uint8 (height, width, 3) has no colours to speak of."""
    return int(np.ptp(pixels, axis=-1).max(initial=0)) <= GREY_LEVELS
