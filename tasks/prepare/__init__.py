"""From a folder of images to a published dataset."""
