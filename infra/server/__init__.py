"""The local Prefect server: started, watched and stopped."""
