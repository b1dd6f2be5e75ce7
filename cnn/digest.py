"""sha256 of files and of JSON values, and bytes sealed with theirs, so that one wrong bit anywhere is found."""

import hashlib
import json
from pathlib import Path
from typing import Any

SEAL = 32  # bytes of a sha256, before the body


def hash_file(path: Path) -> str:
    """sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """sha256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; raises ValueError for nan and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def seal(body: bytes) -> bytes:
    """The body behind its sha256."""
    return hashlib.sha256(body).digest() + body


def unseal(data: bytes) -> bytes:
    """The body of sealed bytes. Raises: ValueError when they are not what was sealed."""
    body = data[SEAL:]
    if hashlib.sha256(body).digest() != data[:SEAL]:
        raise ValueError("its checksum does not match")
    return body
