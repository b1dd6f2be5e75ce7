"""The bundle of a model: the folder that a registered version carries, checked to the byte when it is read.

It holds `bundle.json` (what the model is, and the sha256 of the others), `model.weights.h5` (to train on, to explain),
`model.onnx` (to score with), `golden.npz` (a few images and what Keras answers to them) and `seen.npz` (which images it
learnt from; older versions lack it). bundle.json is written last, so a folder without it is no bundle; files that it
does not list are never opened.
"""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, field_validator, model_serializer

from cnn.backend import import_keras
from cnn.dataset.normalization import Normalization
from cnn.dataset.seen_images import SeenImages, read_seen, write_seen
from cnn.dataset.split import SplitSpec
from cnn.digest import hash_file
from cnn.errors import IntegrityError, RegistryError, TrainingError
from cnn.evaluation.calibration import as_class_probabilities
from cnn.files import replace_file
from cnn.images.spec import ImageSpec
from cnn.inference.onnx import export_onnx, open_session, run_session
from cnn.models.architecture import ModelSpec, build_model
from cnn.models.backbones import refresh_constants
from cnn.spec import Spec
from cnn.text import shorten

INFO, WEIGHTS, ONNX, GOLDEN = "bundle.json", "model.weights.h5", "model.onnx", "golden.npz"
SEEN = "seen.npz"
PARTS = (GOLDEN, ONNX, WEIGHTS)  # of every bundle
WRITE_LIMIT = 1e-4  # largest difference of a probability between Keras and ONNX on the machine that writes the bundle
LOAD_LIMIT = 1e-3  # the same on another machine, whose arithmetic may round otherwise
BATCH = 64  # images at a time
REBUILD_LIMIT = 0.05  # training in float16 or TF32 rounds by less; another network differs by more


class BundleFacts(Spec):
    """What a bundle says about a model beside its weights.

    `mirror`: an image's probabilities are the mean of its own and its mirror image's (left and right exchanged).
    """

    model: ModelSpec
    image: ImageSpec
    normalization: Normalization
    classes: tuple[str, ...]
    temperature: float = Field(gt=0.0)
    dataset: str
    dataset_digest: str
    split: SplitSpec
    mirror: bool = False

    @model_serializer(mode="wrap")
    def _leave_out_no_mirror(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Bundles of before keep their digests."""
        return {name: value for name, value in write(self).items() if name != "mirror" or value}


class BundleInfo(BundleFacts):
    """What a registered version is. Its `compute_digest()` is the sha256 of bundle.json, and so pins the whole folder.

    `onnx_difference` is the largest difference of a probability between Keras and ONNX on the golden images.
    """

    format: Literal[1] = 1
    onnx_difference: float
    files: dict[str, str]

    @field_validator("files")
    @classmethod
    def _files_are_the_parts(cls, value: dict[str, str]) -> dict[str, str]:
        if sorted(set(value) - {SEEN}) != sorted(PARTS):
            raise ValueError(f"the files of a bundle are {', '.join(PARTS)}, not {', '.join(sorted(value))}")
        return value


def write_bundle(
    folder: Path, model: Any, facts: BundleFacts, golden: NDArray[np.uint8], seen: SeenImages | None = None
) -> BundleInfo:
    """Write the bundle of a trained Keras model; `golden` is uint8 (m, height, width, channels), a few real images.

    The network is rebuilt from its description, in float32 and on the CPU, before anything is written: so what is
    registered is known to be rebuildable, and rounds alike whether training used a GPU and mixed precision or not.

    Raises:
        TrainingError: the model is not what its description says, or ONNX cannot say the same.
        ValueError: golden images of another shape or type, or none.
    """
    _check_golden(golden, facts.image)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INFO).unlink(missing_ok=True)  # from here on the folder is no bundle until the last line
    with _float32_on_cpu():
        network = _copy_network(model, facts)
        reference = _ask_keras(network, golden)
        _check_same(_ask_keras(model, golden), reference)
        network.save_weights(folder / WEIGHTS)
        export_onnx(network, folder / ONNX, facts.image.shape)
    difference = _compare_onnx(folder / ONNX, golden, reference)
    np.savez_compressed(folder / GOLDEN, images=golden, probabilities=reference.astype(np.float32))
    if seen is not None:
        write_seen(seen, folder / SEEN)
    parts = PARTS if seen is None else (*PARTS, SEEN)
    files = {name: hash_file(folder / name) for name in parts}
    info = BundleInfo(**dict(facts), onnx_difference=difference, files=files)
    with replace_file(folder / INFO) as file:
        file.write(info.to_json().encode())
    return info


def read_bundle(folder: Path) -> BundleInfo:
    """What bundle.json says, after every file that it lists was found to have its sha256. Opens none of them.

    Raises:
        IntegrityError: a file is missing, damaged, or written by another version of Safelight.
    """
    path = folder / INFO
    try:
        info = BundleInfo.model_validate_json(path.read_bytes())
    except OSError as error:
        raise IntegrityError(
            f"{path} cannot be read ({error.strerror}): the folder is no model bundle, or one that was not finished; "
            f"train again"
        ) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole file"
        raise IntegrityError(
            f"{path} cannot be read ({where}: {first['msg']}): it is damaged or from another version of Safelight; "
            f"fetch it again or train again"
        ) from None
    for name in info.files:
        read_part(folder, info, name)
    return info


def read_part(folder: Path, info: BundleInfo, name: str) -> bytes:
    """The bytes of one file of the bundle, found to have its sha256.

    Raises:
        IntegrityError: the file is missing or is not what was registered.
    """
    path = folder / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise IntegrityError(
            f"{path} cannot be read ({error.strerror}); fetch the model again or train again"
        ) from None
    if hashlib.sha256(data).hexdigest() != info.files[name]:
        raise IntegrityError(f"{path} is not what was registered (its sha256 differs); fetch the model again")
    return data


def read_golden(folder: Path, info: BundleInfo) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The golden images, uint8 (m, height, width, channels), and Keras' uncalibrated class probabilities, (m, k)."""
    with np.load(io.BytesIO(read_part(folder, info, GOLDEN)), allow_pickle=False) as arrays:
        return arrays["images"], arrays["probabilities"]


def read_seen_images(folder: Path, info: BundleInfo) -> SeenImages | None:
    """The images that the model learnt from; None for a version of an older release, which did not keep them.

    Raises:
        IntegrityError: the file is missing or damaged.
    """
    return read_seen(read_part(folder, info, SEEN), str(folder / SEEN)) if SEEN in info.files else None


def load_keras_model(folder: Path) -> Any:
    """The Keras model, rebuilt from its description with its weights; no Keras configuration is read from the folder.

    Raises:
        IntegrityError: a file is missing or damaged.
        RegistryError: this version of Safelight builds another network from the same description.
    """
    info = read_bundle(folder)
    model = build_model(info.model, info.image, info.normalization, info.classes)
    try:
        model.load_weights(folder / WEIGHTS)
    except Exception as error:  # HDF5 and Keras raise several kinds of error; the reason is recorded
        raise RegistryError(
            f"{folder / WEIGHTS} does not fit its description ({shorten(error)}); train again"
        ) from None
    refresh_constants(model)
    golden, expected = read_golden(folder, info)
    with import_keras().device("cpu:0"):
        check_golden_answers(folder, _ask_keras(model, golden), expected, "Keras")
    return model


def check_golden_answers(folder: Path, answers: NDArray[Any], expected: NDArray[Any], engine: str) -> None:
    """Refuse a model whose golden images do not come out as they did when it was registered.

    Raises:
        RegistryError: a probability differs by more than 0.001.
    """
    difference = measure_difference(answers, expected)
    if not difference <= LOAD_LIMIT:
        raise RegistryError(
            f"{folder}: {engine} does not answer the golden images as it did when the model was registered "
            f"(a probability differs by {difference:.2g}, limit {LOAD_LIMIT}); install the locked dependencies, "
            f"or train again"
        )


def measure_difference(answers: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest absolute difference of a probability; infinite where the shapes differ."""
    if answers.shape != expected.shape:
        return float("inf")
    return float(np.abs(np.asarray(answers, np.float64) - np.asarray(expected, np.float64)).max(initial=0.0))


@contextmanager
def _float32_on_cpu() -> Iterator[None]:
    keras = import_keras()
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        with keras.device("cpu:0"):
            yield
    finally:
        keras.config.set_dtype_policy(policy)


def _copy_network(model: Any, facts: BundleFacts) -> Any:
    network = build_model(facts.model, facts.image, facts.normalization, facts.classes)
    try:
        network.set_weights(model.get_weights())
    except ValueError as error:
        raise TrainingError(
            f"the trained model is not the network of its description ({shorten(error)}); train again"
        ) from None
    refresh_constants(network)
    return network


def _ask_keras(model: Any, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    convert = import_keras().ops.convert_to_numpy
    starts = range(0, len(images), BATCH)
    outputs = [convert(model(images[start : start + BATCH], training=False)) for start in starts]
    return as_class_probabilities(np.concatenate(outputs))


def _check_same(trained: NDArray[np.float64], rebuilt: NDArray[np.float64]) -> None:
    difference = measure_difference(trained, rebuilt)
    if difference > REBUILD_LIMIT:
        raise TrainingError(
            f"the trained model is not the network of its description (a probability differs by {difference:.2g}, "
            f"limit {REBUILD_LIMIT}); train again"
        )


def _compare_onnx(path: Path, golden: NDArray[np.uint8], reference: NDArray[np.float64]) -> float:
    try:
        answers = as_class_probabilities(run_session(open_session(path.read_bytes()), golden))
    except Exception as error:  # ONNX Runtime raises types of its own; the reason is recorded
        raise TrainingError(
            f"{path}: ONNX Runtime cannot run the exported model ({shorten(error)}); train again"
        ) from None
    difference = measure_difference(answers, reference)
    if difference > WRITE_LIMIT:
        raise TrainingError(
            f"{path}: ONNX Runtime and Keras differ by {difference:.2g} on the golden images (limit {WRITE_LIMIT}); "
            f"choose another model.backbone or model.layers"
        )
    return difference


def _check_golden(golden: NDArray[np.uint8], image: ImageSpec) -> None:
    if golden.dtype != np.uint8 or golden.shape[1:] != image.shape or not len(golden):
        raise ValueError(
            f"golden images are uint8 (m, {', '.join(map(str, image.shape))}) with m of at least 1, "
            f"not {golden.dtype} {golden.shape}"
        )
