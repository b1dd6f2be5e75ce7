"""Paths as bytes, as text that Parquet can hold, and as people read them: file names need not be UTF-8."""

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc


def encode_path(path: str) -> bytes:
    """The bytes of a path as the file system holds them."""
    return path.encode("utf-8", "surrogateescape")


def decode_path(path: bytes) -> str:
    """The path as Python's file functions take it; the inverse of `encode_path`."""
    return path.decode("utf-8", "surrogateescape")


def quote_path(path: bytes) -> str:
    """The path as a message shows it; undecodable bytes show as `\\xff`."""
    return path.decode("utf-8", "backslashreplace")


def show_path(path: str) -> tuple[str, bytes | None]:
    """(a path that Parquet can hold, its raw bytes where it is not UTF-8); undecodable bytes show as `\\xff`."""
    raw = encode_path(path)
    try:
        return raw.decode("utf-8"), None
    except UnicodeDecodeError:
        return quote_path(raw), raw


def show_labels(labels: Iterable[str]) -> list[str]:
    """Class names as tables have them, by `show_path`."""
    return [show_path(label)[0] for label in labels]


def show_paths(paths: pa.Array) -> tuple[pa.Array, pa.Array]:
    """`show_path` of a column: string and binary arrays (paths,), the second null where a path is UTF-8."""
    try:
        return paths.cast(pa.string()), pa.nulls(len(paths), pa.binary())
    except pa.ArrowInvalid:
        pairs = [show_path(decode_path(path)) for path in paths.to_pylist()]
        return pa.array([shown for shown, _ in pairs], pa.string()), pa.array([raw for _, raw in pairs], pa.binary())


def restore_path(shown: str, raw: bytes | None) -> str:
    """The path as the source knows it; the inverse of `show_path`."""
    return shown if raw is None else decode_path(raw)


def restore_paths(table: pa.Table) -> pa.Array:
    """binary (rows,): the paths of a table's columns `path` and `path_raw`; the inverse of `show_paths`."""
    shown = table.column("path").combine_chunks().cast(pa.binary())
    return pc.coalesce(table.column("path_raw").combine_chunks(), shown)
