"""What is computed: bytes, arrays and local paths in; pixels, models and figures out. No address, no server."""
