"""A known fault fails, no answer passes and says so. A stand-in plays pip-audit."""

import subprocess
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[3] / "infra/install/audit.sh"


def audit(folder: Path, answer: str, status: int) -> "subprocess.CompletedProcess[str]":
    tool = folder / "tool"
    tool.write_text(f"#!/bin/sh\necho '{answer}'\nexit {status}\n", "utf-8")
    tool.chmod(0o755)
    return subprocess.run([str(AUDIT), str(tool), "a.lock", "b.lock"], capture_output=True, text=True, check=False)


def test_a_known_fault_fails_and_is_shown(tmp_path: Path) -> None:
    done = audit(tmp_path, "Found 2 known vulnerabilities in 1 package", 1)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Found 2 known vulnerabilities in 1 package\n"


@pytest.mark.parametrize(
    ("answer", "status", "verdict"),
    [
        ("No known vulnerabilities found", 0, "no known vulnerability"),
        ("No known vulnerabilities found; left-pad could not be audited", 0, "not audited"),
        ("ConnectionError: no route to host", 1, "not audited"),
    ],
)
def test_only_an_answer_counts_as_one(tmp_path: Path, answer: str, status: int, verdict: str) -> None:
    done = audit(tmp_path, answer, status)
    assert done.returncode == 0
    assert [line.split(": ")[2].split(",")[0] for line in done.stdout.splitlines()] == [verdict] * 2
