"""Files of Keras weights: which are taken for a network's, and what is said of others, without Keras."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cnn.errors import ConfigError
from cnn.models.keras_weights import ExpectedWeights, check_keras_weights, read_weight_shapes

# A convolution of one pixel from 3 to 4 channels, and its bias.
EXPECTED = ExpectedWeights("tiny", 3 * 4 + 4, 4)
KERNEL, BIAS = (1, 1, 3, 4), (4,)
LAYER = {"layers/conv2d/vars/0": KERNEL, "layers/conv2d/vars/1": BIAS}
TOP = {"layers/dense/vars/0": (4, 10), "layers/dense/vars/1": (10,)}


def write_new(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """A file as Keras 3 lays it out."""
    with h5py.File(path, "w") as file:
        file.create_group("vars")
        for name, shape in shapes.items():
            file[name] = np.zeros(shape, np.float32)
    return path


def write_old(path: Path, shapes: list[tuple[int, ...]], whole: bool = False) -> Path:
    """A file as Keras 2 laid it out: the weights alone, or within a `whole` model and its optimizer's state."""
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights") if whole else file
        group.attrs["layer_names"] = [b"conv"]
        for number, shape in enumerate(shapes):
            group[f"conv/conv/{number}"] = np.zeros(shape, np.float32)
        if whole:
            file["optimizer_weights/adam/m"] = np.zeros(KERNEL, np.float32)
    return path


def refuse(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        check_keras_weights(path, EXPECTED)
    line = str(caught.value)
    assert str(path) in line
    assert "\n" not in line
    return line


def test_files_that_hold_as_many_numbers_are_taken(tmp_path: Path) -> None:
    check_keras_weights(write_new(tmp_path / "new.weights.h5", LAYER), EXPECTED)
    check_keras_weights(write_old(tmp_path / "old.h5", [KERNEL, BIAS]), EXPECTED)
    check_keras_weights(write_old(tmp_path / "whole.h5", [KERNEL, BIAS], whole=True), EXPECTED)


def test_what_an_optimizer_and_random_numbers_remember_does_not_count(tmp_path: Path) -> None:
    beside: dict[str, tuple[int, ...]] = {"optimizer/vars/1": KERNEL, "layers/dropout/seed_generator/vars/0": (2,)}
    check_keras_weights(write_new(tmp_path / "trained.weights.h5", LAYER | beside), EXPECTED)


def test_an_archive_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "model.keras").write_bytes(b"PK\x03\x04 and whatever follows")
    check_keras_weights(tmp_path / "model.keras", EXPECTED)


@pytest.mark.parametrize("kernel", [(4, 10), (1, 1, 4, 10)])
def test_keras_3_reads_past_the_classes_of_another_model(tmp_path: Path, kernel: tuple[int, ...]) -> None:
    check_keras_weights(write_new(tmp_path / "top.weights.h5", LAYER | TOP | {"layers/dense/vars/0": kernel}), EXPECTED)


@pytest.mark.parametrize(
    "kernels", [((1, 1, 4, 7), (1, 1, 7, 10)), ((36, 8), (8, 8), (8, 10))], ids=["as in MobileNetV3", "as in VGG16"]
)
def test_a_top_may_be_several_layers(tmp_path: Path, kernels: tuple[tuple[int, ...], ...]) -> None:
    top: dict[str, tuple[int, ...]] = {}
    for number, kernel in enumerate(kernels):
        top |= {f"layers/top{number}/vars/0": kernel, f"layers/top{number}/vars/1": kernel[-1:]}
    check_keras_weights(write_new(tmp_path / "top.weights.h5", LAYER | top), EXPECTED)


def test_older_files_must_hold_no_classes(tmp_path: Path) -> None:
    line = refuse(write_old(tmp_path / "top.h5", [KERNEL, BIAS, (4, 10), (10,)]))
    assert "another network: 66 numbers, and tiny without its top has 16; save it without its top" in line


@pytest.mark.parametrize(
    "shapes",
    [
        {"layers/conv2d/vars/0": (3, 3, 3, 4)},
        LAYER | {"layers/dense/vars/0": (5, 10), "layers/dense/vars/1": (10,)},
    ],
)
def test_weights_of_another_network_are_told_by_their_number(tmp_path: Path, shapes: dict[str, Any]) -> None:
    line = refuse(write_new(tmp_path / "other.weights.h5", shapes))
    assert "the weights of another network" in line
    assert "include_top" not in line


def test_a_file_of_the_other_keras_is_told_by_what_its_name_must_end_in(tmp_path: Path) -> None:
    assert "of Keras 3: its name must end in .weights.h5" in refuse(write_new(tmp_path / "new.h5", LAYER))
    assert "must end in .h5, not .weights.h5" in refuse(write_old(tmp_path / "old.weights.h5", [KERNEL, BIAS]))


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    for name in ("text.weights.h5", "text.h5", "text.keras"):
        (tmp_path / name).write_text("no weights")
        assert "is damaged, or no file of Keras weights" in refuse(tmp_path / name)
    assert "(it has no layers)" in refuse(write_new(tmp_path / "other.h5", {"brightness": (4,)}))
    assert "is no file" in refuse(tmp_path / "missing.weights.h5")
    (tmp_path / "weights.bin").write_bytes(b"x")
    assert "must end in .weights.h5, .h5 or .keras" in refuse(tmp_path / "weights.bin")


def test_a_file_that_was_cut_short_is_refused_wherever_it_was_cut(tmp_path: Path) -> None:
    whole = write_new(tmp_path / "whole.weights.h5", LAYER | {"layers/conv2d/vars/0": (64, 64, 3, 4)}).read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9, 0.999):
        path = tmp_path / f"{share}.weights.h5"
        path.write_bytes(whole[: int(len(whole) * share)])
        assert "is damaged" in refuse(path)


def test_links_out_of_the_file_are_not_followed(tmp_path: Path) -> None:
    secret = write_new(tmp_path / "secret.weights.h5", LAYER)
    with h5py.File(tmp_path / "links.weights.h5", "w") as file:
        file["layers/conv2d"] = h5py.ExternalLink(str(secret), "/layers/conv2d")
        assert read_weight_shapes(file) == []
