"""A disk with little room is named: what it is for, where it is mounted, what is free, and the way out."""

import os
import subprocess
from pathlib import Path

import pytest

from flows.upkeep.disk import DiskState, find_mount, read_disks

GB = 10**9


def test_a_shortage_names_the_disk_its_mount_and_the_way_out(tmp_path: Path) -> None:
    finding = DiskState("temporary files", str(tmp_path), 100 * GB, 120_000_000, None).find_shortage()
    assert finding is not None
    mount = find_mount(str(tmp_path))
    assert finding.what == f"120.0 MB left for temporary files ({tmp_path}, on the disk of {mount})"
    assert finding.mend.startswith("safelight gc frees a workspace, `du -xsh /")
    assert DiskState("state", str(tmp_path), 100 * GB, 60 * GB, None).find_shortage() is None


def test_few_names_left_are_a_shortage_too(tmp_path: Path) -> None:
    finding = DiskState("state", str(tmp_path), 100 * GB, 60 * GB, 12).find_shortage()
    assert finding is not None
    assert finding.what.startswith("60.0 GB and 12 files left for state")


def test_the_disk_of_a_folder_is_where_it_is_mounted() -> None:
    assert find_mount("/") == "/"
    assert find_mount("/proc/self") == "/proc"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk")
def test_a_full_disk_is_found_among_those_that_are_written_to(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", str(place)], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        (place / "work").mkdir()
        (disk,) = [each for each in read_disks(str(place / "work")) if each.what == "the workspace"]
        assert (disk.mount, disk.is_short) == (str(place), True)
        assert disk.describe()["mount"] == str(place)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
