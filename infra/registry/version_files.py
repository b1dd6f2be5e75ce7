"""Files of registered versions in MLflow's artifact store: fetched, measured, and removed while their record stays.

`safelight gc` removes what takes room: the network, the code, and pictures that the report shows as well. A version
whose files are gone says so in its tags (`FILES_REMOVED`, set before the first file goes; `FREED`, set after the last
one), and in place of the files lies a loader that tells whoever loads it. The description of the model (`MLmodel`, its
requirements) stays for MLflow's pages.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from cnn.errors import RegistryError
from cnn.inference.bundle import INFO
from cnn.inference.removed import NOTICE
from infra.registry.bundles import cache_bundle
from infra.registry.history import format_time
from infra.registry.mlflow_client import AbsentError, import_mlflow
from infra.registry.mlflow_model import DATA
from infra.registry.versions import FILES_REMOVED, FREED, VersionInfo, Versions

FIGURES = "figures"  # below the artifacts of a run
DESCRIPTION = ("MLmodel", "requirements.txt", "conda.yaml", "python_env.yaml")  # stays; some 2 KB
# What loads in place of the code that was removed, where Safelight itself is not installed.
LOADER_OF_NONE = '''"""Tell whoever loads this version that its files were removed."""

from pathlib import Path


def _load_pyfunc(data_path, model_config=None):
    raise RuntimeError((Path(data_path) / "{notice}").read_text("utf-8").strip())
'''


@dataclass(frozen=True)
class FileCount:
    """How many files there are, and their bytes."""

    files: int = 0
    bytes: int = 0

    def __add__(self, other: "FileCount") -> "FileCount":
        return FileCount(self.files + other.files, self.bytes + other.bytes)


class VersionFiles(Versions):
    """What lies in MLflow's store of a version."""

    def fetch_bundle(self, version: VersionInfo, folder: Path) -> Path:
        """The version's bundle as a verified folder below `folder`, downloaded once per digest.

        Raises:
            IntegrityError: what came is not what was registered.
            RegistryError: the version carries no bundle, its files were removed, or it cannot be fetched.
        """
        culprit = f"model {version.name} version {version.version}"
        if not version.bundle:
            raise RegistryError(f"{culprit} carries no Safelight bundle; choose a version that does")
        if not version.has_files:
            raise RegistryError(version.describe_removal())

        def bring(name: str, target: Path) -> None:
            with tempfile.TemporaryDirectory(dir=target) as scratch:
                self._transfer(culprit, lambda: self._artifacts(version).download_artifacts(f"{DATA}/{name}", scratch))
                Path(scratch, DATA, name).replace(target / name)

        try:
            return cache_bundle(version.bundle, folder, bring, culprit)
        except RegistryError:
            now = self.version(version.name, version.version)
            if not now.has_files:  # removed while it was fetched
                raise RegistryError(now.describe_removal()) from None
            raise

    def read_flavor(self, version: VersionInfo) -> dict[str, Any]:
        """How MLflow loads a version: its loader, and what that can be told (`config`). Raises: RegistryError."""
        import_mlflow()
        from mlflow.models import Model

        culprit = f"MLmodel of model {version.name} version {version.version}"
        with tempfile.TemporaryDirectory() as scratch:
            self._transfer(culprit, lambda: self._artifacts(version).download_artifacts("MLmodel", scratch))
            return dict(Model.load(str(Path(scratch, "MLmodel"))).flavors.get("python_function", {}))

    def measure_files(self, version: VersionInfo) -> FileCount:
        """What `remove_files` would free. Raises: RegistryError."""
        culprit = f"model {version.name} version {version.version}"
        artifacts = self._artifacts(version)
        model = [size for path, size in self._transfer(culprit, lambda: list(walk_files(artifacts))) if is_heavy(path)]
        sizes = model + [size for _, size in self._list_pictures(version, culprit)]
        return FileCount(len(sizes), sum(sizes))

    def remove_files(self, version: VersionInfo, is_needed: Callable[[], bool]) -> FileCount:
        """Remove the files of a version and leave its record; what was freed. One that was killed on the way goes on.

        The version is marked first; then `is_needed` is asked once more, and a version that is needed by now keeps its
        files. Where the store refuses, the mark is taken away again, if nothing is gone.

        Raises:
            RegistryError: the store refuses, or does not answer.
        """
        name, number, artifacts = version.name, version.version, self._artifacts(version)
        culprit = f"the files of {name}@{number} cannot be removed"
        if version.has_files:
            self.set_tags(name, number, {FILES_REMOVED: format_time(datetime.fromtimestamp(self._clock(), UTC))})
            if is_needed():
                self.drop_tags(name, number, [FILES_REMOVED])
                return FileCount()
        found = self.measure_files(version)
        try:  # without this file there is no bundle
            self._transfer(culprit, lambda: delete_files(artifacts, f"{DATA}/{INFO}"))
        except RegistryError:
            if f"{DATA}/{INFO}" in {path for path, _ in self._transfer(culprit, lambda: list(walk_files(artifacts)))}:
                self.drop_tags(name, number, [FILES_REMOVED])
            raise
        for entry in self._transfer(culprit, artifacts.list_artifacts):
            if is_heavy(entry.path):
                self._transfer(culprit, partial(delete_files, artifacts, entry.path))
        for path, _ in self._list_pictures(version, culprit):
            self._transfer(culprit, partial(delete_files, self._run_artifacts(version), path))
        self._leave_notice(self.version(name, number), artifacts, culprit)
        self.set_tags(name, number, {FREED: str(found.bytes)})
        return found

    def is_being_trained(self, version: VersionInfo) -> bool:
        """Whether the gate has not come to its end with a version, and the run that makes it goes on."""
        if version.is_gated:
            return False
        with suppress(AbsentError):  # one that was only marked as deleted in MLflow's pages may go on
            return str(self._ask("get_run", version.run_id).info.status) == "RUNNING"
        return False

    def _leave_notice(self, version: VersionInfo, artifacts: Any, culprit: str) -> None:
        """Put a loader where the model was that tells what became of it, and mark the model on MLflow's own pages."""
        with tempfile.TemporaryDirectory() as scratch:
            files = {
                f"{DATA}/{NOTICE}": version.describe_removal() + "\n",
                "code/cnn/__init__.py": "",
                "code/cnn/pyfunc.py": LOADER_OF_NONE.format(notice=NOTICE),
            }
            for path, text in files.items():
                Path(scratch, path).parent.mkdir(parents=True, exist_ok=True)
                Path(scratch, path).write_text(text, "utf-8")
            self._transfer(culprit, lambda: artifacts.log_artifacts(scratch))
        with suppress(RegistryError):  # one that was deleted there needs no mark
            self._ask("set_logged_model_tags", find_model_id(version), {FILES_REMOVED: version.tags[FILES_REMOVED]})

    def _list_pictures(self, version: VersionInfo, culprit: str) -> list[tuple[str, int]]:
        """(path, bytes) of the pictures among the figures of a version's run: its report shows the same."""
        try:
            artifacts = self._run_artifacts(version)
        except AbsentError:  # somebody deleted the run
            return []
        files = self._transfer(culprit, lambda: list(walk_files(artifacts, FIGURES)))
        return [(path, size) for path, size in files if path.endswith(".png")]

    def _run_artifacts(self, version: VersionInfo) -> Any:
        """Where the artifacts of a version's run lie now. Raises: AbsentError, it is gone."""
        import_mlflow()
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(self._locate_run(version.run_id), tracking_uri=self.tracking_uri)

    def _locate_run(self, run_id: str) -> str:
        """Where a run's artifacts lie now: a local workspace may have been moved since."""
        address, root = str(self._ask("get_run", run_id).info.artifact_uri), self.artifact_root or ""
        return f"{root}/{run_id}/artifacts" if address.startswith("file:") and root.startswith("file:") else address

    def _artifacts(self, version: VersionInfo) -> Any:
        """Where the version's artifacts lie now: a local workspace may have been moved since."""
        import_mlflow()
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        location, root = version.location, self.artifact_root or ""
        model = location.partition("/models/m-")[2]
        if model and location.startswith("file:") and root.startswith("file:"):
            location = f"{root}/models/m-{model}"
        return get_artifact_repository(location, tracking_uri=self.tracking_uri)


def find_model_id(version: VersionInfo) -> str:
    """The id of the logged model that a version carries, from the address of its artifacts."""
    return f"m-{version.location.partition('/models/m-')[2].partition('/')[0]}"


def is_heavy(path: str) -> bool:
    """Whether a file of a model, or a folder with such, goes when the files of a version are removed."""
    return path not in DESCRIPTION


def delete_files(artifacts: Any, path: str) -> None:
    """Remove a file, or a folder with all that is in it, from one of MLflow's artifact stores.

    MLflow has S3 remove many objects by one request. OpenStack Swift and others demand a header of it (Content-MD5)
    that boto3 no longer sends; there they go one by one.
    """
    try:
        artifacts.delete_artifacts(path)
    except Exception:  # each artifact store raises errors of its own
        if not hasattr(artifacts, "parse_s3_compliant_uri"):
            raise
        bucket, root = artifacts.parse_s3_compliant_uri(artifacts.artifact_uri)
        client = artifacts._get_s3_client()
        for file in [file for file, _ in walk_files(artifacts, path)] or [path]:
            client.delete_object(Bucket=bucket, Key=f"{root.rstrip('/')}/{file}")


def walk_files(artifacts: Any, folder: str | None = None) -> Iterator[tuple[str, int]]:
    """(path, bytes) of every file in one of MLflow's artifact stores."""
    for entry in artifacts.list_artifacts(folder):
        if entry.is_dir:
            yield from walk_files(artifacts, entry.path)
        else:
            yield entry.path, entry.file_size or 0
