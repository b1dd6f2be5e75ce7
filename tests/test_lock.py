"""The lock files: hashed, free of places, in step with pyproject.toml and each other, under licences we may use."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LOCKS = {
    "requirements.lock": ("cpu", "dev", "servers"),
    "infra/requirements-cpu.lock": ("cpu", "servers"),
    "infra/requirements-gpu.lock": ("gpu", "servers"),
    "infra/build.lock": None,
    "infra/bootstrap.lock": None,
}
LIBRARIES = [name for name, extras in LOCKS.items() if extras]
PYTHONS = ("3.11", "3.12", "3.13")
COPYLEFT_WORDS = re.compile(r"\b[AL]?GPL|\bGNU\b|Affero|SSPL|Business Source")
# Distributions that name a copyleft licence, and why they are here all the same.
COPYLEFT = {
    "text-unidecode": "Artistic License or GPL, as the user likes: taken under the Artistic License",
    "pi-heif": "its wheel brings libheif and libde265 under the LGPL: an extra that a user asks for, here for its test",
}


def parse_lock(name: str) -> list[tuple[Requirement, list[str]]]:
    """(pin, its hashes) in the order of the file."""
    joined = re.sub(r"\\\n\s*", " ", (ROOT / name).read_text("utf-8"))
    lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    pins = []
    for line in lines:
        pin, *hashes = re.split(r"\s+--hash=", line.strip())
        pins.append((Requirement(pin), hashes))
    return pins


def pins_for(name: str, environment: dict[str, str]) -> dict[str, str]:
    """Distribution → version that the lock installs in an environment; a name twice fails."""
    chosen: dict[str, str] = {}
    for pin, _ in parse_lock(name):
        if pin.marker is None or pin.marker.evaluate(environment):
            key = canonicalize_name(pin.name)
            assert key not in chosen, f"{name}: {key} is pinned twice"
            chosen[key] = str(pin.specifier).removeprefix("==")
    return chosen


def environment_of(python: str, system: str = "linux", machine: str = "x86_64") -> dict[str, str]:
    """Marker values of a machine."""
    platform = {"linux": "Linux", "darwin": "Darwin"}[system]
    place = {"sys_platform": system, "platform_machine": machine, "platform_system": platform}
    return own_environment() | place | {"python_version": python, "python_full_version": f"{python}.1"}


def own_environment() -> dict[str, str]:
    """Marker values of this machine, without extras."""
    return {key: str(value) for key, value in default_environment().items()} | {"extra": ""}


def wanted(extras: tuple[str, ...]) -> list[Requirement]:
    """What pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    groups = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    return [Requirement(line) for group in groups for line in group]


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_is_one_version_with_sha256_hashes(name: str) -> None:
    pins = parse_lock(name)
    assert pins
    for pin, hashes in pins:
        assert re.fullmatch(r"==[A-Za-z0-9.!+]+", str(pin.specifier)), pin
        assert hashes, pin
        shipped = [name for name in LIBRARIES if name != "requirements.lock"]
    assert all("pi-heif" not in pins_for(name, environment_of("3.12")) for name in shipped)
    assert not [rule for rule in wanted(("cpu", "gpu", "servers")) if rule.name == "pi-heif"]


def licence_of(found: metadata.Distribution) -> str:
    """What the metadata say in their short fields; a whole licence text counts by its first line."""
    fields = found.metadata
    texts = [str(text).strip().partition("\n")[0] for text in fields.get_all("License") or []]
    classifiers = [str(line) for line in fields.get_all("Classifier") or [] if str(line).startswith("License ::")]
    return " ; ".join([*map(str, fields.get_all("License-Expression") or []), *texts, *classifiers])


def test_nothing_is_under_a_copyleft_licence() -> None:
    names = {canonicalize_name(pin.name) for lock in LIBRARIES for pin, _ in parse_lock(lock)}
    found = {canonicalize_name(item.name): licence_of(item) for item in metadata.distributions()}
    copyleft = {name: licence for name, licence in found.items() if name in names and COPYLEFT_WORDS.search(licence)}
    assert copyleft.keys() == COPYLEFT.keys(), copyleft
    assert len(found.keys() & names) > 200, "the environment is not the locked one"


@pytest.mark.parametrize(
    ("licence", "refused"),
    [("GPL-3.0-only", True), ("LGPLv3+", True), ("AGPL-3.0", True), ("MIT", False), ("MPL-2.0", False)],
)
def test_the_licence_pattern_knows_copyleft(licence: str, refused: bool) -> None:
    assert bool(COPYLEFT_WORDS.search(licence)) is refused
