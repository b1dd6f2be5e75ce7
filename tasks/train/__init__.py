"""From a dataset to a registered and gated model."""
