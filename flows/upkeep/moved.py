"""A workspace that was moved, and MLflow's records that still name the folder in which it was."""

from collections.abc import Iterator

from cnn.errors import SafelightError
from flows.upkeep.findings import Finding
from flows.upkeep.reach import Reached
from infra.registry.moved_artifacts import find_moved_artifacts, repair_artifact_addresses
from infra.registry.tracking import resolve_tracking


def check_artifact_addresses(workspace: str) -> Reached:
    """Whether other programs find in MLflow what a workspace holds; Safelight finds it in any case."""
    check = "artifacts"
    try:
        found = find_moved_artifacts(*resolve_tracking(workspace))
    except SafelightError as error:
        fault = Finding("server", str(error), "look at MLflow's database, and ask again")
        return Reached(check, "MLflow's records cannot be read", (fault,))
    findings = tuple(Finding("moved", moved.describe_change(), "safelight doctor --repair") for moved in found)
    good = "MLflow's records name where they lie"
    return Reached(check, f"{len(found)} found, see below" if found else good, findings)


def mend_artifact_addresses(workspace: str) -> Iterator[str]:
    """Have MLflow's records name where artifacts lie now; what was mended."""
    try:
        for moved in repair_artifact_addresses(*resolve_tracking(workspace)):
            yield f"MLflow's records of {moved.count_records()} name {moved.present} now, in place of {moved.former}"
    except SafelightError as error:
        yield f"MLflow's records could not be brought up to date ({error})"
