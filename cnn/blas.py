"""One thread for each matrix product (BLAS), where products are small or thin."""

from contextlib import AbstractContextManager
from typing import cast


def limit_blas() -> AbstractContextManager[object]:
    """One thread per matrix product while this is open. Threads of a small or thin product wait for each other (20
    times as long on a busy machine), and their number would change the last bits."""
    from threadpoolctl import threadpool_limits

    return cast(AbstractContextManager[object], threadpool_limits(1, user_api="blas"))
