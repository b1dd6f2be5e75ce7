"""Watch whether a scheduler has workers while work waits for them: a line after seconds, an end after a set time."""

import time
from collections.abc import Callable

from cnn.errors import ServerOutageError

LOOK_SECONDS = 2.0  # between two questions to the scheduler, while no result comes
LINE_SECONDS = 10.0  # without workers, after which a line says so: one that is started anew is back by then

Announce = Callable[[str], None]


class WorkerWatch:
    """`count` asks the scheduler how many workers it has; `place` names it, for people."""

    def __init__(
        self,
        count: Callable[[], int],
        place: str,
        minutes: float,
        announce: Announce,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count, self._place, self._minutes = count, place, minutes
        self._announce, self._elapsed = announce, elapsed
        self._looked = self._seen = elapsed()
        self._is_told = False

    def look(self) -> None:
        """Ask, if it is time to. Raises: ServerOutageError, there have been no workers for too long."""
        if self._elapsed() - self._looked < LOOK_SECONDS:
            return
        found, self._looked = self._count(), self._elapsed()
        if found:
            self._seen = self._looked
            self._tell_of_return(found)
            return
        away = self._looked - self._seen
        if away >= self._minutes * 60.0:
            raise ServerOutageError(
                f"the Dask scheduler at {self._place} has had no workers for {self._minutes:g} minutes"
                " (cluster.wait_minutes); start some for it and run again: finished chunks are kept"
            )
        if away >= LINE_SECONDS and not self._is_told:
            self._announce(
                f"workers: the Dask scheduler at {self._place} has none left; waiting {self._minutes:g} minutes for"
                " some (cluster.wait_minutes), Ctrl-C stops"
            )
            self._is_told = True

    def note_result(self) -> None:
        """A result came, so that there are workers."""
        self._seen = self._elapsed()
        if self._is_told and (found := self._count()):
            self._tell_of_return(found)

    def _tell_of_return(self, workers: int) -> None:
        if self._is_told:
            self._announce(f"workers: {self._place} has {workers} again; going on")
        self._is_told = False
