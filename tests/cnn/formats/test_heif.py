"""HEIC pictures: read where the optional extra is there, named and tried again later where it is not."""

import base64
from pathlib import Path

import numpy as np
import pytest
from pictures import mutate
from steps import prepare, rows_of, write_photos

from cnn.errors import BadImage
from cnn.formats.reasons import REASONS
from cnn.images.read import read_image
from cnn.images.spec import ImageSpec

# 48 pixels wide, 32 high: left half red, right half blue, a white square top left. The second is to be turned right.
PLAIN = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAAAAAERA"
    "AAEAAQAAAAABoQABAAAAAAAAAFoAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/WlwcnAAAADdaXBjbwAA"
    "AHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq"
    "5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAADAAAAABAAAA"
    "IAAAAAH////wAAAAAv///+AAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAAGJtZGF0AAAAVigBrwngFaq7x1UEKf9/"
    "lv/SBodPlQP/GB/+kSPvGxYf2Ak/ZSBrrtPnUN0pM896g8x4JnOex7+FrMXy7xN2/sTYTGm25GMvUiTt+GjrbGZcRZOhM9Dg"
)
TURNED = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAchtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAAAAAERA"
    "AAIAAQAAAAAB7AABAAAAAAAAAFoAAgAAAAACRgABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVpbmZlAgAAAQAC"
    "AABFeGlmAAAAAA5waXRtAAAAAAABAAABB2lwcnAAAADmaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAA"
    "AAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaA"
    "AAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAADAAAAABAAAAIAAAAAH////wAAAAAv///+AAAAACAAAAEHBpeGkAAAAAAwgICAAAAAlpcm90AwAA"
    "ABlpcG1hAAAAAAAAAAEAAQaBAgMFhIYAAAAaaXJlZgAAAAAAAAAOY2RzYwACAAEAAQAAAIZtZGF0AAAAVigBrwngFaq7x1UEKf9/lv/SBodPlQP/GB/+"
    "kSPvGxYf2Ak/ZSBrrtPnUN0pM896g8x4JnOex7+FrMXy7xN2/sTYTGm25GMvUiTt+GjrbGZcRZOhM9DgAAAABkV4aWYAAE1NACoAAAAIAAEBEgADAAAA"
    "AQAGAAAAAAAA"
)
RED, BLUE = (200, 30, 30), (30, 30, 200)


def lack_the_extra(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("cnn.formats.pillow.register_heif", lambda: False)


@pytest.mark.parametrize(
    ("data", "size", "spots"),
    [
        (PLAIN, (32, 48), {(3, 3): (255, 255, 255), (20, 8): RED, (20, 40): BLUE}),
        (TURNED, (48, 32), {(3, 28): (255, 255, 255), (8, 8): RED, (40, 8): BLUE}),
    ],
    ids=["plain", "turned"],
)
def test_a_heic_is_read_as_a_person_sees_it(
    data: bytes, size: tuple[int, int], spots: dict[tuple[int, int], tuple[int, int, int]]
) -> None:
    decoded = read_image(data, ImageSpec(size=size))
    assert (decoded.height, decoded.width) == size
    for spot, level in spots.items():
        assert np.abs(decoded.pixels[spot].astype(int) - level).max() <= 3, spot


def test_damaged_ones_have_a_reason() -> None:
    for place in (20, 100, 400, len(PLAIN) - 1):
        with pytest.raises(BadImage, match=r"^(truncated|decode_error)"):
            read_image(PLAIN[:place], ImageSpec())
    rng, found = np.random.default_rng(7), set()
    for _ in range(300):
        try:
            read_image(mutate(PLAIN, rng), ImageSpec(max_pixels=1_000_000))
        except BadImage as fault:
            found.add(fault.reason)
    assert found <= REASONS.keys()
    assert found


def test_its_size_is_known_before_anything_is_decoded() -> None:
    with pytest.raises(BadImage, match=r"^too_many_pixels: 48x32$"):
        read_image(PLAIN, ImageSpec(max_pixels=1000))


def test_without_the_extra_it_is_named_and_the_next_run_with_it_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_photos(tmp_path / "photos", 12)
    (source / "owl" / "phone.HEIC").write_bytes(PLAIN)
    with monkeypatch.context() as patch:
        lack_the_extra(patch)
        _, first = prepare(source, tmp_path / "work", budget=0.2)
    row = rows_of(tmp_path / "work", first)["owl/phone.HEIC"]
    assert row["outcome"] == "quarantined"
    assert row["reason"] == "needs_heic: heif: pip install 'safelight[heic]' reads it"
    _, second = prepare(source, tmp_path / "work", budget=0.2)
    assert rows_of(tmp_path / "work", second)["owl/phone.HEIC"]["outcome"] == "ok"
