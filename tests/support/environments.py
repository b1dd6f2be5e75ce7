"""Environments with nothing but what some requirements ask for: the locked packages once more, without a network."""

import venv
from collections.abc import Iterable
from importlib import metadata
from importlib.util import cache_from_source
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def make_environment(folder: Path, requirements: Iterable[str], extra: str = "") -> Path:
    """The folder of programs of a new environment: `python`, and the packages that the requirements name, that these
    ask for in turn, and no other. A requirement that the installed version does not meet fails."""
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for name in sorted(list_needed(requirements, extra)):
        link_files(metadata.distribution(name), site)
    return folder / "bin"


def list_needed(requirements: Iterable[str], extra: str) -> set[str]:
    """The distributions that are asked for, and those that these ask for."""
    ahead = [(Requirement(line), extra) for line in requirements]
    found: dict[str, set[str]] = {}
    while ahead:
        requirement, of = ahead.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": of}):
            continue
        name = canonicalize_name(requirement.name)
        distribution = metadata.distribution(name)
        assert requirement.specifier.contains(distribution.version, prereleases=True), requirement
        fresh = {"", *requirement.extras} - found.setdefault(name, set())
        found[name] |= fresh
        needs = distribution.requires or [] if fresh else []
        ahead += [(Requirement(need), one) for need in needs for one in fresh]
    return set(found)


def link_files(distribution: metadata.Distribution, site: Path) -> None:
    """The files of a distribution once more, in another environment; without the programs, which name their Python."""
    for file in distribution.files or []:
        if ".." in file.parts or "__pycache__" in file.parts:
            continue
        source, target = Path(str(distribution.locate_file(file))), site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        link(source, target)
        compiled = Path(cache_from_source(str(source))) if source.suffix == ".py" else source
        if compiled != source and compiled.exists():
            (target.parent / "__pycache__").mkdir(exist_ok=True)
            link(compiled, target.parent / "__pycache__" / compiled.name)


def link(source: Path, target: Path) -> None:
    """A second name for a file; a symbolic link where the two would lie on two disks."""
    if not target.exists() and source.exists():
        try:
            target.hardlink_to(source)
        except OSError:
            target.symlink_to(source)
