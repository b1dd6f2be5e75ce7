"""Camera raw files: which maker's they are, by their bytes, and the largest JPEG preview that lies in one."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from cnn.formats.tiff_directory import Directory, Header, Tag, read_directories, read_header

MAKER_MARKS = {b"CR\x02\x00": "CR2", b"IIII": "IIQ", b"MMMM": "IIQ"}  # behind the header of a TIFF file
CFA, LINEAR_RAW = 32803, 34892  # photometric interpretations: a colour filter array, and one that was filled in
MAKER_HEADS = {
    b"IIRO": "ORF",
    b"IIRS": "ORF",
    b"MMOR": "ORF",
    b"IIU\x00": "RW2",
    b"FUJIFILMCCD-RAW": "RAF",
    b"FOVb": "X3F",
    b"\x00MRM": "MRW",
}
MAKERS = {b"NIKON": "NEF", b"CANON": "CR2", b"SONY": "ARW", b"PENTAX": "PEF", b"RICOH": "PEF", b"SAMSUNG": "SRW"}
MAKERS |= {b"OLYMPUS": "ORF", b"PANASONIC": "RW2", b"HASSELBLAD": "3FR", b"PHASE ONE": "IIQ", b"LEAF": "MOS"}
MAKERS |= {b"KODAK": "DCR", b"EPSON": "ERF", b"MAMIYA": "MEF"}
START = b"\xff\xd8\xff"
FRAMES = (0xC0, 0xC1, 0xC2)  # of a JPEG picture of 8 bits; the raw data itself are lossless JPEG, 0xC3
TABLES = (0xC4, 0xC8, 0xCC)  # markers among those of frames that are none
BARE = (0x01, *range(0xD0, 0xD9))  # markers without a length
MOST_STARTS = 10_000


class Preview(NamedTuple):
    """A JPEG picture inside a raw file: its bytes to the end of the file, and the orientation that the file states."""

    data: bytes
    orientation: int


def name_raw(data: bytes, header: Header | None, directories: list[Directory]) -> str | None:
    """NEF, CR2, DNG, …; None for what is no camera raw file, such as a scanner's TIFF, which names its maker too."""
    if (head := next((kind for start, kind in MAKER_HEADS.items() if data.startswith(start)), None)) is not None:
        return head
    if data[4:8] == b"ftyp" and data[8:12] == b"crx ":
        return "CR3"
    if data[6:14] == b"HEAPCCDR":
        return "CRW"
    if header is None or not directories:
        return None
    if Tag.DNG_VERSION in directories[0].tags:
        return "DNG"
    if (mark := next((kind for mark, kind in MAKER_MARKS.items() if data.startswith(mark, 8)), None)) is not None:
        return mark
    if any(directory.photometric in (CFA, LINEAR_RAW) for directory in directories):
        make = bytes(directories[0].tags.get(Tag.MAKE, b"")).upper()
        return next((kind for name, kind in MAKERS.items() if make.startswith(name)), "of an unknown maker")
    return None


def find_preview(data: bytes) -> Preview | None:
    """The largest JPEG picture in a raw file; None where there is none."""
    found = [
        (width * height, -at) for at in _find_starts(data) if (size := _read_size(data, at)) for width, height in [size]
    ]
    if not found:
        return None
    header = read_header(data)
    directories = read_directories(data, header) if header is not None else []
    orientation = directories[0].number(Tag.ORIENTATION, 1) if directories else 1
    return Preview(data[-max(found)[1] :], orientation)


def _find_starts(data: bytes) -> Iterator[int]:
    at = data.find(START)
    for _ in range(MOST_STARTS):
        if at < 0:
            return
        yield at
        at = data.find(START, at + 1)


def _read_size(data: bytes, at: int) -> tuple[int, int] | None:
    """(width, height) of the JPEG picture that begins here; None where none does, or one of more than 8 bits."""
    at += 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in BARE:
            at += 2
        elif marker in FRAMES:
            bits, height, width = struct.unpack_from(">BHH", data, at + 4)
            return (width, height) if bits == 8 and width and height else None
        elif marker < 0xC0 or marker in (0xD9, 0xDA) or (0xC3 <= marker <= 0xCF and marker not in TABLES):
            return None
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
