"""TIFF headers: which pictures a file holds, which of them is meant, and what its samples are. Decodes no pixels."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 17: "q", 18: "Q"}
AS_BYTES = (2, 7)  # ASCII and undefined: kept as they are
TIFF_MAGIC = (42, 0x2A00, 0x4F52, 0x5352, 0x55)  # TIFF, also in the wrong byte order; Olympus; Panasonic
BIG_TIFF_MAGIC = 43
MOST_DIRECTORIES, MOST_ENTRIES = 256, 4096
REDUCED, MASK, OLD_REDUCED = 1, 4, 2  # bits of NewSubfileType; a value of SubfileType
SAMPLE_KINDS = {1: "uint", 2: "int", 3: "float", 4: "uint", 5: "complex int", 6: "complex float"}


class Tag(IntEnum):
    """Tags of TIFF 6.0, its supplements and DNG 1.7 that decide which picture is meant and how its samples lie."""

    NEW_SUBFILE = 254
    OLD_SUBFILE = 255
    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    MAKE = 271
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES = 277
    ROWS_PER_STRIP = 278
    STRIP_BYTES = 279
    PLANAR = 284
    PREDICTOR = 317
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    TILE_OFFSETS = 324
    TILE_BYTES = 325
    SUB_DIRECTORIES = 330
    EXTRA = 338
    SAMPLE_FORMAT = 339
    LOWEST = 340
    HIGHEST = 341
    SUBSAMPLING = 530
    PROFILE = 34675
    DNG_VERSION = 50706


TAGS = frozenset(Tag)


class Header(NamedTuple):
    """Byte order for `struct`, whether offsets have eight bytes, and where the first directory lies."""

    order: str
    big: bool
    first: int


@dataclass(frozen=True)
class Directory:
    """One picture of a file: where its directory lies, and the tags that are wanted of it."""

    at: int
    order: str
    tags: dict[int, Any]
    is_cut: bool = False  # whether some of the tags say more than the file holds

    def number(self, tag: int, default: int = 0) -> int:
        """The first value of a tag as a whole number."""
        values = self.tags.get(tag)
        return default if not values or isinstance(values, bytes) else int(values[0])

    def numbers(self, tag: int) -> tuple[int, ...]:
        """All values of a tag."""
        values = self.tags.get(tag, ())
        return tuple(values)

    @property
    def is_reduced(self) -> bool:
        """Whether it says of itself that it is a small copy of another picture, or a mask."""
        return bool(self.number(Tag.NEW_SUBFILE) & (REDUCED | MASK)) or self.number(Tag.OLD_SUBFILE) == OLD_REDUCED

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.number(Tag.WIDTH), self.number(Tag.HEIGHT)

    @property
    def compression(self) -> int:
        """By which method the samples are compressed; 1 for none."""
        return self.number(Tag.COMPRESSION, 1)

    @property
    def photometric(self) -> int:
        """What the samples stand for (levels of grey, RGB, CMYK, …); -1 where nothing is stated."""
        return self.number(Tag.PHOTOMETRIC, -1)

    @property
    def samples(self) -> int:
        """Samples of a pixel: bands."""
        return self.number(Tag.SAMPLES, 1)

    @property
    def bits(self) -> int:
        """Bits of a sample; 0 where the samples differ."""
        given = self.numbers(Tag.BITS) or (1,)
        return given[0] if len(set(given)) == 1 else 0

    @property
    def kind(self) -> str:
        """uint, int or float; "mixed" where the samples differ."""
        given = set(self.numbers(Tag.SAMPLE_FORMAT)) or {1}
        return SAMPLE_KINDS.get(given.pop(), "unknown") if len(given) == 1 else "mixed"


def read_header(data: bytes) -> Header | None:
    """The head of a TIFF file, or of a camera's file that is built like one; None for all others."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return None
    (magic,) = struct.unpack_from(f"{order}H", data, 2)
    if magic == BIG_TIFF_MAGIC:
        return Header(order, True, struct.unpack_from(f"{order}Q", data, 8)[0])
    return Header(order, False, struct.unpack_from(f"{order}I", data, 4)[0]) if magic in TIFF_MAGIC else None


def read_directories(data: bytes, header: Header) -> list[Directory]:
    """Every picture that the file names: those of the chain, then those below them. What is damaged is left out."""
    chain, at, seen = [], header.first, set[int]()
    while at and at not in seen and len(seen) < MOST_DIRECTORIES:
        seen.add(at)
        found = _read_directory(data, header, at)
        if found is None:
            break
        chain.append(found[0])
        at = found[1]
    below: list[Directory] = []
    waiting = [offset for directory in chain for offset in directory.numbers(Tag.SUB_DIRECTORIES)]
    while waiting and len(seen) < MOST_DIRECTORIES:
        at = waiting.pop(0)
        if at in seen:
            continue
        seen.add(at)
        if (found := _read_directory(data, header, at)) is not None:
            below.append(found[0])
            waiting.extend(found[0].numbers(Tag.SUB_DIRECTORIES))
    return [*chain, *below]


def choose_directory(directories: list[Directory]) -> Directory | None:
    """The picture that is meant: the first that is no small copy of another one and no mask, else the first."""
    whole = (directory for directory in directories if not directory.is_reduced and all(directory.size))
    return next(whole, directories[0] if directories else None)


def put_directory_first(data: bytes, header: Header, directory: Directory) -> bytes:
    """The same file with this directory as its first."""
    if directory.at == header.first:
        return data
    place, form = (8, "Q") if header.big else (4, "I")
    start = struct.pack(f"{header.order}{form}", directory.at)
    return data[:place] + start + data[place + len(start) :]


def describe_samples(directory: Directory) -> str:
    """What the samples are, in words: "13 bands of uint16"."""
    bits = directory.bits
    each = (
        f"{directory.kind}{bits}"
        if bits
        else f"{directory.kind} of {' and '.join(map(str, directory.numbers(Tag.BITS)))} bits"
    )
    return f"{directory.samples} bands of {each}" if directory.samples > 1 else f"one band of {each}"


def _read_directory(data: bytes, header: Header, at: int) -> tuple[Directory, int] | None:
    """(a directory, where the next one lies, 0 for none); None where there is none at this place."""
    counted, entry, word = ("Q", 20, "Q") if header.big else ("H", 12, "I")
    try:
        (count,) = struct.unpack_from(f"{header.order}{counted}", data, at)
        if not 0 < count <= MOST_ENTRIES:
            return None
        start = at + struct.calcsize(f"={counted}")
        entries = dict(_read_entries(data, header, start, count))
    except (struct.error, OverflowError):
        return None
    end = start + entry * count
    following = data[end : end + struct.calcsize(f"={word}")]
    complete = len(following) == struct.calcsize(f"={word}")
    after = struct.unpack(f"{header.order}{word}", following)[0] if complete else 0
    tags = {tag: values for tag, values in entries.items() if values is not None}
    return Directory(at, header.order, tags, len(tags) < len(entries)), after


def _read_entries(data: bytes, header: Header, start: int, count: int) -> Iterator[tuple[int, Any]]:
    form, inline = (f"{header.order}HHQ", 8) if header.big else (f"{header.order}HHI", 4)
    head = struct.calcsize(form)
    for number in range(count):
        place = start + number * (head + inline)
        tag, kind, length = struct.unpack_from(form, data, place)
        letter = "s" if kind in AS_BYTES else TYPES.get(kind)
        if tag not in TAGS or letter is None or not length:
            continue
        size, at = length * struct.calcsize(f"={letter}"), place + head
        if size > inline:
            (at,) = struct.unpack_from(f"{header.order}{'Q' if header.big else 'I'}", data, at)
        if at + size > len(data):
            yield tag, None
        elif letter == "s":
            yield tag, data[at : at + size]
        else:
            yield tag, struct.unpack_from(f"{header.order}{length}{letter}", data, at)
