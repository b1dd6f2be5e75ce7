"""Deployments of a model to Prefect's work pools, and the automations beside them."""
