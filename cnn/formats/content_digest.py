"""Digest an image file's compressed pixels without its metadata: EXIF, XMP, comments and dates do not count.

It costs little beside decoding the file: what is long is measured by CRC-32C, and only its ends are hashed. Two files
of one digest may still look different (EXIF can turn a picture, a colour profile tint it): whoever asks whether two
pictures are the same compares their decoded pixels too.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator

import google_crc32c
import numpy as np

SIZE = 16  # bytes of a digest
ENDS = 1_024  # bytes at the start and at the end of a long part that are hashed as they are

START_OF_SCAN, END_OF_IMAGE = 0xDA, b"\xff\xd9"
APPLICATION, COMMENT = range(0xE0, 0xF0), 0xFE  # metadata, previews and profiles: markers of ITU-T T.81, table B.1
SEVERAL_PICTURES = b"MPF\x00"  # whose others, with metadata of their own, follow the first one
WEBP_PIXELS = {b"VP8 ", b"VP8L", b"ALPH", b"ANMF"}


def digest_image_data(data: bytes, file_digest: str) -> bytes:
    """16 bytes that rewriting the metadata of a JPEG, PNG or WebP file does not change.

    Of other formats, and of files that are not as they should be, half of `file_digest`, the file's sha256 (hex).
    """
    for magic, parts_of in PART_READERS.items():
        if data.startswith(magic):
            parts = list(parts_of(data))
            if parts and parts[-1] is not None:
                return hashlib.sha256(b"".join(_outline(data, *part) for part in parts if part)).digest()[:SIZE]
    return bytes.fromhex(file_digest)[:SIZE]


PixelPart = tuple[int, int] | None
"""Where a part of a file that shapes its pixels begins and ends; None, at the end: the file is not as it should be."""


def _outline(data: bytes, start: int, stop: int) -> bytes:
    """The length of a part and its bytes; of a long one its checksum, its beginning and its end."""
    length = struct.pack("<Q", stop - start)
    if stop - start <= 2 * ENDS:
        return length + data[start:stop]
    checksum = google_crc32c.value(np.frombuffer(data, np.uint8, stop - start, start))
    return length + struct.pack("<I", checksum) + data[start : start + ENDS] + data[stop - ENDS : stop]


def _jpeg_parts(data: bytes) -> Iterator[PixelPart]:
    """Tables and frame, then all that follows the start of the first scan."""
    at, several = 2, False
    while len(head := data[at : at + 4]) == 4 and head[0] == 0xFF:
        marker, stop = head[1], at + 2 + (head[2] << 8 | head[3])
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == START_OF_SCAN:
            end = data.find(END_OF_IMAGE, at) if several else data.rfind(END_OF_IMAGE, at)
            yield at, end if end > at else len(data)
            return
        several = several or data.startswith(SEVERAL_PICTURES, at + 4)
        if marker not in APPLICATION and marker != COMMENT:
            yield at, stop
        at = stop
    yield None


def _png_parts(data: bytes) -> Iterator[PixelPart]:
    """The chunks without which there is no picture, and that of transparency, each with its checksum."""
    at = 8
    while len(head := data[at : at + 8]) == 8:
        name, stop = head[4:], at + 12 + int.from_bytes(head[:4], "big")
        if stop > len(data):
            break
        if name == b"IEND":
            return
        if name[:1].isupper() or name == b"tRNS":
            yield at, stop
        at = stop
    yield None


def _webp_parts(data: bytes) -> Iterator[PixelPart]:
    if data[8:12] != b"WEBP":
        return
    at = 12
    while len(head := data[at : at + 8]) == 8:
        stop = at + 8 + int.from_bytes(head[4:], "little")
        if head[:4] in WEBP_PIXELS:
            yield at, min(stop, len(data))
        at = stop + stop % 2


PART_READERS: dict[bytes, Callable[[bytes], Iterator[PixelPart]]] = {
    b"\xff\xd8\xff": _jpeg_parts,
    b"\x89PNG\r\n\x1a\n": _png_parts,
    b"RIFF": _webp_parts,
}
