"""Lines about servers that do not answer, for whoever is shown what a run does."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OUTAGES = logging.getLogger("safelight.outages")
OUTAGES.propagate = False  # a Dask worker says nothing by itself
OUTAGES.addHandler(logging.NullHandler())


class _Announcer(logging.Handler):
    """Hands the text of each record on."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._announce = announce

    def emit(self, record: logging.LogRecord) -> None:
        self._announce(record.getMessage())


@contextmanager
def announce_outages(announce: Callable[[str], None]) -> Iterator[None]:
    """In the block `announce` gets each line that `log_outage` is given, in whatever thread that is."""
    handler, level = _Announcer(announce), OUTAGES.level
    OUTAGES.addHandler(handler)
    OUTAGES.setLevel(logging.INFO)
    try:
        yield
    finally:
        OUTAGES.setLevel(level)
        OUTAGES.removeHandler(handler)


def log_outage(line: str) -> None:
    """Say that a server does not answer, or answers again; nobody hears it outside of `announce_outages`."""
    OUTAGES.info("%s", line)
