"""The reasons for which files are quarantined, and checks of formats whose decoders let damage pass."""

import re
import struct
import zlib

from cnn.errors import BadImage, get_reason_code

# Code → what it means to the file's owner. First those of the bytes, then those of reading them (infra/).
REASONS = {
    "empty_file": "the file has no content",
    "not_an_image": "the content is no image, whatever the name says",
    "unsupported_format": 'an image format that is not read; image.raw = "preview" takes what camera raw files bring',
    "needs_heic": "a HEIC picture; the optional extra reads it, and the next run then tries it again",
    "truncated": "the file ends before the picture does",
    "damaged": "a checksum inside the file does not match",
    "decode_error": "the picture cannot be decoded",
    "unsupported_mode": "bands or levels that no rule can show without leaving something out; save 8 or 16 bits",
    "too_many_pixels": "larger than image.max_pixels",
    "out_of_memory": "memory was short; it is tried again by the next run",
    "decoder_crashed": "its decoder ended the process, twice; it is tried again by the next run",
    "decoder_timeout": "its decoder took longer than SAFELIGHT_DECODE_SECONDS; it is tried again by the next run",
    "too_large": "more bytes than a picture has",
    "unreadable": "the file could not be read",
    "vanished": "the file was gone when it was to be read",
    "changed_during_read": "written to while it was read",
    "not_a_regular_file": "neither a file nor a folder",
    "symlink_outside": "a link that leaves the source",
    "symlink_dangling": "a link to nothing",
    "symlink_loop": "a link that leads back to itself",
    "symlink_nested": "a link to a folder",
    "archived": "kept in cold storage, which would have to be thawed first",
}
JPEG2000_END = b"\xff\xd9"
BANDS = re.compile(
    r": (?:one band|\d+ bands) of "
)  # "13 bands of uint16": what a TIFF file holds; other details differ from file to file
NAMED = ("not_an_image", "unsupported_format")  # what comes behind them is one of few kinds of files


def name_reason(reason: str) -> str:
    """The part of a reason by which files are counted: its code, and what a file is where that is known."""
    code = get_reason_code(reason)
    is_named = code in NAMED or BANDS.search(reason) is not None
    return reason if is_named else code


def check_jpeg2000(data: bytes, mode: str, levels: object) -> None:
    """Refuse a JPEG 2000 file that is cut off, of which its decoder makes a blurred picture, and colours of more than
    8 bits where `image.levels` asks for more of them than Pillow gives.

    Raises:
        BadImage: truncated, unsupported_mode.
    """
    start = data.find(b"\xff\x4f\xff\x51")
    if start < 0:
        raise BadImage("truncated", "it has no codestream")
    length = int.from_bytes(data[start - 8 : start - 4], "big") if data[start - 4 : start] == b"jp2c" else 0
    end = start - 8 + length if length > 8 else len(data)
    if end > len(data) or not data[start:end].rstrip(b"\x00").endswith(JPEG2000_END):
        raise BadImage("truncated", "the codestream has no end")
    bits = (data[start + 42] & 0x7F) + 1 if len(data) > start + 42 else 0
    if bits > 8 and mode in ("RGB", "RGBA", "LA") and isinstance(levels, tuple):
        raise BadImage("unsupported_mode", f"JPEG 2000 of {bits} bits in colour, which image.levels is not applied to")


def check_png(data: bytes) -> None:
    """Compare the checksums of the chunks that the picture is made of: decoders skip those of the pixels.

    Raises:
        BadImage: damaged.
    """
    place, view = 8, memoryview(data)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        name, end = data[place + 4 : place + 8], place + 12 + length
        if end > len(data):
            return  # cut off: the decoder tells
        if name[:1].isupper() or name == b"tRNS":
            (checksum,) = struct.unpack_from(">I", data, end - 4)
            if zlib.crc32(view[place + 4 : end - 4]) != checksum:
                raise BadImage("damaged", f"the checksum of {name.decode('latin-1')!r} does not match")
        if name == b"IEND":
            return
        place = end
