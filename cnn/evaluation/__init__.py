"""Metrics, calibration and plots of a trained model."""
