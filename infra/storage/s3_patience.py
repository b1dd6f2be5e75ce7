"""Ask S3 again while it does not answer, with growing pauses: for a minute, and for less where it never answered yet.

botocore's own retries are over within a second where a server refuses connections, as one does that is restarted.
"""

import random
import threading
import time
from collections.abc import Callable
from typing import Any

from infra.machine.outages import log_outage
from infra.storage.s3_errors import describe_s3_server, is_outage_answer, is_s3_outage

PATIENCE_SECONDS = 60.0  # from the first fault of a request on
FIRST_SECONDS = 10.0  # the same for a server that has not answered yet: its address may be mistyped
PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)  # seconds, of which a random share is taken: many clients wait for one server
LINE_SECONDS = 2.0  # of an outage, after which a line says so
BEGAN = "safelight_outage_began"


class S3Patience:
    """Decides for each answer of a client, or fault, whether the request is sent again, and when.

    `choose_pause` is for botocore's event `needs-retry.s3`.
    """

    def __init__(self, elapsed: Callable[[], float] = time.monotonic) -> None:
        self._elapsed = elapsed
        self._lock = threading.Lock()
        self._has_answered = False
        self._is_told = False

    def choose_pause(
        self,
        *,
        response: tuple[Any, Any] | None,
        caught_exception: BaseException | None,
        attempts: int,
        request_dict: dict[str, Any],
        **others: Any,
    ) -> float | None:
        """Seconds until the request is sent again; None where its answer, or its fault, is final."""
        is_missed = is_s3_outage(caught_exception) if response is None else is_outage_answer(response[1])
        if not is_missed:
            if response is not None:
                self._note_answer()
            return None
        now = self._elapsed()
        waited = now - float(request_dict["context"].setdefault(BEGAN, now))
        limit = PATIENCE_SECONDS if self._has_answered else FIRST_SECONDS
        if limit - waited < PAUSES[0]:
            return None
        if waited >= LINE_SECONDS:
            self._tell(limit)
        pause = PAUSES[min(attempts, len(PAUSES)) - 1] * random.uniform(0.5, 1.0)
        return min(pause, limit - waited)

    def _note_answer(self) -> None:
        with self._lock:
            self._has_answered, was_told, self._is_told = True, self._is_told, False
        if was_told:
            log_outage(f"S3: {describe_s3_server()} answers again")

    def _tell(self, limit: float) -> None:
        with self._lock:
            was_told, self._is_told = self._is_told, True
        if not was_told:
            log_outage(f"S3: {describe_s3_server()} does not answer; each request is sent again for {limit:.0f} s")
