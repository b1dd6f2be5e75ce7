"""`image.levels`, measured once, kept, told of, and never applied to 8 bits."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from steps import Prepared, make_job, run_job
from tiff_files import LZW, Layout, write_tiff

from cnn.dataset.manifest import Manifest
from cnn.dataset.split import SplitSpec
from cnn.errors import BadImage
from cnn.formats.levels import combine_spans, find_misfit, integers_to_uint8, measure_span
from cnn.images.read import read_image
from cnn.images.spec import ImageSpec
from infra.cluster.decoder_pool import DecoderPool
from infra.storage.store import open_store
from tasks.dataset.version import find_latest_version, read_manifest
from tasks.files.bit_depth import DeepCounts, count_deep, describe_deep, describe_scored, restore_counts

HEIGHT, WIDTH = 20, 16
LOW, HIGH = 100, 610
SPEC = ImageSpec(size=(HEIGHT, WIDTH), channels=3, levels=(LOW, HIGH))
Deep = NDArray[np.uint16]


def make_faint(seed: int, bands: int = 1, low: int = LOW, high: int = HIGH) -> Deep:
    """Levels of a camera that uses little of its 16 bits."""
    draw = np.random.default_rng(seed)
    levels = draw.integers(low, high + 1, (HEIGHT, WIDTH, bands)).astype(np.uint16)
    levels[0, :8], levels[1, :8] = low, high
    return levels


def stretch(levels: NDArray[Any], low: int = LOW, high: int = HIGH) -> NDArray[np.float64]:
    return np.clip((levels.astype(float) - low) / (high - low), 0, 1) * 255


def save(array: NDArray[Any], kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def write_deep_png(levels: Deep) -> bytes:
    import cv2

    done, data = cv2.imencode(".png", levels[..., [2, 1, 0, *range(3, levels.shape[-1])]])
    assert done
    return bytes(data.tobytes())


# One picture ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        save(make_faint(1)[..., 0], "PNG"),
        save(make_faint(1)[..., 0], "TIFF"),
        write_tiff(make_faint(1), Layout(16, 1, 1, ">", LZW)),
        write_tiff(make_faint(1), Layout(12, 1)),
        write_tiff(make_faint(1).astype(np.uint32), Layout(32, 1)),
        write_tiff(make_faint(1).astype(np.int16), Layout(16, 1)),
        b"P5 16 20 65535\n" + make_faint(1).astype(">u2").tobytes(),
    ],
    ids=["PNG", "TIFF", "LZW", "12 bits", "32 bits", "signed", "PGM"],
)
def test_two_levels_become_black_and_white(data: bytes) -> None:
    decoded = read_image(data, SPEC)
    assert np.abs(decoded.pixels - stretch(make_faint(1))).max() <= 0.51
    assert decoded.seen == (LOW, HIGH)
    full = read_image(data, SPEC.model_copy(update={"levels": "full"}))
    assert full.seen == (LOW, HIGH)
    assert full.pixels.max() <= (2 if data[:2] != b"II" else 38)  # nearly black; 12 bits are shown as such


@pytest.mark.parametrize("bands", [3, 4])
def test_colours_of_sixteen_bits_are_stretched_and_transparency_is_not(bands: int) -> None:
    levels = make_faint(2, bands)
    if bands == 4:
        levels[..., 3] = np.where(np.arange(WIDTH) < 8, 0, 65_535)
    for data in (
        write_deep_png(levels),
        write_tiff(levels, Layout(16, 2, 2, tags={338: (3, [2] * (bands - 3))} if bands > 3 else {})),
    ):
        decoded = read_image(data, SPEC)
        shown = slice(8, None) if bands == 4 else slice(None)
        assert np.abs(decoded.pixels[:, shown] - stretch(levels[..., :3])[:, shown]).max() <= 0.51
        assert bands == 3 or (decoded.pixels[:, :8] == 255).all()
        assert decoded.seen == (LOW, HIGH)


def test_grey_of_sixteen_bits_with_transparency_is_stretched() -> None:
    levels = make_faint(2, 2)
    levels[..., 1] = np.where(np.arange(WIDTH) < 8, 0, 65_535)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 4, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )
    decoded = read_image(data, SPEC)
    assert np.abs(decoded.pixels[:, 8:] - stretch(levels[:, 8:, :1])).max() <= 0.51
    assert (decoded.pixels[:, :8] == 255).all()
    assert decoded.seen == (LOW, HIGH)


def test_white_zero_is_stretched_and_then_turned_over() -> None:
    levels = make_faint(3)
    shown = read_image(write_tiff(levels, Layout(16, 0)), SPEC).pixels
    assert np.abs(shown - (255 - stretch(levels))).max() <= 0.51


def test_levels_beyond_are_clipped_and_integers_of_32_bits_need_them() -> None:
    wide = make_faint(4).astype(np.uint32) * 1_000
    data = write_tiff(wide, Layout(32, 1))
    with pytest.raises(BadImage, match=r"32-bit integers beyond 0 to 65535 .* give image.levels"):
        read_image(data, ImageSpec(size=(HEIGHT, WIDTH)))
    shown = read_image(data, ImageSpec(size=(HEIGHT, WIDTH), levels=(200_000, 500_000))).pixels
    assert np.abs(shown - stretch(wide, 200_000, 500_000)).max() <= 0.51


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP", "BMP"])
def test_pictures_of_eight_bits_are_left_as_they_are(kind: str) -> None:
    data = save(np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8), kind)
    plain, asked = (read_image(data, ImageSpec(size=(HEIGHT, WIDTH), levels=levels)) for levels in ("full", (3, 9)))
    assert np.array_equal(plain.pixels, asked.pixels)
    assert plain.seen is asked.seen is None


def test_floats_keep_their_own_rule() -> None:
    ramp = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    decoded = read_image(save(ramp, "TIFF"), SPEC)
    assert np.abs(decoded.pixels[..., 0] - ramp * 255).max() <= 0.51
    assert decoded.seen is None


def test_facts_come_back_from_a_decoder_beside() -> None:
    isolation = DecoderPool()
    try:
        decoded = isolation.read(write_tiff(make_faint(1), Layout(16, 1)), SPEC, 60)
    finally:
        isolation.close()
    assert decoded.seen == (LOW, HIGH)
    assert not decoded.preview
    assert np.abs(decoded.pixels - stretch(make_faint(1))).max() <= 0.51


def test_jpeg_2000_of_sixteen_bits_is_stretched_in_grey_and_refused_in_colour() -> None:
    import cv2

    grey = save(make_faint(6)[..., 0], "JPEG2000")
    decoded = read_image(grey, SPEC)
    assert np.abs(decoded.pixels - stretch(make_faint(6))).max() <= 0.51
    assert decoded.seen == (LOW, HIGH)
    large = np.tile(make_faint(6, 3) * 60, (4, 4, 1))  # the writer refuses small ones
    done, colours = cv2.imencode(".jp2", large, [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])
    assert done
    with pytest.raises(BadImage, match="unsupported_mode: JPEG 2000 of 16 bits in colour"):
        read_image(bytes(colours.tobytes()), SPEC)
    read_image(bytes(colours.tobytes()), ImageSpec(size=(HEIGHT, WIDTH)))


# Rules ---------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 65_535), min_size=1, max_size=3000))
def test_the_span_of_a_picture_leaves_out_one_in_a_thousand(levels: list[int]) -> None:
    values = np.array(levels, np.uint16)
    low, high = measure_span(values)
    assert (low, high) == measure_span(values.astype(np.int64))
    assert low <= high
    assert (values < low).sum() <= len(levels) / 1000
    assert (values > high).sum() <= len(levels) / 1000


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(1001, 65_535)), max_size=120), st.randoms())
def test_the_span_of_a_dataset_does_not_depend_on_the_order(spans: list[tuple[int, int]], random: Any) -> None:
    shuffled = list(spans)
    random.shuffle(shuffled)
    found = combine_spans(spans)
    assert found == combine_spans(shuffled)
    if found is None:
        assert not spans
        return
    assert sum(low < found[0] for low, _ in spans) <= len(spans) // 50
    assert sum(high > found[1] for _, high in spans) <= len(spans) // 50


def test_one_hot_picture_in_a_hundred_decides_nothing() -> None:
    assert combine_spans([(100, 610)] * 99 + [(0, 65_535)]) == (100, 610)
    assert combine_spans([(100, 610)] * 9 + [(0, 65_535)]) == (0, 65_535)
    assert combine_spans([(7, 7)]) is None


@given(st.integers(-70_000, 70_000), st.integers(1, 70_000))
def test_a_span_goes_from_black_to_white(low: int, width: int) -> None:
    values = np.array([[low - 5, low, low + width, low + width + 5]], np.int64)
    assert integers_to_uint8(values, 64, (low, low + width)).tolist() == [[0, 0, 255, 255]]


@pytest.mark.parametrize(
    ("seen", "levels", "kind"),
    [
        ((100, 610), "full", "dark"),
        ((0, 4095), "full", "dark"),
        ((0, 16_383), "full", None),
        ((100, 610), (100, 610), None),
        ((100, 1200), (100, 610), "beyond"),
        ((700, 900), (100, 610), "beyond"),
        ((0, 150), (100, 610), "dark"),
        ((0, 65_535), (0, 65_535), None),
    ],
)
def test_what_comes_out_black_or_clipped_is_seen(seen: tuple[int, int], levels: Any, kind: str | None) -> None:
    assert find_misfit(seen, levels) == kind


@pytest.mark.parametrize("value", ["half", [1], [5, 5], [9, 3], [1, 2, 3], [0.5, 2.0], [True, 5], 7, None])
def test_levels_that_mean_nothing_are_refused_in_plain_words(value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        ImageSpec(levels=value)
    assert len(caught.value.errors()) == 1
    assert 'give "full", "dataset", or two whole levels' in str(caught.value)


def test_settings_that_came_later_change_no_digest_of_what_was_there() -> None:
    """Manifests are named by it, and models checked against it."""
    plain = ImageSpec()
    assert "levels" not in plain.to_json()
    assert "raw" not in plain.to_json().replace('"encoding":"raw"', "")
    for changed in (ImageSpec(levels=(1, 2)), ImageSpec(levels="dataset"), ImageSpec(raw="preview")):
        assert ImageSpec.model_validate_json(changed.to_json()) == changed
        assert changed.compute_digest() != plain.compute_digest()
    assert "measured_levels" not in Manifest.model_construct(**{}).model_dump(warnings=False)


# A dataset -----------------------------------------------------------------------------------------------------------


def write_faint(folder: Path, count: int = 30, start: int = 0, **options: int) -> Path:
    for number in range(start, start + count):
        path = folder / ("bat", "cat", "owl")[number % 3] / f"{number:03}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(write_tiff(make_faint(number, **options), Layout(16, 1)))
    return folder


def ask(source: Path, workspace: Path, levels: Any = "dataset", workers: int = 0, **changes: Any) -> Prepared:
    return run_job(make_job(source, workspace, image=ImageSpec(size=(8, 8), levels=levels), **changes), workers)


def test_a_dataset_is_measured_over_its_training_images_and_keeps_the_levels(tmp_path: Path) -> None:
    source, workspace = write_faint(tmp_path / "source"), tmp_path / "workspace"
    done = ask(source, workspace)
    first = done.manifest
    assert first.image.levels == (LOW, HIGH)
    assert first.measured_levels
    assert not describe_deep(done.built.deep, first.image.levels, True)
    assert done.built.deep.deep == 30
    again = ask(source, workspace)
    assert again.manifest == first
    assert again.plan.recognised
    (source / "cat" / "bright.tif").write_bytes(write_tiff(make_faint(99, high=5000), Layout(16, 1)))
    grown = ask(source, workspace)
    second = grown.manifest
    assert second.image.levels == (LOW, HIGH)
    assert sum(chunk.files for chunk in grown.built.chunks) < 30  # the others stay built
    [line] = describe_deep(grown.built.deep, second.image.levels, grown.plan.listing.files.measured)
    assert line.startswith("1 image has more than 8 bits and use levels 100 to 5,000, beyond image.levels (100 to 610")


def test_measuring_is_the_same_on_workers_and_stands_in_what_is_read_back(tmp_path: Path) -> None:
    source = write_faint(tmp_path / "source")
    alone, workers = (ask(source, tmp_path / name, workers=count).manifest for name, count in (("a", 0), ("b", 2)))
    assert alone.digest == workers.digest
    assert alone.image == workers.image
    store = open_store(str(tmp_path / "a"))
    latest = find_latest_version(store, alone.source)
    assert latest is not None
    assert read_manifest(store, latest.dataset).image.levels == (LOW, HIGH)


def test_levels_given_by_hand_that_are_those_measured_give_the_same_pixels_but_are_no_measurement(
    tmp_path: Path,
) -> None:
    source = write_faint(tmp_path / "source")
    measured = ask(source, tmp_path / "workspace").manifest
    given = ask(source, tmp_path / "workspace", levels=(LOW, HIGH)).manifest
    assert given.digest == measured.digest
    assert (measured.measured_levels, given.measured_levels) == (True, False)
    for number in range(30, 60):
        write_faint(source, 1, number, high=5000)
    anew = ask(source, tmp_path / "workspace").manifest
    assert anew.measured_levels
    assert anew.image.levels == (LOW, 5000)


def test_test_images_and_pictures_of_eight_bits_decide_no_levels(tmp_path: Path) -> None:
    source = write_faint(tmp_path / "source")
    only_test = SplitSpec(validation=0.0, test=0.999)
    first = ask(source, tmp_path / "a", split=SplitSpec(validation=0.0, test=0.0)).manifest
    assert first.image.levels == (LOW, HIGH)
    assert ask(source, tmp_path / "b", split=only_test).manifest.image.levels == "full"
    plain = tmp_path / "plain"
    for number in range(12):
        path = plain / ("bat", "cat")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(save(np.random.default_rng(number).integers(0, 256, (20, 16)).astype(np.uint8), "PNG"))
    manifest = ask(plain, tmp_path / "c").manifest
    assert (manifest.image.levels, manifest.measured_levels) == ("full", False)


def test_faint_pictures_are_told_of_when_nothing_is_set(tmp_path: Path) -> None:
    done = ask(write_faint(tmp_path / "source"), tmp_path / "workspace", levels="full")
    assert describe_deep(done.built.deep, "full") == [
        "30 images have more than 8 bits and use levels 100 to 610 of 65,535, so they come out nearly black: "
        'set image.levels = "dataset"'
    ]


def test_dark_pictures_beside_bright_ones_are_told_of_without_levels_that_would_clip_the_others() -> None:
    """Microscope fields without cells beside fields with cells: darkness is what tells the two classes apart."""
    counts = count_deep([(100, 129)] * 30 + [(100, 1_000)] * 30, (100, 1_103))
    for measured in (True, False):
        [line] = describe_deep(counts, (100, 1_103), measured)
        assert line.startswith(
            "30 images have more than 8 bits and use levels 100 to 129 where image.levels are 100 to 1,103"
        )
        assert line.endswith("so they come out nearly black beside the others")
    [added] = describe_deep(count_deep([(100, 129)], (100, 1_103)), (100, 1_103), True)
    assert (
        "set image.levels" not in added
    )  # only new pictures are counted, and levels were measured over the others too
    [all_of_them] = describe_deep(count_deep([(100, 129)], (100, 60_000)), (100, 60_000))
    assert all_of_them.endswith(
        "where image.levels are 100 to 60,000, so they come out nearly black: set image.levels = [100, 129]"
    )


def test_a_dark_picture_among_many_is_not_told_of_and_counts_survive_json() -> None:
    bright, dark = (0, 60_000), (0, 100)
    assert not describe_deep(count_deep([bright] * 30 + [dark, None], "full"), "full")
    counts = count_deep([bright, dark], "full", previews=2)
    assert counts == DeepCounts(2, 1, dark, previews=2)
    lines = describe_deep(counts, "full")
    assert len(lines) == 2
    assert lines[1] == '2 camera raw files gave their largest preview (image.raw = "preview")'
    import dataclasses
    import json

    assert restore_counts(json.loads(json.dumps(dataclasses.asdict(counts)))) == counts


def test_scoring_says_when_pictures_are_far_off_what_the_model_was_trained_with() -> None:
    counts = count_deep([(100, 610)] * 4, (0, 60_000))
    assert describe_scored(counts, (0, 60_000), "cells version 2") == [
        "4 images have more than 8 bits and use levels 100 to 610, but cells version 2 was trained with image.levels "
        "from 0 to 60,000: they come out nearly black, and its answers mean little"
    ]
    clipped = describe_scored(count_deep([(2000, 4000)], (100, 610)), (100, 610), "cells version 2")
    assert clipped[0].endswith("from 100 to 610: they are clipped, and its answers mean little")
    assert not describe_scored(count_deep([(90, 600)], (100, 610)), (100, 610), "cells version 2")
