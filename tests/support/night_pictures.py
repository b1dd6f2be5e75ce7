"""The pictures of the nights: some new ones each night, moved ones, broken ones."""

import io
import random
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("bat", "cat", "owl", "wren")
SIZE = 32


class NightPictures:
    """A folder of class folders to learn from and an inbox to score, which change from night to night."""

    def __init__(self, folder: Path) -> None:
        self.photos, self.inbox, self.waiting = folder / "photos", folder / "inbox", folder / "waiting"
        self._draw, self._serial = np.random.default_rng(7), 0
        self.broken: list[Path] = []
        for place in (*(self.photos / name for name in CLASSES), self.inbox / "unsorted", self.waiting):
            place.mkdir(parents=True)

    def add(self, per_class: int) -> None:
        """New pictures of each class, and one in the inbox for every one in a class."""
        for number, label in enumerate(CLASSES):
            for _ in range(per_class):
                self._put(self.photos / label, number)
        for index in range(per_class):
            self._put(self.inbox / "unsorted", index % len(CLASSES))

    def move_some(self) -> None:
        """A third of each class lies in a folder below, and one picture of each class is gone."""
        for label in CLASSES:
            files = sorted((self.photos / label).glob("*.png"))
            (self.photos / label / "older").mkdir(exist_ok=True)
            for file in files[: len(files) // 3]:
                file.rename(self.photos / label / "older" / file.name)
            files[-1].unlink()

    def break_some(self, count: int) -> None:
        """Files that are no pictures, or halves of pictures, as a copy that was cut off leaves them."""
        draw = random.Random(count)
        for index in range(count):
            whole = self._encode(index % len(CLASSES))
            data = draw.choice((b"", whole[: len(whole) // 2], b"<html>404</html>"))
            self.broken.append(self.photos / CLASSES[index % len(CLASSES)] / f"broken-{index:03d}.png")
            self.broken[-1].write_bytes(data)

    def mend(self) -> None:
        """The broken files are taken away."""
        while self.broken:
            self.broken.pop().unlink()

    def count(self) -> tuple[int, int]:
        """(files to learn from, files to score)."""
        return len([*self.photos.rglob("*.png")]), len([*self.inbox.rglob("*.png")])

    def _put(self, folder: Path, number: int) -> None:
        """A picture appears whole."""
        self._serial += 1
        (unfinished := self.waiting / "new").write_bytes(self._encode(number))
        unfinished.rename(folder / f"{self._serial:05d}.png")

    def _encode(self, number: int) -> bytes:
        """Noise over a tint of the class."""
        tint = np.array([(number * 97 + 40 * channel) % 200 for channel in range(3)])
        pixels = np.clip(tint + self._draw.integers(0, 56, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png")
        return buffer.getvalue()
