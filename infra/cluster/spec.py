"""Settings of the workers, and estimates of how much work there is for them."""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class WorkEstimate:
    """What some work takes: the pieces that it can be shared out in, and about how many seconds of one core."""

    pieces: int
    seconds: float
