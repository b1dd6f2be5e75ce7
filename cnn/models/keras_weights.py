"""Files of Keras weights: whether one can be those of a network, told without Keras and before anything is built.

Three kinds of file hold weights: `.weights.h5` and the zip archive `.keras`, both of Keras 3, and `.h5` of Keras 1 and
2, in which keras.applications publishes its own. Of HDF5 nothing but names and shapes is read; no archive is opened,
so that what one holds is told only when training begins. Importing this module imports neither Keras nor h5py.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn.errors import ConfigError
from cnn.text import shorten

NEW, OLD, ARCHIVE = ".weights.h5", ".h5", ".keras"
SUFFIXES = (OLD, ARCHIVE)
NEW_LAYERS = {"layers", "_layer_checkpoint_dependencies"}  # one of these names the layers in a file of Keras 3
NESTED = "layers/functional"  # a model within a model, as Safelight's own are; no backbone has one
ZIP_MAGIC = b"PK\x03\x04"
# What a file holds beside weights: the state of an optimizer, and that of random numbers.
NO_WEIGHTS = {"optimizer", "optimizer_weights", "seed_generator"}


@dataclass(frozen=True)
class ExpectedWeights:
    """What a backbone's file holds: `parameters` numbers in all, the last layer of them with `features` channels."""

    backbone: str
    parameters: int
    features: int


def check_keras_weights(path: Path, expected: ExpectedWeights) -> None:
    """Nothing, where the file holds as many numbers as the backbone has.

    A file of Keras 3 may hold the last layers too, for the classes that it was saved with: they are not read.

    Raises:
        ConfigError: there is no such file, it is none of Keras, or its weights are those of another network.
    """
    check_weights_name(path)
    try:
        if path.name.endswith(ARCHIVE):
            _check_archive(path)
            return
        from h5py import File

        with File(path, "r") as file:
            is_old = "layer_names" in file.attrs or "model_weights" in file
            if not (is_old or NEW_LAYERS & set(file)):
                raise ValueError("it has no layers")
            is_nested = NESTED in file
            shapes = read_weight_shapes(file)
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise ConfigError(f"model.weights: {path} is damaged, or no file of Keras weights ({shorten(error)})") from None
    if is_old == path.name.endswith(NEW):
        raise ConfigError(f"model.weights: {path} is of Keras {_name_format(is_old)}")
    if is_nested:
        raise ConfigError(f"model.weights: {path} is of a model around a backbone; save the backbone's own weights")
    _check_count(path, shapes, expected, may_have_top=not is_old)


def check_weights_name(path: Path) -> None:
    """Nothing, where there is a file whose name ends as those of Keras weights do.

    Raises:
        ConfigError: there is none, or it ends in something else.
    """
    if not path.is_file():
        raise ConfigError(f'model.weights: {path} is no file; give "imagenet" or the path of a Keras weights file')
    if not path.name.endswith(SUFFIXES):
        raise ConfigError(f"model.weights: {path} must end in .weights.h5, .h5 or .keras")


def read_weight_shapes(file: Any) -> list[tuple[int, ...]]:
    """The shape of every array of weights in an open HDF5 file; links to other files are not followed."""
    from h5py import Dataset

    shapes: list[tuple[int, ...]] = []

    def add(name: str, item: Any) -> None:
        if isinstance(item, Dataset) and not NO_WEIGHTS & set(name.split("/")):
            shapes.append(item.shape or ())

    file.visititems(add)
    return shapes


def _check_archive(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(4) != ZIP_MAGIC:
            raise ValueError("it is no zip archive")


def _name_format(is_old: bool) -> str:
    return "1 or 2: its name must end in .h5, not .weights.h5" if is_old else "3: its name must end in .weights.h5"


def _check_count(path: Path, shapes: list[tuple[int, ...]], expected: ExpectedWeights, may_have_top: bool) -> None:
    total = sum(map(math.prod, shapes))
    top = total - expected.parameters
    is_topped = top > 0 and top in _count_tops(shapes, expected.features)
    if top == 0 or (may_have_top and is_topped):
        return
    out = "; save it without its top (include_top=False)" if is_topped else ""
    raise ConfigError(
        f"model.weights: {path} holds the weights of another network: {total:,} numbers, and {expected.backbone} "
        f"without its top has {expected.parameters:,}{out}"
    )


def _count_tops(shapes: list[tuple[int, ...]], width: int, layers: int = 3) -> set[int]:
    """How many numbers the top on a map of `width` channels may have: up to three layers, each with a bias, dense (on
    the mean, or on the whole map) or as convolutions of one pixel."""
    found: set[int] = set()
    for shape in {shape for shape in shapes if _reads(shape, width) and (shape[-1],) in shapes}:
        count = math.prod(shape) + shape[-1]
        found |= {count} | {count + more for more in (_count_tops(shapes, shape[-1], layers - 1) if layers > 1 else ())}
    return found


def _reads(shape: tuple[int, ...], width: int) -> bool:
    """Whether a kernel of this shape fits on `width` channels."""
    return shape[:-1] == (1, 1, width) or (len(shape) == 2 and shape[0] % width == 0)
