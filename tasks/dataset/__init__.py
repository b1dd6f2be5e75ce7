"""Published datasets: their versions, ledger, outcomes and garbage collection."""
