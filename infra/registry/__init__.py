"""The MLflow Model Registry and tracking: runs, versions, the champion and its history."""
