"""TIFF files of every kind are shown as their samples say, or refused by name; never wrong and `ok`."""

import io
import itertools
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from tiff_files import DEFLATE, LZW, NONE, PACKBITS, Layout, compress, picture_tags, write_file, write_tiff

from cnn.errors import BadImage
from cnn.formats.tiff import read_samples
from cnn.formats.tiff_directory import choose_directory, read_directories, read_header
from cnn.images.read import read_image
from cnn.images.spec import ImageSpec

HEIGHT, WIDTH = 21, 37
SPEC = ImageSpec(size=(HEIGHT, WIDTH))
WHITE, BLACK, RGB, PALETTE = range(4)
KINDS = ["u1", "u2", "u4", "f2", "f4", "f8", "bit", "12"]
NAMES = {"u1": "uint8", "u2": "uint16", "u4": "uint32", "f2": "float16", "f4": "float32", "f8": "float64"}
NAMES |= {"bit": "uint1", "12": "uint12"}
Array = NDArray[Any]
Cell = tuple[str, int, Layout]


def make_levels(kind: str, bands: int, seed: int = 0) -> tuple[Array, int]:
    """((height, width, bands) of samples, bits of each); floats from 0 to 1, 32 bits no larger than 16 bits."""
    draw = np.random.default_rng(seed)
    ramp = np.linspace(0, 1, HEIGHT * WIDTH * bands).reshape(HEIGHT, WIDTH, bands)
    ramp = np.clip(ramp + draw.normal(0, 0.05, ramp.shape), 0, 1)
    if kind == "bit":
        return np.asarray(ramp > 0.5, np.uint8), 1
    if kind == "12":
        return (ramp * 4095).astype(np.uint16), 12
    if kind[0] == "f":
        return ramp.astype(kind), 8 * int(kind[1])
    return (ramp * {"u1": 255, "u2": 65535, "u4": 65535}[kind]).astype(kind), 8 * int(kind[1])


def show(array: Array, bits: int) -> NDArray[np.float64]:
    """What a person should see of these samples, 0 to 255."""
    if array.dtype.kind == "f":
        return array.astype(np.float64) * 255
    return array.astype(np.float64) * {1: 255, 8: 1, 12: 1 / 16, 16: 1 / 256, 32: 1 / 256}[bits]


def expect(array: Array, layout: Layout) -> NDArray[np.float64] | None:
    """(height, width, 3) of what is to be seen; None where that is not for anybody to say."""
    seen, bands = show(array, layout.bits), array.shape[-1]
    if layout.photometric == PALETTE:
        table = np.array(layout.tags[320][1], np.float64).reshape(3, -1) / 257
        return table.T[array[..., 0]]
    if layout.photometric == RGB:
        return seen[..., :3] if 3 <= bands <= 6 else None
    grey = 255 - seen if layout.photometric == WHITE else seen
    return grey.repeat(3, -1) if bands == 1 else None


def matrix() -> Iterator[Cell]:
    """Every kind, number of bands, meaning, arrangement in planes, byte order, and compression in every form."""
    for kind, bands, photometric in itertools.product(KINDS, (1, 2, 3, 4, 5, 13), range(4)):
        bits = {"bit": 1, "12": 12}.get(kind) or 8 * int(kind[1])
        if photometric == PALETTE and (bits > 8 or bands > 1):
            continue
        table = np.random.default_rng(1).integers(0, 256, 3 << min(bits, 8)) * 257
        tags: dict[int, tuple[int, Any]] = {320: (3, table.tolist())} if photometric == PALETTE else {}
        if (extra := bands - (3 if photometric == RGB else 1)) > 0:
            tags[338] = (3, [0] * extra)
        for planar, order, compression, tile, predictor in list_forms(kind, bands, photometric):
            yield kind, bands, Layout(bits, photometric, planar, order, compression, tile, 7, predictor, tags=tags)


def list_forms(kind: str, bands: int, photometric: int) -> Iterator[tuple[Any, ...]]:
    """All that can be combined for pictures that are to be shown; two compressions for those that nobody can show."""
    shown = bands == 1 or (photometric == RGB and 3 <= bands <= 6)
    compressions = (NONE, LZW, DEFLATE, PACKBITS) if shown else (NONE, LZW)
    tiles = (None, (16, 16)) if shown else (None,)
    for form in itertools.product((1, 2), "<>", compressions, tiles, (1, 2, 3)):
        planar, _, compression, _, predictor = form
        if predictor > 1 and (compression not in (LZW, DEFLATE) or kind in ("bit", "12") or not shown):
            continue
        if (predictor == 3 and kind[0] != "f") or (predictor == 2 and kind[0] == "f") or (planar == 2 and bands == 1):
            continue
        yield form


CELLS = list(matrix())


def read_cell(cell: Cell) -> str:
    """`ok`, or the reason; fails where a picture is wrong."""
    kind, bands, layout = cell
    array, _ = make_levels(kind, bands)
    data = write_tiff(array, layout)
    wanted = expect(array, layout)
    try:
        pixels = read_image(data, SPEC).pixels
    except BadImage as fault:
        return str(fault)
    assert wanted is not None, f"{cell}: shown, though nobody can say what is to be seen"
    difference = np.abs(pixels - wanted).max()
    assert difference <= 1.01, f"{cell}: off by {difference:g}"
    return "ok"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tiff_is_right_or_refused_by_name(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    shown = refused = 0
    for cell in (cell for cell in CELLS if cell[0] == kind):
        outcome, bands, layout = read_cell(cell), cell[1], cell[2]
        if outcome == "ok":
            shown += 1
            continue
        refused += 1
        assert outcome.startswith("unsupported_mode: "), cell
        assert f"{bands} bands of {NAMES[kind]}" in outcome.replace("one band", "1 bands"), cell
        assert layout.photometric == RGB or bands > 1, f"{cell}: grey is always shown, but {outcome}"
    assert shown >= 32
    assert refused >= 32
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", KINDS)
def test_the_other_reader_finds_the_same_samples(kind: str) -> None:
    """tifffile, which shares no line with what is tested; it has no LZW of its own."""
    compared = 0
    for _, bands, layout in (cell for cell in CELLS if cell[0] == kind and cell[2].compression != LZW):
        array, bits = make_levels(kind, bands)
        data = write_tiff(array, layout)
        try:
            found = tifffile.imread(io.BytesIO(data))
        except (ValueError, NotImplementedError) as error:  # a part that is optional there
            assert "imagecodecs" in str(error)  # noqa: PT017
            continue
        planes = np.moveaxis(found, 0, -1) if layout.planar == 2 else found
        assert np.array_equal(planes.reshape(array.shape), array), layout
        header = read_header(data)
        assert header is not None
        directory = choose_directory(read_directories(data, header))
        assert directory is not None
        if bits >= 8:
            assert np.array_equal(read_samples(data, directory), array), layout
        compared += 1
    assert compared >= (24 if kind != "12" else 0)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_samples_come_back_as_they_were_written(draw: st.DataObject) -> None:
    kind = draw.draw(st.sampled_from(["u1", "u2", "u4", "u8", "i2", "i4", "f2", "f4", "f8", "bits"]))
    bits = draw.draw(st.integers(9, 15)) if kind == "bits" else 8 * int(kind[1])
    shape = tuple(draw.draw(st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4))))
    raw = np.random.default_rng(draw.draw(st.integers(0, 99))).integers(0, 256, (*shape, 8), np.uint8)
    array = raw.view("u8")[..., 0] >> np.uint64(64 - bits)
    array = array.astype(f"u{max(1, 1 << (bits - 1).bit_length() >> 3)}")
    array = array.view(kind) if kind[0] in "if" else array
    compression = draw.draw(st.sampled_from([NONE, LZW, DEFLATE, PACKBITS]))
    fitting = [1] if compression in (NONE, PACKBITS) or kind == "bits" else [1, 3] if kind[0] == "f" else [1, 2]
    layout = Layout(
        bits,
        1,
        draw.draw(st.sampled_from([1, 2])),
        draw.draw(st.sampled_from("<>")),
        compression,
        draw.draw(st.sampled_from([None, (16, 16), (16, 32), (48, 16)])),
        draw.draw(st.integers(1, 50)),
        draw.draw(st.sampled_from(fitting)),
        draw.draw(st.booleans()),
    )
    data = write_tiff(array, layout)
    header = read_header(data)
    assert header is not None
    assert header.big == layout.big
    found = read_samples(data, read_directories(data, header)[0])
    assert found.dtype == array.dtype
    assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [NONE, LZW])
def test_a_white_zero_of_sixteen_bits_is_white(order: Literal["<", ">"], compression: int) -> None:
    array, bits = make_levels("u2", 1)
    black = read_image(write_tiff(array, Layout(bits, BLACK, 1, order, compression)), SPEC).pixels
    white = read_image(write_tiff(array, Layout(bits, WHITE, 1, order, compression)), SPEC).pixels
    assert np.array_equal(white, 255 - black)
    assert black.std() > 30


@pytest.mark.parametrize("planar", [1, 2])
def test_transparency_of_sixteen_bits_shows_the_background(planar: int) -> None:
    array, bits = make_levels("u2", 4)
    array[..., 3] = np.where(np.arange(WIDTH) < WIDTH // 2, 0, 65535)
    data = write_tiff(array, Layout(bits, RGB, planar, tags={338: (3, [2])}))
    pixels = read_image(data, ImageSpec(size=(HEIGHT, WIDTH), background=(10, 200, 30))).pixels
    assert (pixels[:, : WIDTH // 2] == (10, 200, 30)).all()
    assert np.abs(pixels[:, WIDTH // 2 :].astype(int) - (array[:, WIDTH // 2 :, :3] >> 8)).max() <= 1
    grey = np.concatenate([array[..., :1], array[..., 3:]], -1)
    pixels = read_image(write_tiff(grey, Layout(bits, BLACK, planar, tags={338: (3, [2])})), SPEC).pixels
    assert (pixels[:, : WIDTH // 2] == 255).all()


def test_cmyk_of_sixteen_bits_is_that_of_eight() -> None:
    array, _ = make_levels("u2", 4)
    deep = read_image(write_tiff(array, Layout(16, 5)), SPEC).pixels
    plain = read_image(write_tiff((array >> 8).astype(np.uint8), Layout(8, 5)), SPEC).pixels
    assert np.array_equal(deep, plain)


def test_bands_and_kinds_that_nobody_can_show_are_named() -> None:
    for kind, bands, words in [
        ("u2", 13, "13 bands of uint16"),
        ("u1", 2, "2 bands of uint8"),
        ("f8", 5, "5 bands of float64"),
    ]:
        array, bits = make_levels(kind, bands)
        assert reason_of(write_tiff(array, Layout(bits, BLACK, order=">"))) == f"unsupported_mode: {words}"
    array, _ = make_levels("u2", 1)
    for tags, words in [
        ({259: (3, 7)}, "one band of uint16, compression 7"),
        ({266: (3, 2)}, "one band of uint16, bits in reverse order"),
        ({262: (3, 3)}, "one band of uint16, photometric interpretation 3"),
        ({339: (3, 6)}, "one band of complex float16"),
        ({258: (3, 24)}, "one band of uint24"),
    ]:
        assert reason_of(write_tiff(array, Layout(16, BLACK, tags=tags))) == f"unsupported_mode: {words}"
    signed = np.full((HEIGHT, WIDTH, 1), -5, np.int16)
    assert reason_of(write_tiff(signed, Layout(16, BLACK))).startswith("unsupported_mode: 16-bit integers beyond")


@pytest.mark.parametrize("compression", [NONE, DEFLATE, LZW])
@pytest.mark.parametrize("stated", [True, False])
def test_colours_at_half_the_size_are_right_or_refused(compression: int, stated: bool) -> None:
    """YCbCr 4:2:0: of four pixels four Y, one Cb and one Cr follow each other; a file without a word means that too."""
    luma = np.tile(np.linspace(16, 235, 16), (32, 1)).astype(np.uint8)
    units = [[*luma[r : r + 2, c : c + 2].ravel(), 90, 180] for r in range(0, 32, 2) for c in range(0, 16, 2)]
    part = compress(np.array(units, np.uint8).tobytes(), compression)
    tags = picture_tags(16, 32, 6, compression) | ({530: (3, [2, 2])} if stated else {})
    data = write_file([(tags, (273, 279), [part])])
    if compression == NONE:
        assert reason_of(data).startswith("unsupported_mode: 3 bands of uint8, YCbCr")
        return
    layers = [Image.fromarray(luma), Image.new("L", (16, 32), 90), Image.new("L", (16, 32), 180)]
    expected = np.asarray(Image.merge("YCbCr", layers).convert("RGB"), np.int16)
    assert np.abs(read_image(data, ImageSpec(size=(32, 16))).pixels - expected).max() <= 1


def test_a_part_that_is_missing_or_cut_is_no_picture() -> None:
    array, _ = make_levels("u2", 3)
    for layout in (Layout(16, RGB), Layout(16, RGB, 2, compression=LZW), Layout(16, RGB, tile=(16, 16))):
        data = write_tiff(array, layout)
        assert reason_of(data[:-60]).startswith("truncated: ")
    assert reason_of(write_tiff(array, Layout(16, RGB, tags={257: (4, 10 * HEIGHT)}))).startswith("truncated")
    assert reason_of(write_tiff(array, Layout(16, RGB, tags={256: (4, 2 * WIDTH)}))).startswith("truncated")


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("below", [0, 1])
def test_a_small_copy_of_the_picture_is_not_taken_for_it(kind: str, big: bool, below: int) -> None:
    """A thumbnail first, the picture behind it in the chain or below it."""
    array, bits = make_levels(kind, 3)
    small = np.zeros((4, 6, 3), np.uint8)
    tags: dict[int, tuple[int, Any]] = {258: (3, [8] * 3), 259: (3, 1), 262: (3, 2), 277: (3, 3)}
    thumbnail = tags | {254: (4, 1), 256: (4, 6), 257: (4, 4), 278: (4, 4)}
    picture = tags | {258: (3, [bits] * 3), 254: (4, 0), 256: (4, WIDTH), 257: (4, HEIGHT), 278: (4, HEIGHT)}
    places = (273, 279)
    pictures = [(thumbnail, places, [small.tobytes()]), (picture, places, [array.tobytes()])]
    decoded = read_image(write_file(pictures, "<", big, below=below), SPEC)
    assert (decoded.width, decoded.height) == (WIDTH, HEIGHT)
    assert np.abs(decoded.pixels - show(array, bits)).max() <= 1
    alone = read_image(write_file(pictures[:1], "<", big), SPEC)  # it is all that there is
    assert (alone.width, alone.height) == (6, 4)


def test_tiles_far_larger_than_the_picture_are_refused_before_memory_is_asked_for() -> None:
    array, _ = make_levels("u2", 1)
    for compression in (NONE, LZW):
        tags = {322: (4, 1 << 20), 323: (4, 1 << 20)}
        data = write_tiff(array, Layout(16, BLACK, compression=compression, tile=(32, 48), tags=tags))
        assert reason_of(data).startswith("decode_error: tiles of 1048576x1048576 for a picture of 37x21")


def test_a_bomb_of_sixteen_bits_is_refused_by_its_header() -> None:
    array, _ = make_levels("u2", 1)
    tags = {256: (4, 60_000), 257: (4, 60_000)}
    assert reason_of(write_tiff(array, Layout(16, BLACK, tags=tags))) == "too_many_pixels: 60000x60000"


def reason_of(data: bytes) -> str:
    with pytest.raises(BadImage) as caught:
        read_image(data, SPEC)
    return str(caught.value)
