"""The version of Safelight's code, and of the libraries that make pixels: what all workers of a run must share.

A worker of another version may decode the same file to other pixels, and nobody would notice: its chunks lie under the
same names.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cnn.errors import ServerError

ROOMS = ("cnn", "infra", "tasks")  # what runs in workers
LIBRARIES = (
    "albumentations",
    "numpy",
    "onnxruntime",
    "opencv-python-headless",
    "pi-heif",
    "pillow",
    "pyarrow",
    "scipy",
    "simplejpeg",
)
CODE = "Safelight's code"
ROOT = Path(__file__).parents[2]
DIGITS = 12  # of a digest, as people see it


class ForeignCodeError(Exception):
    """Raised where a chunk has come to a worker of another version; `args` hold that version."""


@cache
def read_code_version() -> Mapping[str, str]:
    """What decides the pixels that this process makes: a digest of the code, and each library's version, "" without it.

    It is read once: what is installed over it while the process runs is not what it runs.
    """
    return {CODE: hash_code(ROOT)} | {name: _find_version(name) for name in LIBRARIES}


def check_code_version(theirs: object, who: str) -> None:
    """See that a worker is of the version of this process, given what `read_code_version` answered there.

    Raises:
        ServerError: it is not; both versions are named.
    """
    if theirs == read_code_version():
        return
    raise ServerError(
        f"{who} has {describe_difference(theirs)}: its pixels may differ, and nobody would notice; install the same"
        " Safelight there and here, by the same lock file, and start the worker again"
    )


def describe_difference(theirs: object) -> str:
    """What a worker has, and what this process has, wherever the two differ."""
    if not isinstance(theirs, Mapping):
        return f"another Safelight than this one, or none ({theirs})"
    ours = read_code_version()
    names = [name for name in {**ours, **theirs} if theirs.get(name, "") != ours.get(name, "")]
    return ", ".join(f"{name} {_show(name, theirs)} (here {_show(name, ours)})" for name in names)


class CheckedFunction:
    """A function that runs only where the code and the libraries are those of the process that sent it."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function, self.version = function, dict(read_code_version())

    def __call__(self, item: Any) -> Any:
        if (here := read_code_version()) != self.version:
            raise ForeignCodeError(dict(here))
        return self.function(item)


def hash_code(root: Path) -> str:
    """sha256 (hex) of all modules below a folder that run in workers, with their names."""
    digest = hashlib.sha256()
    for room in ROOMS:
        for path in sorted(root.joinpath(room).rglob("*.py")):
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _show(name: str, versions: Mapping[str, str]) -> str:
    found = versions.get(name, "")
    return (found[:DIGITS] if name == CODE else found) or "not installed"


def _find_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
