"""Progressive resizing: a network learns from smaller images in the first steps, and from images of full size at last.

What smaller images teach holds for larger ones, and a step takes about as much less time as there are fewer pixels: Tan
and Le, EfficientNetV2, 2021 (arXiv 2104.00298), section 4, as fastai and the DAWNBench recipes do. The last steps make
good what the change of size shifts: Touvron et al., 2019 (arXiv 1906.06423). Imports no Keras.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from cnn.images.spec import ImageSpec
from cnn.models.architecture import ModelSpec
from cnn.models.hub import is_hub_name
from cnn.training.spec import FitPlan

EARLY_STEPS = 2 / 3  # of a training
STRIDE = 32  # pixels of an image that become one cell of a backbone's last feature map
LEAST_SIDE = 160  # of images that are worth shrinking: of smaller ones too few cells would be left


def find_early_size(plan: FitPlan, model: ModelSpec, image: ImageSpec) -> tuple[int, int] | None:
    """(height, width) of the images in the first steps; None where they have full size from the beginning: the plan
    says so, they are small, or the network is not known to take another size."""
    takes_any = model.backbone is not None and model.uses_backbone and not is_hub_name(model.backbone)
    if plan.early_scale == 1.0 or min(image.size) < LEAST_SIDE or not takes_any:
        return None
    height, width = (max(1, round(side * plan.early_scale / STRIDE)) * STRIDE for side in image.size)
    return (height, width) if (height, width) != image.size and height <= image.size[0] else None


def count_early_steps(plan: FitPlan, steps: int) -> int:
    """How many of `steps` steps learn from smaller images, where any do."""
    return 0 if plan.early_scale == 1.0 else round(EARLY_STEPS * steps)


def shrink_images(images: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 (n, height, width, channels) of `size`: the means of the pixels that each new one covers."""
    height, width = size
    shrunk = np.empty((len(images), height, width, images.shape[3]), np.uint8)
    for number, image in enumerate(images):
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        shrunk[number] = small.reshape(shrunk.shape[1:])
    return shrunk


def measure_mean_pixels(early: tuple[int, int] | None, image: ImageSpec) -> float:
    """Pixels of an image, on average over all steps."""
    full = image.size[0] * image.size[1]
    return full if early is None else EARLY_STEPS * early[0] * early[1] + (1.0 - EARLY_STEPS) * full
