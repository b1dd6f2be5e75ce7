"""The units for systemd: what it says of them, and whether the commands that they start exist."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import help_of

FOLDER = Path(__file__).parents[3] / "infra/deploy/systemd"
UNITS = sorted(FOLDER.glob("*.service"), key=lambda path: path.name)
BIN = Path(sys.executable).parent


def commands_of(unit: Path) -> list[list[str]]:
    """The command lines of a unit, in words."""
    found = re.findall(r"^Exec\w+=(.+)$", unit.read_text("utf-8"), re.MULTILINE)
    return [line.replace("/opt/safelight/bin/", "").split() for line in found]


def test_the_units_are_the_ones_that_are_promised() -> None:
    assert [unit.name for unit in UNITS] == [
        "safelight-serve@.service",
        "safelight-server.service",
        "safelight-worker@.service",
    ]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_starts_commands_that_exist(unit: Path) -> None:
    assert commands_of(unit)
    for words in commands_of(unit):
        text = help_of(*words[: 3 if words[0] == "prefect" else 2])
        assert [word for word in words if word.startswith("--") and word not in text] == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_may_write_to_its_own_folder_alone(unit: Path) -> None:
    lines = unit.read_text("utf-8").splitlines()
    for line in ("User=safelight", "ProtectSystem=strict", "NoNewPrivileges=yes", "StateDirectory=safelight"):
        assert line in lines
    places = re.findall(r"(?:SAFELIGHT_HOME|PREFECT_HOME| HOME)=(\S+)", unit.read_text("utf-8"))
    assert len(places) == 3
    assert all(place.startswith("/var/lib/safelight") for place in places)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_takes_a_unit_as_it_is(unit: Path, tmp_path: Path) -> None:
    """With the programs of this environment in place of those in /opt, which it looks for."""
    for each in UNITS:
        text = each.read_text("utf-8").replace("/opt/safelight/bin", str(BIN)).replace("User=safelight", "User=root")
        (tmp_path / each.name).write_text(text)
    name = unit.name.replace("@.", "@birds.")
    if name != unit.name:
        shutil.copy(tmp_path / unit.name, tmp_path / name)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(tmp_path / name)],
        capture_output=True,
        text=True,
    )
    told = [line for line in done.stderr.splitlines() if name in line or "safelight" in line]
    assert (done.returncode, told) == (0, []), done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_tells_of_a_line_that_it_does_not_know(tmp_path: Path) -> None:
    unit = tmp_path / "wrong.service"
    unit.write_text("[Service]\nExecStart=/bin/true\nProtectSysten=strict\n")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert "ProtectSysten" in done.stderr
