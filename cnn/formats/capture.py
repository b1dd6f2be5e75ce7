"""When a photograph was taken, and with which camera, as its EXIF data say."""

import calendar
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

MAKE, MODEL, DATE_CHANGED, EXIF_PART = 271, 272, 306, 0x8769  # tags of EXIF 2.3, tables 3 and 4
DATE_TAKEN, DATE_DIGITIZED, SERIAL_NUMBER = 36867, 36868, 0xA431
MARKS = (b"Exif", b"EXIF", b"eXIf")  # what stands before EXIF data in JPEG and HEIF, WebP, and PNG
TIFF_MARKS = (b"II*\x00", b"MM\x00*")
JPEG_HEAD = 1 << 17  # bytes; the segment of a JPEG comes first and has 64 KiB at most
LONGEST_NAME = 80  # characters of a camera's name
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")


@dataclass(frozen=True)
class Capture:
    """`time` in seconds since 1970 on the camera's own clock, which has no time zone; `camera` is maker, model and,
    where it is given, the serial number. None: the file does not say."""

    time: int | None = None
    camera: str | None = None


def read_capture(data: bytes) -> Capture:
    """What the EXIF data of a JPEG, PNG, WebP, AVIF or TIFF file say; nothing of other files, nor of damaged data.

    The picture is not decoded. A camera's clock may be wrong: differences within one camera are what it is good for.
    """
    if not _may_have_exif(data):
        return Capture()
    try:
        tags, details = _read_tags(data)
        return Capture(_read_time(tags, details), _name_camera(tags, details))
    except Exception:  # broken metadata never costs the picture, and foreign parsers raise ten kinds of error
        return Capture()


def _may_have_exif(data: bytes) -> bool:
    """Whether opening the file may be worth it: most pictures of the web have no such data."""
    if data.startswith(TIFF_MARKS):
        return True
    end = JPEG_HEAD if data.startswith(b"\xff\xd8") else len(data)
    return any(data.find(mark, 0, end) >= 0 for mark in MARKS)


def _read_tags(data: bytes) -> tuple[Mapping[int, Any], Mapping[int, Any]]:
    """The tags of the picture, and those of its EXIF part."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.format == "TIFF":
            exif = image.getexif()
        else:
            exif = Image.Exif()  # `image.getexif()` would decode a PNG to find it
            exif.load(image.info.get("exif", b""))
        return exif, exif.get_ifd(EXIF_PART)


def _read_time(tags: Mapping[int, Any], details: Mapping[int, Any]) -> int | None:
    """When the picture was taken; else when it was digitized; else when the file was changed by the camera."""
    for text in (details.get(DATE_TAKEN), details.get(DATE_DIGITIZED), tags.get(DATE_CHANGED)):
        if text is not None and (found := parse_time(str(text))) is not None:
            return found
    return None


def parse_time(text: str) -> int | None:
    """Seconds since 1970 of "2024:05:31 17:02:09"; None where it is no such time, or before 1970."""
    try:
        seconds = calendar.timegm(time.strptime(text.strip("\0 ")[:19].replace("-", ":"), "%Y:%m:%d %H:%M:%S"))
    except ValueError:
        return None
    return seconds if seconds >= 0 else None


def _name_camera(tags: Mapping[int, Any], details: Mapping[int, Any]) -> str | None:
    make, model, serial = (_clean(value) for value in (tags.get(MAKE), tags.get(MODEL), details.get(SERIAL_NUMBER)))
    own = model if model.lower().startswith(make.lower()) else f"{make} {model}"
    name = f"{own} {serial}" if serial and model else own
    return name.strip()[:LONGEST_NAME].strip() or None


def _clean(value: object) -> str:
    """A name as it may be shown: without what is no letter, digit, sign or single space."""
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
    return " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())
