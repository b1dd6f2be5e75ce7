"""Trained models as bundles: ONNX export, scoring, and the flavor that MLflow loads."""
