"""pyarrow that does not import pandas. Whatever list it converts, it asks whether that is one of pandas', and imports
pandas to find out: a third of a second and 50 MiB in every process, for nothing here.
"""

import sys
import threading
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType

import pyarrow as pa

_one_at_a_time = threading.Lock()


class _NoPandas:
    """A finder of modules (`sys.meta_path`) that knows one thing."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("left out")


def leave_pandas_out() -> None:
    """Have pyarrow find that there is no pandas, for as long as this process lives, unless pandas is imported already.

    For processes that are Safelight's own: from then on `pa.array` does not know pandas' own types any more. Threads
    that import other modules meanwhile notice nothing: the list of finders that they go through does not change.
    """
    with _one_at_a_time:
        _ask_once()


@lru_cache(maxsize=1)
def _ask_once() -> None:
    if "pandas" in sys.modules:
        return
    sys.meta_path = [_NoPandas, *sys.meta_path]
    try:
        pa.array([])
    finally:
        sys.meta_path = [finder for finder in sys.meta_path if finder is not _NoPandas]
