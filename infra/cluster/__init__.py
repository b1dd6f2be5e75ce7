"""Worker processes: Dask, threads, and the decoder process that may crash."""
