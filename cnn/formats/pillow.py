"""Open and decode pictures with Pillow; what goes wrong becomes a reason."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache

from PIL import Image, UnidentifiedImageError

from cnn.errors import BadImage
from cnn.formats.file_kinds import is_heif, is_tga, name_kind
from cnn.formats.levels import LevelSpan
from cnn.stderr import capture_stderr
from cnn.text import shorten

# Those that are told by their first bytes; no "MPO": its first picture opens as JPEG.
PILLOW_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "JPEG2000")
ORIENTATION_TAG, UPRIGHT = 274, 1
HEIC_WAY_OUT = "heif: pip install 'safelight[heic]' reads it"
READ_MAGIC = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF", b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
    *(b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  \r\n\x87\n"),
)
AVIF = (b"ftypavif", b"ftypavis")

Image.MAX_IMAGE_PIXELS = (
    None  # the limit is ours (`max_pixels`): checked before anything is allocated, and never a warning
)


@dataclass(frozen=True)
class OpenedImage:
    """A picture of 8 bits as Pillow has it, its EXIF orientation, and the levels that it had where these were more.

    `jpeg` are its bytes where it is a JPEG picture that is still to be decoded; `preview` tells that it is that of a
    camera raw file.
    """

    image: Image.Image
    orientation: int = UPRIGHT
    seen: LevelSpan | None = None
    jpeg: bytes | None = None
    preview: bool = False


@cache
def register_heif() -> bool:
    """Whether Pillow reads HEIF in this process; the decoder, an optional extra, is imported at the first such file."""
    try:
        from pi_heif import register_heif_opener
    except ImportError:
        return False
    # One thread: images are spread over processes. The picture itself is all that is wanted of the container.
    register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
    return True


def open_unknown(data: bytes) -> Image.Image:
    """The picture, not yet decoded, of any format that is read by Pillow here.

    Raises:
        BadImage: with the kind of file, where that is known.
    """
    formats = (*PILLOW_FORMATS, "HEIF") if is_heif(data) and register_heif() else PILLOW_FORMATS
    image = open_as(data, ("TGA",) if is_tga(data) else formats)
    if image is None:
        raise classify_unknown(data)
    return image


def open_as(data: bytes, formats: Sequence[str]) -> Image.Image | None:
    """The picture, not yet decoded; None where it is of none of these formats of Pillow.

    Raises:
        BadImage: truncated, decode_error, out_of_memory.
    """
    try:
        return Image.open(io.BytesIO(data), formats=list(formats))
    except UnidentifiedImageError:
        return None
    except Exception as error:  # foreign decoders raise ten kinds of error; the kind is recorded
        raise classify_error(error) from None


def load_image(image: Image.Image) -> None:
    """Decode an opened picture. Raises: BadImage."""
    with explain_errors(listen=image.format == "TIFF"):
        image.load()


@contextmanager
def explain_errors(listen: bool = False) -> Iterator[None]:
    """Turn what a decoder raises into the reason; with `listen`, what it prints goes there and not to the terminal.

    Raises:
        BadImage: truncated, decode_error, out_of_memory.
    """
    printed: list[bytes] = []

    def note(line: bytes) -> bool:
        printed.append(line)
        return True

    try:
        with capture_stderr(note) if listen else nullcontext():
            yield
    except BadImage:
        raise
    except Exception as error:  # foreign decoders raise ten kinds of error; the kind is recorded
        raise classify_error(error, b"".join(printed[-1:]).decode("utf-8", "replace")) from None


def read_orientation(image: Image.Image) -> int:
    """What EXIF says of how the picture is to be turned (1 to 8); 1 where it says nothing that can be read."""
    try:
        value = image.getexif().get(ORIENTATION_TAG, UPRIGHT)
    except Exception:  # broken metadata never costs the picture
        return UPRIGHT
    return value if isinstance(value, int) else UPRIGHT


def classify_unknown(data: bytes) -> BadImage:
    """Why no decoder knows these bytes."""
    if not data:
        return BadImage("empty_file")
    if is_heif(data):
        return (
            BadImage("truncated", "the header is damaged") if register_heif() else BadImage("needs_heic", HEIC_WAY_OUT)
        )
    if (kind := name_kind(data)) is not None:
        return BadImage("unsupported_format" if kind.is_image else "not_an_image", kind.name)
    if data.startswith(READ_MAGIC) or data[4:12] in AVIF:
        return BadImage("truncated", "the header is damaged")
    return BadImage("not_an_image")


def classify_error(error: Exception, told: str = "") -> BadImage:
    """What a foreign decoder's exception, and the last line that it printed, say of the file."""
    if isinstance(error, MemoryError):
        return BadImage("out_of_memory")
    text = shorten(f"{error} {told}")
    short = isinstance(error, EOFError) or "truncated" in text.lower()
    name = type(error).__name__
    return BadImage("truncated" if short else "decode_error", f"{name}: {text}" if text else name)
