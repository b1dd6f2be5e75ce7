"""Large pictures are decoded one at a time, whichever process they are in, and small ones never wait."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cnn.images.color
import cnn.images.large_images
from cnn.images.color import convert_colors
from cnn.images.large_images import LARGE_PIXELS, lock_large_image
from cnn.images.pixels import encode_jpeg, encode_png
from cnn.images.read import read_image
from cnn.images.spec import ImageSpec

SPEC = ImageSpec(size=(8, 8))
HOLDER = """
import sys
from cnn.images.large_images import LARGE_PIXELS, lock_large_image
with lock_large_image(LARGE_PIXELS + 1):
    print("held", flush=True)
    sys.stdin.read()
"""
# Tells the most memory (KB) that refusing each file took.
MEASURE = """
import resource, sys
from cnn.errors import BadImage
from cnn.images.read import ImageSpec, read_image
files = [open(path, "rb").read() for path in sys.argv[1:]]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for data in files:
    try:
        read_image(data, ImageSpec(max_pixels=50_000_000))
    except BadImage as fault:
        print(fault.reason, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.fixture(autouse=True)
def own_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn that nobody else on this machine waits for."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(cnn.images.large_images.tempfile, "tempdir", None)  # type: ignore[attr-defined]


def is_waiting(thread: threading.Thread) -> bool:
    """Whether a thread is still there after it has had time to end, were it not held up."""
    thread.join(0.2)
    return thread.is_alive()


def test_a_large_picture_waits_for_the_one_before_and_a_small_one_does_not() -> None:
    done: list[str] = []

    def take(pixels: int) -> None:
        with lock_large_image(pixels):
            done.append(str(pixels))

    small, large = (threading.Thread(target=take, args=(pixels,)) for pixels in (LARGE_PIXELS, LARGE_PIXELS + 1))
    with lock_large_image(LARGE_PIXELS + 1):
        large.start()
        small.start()
        small.join(10)
        assert not small.is_alive()
        assert is_waiting(large)
        assert done == [str(LARGE_PIXELS)]
    large.join(10)
    assert done == [str(LARGE_PIXELS), str(LARGE_PIXELS + 1)]


def test_the_turn_is_that_of_the_machine_and_goes_on_when_its_holder_is_killed() -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdin is not None
    assert holder.stdout is not None
    with holder.stdin, holder.stdout, ThreadPoolExecutor(1) as pool:
        assert holder.stdout.readline() == b"held\n"
        taken = pool.submit(lambda: lock_large_image(LARGE_PIXELS + 1).__enter__())
        with pytest.raises(TimeoutError):
            taken.result(0.2)
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        taken.result(10)


def test_waiting_does_not_count_and_large_pictures_have_more_time() -> None:
    signal.setitimer(signal.ITIMER_REAL, 100)
    try:
        with lock_large_image(3 * LARGE_PIXELS):
            assert 290 < signal.getitimer(signal.ITIMER_REAL)[0] <= 300
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    with lock_large_image(3 * LARGE_PIXELS):  # where there was no limit there is none
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_nobody_waits_where_there_is_no_place_for_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cnn.images.large_images.tempfile, "gettempdir", lambda: "/nowhere")  # type: ignore[attr-defined]
    with lock_large_image(LARGE_PIXELS + 1), lock_large_image(LARGE_PIXELS + 1):
        pass


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    (tmp_path / f"safelight-large-{os.getuid()}.lock").symlink_to(target)
    with lock_large_image(LARGE_PIXELS + 1):
        assert not target.exists()


@pytest.mark.parametrize("encode", [encode_png, encode_jpeg])
def test_decoding_takes_the_turn(encode: object, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(np.full((32, 32, 3), 99, np.uint8))  # type: ignore[operator]
    monkeypatch.setattr(cnn.images.large_images, "LARGE_PIXELS", 1000)
    reader = threading.Thread(target=read_image, args=(data, SPEC))
    with lock_large_image(1001):
        reader.start()
        assert is_waiting(reader)
    reader.join(10)
    assert not reader.is_alive()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "YCbCr", "HSV", "RGBX"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_the_same_in_strips(mode: str, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (37, 11, 3)).astype(np.uint8)
    image = Image.fromarray(noise).convert(mode)
    whole = convert_colors(image, channels, (0, 0, 0))
    monkeypatch.setattr(cnn.images.color, "STRIP_PIXELS", 45)
    np.testing.assert_array_equal(convert_colors(image, channels, (0, 0, 0)), whole)


def test_a_picture_larger_than_50_million_pixels_is_read() -> None:
    """An A3 sheet at 600 dpi, as herbaria scan them, has 70 million."""
    sheet = encode_jpeg(np.broadcast_to(np.uint8(200), (9933, 7016, 1)))
    found = read_image(sheet, ImageSpec(size=(8, 8)))
    assert (found.width, found.height) == (7016, 9933)
    assert abs(int(found.pixels.mean()) - 200) <= 1


def test_what_headers_claim_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    """Files of a few hundred kilobytes that claim, and hold, 100 million pixels."""
    paths = []
    for suffix, options in ((".png", {}), (".tif", {"compression": "tiff_deflate"}), (".gif", {}), (".jpg", {})):
        paths.append(tmp_path / f"bomb{suffix}")
        Image.new("L", (10_000, 10_000), 9).save(paths[-1], **options)
    code = [sys.executable, "-c", MEASURE, *map(str, paths)]
    lines = subprocess.run(code, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["too_many_pixels"] * 4
    assert max(int(line.split()[1]) for line in lines) < 30_000  # KB; decoded, each takes 100,000 or more
