"""Which places of an image made the model answer as it did: heat maps of the surest mistakes, for the report."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnn.errors import SafelightError
from cnn.images.heat_overlay import draw_heat
from cnn.inference.heat_maps import HeatMapError, load_heat_mapper


def draw_mistakes(
    bundle: Path, pixels: Sequence[NDArray[np.uint8]], answers: NDArray[np.int64]
) -> tuple[list[NDArray[np.uint8]], str]:
    """(the pictures, uint8 (height, width, 3) each, under the heat of the class that each was taken for; why there are
    none).

    `pixels` are those of the images as the network sees them, `answers` int64 (n,) the classes. Of a bundle that cannot
    be read there are none, either: a report without heat is worth more than none.
    """
    if not pixels:
        return [], ""
    try:
        found = load_heat_mapper(bundle, os.cpu_count() or 1).explain(np.stack(pixels), answers)
    except HeatMapError as error:
        return [], str(error)
    except SafelightError:
        return [], "there are no heat maps: the model's files cannot be read"
    return [draw_heat(image, heat) for image, heat in zip(pixels, found.heat, strict=True)], ""
