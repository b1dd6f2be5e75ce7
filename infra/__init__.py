"""Storage, Dask, MLflow, the Prefect server and this machine; each client is imported in one place alone."""
