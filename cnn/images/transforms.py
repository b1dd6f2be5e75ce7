"""Albumentations pipelines in their serialised form: restored without running anything foreign, and tried."""

import os
import random
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from cnn.errors import ConfigError
from cnn.text import name_some, shorten

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would otherwise ask the network for a newer release

CLASS_NAME = "__class_fullname__"  # as Albumentations writes it
# Parts of Albumentations whose transforms want more than the image: other images, fonts, volumes.
WANT_MORE = tuple(f"albumentations.augmentations.{part}" for part in ("mixing", "text", "transforms3d"))
TRIALS = 8  # copies of a trial image
OTHER_WAYS = "take others, as in https://albumentations.ai/docs, or use augment.crop, .mirror, .rotate, .color …"


def restore_pipeline(serialized: Mapping[str, Any]) -> Any:
    """The transform, or composition of transforms, that `albumentations.to_dict` wrote.

    Only transforms that Albumentations brings along are ever built, by their own constructors: nothing is imported or
    run that the settings name.

    Raises:
        ConfigError: there is no such transform, or it refuses its arguments.
    """
    import albumentations as A  # 0.4 s: only where such a pipeline is used

    steps = list(_iterate_steps(serialized["transform"]))
    known = _list_transforms()
    for step in steps:
        if _name_step(step) not in known:
            raise _refuse(f"{step[CLASS_NAME]!r} is no transform of Albumentations that needs nothing but an image")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice to whoever writes a pipeline, not to whoever runs it
        for step in steps:
            if "transforms" not in step:
                _check_arguments(step)
        try:
            return A.from_dict(dict(serialized))
        except Exception as error:  # what its compositions raise has many kinds
            raise _refuse(_explain(error)) from None


def apply_pipeline(pipeline: Any, image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """What the pipeline makes of uint8 (height, width, channels), drawing from this seed alone."""
    pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))  # once: each step would seed two more
    return np.ascontiguousarray(pipeline(image=image)["image"])


def find_difference(image: NDArray[np.uint8], made: NDArray[Any]) -> str | None:
    """In what more than its pixels a copy differs from the image, as the end of a sentence; None where in nothing."""
    if made.dtype != image.dtype:
        return f"makes {made.dtype} of {image.dtype}"
    return None if made.shape == image.shape else f"makes {_name_shape(made.shape)} of {_name_shape(image.shape)}"


def try_pipeline(serialized: Mapping[str, Any], shape: tuple[int, int, int]) -> None:
    """Apply a pipeline to an image of this shape, as it is and with every step always taken.

    Raises:
        ConfigError: as `restore_pipeline`; it fails, gives another shape or type, or other pixels each time.
    """
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image.flags.writeable = False  # as it lies in a shard
    steps = list(_iterate_steps(serialized["transform"]))
    always = _take_always(serialized["transform"])
    for transform in (serialized["transform"], always):
        if fault := _find_fault(transform, image):
            alone = (
                (_name_step(step), _find_fault(step | {"p": 1.0}, image)) for step in steps if "transforms" not in step
            )
            name, told = next(((name, found) for name, found in alone if found), ("the pipeline as a whole", fault))
            raise _refuse(f"{name} {told}")


def _iterate_steps(transform: Any) -> Iterator[dict[str, Any]]:
    """A serialised transform and all those within it."""
    if not isinstance(transform, dict) or not isinstance(transform.get(CLASS_NAME), str):
        raise _refuse(f"each step is a table with {CLASS_NAME}, as albumentations.to_dict writes it")
    yield transform
    inner = transform.get("transforms", [])
    for step in inner if isinstance(inner, list) else [inner]:
        yield from _iterate_steps(step)


def _name_step(step: Mapping[str, Any]) -> str:
    """The name of a transform in Albumentations; older versions wrote the module before it."""
    name: str = step[CLASS_NAME]
    return name.rpartition(".")[2] if name.startswith("albumentations.") else name


def _list_transforms() -> set[str]:
    """Names of the transforms and compositions of Albumentations that need nothing beside an image."""
    import albumentations as A
    from albumentations.core.composition import BaseCompose
    from albumentations.core.serialization import SERIALIZABLE_REGISTRY

    return {
        name
        for name, kind in SERIALIZABLE_REGISTRY.items()
        if issubclass(kind, (A.BasicTransform, BaseCompose))
        and getattr(A, name, None) is kind
        and not kind.__module__.startswith(WANT_MORE)
    }


def _check_arguments(step: dict[str, Any]) -> None:
    """Build one transform alone, so that a refusal names it. Raises: ConfigError."""
    import albumentations as A

    name, given = _name_step(step), step.keys() - {CLASS_NAME, "p"}
    try:
        built: Any = A.from_dict({"transform": step})
    except Exception as error:  # what constructors raise has many kinds
        raise _refuse(f"{name}: {_explain(error)}") from None
    known = built.get_transform_init_args_names()
    if unknown := sorted(given.difference(known)):
        raise _refuse(f"{name} has no argument {unknown[0]}; it has {name_some(known)}")


def _find_fault(transform: dict[str, Any], image: NDArray[np.uint8]) -> str | None:
    """Why a transform cannot be used for such images, as the end of a sentence; None where it can."""
    pipeline = restore_pipeline({"transform": transform})
    try:
        copies = [apply_pipeline(pipeline, image, seed) for seed in range(TRIALS)]
        again = apply_pipeline(pipeline, image, 0)
    except Exception as error:  # what transforms raise has many kinds
        return f"cannot be applied to an image of {_name_shape(image.shape)}: {_explain(error)}"
    if not np.array_equal(copies[0], again):
        return "gives other pixels each time"
    return next(filter(None, (find_difference(image, made) for made in copies)), None)


def _take_always(transform: dict[str, Any]) -> dict[str, Any]:
    """The same transform with every probability 1."""
    inner = transform.get("transforms")
    always = {**transform, "p": 1.0}
    return always | {"transforms": [_take_always(step) for step in inner]} if isinstance(inner, list) else always


def _name_shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _explain(error: Exception) -> str:
    """What a constructor or a transform of Albumentations complains of, on one line."""
    if isinstance(error.__cause__, ValidationError):
        first = error.__cause__.errors()[0]
        return f"{'.'.join(map(str, first['loc'][:1]))} = {first['input']!r}: {shorten(first['msg'])}"
    return shorten(error)


def _refuse(why: str) -> ConfigError:
    return ConfigError(f"augment.transforms: {why}; {OTHER_WAYS}")
