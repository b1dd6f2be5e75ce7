"""A page as a person sees it: Chromium without a window, when it is installed."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest


def require_chromium() -> str:
    """The program; without it the test is skipped, or fails where servers are required."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if program := shutil.which(name):
            return program
    text = "no Chromium to look at a page with (apt-get install chromium)"
    if os.environ.get("SAFELIGHT_REQUIRE_SERVERS") == "1":
        pytest.fail(f"{text}, though SAFELIGHT_REQUIRE_SERVERS=1")
    pytest.skip(text)


def list_options(folder: Path) -> list[str]:
    """How Chromium is started: without a window, its files in `folder`."""
    options = ["--headless", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder}"]
    return [*options, "--no-sandbox"] if os.geteuid() == 0 else options


def look_for(text: str, program: str, address: str, folder: Path, seconds: float = 120.0) -> str:
    """The document that a page has become once it holds a text; `folder` holds the browser's files.

    The browser counts the page's own time, in which a busy machine may not have answered: it looks again for a while.
    """
    command = [program, *list_options(folder), "--virtual-time-budget=20000", "--dump-dom", address]
    until = time.monotonic() + seconds
    while True:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        if text in done.stdout:
            return done.stdout
        assert time.monotonic() < until, f"{text!r} is not to be seen at {address}: {done.stdout[-3000:]} {done.stderr}"
