"""Whatever has an address: one module per outside system, and only there is its client imported."""
