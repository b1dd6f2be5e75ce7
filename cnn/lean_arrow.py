"""pyarrow that does not import pandas. Whatever list it converts, it asks whether that is one of pandas', and imports
pandas to find out: a third of a second and 50 MiB in every process, for nothing here.
"""

import sys
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType

import pyarrow as pa


class _NoPandas:
    """A finder of modules (`sys.meta_path`) that knows one thing."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("left out")


@lru_cache(maxsize=1)
def leave_pandas_out() -> None:
    """Have pyarrow find that there is no pandas, for as long as this process lives, unless pandas is imported already.

    For processes that are Safelight's own: from then on `pa.array` does not know pandas' own types any more.
    """
    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _NoPandas)
    try:
        pa.array([])
    finally:
        sys.meta_path.remove(_NoPandas)
