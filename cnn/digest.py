"""A file in, its sha256 out: what a manifest, a ledger or a bundle is checked against."""

import hashlib
from pathlib import Path


def hash_file(path: Path) -> str:
    """sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
