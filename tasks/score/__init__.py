"""From a folder of images to predictions and a report."""
