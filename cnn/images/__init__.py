"""Pixels: reading, resizing, color, levels and augmentation of images."""
