"""A page as a person sees it: Chromium without a window, when it is installed."""

import os
import shutil
import subprocess
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


def read_page(program: str, address: str, folder: Path, seconds: int = 20) -> str:
    """The document that a page has become after so many seconds of its own time; `folder` holds the browser's files."""
    options = ["--headless", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder}"]
    options += ["--no-sandbox"] if os.geteuid() == 0 else []
    command = [program, *options, f"--virtual-time-budget={1000 * seconds}", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
