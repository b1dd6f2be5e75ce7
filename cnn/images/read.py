"""Bytes of an image file in, uint8 pixels of a fixed shape out, or `BadImage` with a reason. Imports no TensorFlow."""

import io
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cnn.errors import BadImage
from cnn.formats.camera_raw import find_preview, name_raw
from cnn.formats.file_kinds import find_icon, has_opaque_alpha, icon_size, is_tga, read_pnm_head
from cnn.formats.heif import is_heif, register_heif
from cnn.formats.levels import LevelSpan, integers_to_uint8, measure_span
from cnn.formats.pnm import read_pnm
from cnn.formats.reasons import check_jpeg2000, check_png, classify_error, classify_unknown
from cnn.formats.tiff import check_plain, needs_exact_reading, read_tiff
from cnn.formats.tiff_directory import (
    Directory,
    Header,
    choose_directory,
    put_directory_first,
    read_directories,
    read_header,
)
from cnn.images.color import convert_colors, correct_colors, find_color_transform
from cnn.images.jpeg import choose_divisor, decode_jpeg, read_plain
from cnn.images.large_images import LargeImageLock, lock_large_image
from cnn.images.resize import Box, ResizePlan, plan_resize, resize_box
from cnn.images.spec import ImageSpec
from cnn.stderr import capture_stderr

# Those that are told by their first bytes; no "MPO": its first picture opens as JPEG.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "JPEG2000")
PNG_DEEP = b"\x10"  # where the header of a PNG file says how many bits a sample has
THUMBNAIL = 32
ORIENTATION_TAG, UPRIGHT = 274, 1
# What each EXIF orientation asks for: a transpose first, then flips of rows and columns (EXIF 2.3, table 6).
ORIENTATIONS: dict[int, tuple[bool, bool, bool]] = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}

Image.MAX_IMAGE_PIXELS = (
    None  # the limit is ours (`max_pixels`): checked before anything is allocated, and never a warning
)

cv2.setNumThreads(1)  # images are spread over processes: threads inside one image only get in their way


@dataclass(frozen=True)
class DecodedImage:
    """Pixels of the shape asked for, and the width and height of the picture as a person would see it.

    `seen` are the levels that a picture of more than 8 bits has (`cnn.formats.levels.measure_span`), before the rule
    for them; `preview` tells that a camera raw file gave its preview.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    seen: LevelSpan | None = None
    preview: bool = False


@dataclass(frozen=True)
class Opened:
    """A picture of 8 bits as Pillow has it, its EXIF orientation, and the facts that go into `DecodedImage`."""

    image: Image.Image
    orientation: int
    seen: LevelSpan | None = None


def read_image(data: bytes, spec: ImageSpec, out: NDArray[np.uint8] | None = None) -> DecodedImage:
    """Decode, orient, convert and resize one file: uint8 (height, width, channels).

    Raises:
        BadImage: the bytes give no picture; the reason is one of `cnn.formats.reasons.REASONS`.
    """
    return _read_plain(data, spec, out) or _read_any(data, spec, out)


def _read_plain(data: bytes, spec: ImageSpec, out: NDArray[np.uint8] | None) -> DecodedImage | None:
    """What `_read_any` gives, for a JPEG file that needs nothing else of Pillow; None where Pillow is to judge."""
    head = read_plain(data)
    if head is None or head.size[0] * head.size[1] > spec.max_pixels:
        return None
    (width, height), mode = head
    layout = plan_resize((height, width), spec.size, spec.resize)
    divisor = choose_divisor(head.size, layout.ratio) if spec.filter == "fast" else 1
    with lock_large_image(width * height):
        pixels = decode_jpeg(data, head.size, divisor, (mode, spec.channels))
    if pixels is None:
        return None
    source = _locate(layout.source, (height, width), divisor, (pixels, UPRIGHT))
    return DecodedImage(_fill(pixels, layout._replace(source=source), spec, out), width, height)


def _read_any(data: bytes, spec: ImageSpec, out: NDArray[np.uint8] | None) -> DecodedImage:
    with warnings.catch_warnings(), LargeImageLock() as turn:
        warnings.simplefilter("ignore")  # a decoder's doubts are either an error or not worth a line on the terminal
        header = read_header(data)
        directories = [] if header is None else read_directories(data, header)
        if (kind := name_raw(data, header, directories)) is not None:
            return _read_preview(data, kind, spec, out, turn)
        if header is not None and directories:
            opened = _open_tiff(data, header, directories, spec, turn)
        else:
            opened = _open_other(data, spec, turn)
        return _finish(opened, data, spec, out)


def _finish(opened: Opened, data: bytes, spec: ImageSpec, out: NDArray[np.uint8] | None) -> DecodedImage:
    """Turn a picture upright, bring it to size and correct its colours."""
    image, orientation = opened.image, opened.orientation
    width, height = image.size[::-1] if orientation >= 5 else image.size
    layout = plan_resize((height, width), spec.size, spec.resize)
    scaled = image.format == "JPEG" and spec.filter == "fast"
    divisor = choose_divisor(image.size, layout.ratio) if scaled else 1
    pixels = _orient(_load(image, data, spec, divisor), orientation)
    source = _locate(layout.source, (height, width), divisor, (pixels, orientation))
    filled = _fill(pixels, layout._replace(source=source), spec, out)
    # Colours are corrected after the resize: a tenth of the time, and within a level or two of doing it before.
    if _is_plain(image, spec) and (transform := find_color_transform(image)) is not None:
        correct_colors(_inside(filled, layout), transform)
    return DecodedImage(filled, width, height, opened.seen)


def _read_preview(
    data: bytes, kind: str, spec: ImageSpec, out: NDArray[np.uint8] | None, turn: LargeImageLock
) -> DecodedImage:
    """The largest preview of a camera raw file, where the setting asks for it.

    Raises:
        BadImage: unsupported_format.
    """
    if spec.raw == "refuse":
        raise BadImage("unsupported_format", f"raw ({kind}), see image.raw")
    preview = find_preview(data)
    if preview is None:
        raise BadImage("unsupported_format", f"raw ({kind}) without a preview")
    image = _open(preview.data)
    _admit(image.size, spec, turn)
    own = _orientation(image)
    stated = preview.orientation if preview.orientation in ORIENTATIONS else UPRIGHT
    opened = Opened(image, own if own != UPRIGHT else stated)
    return replace(_finish(opened, preview.data, spec, out), preview=True)


def _open_tiff(
    data: bytes, header: Header, directories: list[Directory], spec: ImageSpec, turn: LargeImageLock
) -> Opened:
    """The picture that a TIFF file is about, which need not be its first one."""
    directory = choose_directory(directories) or directories[0]
    _admit(directory.size, spec, turn)
    if needs_exact_reading(directory):
        return _open_exact(data, directory, spec)
    check_plain(directory)
    try:
        image = Image.open(io.BytesIO(put_directory_first(data, header, directory)), formats=("TIFF",))
    except UnidentifiedImageError:
        if not all(directory.size):
            raise BadImage("truncated", "the header is damaged") from None
        return _open_exact(data, directory, spec)
    except Exception as error:  # foreign decoders raise ten kinds of error; the kind is recorded
        raise classify_error(error) from None
    _admit(image.size, spec, turn)
    _decode(image)
    return Opened(image, _orientation(image))


def _open_exact(data: bytes, directory: Directory, spec: ImageSpec) -> Opened:
    """A TIFF picture whose samples Pillow does not read, or not rightly."""
    if directory.is_cut:
        raise BadImage("truncated", "the header is damaged")
    shown = read_tiff(data, directory, spec.levels)
    turned = shown.orientation if shown.orientation in ORIENTATIONS else UPRIGHT
    return Opened(shown.image, turned, shown.seen)


def _open_other(data: bytes, spec: ImageSpec, turn: LargeImageLock) -> Opened:
    if (pnm := read_pnm_head(data)) is not None:
        _admit((pnm.width, pnm.height), spec, turn)
        return Opened(*read_pnm(data, pnm, spec.levels))
    if (icon := find_icon(data)) is not None:
        return _open_icon(icon, spec, turn)
    image = _open(data)
    _admit(image.size, spec, turn)
    if image.format == "PNG":
        check_png(data)
    if image.format == "JPEG2000":
        check_jpeg2000(data, image.mode, spec.levels)
    if image.format == "JPEG":
        return Opened(image, _orientation(image))
    _decode(image)  # before its EXIF data: to find these Pillow would decode it and keep the fault to itself
    return _show_deep(image, data, spec)


def _open_icon(icon: bytes, spec: ImageSpec, turn: LargeImageLock) -> Opened:
    if not icon:
        raise BadImage("truncated", "the picture of the icon is not there")
    if icon.startswith(b"\x89PNG"):
        return _open_other(icon, spec, turn)
    _admit(icon_size(icon), spec, turn)
    try:
        image = Image.open(io.BytesIO(icon), formats=("ICO",))
    except Exception as error:  # foreign decoders raise ten kinds of error; the kind is recorded
        raise classify_error(error) from None
    _decode(image)
    return Opened(image, UPRIGHT)


def _show_deep(image: Image.Image, data: bytes, spec: ImageSpec) -> Opened:
    """A picture that Pillow has decoded, in 8 bits by the rule for levels."""
    orientation = _orientation(image)
    if image.format == "TGA" and image.mode in ("RGBA", "LA"):
        if has_opaque_alpha(data) or image.getchannel("A").getextrema()[1] == 0:
            image = image.convert("RGB" if image.mode == "RGBA" else "L")
    elif image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        shown = Image.fromarray(integers_to_uint8(values, 16, spec.levels))
        shown.info = {name: image.info[name] for name in ("icc_profile",) if name in image.info}
        return Opened(shown, orientation, measure_span(values))
    elif image.format == "PNG" and data[24:25] == PNG_DEEP and (colours := _read_deep_png(data)) is not None:
        return Opened(_put_colours(image, colours, spec.levels), orientation, measure_span(colours))
    return Opened(image, orientation)


def _read_deep_png(data: bytes) -> NDArray[np.uint16] | None:
    """uint16 (height, width, 3): the colours of a PNG of 16 bits, of which Pillow keeps 8; None where it has none."""
    with capture_stderr(lambda line: True):
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        return None
    return np.asarray(values[..., 2::-1], np.uint16)


def _put_colours(image: Image.Image, values: NDArray[np.uint16], levels: str | LevelSpan) -> Image.Image:
    """The picture with these colours by the rule for levels; what was transparent stays so."""
    if not isinstance(levels, tuple):
        return image
    shown = Image.fromarray(integers_to_uint8(values, 16, levels))
    if image.mode in ("RGBA", "LA") or "transparency" in image.info:
        shown.putalpha(image.convert("RGBA").getchannel("A"))
    shown.info = {name: image.info[name] for name in ("icc_profile",) if name in image.info}
    return shown


def _admit(size: tuple[int, int], spec: ImageSpec, turn: LargeImageLock) -> None:
    """Let a picture of this size, as its header claims, be decoded; a large one when it is its turn."""
    if size[0] * size[1] > spec.max_pixels:
        raise BadImage("too_many_pixels", f"{size[0]}x{size[1]}")
    turn.take(size[0] * size[1])


def resize_image(pixels: NDArray[np.uint8], spec: ImageSpec, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """uint8 (any height, any width, channels) → uint8 (height, width, channels) by the spec's rule, or into `out`."""
    height, width = pixels.shape[:2]
    return _fill(pixels, plan_resize((height, width), spec.size, spec.resize), spec, out)


def make_grey32(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A perceptual fingerprint: uint8 (32, 32) grey means, near-equal for the same picture saved twice."""
    grey = pixels[..., 0] if pixels.shape[-1] == 1 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA), np.uint8)


def sum_levels(pixels: NDArray[np.uint8]) -> list[int]:
    """Per channel the sum of levels, then per channel that of squares: exact integers, so any order adds up alike.

    OpenCV adds up integers and hands out mean and deviation in double precision: for the 2**24 pixels that a spec
    allows, they lead back to the sums with an error below 0.01, so that rounding gives the integers themselves.
    """
    count = pixels.shape[0] * pixels.shape[1]
    mean, deviation = (values.ravel() for values in cv2.meanStdDev(pixels))
    sums = np.concatenate([mean, deviation * deviation + mean * mean]) * count
    return [int(value) for value in np.rint(sums)]


def encode_jpeg(pixels: NDArray[np.uint8], quality: int = 95) -> bytes:
    """JPEG bytes of uint8 (height, width, 1 or 3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """PNG bytes of uint8 (height, width, 1 or 3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _open(data: bytes) -> Image.Image:
    formats: tuple[str, ...] = (*FORMATS, "HEIF") if is_heif(data) and register_heif() else FORMATS
    formats = ("TGA",) if is_tga(data) else formats
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        raise classify_unknown(data) from None
    except Exception as error:  # foreign decoders raise ten kinds of error; the kind is recorded
        raise classify_error(error) from None


def _is_plain(image: Image.Image, spec: ImageSpec) -> bool:
    """Whether `convert_colors` leaves the colours of a profile to be corrected when the picture is small."""
    return spec.channels == 3 and image.mode in ("RGB", "L") and "transparency" not in image.info


def _inside(filled: NDArray[np.uint8], layout: ResizePlan) -> NDArray[np.uint8]:
    """The part of the result that shows the picture, without the bars of a letterbox."""
    top, left, height, width = (int(edge) for edge in layout.target)
    return filled[top : top + height, left : left + width]


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION_TAG, UPRIGHT)
    except Exception:  # broken metadata never costs the picture
        return UPRIGHT
    return value if isinstance(value, int) and value in ORIENTATIONS else UPRIGHT


def _load(image: Image.Image, data: bytes, spec: ImageSpec, divisor: int) -> NDArray[np.uint8]:
    if image.format == "JPEG" and not (spec.channels == 1 and find_color_transform(image)):
        pixels = decode_jpeg(data, image.size, divisor, (image.mode, spec.channels))
        if pixels is not None:
            return pixels
    try:
        if divisor > 1:
            image.draft(None, (image.width // divisor, image.height // divisor))
        _decode(image)
        return convert_colors(image, spec.channels, spec.background)
    except BadImage:
        raise
    except Exception as error:  # foreign decoders raise ten kinds of error; the kind is recorded
        raise classify_error(error) from None


def _decode(image: Image.Image) -> None:
    """Have Pillow decode the picture; what libtiff prints about it goes to the reason, not to the terminal."""
    told: list[bytes] = []

    def note(line: bytes) -> bool:
        told.append(line)
        return True

    silence = capture_stderr(note) if image.format == "TIFF" else nullcontext()
    try:
        with silence:
            image.load()
    except Exception as error:  # foreign decoders raise ten kinds of error; the kind is recorded
        raise classify_error(error, b"".join(told[-1:]).decode("utf-8", "replace")) from None


def _orient(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    if orientation not in ORIENTATIONS:
        return pixels
    transpose, flip_rows, flip_columns = ORIENTATIONS[orientation]
    turned: Any = cv2.transpose(pixels) if transpose else pixels  # OpenCV: twenty times faster than NumPy's copies
    if flip_rows or flip_columns:
        turned = cv2.flip(turned, -1 if flip_rows and flip_columns else int(flip_columns))
    return np.asarray(turned, np.uint8).reshape(*turned.shape[:2], pixels.shape[-1])


def _locate(box: Box, size: tuple[int, int], divisor: int, decoded: tuple[NDArray[np.uint8], int]) -> Box:
    """The box of the full picture, of (height, width), in the picture decoded at 1/divisor and turned upright.

    A side that does not divide is rounded up: the last pixel, after a flip the first, is only partly picture.
    """
    pixels, orientation = decoded
    _, flip_rows, flip_columns = ORIENTATIONS.get(orientation, (False, False, False))
    top = pixels.shape[0] - size[0] / divisor if flip_rows else 0.0
    left = pixels.shape[1] - size[1] / divisor if flip_columns else 0.0
    return Box(top + box.top / divisor, left + box.left / divisor, box.height / divisor, box.width / divisor)


def _fill(
    pixels: NDArray[np.uint8], layout: ResizePlan, spec: ImageSpec, out: NDArray[np.uint8] | None
) -> NDArray[np.uint8]:
    out = np.empty(spec.shape, np.uint8) if out is None else out
    if out.shape != spec.shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(f"out must be C-contiguous uint8 of shape {spec.shape}")
    inside = _inside(out, layout)
    if inside.shape != out.shape:
        out[:] = spec.background if spec.channels == 3 else _luma(spec.background)
    resize_box(pixels, layout.source, inside, spec.filter)
    return out


def _luma(color: tuple[int, int, int]) -> int:
    """ITU-R 601 luma, as Pillow converts RGB to L."""
    return (color[0] * 19595 + color[1] * 38470 + color[2] * 7471 + 0x8000) >> 16
