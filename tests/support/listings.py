"""Rows as a preparation knows them, made without any file, for tests."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cnn.dataset.near_duplicates import perceptual_hashes
from cnn.dataset.split import SPLITS
from tasks.files.listing import FILES
from tasks.prepare.table import OK, RowsDraft, make_rows


def make_listing(paths: Sequence[str], ignored: Mapping[str, str] | None = None) -> pa.Table:
    """A listing of these paths; labels are the top folders."""
    paths = sorted(paths, key=lambda path: path.encode("utf-8", "surrogateescape"))
    columns: dict[str, list[Any]] = {
        "path": [path.encode("utf-8", "surrogateescape") for path in paths],
        "size": [1] * len(paths),
        "modified": ["1.1"] * len(paths),
        "problem": [None] * len(paths),
        "label": [path.split("/")[0] if "/" in path else None for path in paths],
        "ignored": [(ignored or {}).get(path) for path in paths],
        "written": [None] * len(paths),
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in FILES], schema=FILES)


def make_decoded(classes: Sequence[str], facts: Mapping[str, tuple[str, str, int | None]]) -> tuple[RowsDraft, Any]:
    """(rows that can be written to, all grey means) of decoded files.

    `facts`: path → (text for the digest, split, kind; None: noise of its own).
    A kind, from 0 to 255, is a picture; those of neighbouring kinds differ by one grey level everywhere.
    """
    rows = make_rows(make_listing(list(facts)), classes).draft()
    greys = np.zeros((len(rows), 1024), np.uint8)
    for row, path in enumerate(path.decode() for path in rows.files.column("path").to_pylist()):
        digest, split, level = facts[path]
        rows.outcome[row], rows.split[row], rows.is_read[row] = OK, SPLITS.index(split), True
        rows.record_split[row] = rows.split[row]
        rows.digest[row] = np.frombuffer(digest.encode().ljust(32, b"."), np.uint8)
        rows.image_key[row] = rows.digest[row, :16]
        noise = np.random.default_rng(sum(path.encode()) * 7919 + len(path)).integers(0, 256, 1024)
        grain = np.random.default_rng(0).integers(-30, 31, 1024)
        greys[row] = noise if level is None else np.clip(level + grain, 0, 255)
        rows.width[row] = rows.height[row] = 5
        rows.pixels[row] = zlib.crc32(greys[row].tobytes())
    rows.perceptual_hash[:] = perceptual_hashes(greys)
    return rows, greys
