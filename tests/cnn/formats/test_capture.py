"""Capture time and camera of a photograph."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cnn.formats.capture import Capture, parse_time, read_capture

MORNING = 1_717_137_129  # 2024-05-31 06:32:09, as `date -u` has it


def make_photo(kind: str = "JPEG", **tags: str) -> bytes:
    exif = Image.Exif()
    for name, tag in (("make", 271), ("model", 272), ("changed", 306)):
        if name in tags:
            exif[tag] = tags[name]
    details = {tag: tags[name] for name, tag in (("taken", 36867), ("serial", 0xA431)) if name in tags}
    if details:
        exif.get_ifd(0x8769).update(details)
    sink = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    Image.fromarray(pixels).save(sink, kind, exif=exif)
    return sink.getvalue()


def make_tiff(make: str, taken: str) -> bytes:
    """A TIFF file whose tags are laid out by hand: Pillow writes no EXIF part into one."""
    date = taken.encode() + b"\0"
    exif = b"\x01\0" + struct.pack("<HHII", 36867, 2, len(date), 200) + bytes(4)
    main = struct.pack("<H", 8)
    for tag, kind, count, value in (
        *((256, 4, 1, 1), (257, 4, 1, 1), (258, 3, 1, 8), (262, 3, 1, 1)),
        *((271, 2, 4, int.from_bytes(make.encode()[:3], "little")), (273, 4, 1, 250), (279, 4, 1, 1)),
        (0x8769, 4, 1, 150),
    ):
        main += struct.pack("<HHII", tag, kind, count, value)
    data = b"II*\0" + struct.pack("<I", 8) + main + bytes(4)
    data = data.ljust(150, b"\0") + exif
    return (data.ljust(200, b"\0") + date).ljust(256, b"\0")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_time_and_camera_are_read_from_each_format(kind: str) -> None:
    photo = make_photo(kind, make="Reconyx", model="HP2X", serial="A 17", taken="2024:05:31 06:32:09")
    assert read_capture(photo) == Capture(MORNING, "Reconyx HP2X A 17")


def test_time_and_camera_are_read_from_a_tiff_file() -> None:
    assert read_capture(make_tiff("Leo", "2024:05:31 06:32:09")) == Capture(MORNING, "Leo")


def test_maker_is_not_said_twice() -> None:
    assert read_capture(make_photo(make="Canon", model="Canon EOS 80D")).camera == "Canon EOS 80D"


def test_time_of_taking_counts_more_than_that_of_changing() -> None:
    both = make_photo(taken="2024:05:31 06:32:09", changed="2025:01:01 00:00:00")
    assert read_capture(both).time == MORNING
    assert read_capture(make_photo(changed="2024:05:31 06:32:09")).time == MORNING


@pytest.mark.parametrize("text", ["0000:00:00 00:00:00", "    :  :     :  :  ", "1969:12:31 23:59:59", "yesterday", ""])
def test_what_is_no_time_is_none(text: str) -> None:
    assert parse_time(text) is None


def test_a_picture_without_exif_says_nothing() -> None:
    sink = io.BytesIO()
    Image.new("RGB", (8, 8)).save(sink, "JPEG")
    assert read_capture(sink.getvalue()) == Capture()


def test_names_hold_nothing_that_cannot_be_shown() -> None:
    camera = read_capture(make_photo(make="Trail\x1b[31m\n", model="X" * 500)).camera
    assert camera is not None
    assert camera.isprintable()
    assert len(camera) <= 80


@given(st.binary(max_size=400))
def test_damaged_metadata_never_raise(noise: bytes) -> None:
    whole = make_photo(make="Reconyx", taken="2024:05:31 06:32:09")
    start = whole.index(b"Exif") + 6
    read_capture(whole[:start] + noise + whole[start + len(noise) :])
    read_capture(b"II*\x00" + noise)
