"""What is computed, from bytes, arrays and local paths alone: pixels, models and figures. No address, no server."""
