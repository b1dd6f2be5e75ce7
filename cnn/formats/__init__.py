"""File formats: what bytes are, and how each kind of image file is decoded."""
