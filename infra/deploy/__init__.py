"""Servers of your own: an image, all of them on one machine, and deployments that retrain and score on schedule."""
