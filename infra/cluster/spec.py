"""Settings of the workers, and estimates of how much work there is for them."""

from dataclasses import dataclass

from pydantic import Field

from cnn.spec import Settings


class ClusterSpec(Settings):
    """Where chunks are worked on."""

    workers: int | None = Field(None, ge=0, description="processes on this machine; unset: one per core, 0: none")
    address: str | None = Field(
        None,
        description="Dask scheduler, tls:// or on loopback; unset: DASK_SCHEDULER_ADDRESS, else none",
    )
    trust_plain_tcp: bool = Field(
        False,
        description="accept an unencrypted scheduler, where SAFELIGHT_TRUST_PLAIN_TCP=1 is set too: whoever reaches it"
        " runs code",
    )


@dataclass(frozen=True)
class WorkEstimate:
    """What some work takes: the pieces that it can be shared out in, and about how many seconds of one core."""

    pieces: int
    seconds: float
