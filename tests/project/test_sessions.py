"""What each session of tests begins with: compiled modules are kept, and no test waits for the disk."""

import os
import sys
from pathlib import Path

import pytest


def test_what_tests_start_compiles_no_library_again() -> None:
    """A shell may say otherwise, as those of containers do: then each process would take seconds more."""
    assert not sys.dont_write_bytecode
    assert "PYTHONDONTWRITEBYTECODE" not in os.environ


def test_a_sync_that_does_not_wait_still_refuses_what_is_no_file(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        os.fsync(file)
        os.fsync(file.fileno())
        number = file.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fsync(number)
