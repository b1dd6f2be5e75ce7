"""Estimates of how much work there is, before workers are started for it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """What some work takes: the pieces that it can be shared out in, and about how many seconds of one core."""

    pieces: int
    seconds: float
