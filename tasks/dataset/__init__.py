"""Published datasets: their versions, ledger and garbage collection."""
