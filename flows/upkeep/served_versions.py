"""Registered versions of earlier releases that read paths when they are served.

Whoever asks them may learn which files exist. A version carries the code that was installed when it was registered.
That of earlier releases takes a text in a request to MLflow's model server for a path on the server's disk. What the
code of later ones can be told is in the `config` of the version's MLmodel file, which is how the two are told apart.
"""

from collections.abc import Iterator

from cnn.errors import SafelightError
from flows.models import open_registry
from flows.upkeep.findings import Finding
from flows.upkeep.reach import Reached
from infra.registry.mlflow_model import LOADER
from infra.registry.registry import Registry
from infra.registry.tracking import holds_registry, resolve_tracking
from infra.registry.versions import VersionInfo

CHECK = "served versions"
NEWEST = 20  # versions of a model that are looked at, besides those with an alias: each is a file to be fetched


def check_served_versions(workspace: str) -> Reached:
    """Whether all that is likely to be served leaves the paths of its server alone."""
    try:
        findings = tuple(find_path_readers(workspace))
    except SafelightError as error:
        fault = Finding("server", str(error), "look at the registry, and ask again")
        return Reached(CHECK, "versions cannot be looked at", (fault,))
    return Reached(CHECK, f"{len(findings)} found, see below" if findings else "none reads paths when served", findings)


def find_path_readers(workspace: str) -> Iterator[Finding]:
    """One finding for each model with versions that read paths when served. Raises: RegistryError."""
    if not holds_registry(resolve_tracking(workspace)[0]):
        return
    registry = open_registry(workspace)
    for name in registry.names():
        versions = registry.versions(name)
        candidates = [each for each in versions[:-NEWEST] if each.aliases] + versions[-NEWEST:]
        candidates = [each for each in candidates if each.has_files]
        readers = [each for each in candidates if reads_paths_when_served(registry, each)]
        if readers:
            yield describe_path_readers(name, readers)


def reads_paths_when_served(registry: Registry, version: VersionInfo) -> bool:
    """Whether a version's own code is of a release that took texts for paths in a model server too. One without its
    files, which cannot be served, does not."""
    try:
        flavor = registry.read_flavor(version)
    except SafelightError:
        return False
    return flavor.get("loader_module") == LOADER and "read_paths" not in (flavor.get("config") or {})


def describe_path_readers(name: str, readers: list[VersionInfo]) -> Finding:
    """What is wrong with versions of a model, and the mend."""
    shown = ", ".join(f"{each.version}{f' ({each.aliases[0]})' if each.aliases else ''}" for each in readers[-5:])
    more = f" and {len(readers) - 5:,} before" if len(readers) > 5 else ""
    noun, verb = ("version", "reads") if len(readers) == 1 else ("versions", "read")
    what = f"{name} {noun} {shown}{more}, of an earlier release, {verb} paths of the server's disk when served"
    mend = (
        f"before `mlflow models serve`, register a new one: safelight retrain FOLDER --name {name} --set fit.seed=1;"
        ' a server of your own can load it with model_config={"read_paths": False} (docs/python.md, Over HTTP)'
    )
    return Finding("served", what, mend, name)
