"""Compile a user's regular expression: no warning is printed over it, and one that cannot be is one kind of error."""

import re
import warnings
from functools import lru_cache
from threading import Lock

_SILENCE = Lock()  # filters of warnings are the process' own: two threads would take each other's for the usual ones


@lru_cache(maxsize=64)
def compile_pattern(text: str, flags: int = 0) -> re.Pattern[str]:
    """The expression as Python has it today; `re` warns of some (`[[a]`) that a later Python may read otherwise.

    Raises:
        ValueError: it is no regular expression.
    """
    with _SILENCE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return re.compile(text, flags)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(str(error)) from None
