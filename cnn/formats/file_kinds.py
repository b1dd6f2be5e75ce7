"""Recognize files by their first bytes: formats that are not read, and TGA, ICO, PNM and HEIF pictures."""

import re
import struct
from typing import NamedTuple

# (where they stand, bytes, what it is): image formats that are not read.
OTHER_IMAGES = (
    (0, b"\xff\x0a", "jxl"),
    (0, b"\x00\x00\x00\x0cJXL ", "jxl"),
    (0, b"8BPS", "PSD"),
    (0, b"\x76\x2f\x31\x01", "EXR"),
    (128, b"DICM", "DICOM"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"DDS ", "DDS"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"#?RGBE", "Radiance HDR"),
    (0, b"gimp xcf", "XCF"),
    (0, b"qoif", "QOI"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"FLIF", "FLIF"),
    (0, b"icns", "ICNS"),
    (0, b"\x01\xda\x00\x01", "SGI"),
    (0, b"\x01\xda\x01\x01", "SGI"),
    (0, b"%!PS", "EPS"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"farbfeld", "farbfeld"),
    (0, b"/* XPM */", "XPM"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (40, b" EMF", "EMF"),
    (0, b"NRRD", "NRRD"),
    (344, b"n+1\x00", "NIfTI"),
    (0, b"P7\n", "PAM"),
    (0, b"Pf\n", "PFM"),
    (0, b"PF\n", "PFM"),
)
# The same of what is no picture at all.
NO_IMAGES = (
    (0, b"version https://git-lfs.github.com/spec/v1", "git-lfs pointer"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM video"),
    (0, b"\x00\x00\x01\xba", "MPEG video"),
    (0, b"\x00\x00\x01\xb3", "MPEG video"),
    (0, b"FLV\x01", "FLV video"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media"),
    (0, b"ID3", "MP3 audio"),
    (0, b"fLaC", "FLAC audio"),
    (0, b"OggS", "Ogg audio or video"),
    (0, b"%PDF-", "PDF document"),
    (0, b"PK\x03\x04", "ZIP archive"),
    (0, b"PK\x05\x06", "ZIP archive"),
    (0, b"\x1f\x8b", "gzip archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z archive"),
    (0, b"Rar!\x1a\x07", "RAR archive"),
    (257, b"ustar", "tar archive"),
    (0, b"BZh", "bzip2 archive"),
    (0, b"\xfd7zXZ\x00", "xz archive"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5 data"),
    (0, b"\x93NUMPY", "NumPy array"),
    (0, b"PAR1", "Parquet table"),
    (0, b"SQLite format 3\x00", "SQLite database"),
    (0, b"\x7fELF", "program"),
    (0, b"MZ", "program"),
    (0, b"{\\rtf", "RTF document"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Office document"),
)
RIFFS = {b"AVI ": "AVI video", b"WAVE": "WAV audio", b"ACON": "animated cursor", b"RMID": "MIDI audio"}
QUICKTIME_STARTS = (
    b"qt  ",
    b"moov",
    b"mdat",
    b"wide",
    b"free",
    b"skip",
)  # what a QuickTime file without a brand begins with
SOUNDS = (b"M4A ", b"M4B ", b"M4P ")
DEEP = (b"II", b"MM", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ", b"P2", b"P3", b"P5", b"P6")
# Brands of ISO/IEC 23008-12, annex B, for pictures coded with HEVC; "mif1" and "msf1" leave the codec open.
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
TEXT = re.compile(rb"(?:\xef\xbb\xbf)?\s*", re.ASCII)
FOOTER = b"TRUEVISION-XFILE.\x00"
PNM_HEAD = re.compile(rb"P([1-6])((?:\s+(?:#[^\n]*\n\s*)*\d+)+)", re.ASCII)
LEAST_MP3_BYTES = 64  # bytes of an MP3 file without a tag


class FileKind(NamedTuple):
    """What a file is; `is_image` where it is a picture in a format that is not read."""

    name: str
    is_image: bool


def may_be_deep(data: bytes) -> bool:
    """Whether a file is of a kind that can hold levels of more than 8 bits; a look at its first bytes."""
    if data.startswith(b"\x89PNG"):
        return data[24:25] == b"\x10"
    return data.startswith(DEEP)


def name_kind(data: bytes) -> FileKind | None:
    """What the bytes are, in the words of people who have such files; None where nothing tells."""
    for at, magic, name in OTHER_IMAGES:
        if data.startswith(magic, at):
            return FileKind(name, True)
    for at, magic, name in NO_IMAGES:
        if data.startswith(magic, at):
            return FileKind(name, False)
    if data[:4] == b"RIFF" and len(data) >= 12 and data[8:12] != b"WEBP":
        return FileKind(RIFFS.get(data[8:12], "RIFF container"), False)
    if data[:4] == b"\x00\x00\x02\x00" and len(data) > 22 and not data[9] and data[4] and not data[5]:
        return FileKind("CUR", True)
    return _name_movie(data) or _name_text(data) or _name_rest(data)


def _name_movie(data: bytes) -> FileKind | None:
    """ISO media files (ftyp and a brand), and QuickTime's older ones; HEIC and AVIF never come here."""
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        if brand in (b"avif", b"avis", b"jxl ", b"crx "):
            return None
        return FileKind("M4A audio" if brand in SOUNDS else "MOV video" if brand == b"qt  " else "MP4 video", False)
    return FileKind("MOV video", False) if data[4:8] in QUICKTIME_STARTS and data[:4] < b"\x00\x80\x00\x00" else None


def _name_text(data: bytes) -> FileKind | None:
    start = data[: TEXT.match(data).end() + 512].lstrip(b"\xef\xbb\xbf \t\r\n") if TEXT.match(data) else b""  # type: ignore[union-attr]
    low = start.lower()
    if low.startswith(b"<svg") or (low.startswith((b"<?xml", b"<!--")) and b"<svg" in low):
        return FileKind("SVG", True)
    if low.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return FileKind("HTML page", False)
    if low.startswith((b"<?xml", b"<x:xmpmeta", b"<?xpacket")):
        return FileKind("XML", False)
    if low[:1] in (b"{", b"[") and re.match(rb"[{\[]\s*(?:[\"{\[\]}\-\d]|true|false|null)", low):
        return FileKind("JSON", False)
    return None


def _name_rest(data: bytes) -> FileKind | None:
    if data[:8] == b"bplist00":
        is_cloud = b"NSURL" in data
        return FileKind("cloud placeholder (.icloud)" if is_cloud else "property list", False)
    if len(data) >= LEAST_MP3_BYTES and data[0] == 0xFF and data[1] & 0xE6 == 0xE2 and data[2] & 0xF0 not in (0, 0xF0):
        return FileKind("MP3 audio", False)
    if data and not data.strip(b"\x00"):
        return FileKind("nothing but zero bytes: an unfinished copy, or a placeholder of a cloud folder", False)
    return None


def is_heif(data: bytes) -> bool:
    """Whether the file says that it is a HEIF container."""
    return data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS


def is_tga(data: bytes) -> bool:
    """Whether bytes are a TGA picture. The format has no mark at its start: taken for one is what ends with the footer
    of its second edition, and of its first edition only what is as long, to the byte, as its header says."""
    if len(data) < 18 + 1:
        return False
    length, mapped, kind, _, colours, depth = struct.unpack_from("<BBBHHB", data)
    width, height, bits, flags = struct.unpack_from("<HHBB", data, 12)
    plausible = mapped in (0, 1) and bits in (8, 15, 16, 24, 32) and width and height and not flags & 0xC0
    if not plausible or kind not in (1, 2, 3, 9, 10, 11) or (kind in (1, 9)) != bool(mapped):
        return False
    if data.endswith(FOOTER):
        return True
    table = colours * -(-depth // 8) if mapped else 0
    return bool(kind < 9 and len(data) == 18 + length + table + width * height * -(-bits // 8))


def has_opaque_alpha(data: bytes) -> bool:
    """Whether a TGA picture of 32 bits says that its fourth byte is no transparency."""
    return not data[17] & 0x0F


def find_icon(data: bytes) -> bytes | None:
    """The largest picture of an ICO file as a file of its own, a PNG or an ICO; None for what is no icon, and nothing
    where the picture is not there."""
    if data[:4] != b"\x00\x00\x01\x00" or len(data) < 22:
        return None
    (count,) = struct.unpack_from("<H", data, 4)
    if not 0 < count <= 256 or len(data) < 6 + 16 * count:
        return None
    best: tuple[int, int, int, int] | None = None
    for number in range(count):
        width, height, _, zero, planes, bits, size, at = struct.unpack_from("<BBBBHHII", data, 6 + 16 * number)
        if zero or planes > 1 or at < 6 + 16 * count or not size or bits not in (0, 1, 4, 8, 16, 24, 32):
            return None
        candidate = ((width or 256) * (height or 256), bits, size, at)
        best = max(best or candidate, candidate)
    return None if best is None else _cut_icon(data, *best[1:])


def _cut_icon(data: bytes, bits: int, size: int, at: int) -> bytes:
    """One picture as an ICO file of its own, or as the PNG file that it is."""
    body = data[at : at + size]
    if body.startswith(b"\x89PNG"):
        return body
    if len(body) < 40 or struct.unpack_from("<I", body)[0] != 40:
        return b""
    width, height = struct.unpack_from("<ii", body, 4)
    entry = struct.pack("<BBBBHHII", width & 0xFF, height // 2 & 0xFF, 0, 0, 1, bits, len(body), 22)
    return b"\x00\x00\x01\x00\x01\x00" + entry + body


def icon_size(icon: bytes) -> tuple[int, int]:
    """(width, height) that the bitmap of `find_icon` states of itself."""
    width, height = struct.unpack_from("<ii", icon, 26)
    return abs(width), abs(height) // 2


class PnmHead(NamedTuple):
    """The head of a PBM, PGM or PPM file: its number (1 to 6), size, highest level, and where its samples begin."""

    number: int
    width: int
    height: int
    highest: int
    start: int


def read_pnm_head(data: bytes) -> PnmHead | None:
    """The head of a PNM file; None for what is none, such as a text that begins with "P3"."""
    found = PNM_HEAD.match(data[:4096])
    if found is None:
        return None
    number = int(found[1])
    fields = re.finditer(rb"\s+(?:#[^\n]*\n\s*)*(\d+)", found[2])
    wanted = 2 if number in (1, 4) else 3
    values, end = [], 0
    for field in fields:
        values.append(int(field[1][:12]))
        end = found.start(2) + field.end()
        if len(values) == wanted:
            break
    highest = values[2] if wanted == 3 and len(values) == 3 else 1
    if len(values) < wanted or not all(0 < value < 1 << 31 for value in values) or highest > 65_535:
        return None
    if number >= 4 and not data[end : end + 1].isspace():
        return None
    return PnmHead(number, values[0], values[1], highest, end + (number >= 4))
