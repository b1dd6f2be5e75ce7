"""Bytes that give no picture, or a decoder's complaint, in; the reason that goes to the ledger out."""

import struct
import zlib

from cnn.errors import BadImage

REASONS = {
    "empty_file": "it has no bytes",
    "not_an_image": "its first bytes are those of no image format: text, HTML or another kind of file",
    "unsupported_format": "a format that is not decoded here: HEIC, JPEG XL",
    "truncated": "it ends before the picture does; fetch it again",
    "damaged": "a checksum inside of it (PNG) does not match; fetch it again",
    "decode_error": "its decoder refuses it; the detail is the decoder's own word",
    "unsupported_mode": "levels that no rule could show without clipping; save 8 or 16 bits",
    "too_many_pixels": "more than `image.max_pixels`; raise it, or save the picture smaller",
    "out_of_memory": "memory was short while it was decoded; it is tried again by the next run",
    "decoder_crashed": "its decoder ended the process, twice",
    "decoder_timeout": "its decoder took longer than SAFELIGHT_DECODE_SECONDS",
}
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF", b"II*\x00", b"MM\x00*", b"\x00\x00\x00\x1cftypavif")
HEIF = (b"heic", b"heix", b"mif1", b"msf1", b"hevc", b"heim", b"heis")


def judge_unknown(data: bytes) -> BadImage:
    """Why no decoder knows these bytes."""
    if not data:
        return BadImage("empty_file")
    if data[4:8] == b"ftyp" and data[8:12] in HEIF:
        return BadImage("unsupported_format", "heif")
    if data.startswith((b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")):
        return BadImage("unsupported_format", "jxl")
    if data.startswith(MAGIC):
        return BadImage("truncated", "the header is damaged")
    return BadImage("not_an_image")


def judge_error(error: Exception, told: str = "") -> BadImage:
    """What a foreign decoder's exception, and the last line that it printed, say of the file."""
    if isinstance(error, MemoryError):
        return BadImage("out_of_memory")
    text = " ".join(f"{error} {told}".split())[:200]
    short = isinstance(error, EOFError) or "truncated" in text.lower()
    name = type(error).__name__
    return BadImage("truncated" if short else "decode_error", f"{name}: {text}" if text else name)


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
