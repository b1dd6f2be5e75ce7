"""A lock by which large pictures are decoded one at a time on a machine: each takes gigabytes of memory."""

import fcntl
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

LARGE_PIXELS = 50_000_000  # pixels


@contextmanager
def lock_large_image(pixels: int) -> Iterator[None]:
    """Hold the machine's one turn for the length of the block, where a picture of so many pixels is large.

    The time until it comes does not count against the limit on decoding, and from then on the limit is that for a
    picture of `LARGE_PIXELS` pixels times as many as this one has more. All processes of this user that share a
    folder for temporary files share the turn; where no file can be opened there, nobody waits.
    """
    file = _open_turn() if pixels > LARGE_PIXELS else None
    if file is None:
        yield
        return
    try:
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        fcntl.flock(file, fcntl.LOCK_EX)
        signal.setitimer(signal.ITIMER_REAL, left * pixels / LARGE_PIXELS)
        yield
    finally:
        os.close(file)  # and the turn with it, as also when the process dies


class LargeImageLock(ExitStack):
    """The turn of one picture, held until the block ends, once its size is known."""

    _taken = False

    def take(self, pixels: int) -> None:
        """Wait for the turn, if a picture of so many pixels needs one and has it not yet."""
        if not self._taken and pixels > LARGE_PIXELS:
            self._taken = True
            self.enter_context(lock_large_image(pixels))


def _open_turn() -> int | None:
    try:
        path = os.path.join(tempfile.gettempdir(), f"safelight-large-{os.getuid()}.lock")
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
