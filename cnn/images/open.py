"""Open an image file of any format as a picture of 8 bits, with the levels and the orientation that it states."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn.errors import BadImage
from cnn.formats.camera_raw import find_preview, name_raw
from cnn.formats.file_kinds import find_icon, has_opaque_alpha, icon_size, read_pnm_head
from cnn.formats.levels import LevelSpan, integers_to_uint8, measure_span
from cnn.formats.pillow import UPRIGHT, OpenedImage, load_image, open_as, open_unknown, read_orientation
from cnn.formats.pnm import read_pnm
from cnn.formats.reasons import check_jpeg2000, check_png
from cnn.formats.tiff import check_plain, needs_exact_reading, read_tiff
from cnn.formats.tiff_directory import (
    Directory,
    Header,
    choose_directory,
    put_directory_first,
    read_directories,
    read_header,
)
from cnn.images.large_images import LargeImageLock
from cnn.images.spec import ImageSpec
from cnn.stderr import capture_stderr

PNG_DEEP = b"\x10"  # where the header of a PNG file says how many bits a sample has


@dataclass(frozen=True)
class ImageFile:
    """The bytes of a file, the settings by which it is read, and the lock that a large picture has to wait for."""

    data: bytes
    spec: ImageSpec
    lock: LargeImageLock

    def admit(self, width: int, height: int) -> None:
        """Let a picture of this size, as its header claims, be decoded; a large one when it is its turn.

        Raises:
            BadImage: too_many_pixels.
        """
        if width * height > self.spec.max_pixels:
            raise BadImage("too_many_pixels", f"{width}x{height}")
        self.lock.take(width * height)


def open_image(file: ImageFile) -> OpenedImage:
    """The picture that the file is about, decoded, but for a JPEG: that is decoded at the size it is needed in.

    Raises:
        BadImage: the bytes give no picture.
    """
    header = read_header(file.data)
    directories = [] if header is None else read_directories(file.data, header)
    if (maker := name_raw(file.data, header, directories)) is not None:
        return _open_preview(file, maker)
    if header is not None and directories:
        return _open_tiff(file, header, choose_directory(directories) or directories[0])
    if (pnm := read_pnm_head(file.data)) is not None:
        file.admit(pnm.width, pnm.height)
        return read_pnm(file.data, pnm, file.spec.levels)
    if (icon := find_icon(file.data)) is not None:
        return _open_icon(replace(file, data=icon))
    return _open_with_pillow(file)


def _open_preview(file: ImageFile, maker: str) -> OpenedImage:
    """The largest preview of a camera raw file, where the setting asks for it."""
    if file.spec.raw == "refuse":
        raise BadImage("unsupported_format", f"raw ({maker}), see image.raw")
    preview = find_preview(file.data)
    if preview is None:
        raise BadImage("unsupported_format", f"raw ({maker}) without a preview")
    opened = _open_with_pillow(replace(file, data=preview.data))
    own = opened.orientation
    return replace(opened, orientation=preview.orientation if own == UPRIGHT else own, preview=True)


def _open_tiff(file: ImageFile, header: Header, directory: Directory) -> OpenedImage:
    file.admit(*directory.size)
    if needs_exact_reading(directory):
        return _open_exact(file, directory)
    check_plain(directory)
    image = open_as(put_directory_first(file.data, header, directory), ("TIFF",))
    if image is None and all(directory.size):
        return _open_exact(file, directory)
    if image is None:
        raise BadImage("truncated", "the header is damaged")
    file.admit(*image.size)
    load_image(image)
    return OpenedImage(image, read_orientation(image))


def _open_exact(file: ImageFile, directory: Directory) -> OpenedImage:
    """A TIFF picture whose samples Pillow does not read, or not rightly."""
    if directory.is_cut:
        raise BadImage("truncated", "the header is damaged")
    return read_tiff(file.data, directory, file.spec.levels)


def _open_icon(file: ImageFile) -> OpenedImage:
    """The picture of an icon, cut out of its file: a PNG or a bitmap."""
    if not file.data:
        raise BadImage("truncated", "the picture of the icon is not there")
    if file.data.startswith(b"\x89PNG"):
        return _open_with_pillow(file)
    file.admit(*icon_size(file.data))
    image = open_as(file.data, ("ICO",))
    if image is None:
        raise BadImage("decode_error", "the picture of the icon is no bitmap")
    load_image(image)
    return OpenedImage(image)


def _open_with_pillow(file: ImageFile) -> OpenedImage:
    image = open_unknown(file.data)
    file.admit(*image.size)
    if image.format == "JPEG":
        return OpenedImage(image, read_orientation(image), jpeg=file.data)
    if image.format == "PNG":
        check_png(file.data)
    if image.format == "JPEG2000":
        check_jpeg2000(file.data, image.mode, file.spec.levels)
    load_image(image)  # before its EXIF data: to find these Pillow would decode it and keep the fault to itself
    return _show_deep(image, file)


def _show_deep(image: Image.Image, file: ImageFile) -> OpenedImage:
    """A picture that Pillow has decoded, in 8 bits by the rule for levels."""
    orientation = read_orientation(image)
    if image.format == "TGA" and image.mode in ("RGBA", "LA"):
        if has_opaque_alpha(file.data) or image.getchannel("A").getextrema()[1] == 0:
            image = image.convert("RGB" if image.mode == "RGBA" else "L")
    elif image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        shown = _keep_profile(Image.fromarray(integers_to_uint8(values, 16, file.spec.levels)), image)
        return OpenedImage(shown, orientation, measure_span(values))
    elif image.format == "PNG" and file.data[24:25] == PNG_DEEP and (colors := _read_deep_png(file.data)) is not None:
        return OpenedImage(_put_colors(image, colors, file.spec.levels), orientation, measure_span(colors))
    return OpenedImage(image, orientation)


def _read_deep_png(data: bytes) -> NDArray[np.uint16] | None:
    """uint16 (height, width, 3): the colours of a PNG of 16 bits, of which Pillow keeps 8; None where it has none."""
    with capture_stderr(lambda line: True):
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        return None
    return np.asarray(values[..., 2::-1], np.uint16)


def _put_colors(image: Image.Image, values: NDArray[np.uint16], levels: str | LevelSpan) -> Image.Image:
    """The picture with these colours by the rule for levels; what was transparent stays so."""
    if not isinstance(levels, tuple):
        return image
    shown = Image.fromarray(integers_to_uint8(values, 16, levels))
    if image.mode in ("RGBA", "LA") or "transparency" in image.info:
        shown.putalpha(image.convert("RGBA").getchannel("A"))
    return _keep_profile(shown, image)


def _keep_profile(shown: Image.Image, image: Image.Image) -> Image.Image:
    """The first picture with the colour profile of the second."""
    shown.info = {name: image.info[name] for name in ("icc_profile",) if name in image.info}
    return shown
