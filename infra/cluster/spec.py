"""Settings of the workers, estimates of how much work there is for them, and how they are called."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import Field

from cnn.spec import Settings


class ClusterSpec(Settings):
    """Where images are read and scored: this machine, or the workers of a Dask scheduler."""

    workers: int | None = Field(
        None,
        ge=0,
        examples=[4],
        description="processes on this machine; 0: none but the command itself; not set: one for each core",
    )
    address: str | None = Field(
        None,
        examples=["tls://scheduler.example.org:8786"],
        description="address of a scheduler, tls:// or on this machine (others where SAFELIGHT_TRUST_PLAIN_TCP=1 is"
        " set: whoever reaches it can run programs here); not set: DASK_SCHEDULER_ADDRESS, or none",
    )
    wait_minutes: float = Field(
        10.0,
        gt=0.0,
        le=1440.0,
        description="minutes that work waits for a scheduler which has lost all its workers, before it ends",
    )


@dataclass(frozen=True)
class WorkEstimate:
    """What some work takes: the pieces that it can be shared out in, and about how many seconds of one core."""

    pieces: int
    seconds: float


class Run(Protocol):
    """How pieces of work are done; `infra.cluster.workers.Workers.run` is one."""

    def __call__(
        self,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        on_result: Callable[[Any], None],
        estimate: WorkEstimate,
        isolate: Callable[[Any], Any] | None = None,
    ) -> None:
        """Call `on_result` with `function(item)` for each item; `isolate` makes of an item one that ends no process."""
