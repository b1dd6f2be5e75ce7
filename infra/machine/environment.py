"""The machine and the software that a result was computed with: processor, packages, lock file, git commit."""

import os
import platform
import re
import subprocess
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path

from pydantic import Field

from cnn.digest import hash_file
from cnn.spec import Spec

ROOT = Path(__file__).parents[2]
LOCKS = "infra/install/requirements-{}.lock"
PROCESSORS = Path("/proc/cpuinfo")
GPUS = Path("/proc/driver/nvidia/gpus")
GIT_SECONDS = 5.0


class MachineFacts(Spec):
    """A machine, as far as it may decide how numbers are rounded."""

    processor: str
    architecture: str
    cores: int
    gpus: tuple[str, ...] = ()
    system: str

    def is_like(self, other: "MachineFacts") -> bool:
        """Whether both compute on the same kind of processor."""
        return (self.processor, self.architecture, self.gpus) == (other.processor, other.architecture, other.gpus)


class SoftwareFacts(Spec):
    """The packages that are installed, by name, the lock file that they come from ("" where the installation holds
    none) with its sha256, and the git commit of Safelight's code ("" where it is no clone)."""

    python: str
    packages: dict[str, str]
    lock: str = ""
    lock_digest: str = ""
    commit: str = ""
    commit_changed: bool = Field(False, description="whether files differ from the commit")

    def has_code_of(self, other: "SoftwareFacts") -> bool:
        """Whether Safelight's own code is the same, as far as git knows: of one commit, with changes or without."""
        return (self.commit, self.commit_changed) == (other.commit, other.commit_changed)

    def list_differences(self, other: "SoftwareFacts") -> list[str]:
        """What `other` has otherwise, a line each: Python first, then packages by name."""
        mine, theirs = {"Python": self.python} | self.packages, {"Python": other.python} | other.packages
        return [
            f"{name} {theirs.get(name, 'not installed')} (then {mine.get(name, 'not installed')})"
            for name in dict.fromkeys([*mine, *theirs])
            if mine.get(name) != theirs.get(name)
        ]


def describe_machine(processors: Path = PROCESSORS, gpus: Path = GPUS) -> MachineFacts:
    """The machine that this process runs on."""
    return MachineFacts(
        processor=_find_line(processors, "model name") or platform.processor() or "unknown",
        architecture=platform.machine(),
        cores=os.cpu_count() or 1,
        gpus=tuple(_find_line(each, "Model") or "unknown" for each in sorted(gpus.glob("*/information"))),
        system=platform.platform(),
    )


def describe_software(root: Path = ROOT) -> SoftwareFacts:
    """The software that this process runs, from the code below `root`."""
    packages = {_plain(each.metadata["Name"]): each.version for each in distributions() if each.metadata["Name"]}
    kind = "gpu" if "tensorflow" in packages and "tensorflow-cpu" not in packages else "cpu"
    lock = root / LOCKS.format(kind)
    commit = _ask_git(root, "rev-parse", "HEAD") if (root / ".git").exists() else ""
    return SoftwareFacts(
        python=platform.python_version(),
        packages=dict(sorted(packages.items())),
        lock=lock.name if lock.is_file() else "",
        lock_digest=hash_file(lock) if lock.is_file() else "",
        commit=commit,
        commit_changed=bool(commit and _ask_git(root, "status", "--porcelain", "--untracked-files=no")),
    )


def _plain(name: str) -> str:
    """A package's name as indexes write it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _find_line(path: Path, key: str) -> str:
    """What follows `key:` in a file of the kernel; "" where it does not say."""
    with suppress(OSError):
        found = re.search(rf"^{key}\s*:\s*(.+)$", path.read_text(errors="replace"), re.MULTILINE)
        return found[1].strip() if found else ""
    return ""


def _ask_git(root: Path, *words: str) -> str:
    """What git says; "" where it is not there, or does not answer."""
    command = ["git", "-C", str(root), *words]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
        return done.stdout.strip()
    return ""
