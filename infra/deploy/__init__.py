"""Servers of your own: an image, all of them on one machine with Compose, or on a Kubernetes cluster."""
