"""pyarrow that does not import pandas. Whatever list it converts, it asks whether that is one of pandas', and imports
pandas to find out: a third of a second and 50 MiB in every process, for nothing here.
"""

import sys
import threading
from functools import lru_cache

import pyarrow as pa

_one_at_a_time = threading.Lock()


def leave_pandas_out() -> None:
    """Have pyarrow find that there is no pandas, for as long as this process lives, unless pandas is imported already.

    For processes that are Safelight's own: from then on `pa.array` does not know pandas' own types any more. Threads
    that import other modules meanwhile notice nothing: no list of finders changes under them.
    """
    with _one_at_a_time:
        _ask_once()


@lru_cache(maxsize=1)
def _ask_once() -> None:
    if "pandas" in sys.modules:
        return
    sys.modules["pandas"] = None  # type: ignore[assignment]  # to the import system: there is no such module
    try:
        pa.array([])
    finally:
        del sys.modules["pandas"]
