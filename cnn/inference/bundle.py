"""The bundle of a model: the folder that a registered version carries, checked to the byte when it is read.

It holds `bundle.json` (what the model is, and the sha256 of the others), `model.weights.h5` (to train on, to explain),
`model.onnx` (to score with: see `cnn.models.outputs`), `golden.npz` (a few images and what Keras answers to them),
`seen.npz` (which images it learnt from) and `novelty.npz` (their features, see `cnn.inference.novelty`), which older
versions lack; where they were asked for and judged not worse, `model.int8.onnx` and `golden.int8.npz`, its own answers.
bundle.json is written last, so a folder without it is no bundle; files that it does not list are never opened.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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
from cnn.evaluation.held_out import CalibrationAnswers, decode_calibration, encode_calibration
from cnn.files import replace_file
from cnn.images.spec import ImageSpec
from cnn.inference.joined import export_joined
from cnn.inference.onnx import export_onnx, list_outputs, open_session, run_outputs
from cnn.models.architecture import ModelSpec, build_model
from cnn.models.backbones import refresh_constants
from cnn.models.head import FEATURES
from cnn.models.outputs import MAP, OUTPUTS, PROBABILITIES, expose_outputs
from cnn.spec import Spec
from cnn.text import shorten

INFO, WEIGHTS, ONNX, GOLDEN = "bundle.json", "model.weights.h5", "model.onnx", "golden.npz"
SEEN, CALIBRATION, NOVELTY = "seen.npz", "calibration.npz", "novelty.npz"
INT8, GOLDEN_INT8 = "model.int8.onnx", "golden.int8.npz"
OPTIONAL = {SEEN, CALIBRATION, NOVELTY, INT8, GOLDEN_INT8}
PARTS = (GOLDEN, ONNX, WEIGHTS)  # of every bundle
WRITE_LIMIT = 1e-4  # largest difference of a probability between Keras and ONNX on the machine that writes the bundle
LOAD_LIMIT = 1e-3  # the same on another machine, whose arithmetic may round otherwise
INT8_LIMIT = 0.05  # the same of an int8 network: a step of rounding is larger there
FACTOR = 10  # features and maps may differ by so many times more, as a share of their largest value
GOLDEN_MAPS = 4  # golden images whose feature map is kept, too: it is large, and features are made of it
BATCH = 64  # images at a time
REBUILD_LIMIT = 0.05  # training in float16 or TF32 rounds by less; another network differs by more


NOUNS = {PROBABILITIES: "a probability", FEATURES: "a feature", MAP: "a value of the feature map"}
Answers = dict[str, NDArray[Any]]  # outputs of a network by name (`cnn.models.outputs`)


@dataclass(frozen=True)
class Golden:
    """uint8 images (m, height, width, channels) and Keras' answers: uncalibrated class `probabilities`, (m, k),
    `features` (m, f), and `map` of the first images; bundles of earlier releases hold the probabilities alone."""

    images: NDArray[np.uint8]
    answers: Answers


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
        if sorted(set(value) - OPTIONAL) != sorted(PARTS):
            raise ValueError(f"the files of a bundle are {', '.join(PARTS)}, not {', '.join(sorted(value))}")
        return value


def write_bundle(
    folder: Path,
    model: Any,
    facts: BundleFacts,
    golden: NDArray[np.uint8],
    seen: SeenImages | None = None,
    backbone: Path | None = None,
) -> BundleInfo:
    """Write the bundle of a trained Keras model; `golden` is uint8 (m, height, width, channels), a few real images.

    `backbone` is the ONNX file of the model's backbone, where training left it as it was: it is not converted again.

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
        outputs = expose_outputs(network)
        reference = _ask_keras(outputs, golden)
        _check_same(_ask_keras(expose_outputs(model, (PROBABILITIES,)), golden), reference)
        network.save_weights(folder / WEIGHTS)
        if backbone is None or not export_joined(network, backbone, folder / ONNX):
            export_onnx(outputs, folder / ONNX, facts.image.shape)
    difference = _compare_onnx(folder / ONNX, golden, reference)
    np.savez_compressed(folder / GOLDEN, allow_pickle=False, images=golden, **reference)
    if seen is not None:
        write_seen(seen, folder / SEEN)
    parts = PARTS if seen is None else (*PARTS, SEEN)
    files = {name: hash_file(folder / name) for name in parts}
    info = BundleInfo(**dict(facts), onnx_difference=difference, files=files)
    write_info(folder, info)
    return info


def write_info(folder: Path, info: BundleInfo) -> None:
    """Write bundle.json, which makes the files that it lists the bundle."""
    with replace_file(folder / INFO) as file:
        file.write(info.to_json().encode())


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


def read_golden(folder: Path, info: BundleInfo, name: str = GOLDEN) -> Golden:
    """The golden images and what was answered to them when the model was registered: by Keras, or by the int8 network
    in the part GOLDEN_INT8."""
    with np.load(io.BytesIO(read_part(folder, info, name)), allow_pickle=False) as arrays:
        return Golden(arrays["images"], {name: arrays[name] for name in OUTPUTS if name in arrays})


def read_seen_images(folder: Path, info: BundleInfo) -> SeenImages | None:
    """The images that the model learnt from; None for a version of an older release, which did not keep them.

    Raises:
        IntegrityError: the file is missing or damaged.
    """
    return read_seen(read_part(folder, info, SEEN), str(folder / SEEN)) if SEEN in info.files else None


def add_calibration(folder: Path, found: CalibrationAnswers) -> BundleInfo:
    """Make the answers that thresholds are made of part of a bundle. Raises: IntegrityError: the bundle is damaged."""
    info = read_bundle(folder)
    with replace_file(folder / CALIBRATION) as file:
        file.write(encode_calibration(found))
    info = info.model_copy(update={"files": info.files | {CALIBRATION: hash_file(folder / CALIBRATION)}})
    write_info(folder, info)
    return info


def read_calibration(folder: Path, info: BundleInfo) -> CalibrationAnswers | None:
    """The answers that thresholds are made of; None for a version of an older release, which did not keep them.

    Raises:
        IntegrityError: the file is missing or damaged.
    """
    if CALIBRATION not in info.files:
        return None
    return decode_calibration(read_part(folder, info, CALIBRATION), str(folder / CALIBRATION))


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
    golden = read_golden(folder, info)
    with import_keras().device("cpu:0"):
        check_golden_answers(folder, _ask_keras(expose_outputs(model), golden.images), golden, "Keras")
    return model


def ask_session(session: Any, golden: Golden) -> Answers:
    """What ONNX Runtime answers to the golden images, in the outputs that are kept of them."""
    names = list_outputs(session)
    if PROBABILITIES not in names:  # a bundle of an earlier release: its one output has another name
        return {PROBABILITIES: as_class_probabilities(run_outputs(session, golden.images, names[:1])[names[0]])}
    return _trim_answers(run_outputs(session, golden.images, tuple(golden.answers)))


def check_golden_answers(
    folder: Path,
    answers: Answers,
    golden: Golden,
    engine: str,
    most: float = LOAD_LIMIT,
    remedy: str = "train again",
) -> None:
    """Refuse a model whose golden images do not come out as they did when it was registered, and say what helps.

    Raises:
        RegistryError: a probability differs by more than `most`, or another output by more than ten times that as a
            share of its largest value.
    """
    for name, expected in golden.answers.items():
        difference, limit = measure_output(name, answers[name], expected), limit_output(name, most)
        if not difference <= limit:
            raise RegistryError(
                f"{folder}: {engine} does not answer the golden images as it did when the model was registered "
                f"({NOUNS[name]} differs by {difference:.2g}, limit {limit}); install the locked dependencies, "
                f"or {remedy}"
            )


def limit_output(name: str, limit: float) -> float:
    """How much an output may differ where a probability may by `limit`."""
    return limit if name == PROBABILITIES else FACTOR * limit


def measure_output(name: str, answers: NDArray[Any], expected: NDArray[Any]) -> float:
    """How much an output differs at most; except of probabilities, as a share of its largest value."""
    difference = measure_difference(answers, expected)
    return difference if name == PROBABILITIES else difference / max(float(np.abs(expected).max(initial=0.0)), 1e-12)


def measure_difference(answers: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest absolute difference; infinite where the shapes differ."""
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


def _ask_keras(outputs: Any, images: NDArray[np.uint8]) -> Answers:
    """What a model of `expose_outputs` answers, as a bundle keeps it."""
    convert = import_keras().ops.convert_to_numpy
    starts = range(0, len(images), BATCH)
    parts = [outputs(images[start : start + BATCH], training=False) for start in starts]
    return _trim_answers({name: np.concatenate([convert(part[name]) for part in parts]) for name in parts[0]})


def _trim_answers(answers: Mapping[str, NDArray[Any]]) -> Answers:
    """One probability per class, and the maps of the first images alone."""
    kept = dict(answers)
    kept[PROBABILITIES] = as_class_probabilities(kept[PROBABILITIES]).astype(np.float32)
    if MAP in kept:
        kept[MAP] = kept[MAP][:GOLDEN_MAPS]
    return kept


def _check_same(trained: Answers, rebuilt: Answers) -> None:
    difference = measure_difference(trained[PROBABILITIES], rebuilt[PROBABILITIES])
    if difference > REBUILD_LIMIT:
        raise TrainingError(
            f"the trained model is not the network of its description (a probability differs by {difference:.2g}, "
            f"limit {REBUILD_LIMIT}); train again"
        )


def _compare_onnx(path: Path, images: NDArray[np.uint8], reference: Answers) -> float:
    """The largest difference of a probability."""
    try:
        answers = ask_session(open_session(path.read_bytes()), Golden(images, reference))
    except Exception as error:  # ONNX Runtime raises types of its own; the reason is recorded
        raise TrainingError(
            f"{path}: ONNX Runtime cannot run the exported model ({shorten(error)}); train again"
        ) from None
    for name, expected in reference.items():
        difference, limit = measure_output(name, answers[name], expected), limit_output(name, WRITE_LIMIT)
        if not difference <= limit:
            raise TrainingError(
                f"{path}: ONNX Runtime and Keras differ by {difference:.2g} on the golden images ({NOUNS[name]}, limit "
                f"{limit}); choose another model.backbone or model.layers"
            )
    return measure_difference(answers[PROBABILITIES], reference[PROBABILITIES])


def _check_golden(golden: NDArray[np.uint8], image: ImageSpec) -> None:
    if golden.dtype != np.uint8 or golden.shape[1:] != image.shape or not len(golden):
        raise ValueError(
            f"golden images are uint8 (m, {', '.join(map(str, image.shape))}) with m of at least 1, "
            f"not {golden.dtype} {golden.shape}"
        )
