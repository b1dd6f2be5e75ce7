"""Safelight and Prefect as a person runs them: processes, their answers, and waiting for them."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]


def start(*words: object, **options: Any) -> "subprocess.Popen[str]":
    command: list[str | Path] = [Path(sys.executable).with_name("safelight"), *map(str, words)]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **options
    )


def safelight(*words: object, code: int = 0) -> Any:
    out, err = run_to_end(*words, code=code)
    return json.loads(out) if code == 0 else err


def tell(*words: object) -> tuple[Any, str]:
    """(the answer of a command with `--json`, what it told on the way)."""
    out, err = run_to_end(*words)
    return json.loads(out), err


def run_to_end(*words: object, code: int = 0) -> tuple[str, str]:
    process = start(*words)
    out, err = process.communicate()
    assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    return out, err


def prefect(*words: object, folder: Path = ROOT) -> str:
    done = subprocess.run([*PREFECT, *map(str, words)], cwd=folder, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_until(condition: Callable[[], object], process: "subprocess.Popen[str]", seconds: float = 120.0) -> None:
    """Poll a condition while the process lives; the pause is not what the test waits for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"it ended before its time: {process.communicate()}"
        assert time.monotonic() < deadline, "it did not come that far in time"
        time.sleep(0.01)


@cache
def help_of(*command: str) -> str:
    """What a program's subcommand says about itself, from the environment that runs the tests."""
    program = Path(sys.executable).parent / command[0]
    answer = subprocess.run(
        [program, *command[1:], "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    return answer.stdout
