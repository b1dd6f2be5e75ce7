"""How much of what is old stays when a workspace is cleaned."""

from dataclasses import dataclass

# Dataset versions; batches of a day, where an inbox is scored each hour; versions of a model of a month of nights.
KEPT_DATASETS, KEPT_BATCHES, KEPT_MODELS = 3, 24, 30
GRACE_HOURS = 24.0


@dataclass(frozen=True)
class Retention:
    """The newest dataset versions of each source, batches of each inbox, and versions of each model with their files
    stay; and all that is younger than so many hours."""

    keep: int = KEPT_DATASETS
    keep_batches: int = KEPT_BATCHES
    keep_models: int = KEPT_MODELS
    grace_hours: float = GRACE_HOURS
