"""Whether bytes are a HEIC picture, and its decoder, of an optional extra, made known to Pillow."""

from functools import cache

# Brands of ISO/IEC 23008-12, annex B, for pictures coded with HEVC; "mif1" and "msf1" leave the codec open.
BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
WAY_OUT = "heif: pip install 'safelight[heic]' reads it"


def is_heif(data: bytes) -> bool:
    """Whether the file says that it is a HEIF container."""
    return data[4:8] == b"ftyp" and data[8:12] in BRANDS


@cache
def register_heif() -> bool:
    """Whether Pillow reads HEIF in this process; the decoder is imported at the first such file."""
    try:
        from pi_heif import register_heif_opener
    except ImportError:
        return False
    # One thread: images are spread over processes. The picture itself is all that is wanted of the container.
    register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
    return True
